"""What a quantized model holds now: its wrapped layers, their bits, and the policy that these make."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import QuantizeWrapperV2, activation_quantizers, number, weight_quantizers
from tfmiaq.policy import BitwidthPolicy, LayerBits, OutputBits
from tfmiaq.quantization.layer_specs import is_relu
from tfmiaq.quantization.layers import QuantizedOutput


def is_quantized(model: Any) -> bool:
    """Returns whether a model comes from `quantize_model`."""
    return any(isinstance(layer, QuantizeWrapperV2) for layer in getattr(model, "layers", []))


def quantized_layers(model: Any) -> Iterator[Any]:
    """Yields the wrapped layers of a quantized model, in order.

    Raises:
        ValueError: The model has none.
    """
    if not is_quantized(model):
        raise ValueError(
            f"Expected a model from tfmiaq.quantize_model. Received {type(model).__name__} "
            f"{getattr(model, 'name', '')!r}, which has no quantized layer."
        )
    yield from (layer for layer in model.layers if isinstance(layer, QuantizeWrapperV2))


def quantized_outputs(model: Any) -> Iterator[Any]:
    """Yields the layers of a quantized model that round its outputs."""
    yield from (layer for layer in model.layers if isinstance(layer, QuantizedOutput))


@dataclasses.dataclass(frozen=True)
class CurrentBits:
    """Bits that a wrapped layer has now.

    Attributes:
        weight: Bits of the kernel, or None for float or without one.
        activation: Bits of the output's range, or None without one.
    """

    weight: Optional[int]
    activation: Optional[int]


def _bits(variables: dict[str, Any]) -> int:
    return round(number(variables["bits"])) if "bits" in variables else 8


def current_bits(wrapper: Any) -> CurrentBits:
    """Returns the bits of a wrapped layer."""
    weights, ranges = weight_quantizers(wrapper), activation_quantizers(wrapper)
    return CurrentBits(
        weight=_bits(weights[0][2]) if weights else None, activation=_bits(ranges[-1][1]) if ranges else None
    )


def get_policy(model: Any) -> BitwidthPolicy:
    """Returns the bits that a quantized model has now, each layer by name.

    Example:
        >>> tfmiaq.get_policy(quantized).to_json()

    Args:
        model: A model from `quantize_model`.

    Returns:
        A policy that `set_policy` and `quantize_model` take for the same architecture.

    Raises:
        ValueError: A model that is not quantized.
    """
    named: dict[str, LayerBits] = {}
    for wrapper in quantized_layers(model):
        bits = current_bits(wrapper)
        if (bits.weight or is_relu(wrapper.layer)) and not getattr(wrapper.quantize_config, "fixed", False):
            named[wrapper.layer.name] = LayerBits(bits.weight, bits.activation or 8)
    return BitwidthPolicy(layers=named, output=output_bits(model))


def output_bits(model: Any) -> Optional[OutputBits]:
    """Returns the bits of a quantized model's outputs, or None where they have those of the last layer."""
    for layer in quantized_outputs(model):
        ((_, variables),) = activation_quantizers(layer)
        # The shortest decimal that is this float32: the one that was set.
        clip = float(str(np.float32(number(variables["clip"]))))
        return OutputBits(round(number(variables["bits"])), clip)
    return None
