"""Arguments that the parts of a layer take over from it: initializers, regularizers, constraints, its activation."""

from __future__ import annotations

from typing import Any, Optional

from tfmiaq._backend import keras
from tfmiaq.quantization.transformations.functional import activation_name
from tfmiaq.quantization.transformations.parts import activity_regularizer, of_shape

FUSED_ACTIVATIONS = ("linear", "relu")


def user_shape(layer: Any, rank: int) -> Optional[tuple[int, ...]]:
    """Returns the shape of a layer's output where what stands for it has another rank; -1 for the records."""
    shape = tuple(layer.get_output_shape_at(0))
    return None if len(shape) == rank or None in shape[1:] else (-1, *shape[1:])


def losses(layer: Any) -> dict[str, Any]:
    """Returns the activity regularizer of a layer, as an argument of the image's convolution that stands for it."""
    if activity_regularizer(layer) is None or activation_name(layer) not in FUSED_ACTIVATIONS:
        return {}
    regularizer = of_shape("regularizer", activity_regularizer(layer), user_shape(layer, 4))
    return {"activity_regularizer": regularizer}


def constraints(layer: Any, prefix: str, to: str = "kernel", shape: Any = None) -> dict[str, Any]:
    """Returns initializer, regularizer and constraint of a weight, as arguments of a layer with another name for it.

    Args:
        layer: The layer.
        prefix: Its name for the weight.
        to: The other layer's name.
        shape: The weight's shape in the layer, where the other has more axes.
    """
    kinds = ("initializer", "regularizer", "constraint")
    return {f"{to}_{kind}": of_shape(kind, getattr(layer, f"{prefix}_{kind}", None), shape) for kind in kinds}


def rest_of(layer: Any) -> dict[str, Any]:
    """Returns what of a layer its last kernel takes over besides the kernel's own arguments."""
    bias = {"use_bias": layer.use_bias, **constraints(layer, "bias", "bias")}
    return {**bias, "activation": fused(layer), **losses(layer)}


def fused(layer: Any) -> Any:
    """Returns a layer's activation if its kernel runs it, or None."""
    return layer.activation if activation_name(layer) in FUSED_ACTIVATIONS else None


def rest(layer: Any) -> Any:
    """Returns the activation of a layer that its kernel does not run, or linear."""
    return keras.activations.linear if activation_name(layer) in FUSED_ACTIVATIONS else layer.activation


def image_arguments(layer: Any) -> dict[str, Any]:
    """Returns the arguments of an image's convolution that stands for one over a sequence."""
    return {
        "kernel_size": (1, *layer.kernel_size),
        "strides": layer.strides * 2,
        "padding": "valid" if layer.padding == "causal" else layer.padding,
        # The image has height 1. The Edge TPU takes equal dilations only.
        "dilation_rate": layer.dilation_rate * 2,
    }
