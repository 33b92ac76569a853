"""Constant convolutions in place of layers that TFLite computes in float, or rounds to the input's grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfmiaq._backend import keras
from tfmiaq.quantization.transformations.copying import call_copy, copy_layer, copy_norm_of_images, shapes_of
from tfmiaq.quantization.transformations.expansions import FlatModel
from tfmiaq.quantization.transformations.functional import rebuild
from tfmiaq.quantization.transformations.parts import ConstantDepthwiseConv2D

_layers = keras.layers


def fold_into_convolutions(flat: FlatModel, names: Sequence[str]) -> FlatModel:
    """Replaces layers by convolutions with constant kernels, or puts such a convolution in front of them.

    TFLite has no batch normalization: the converter folds it into the convolution before it. Where there is none, a
    depthwise convolution of ones is put there. The folding is exact: each channel's scale takes the factor, and its one
    weight is the code 127. A Rescaling is such a convolution by itself. So is an average over windows, which then has
    a range of its own; TFLite's average pooling would round to the grid of its input.

    Args:
        flat: The model.
        names: Names of BatchNormalization, Rescaling and AveragePooling2D layers of static shapes, the first on the
            last axis, the last without padding.

    Returns:
        The model with the convolutions, which are named in `fixed`.
    """
    if not names:
        return flat
    copies: dict[str, Any] = {}
    fixed: set[str] = set()

    def copied(name: str, make: Callable[[], Any]) -> Any:
        if name not in copies:
            copies[name] = make()
        return copies[name]

    def call(layer: Any, args: tuple, kwargs: dict, path: tuple) -> Any:
        if layer.name not in names:
            shapes = shapes_of(args[0]) if args else None
            return call_copy(copied(layer.name, lambda: copy_layer(layer, shapes)), args, kwargs)
        x = args[0]
        shape = x.shape[1:]
        if x.shape.rank != 4:
            image = (1, int(np.prod(shape[:-1])), shape[-1])
            expand = f"{layer.name}_expand"
            x = copied(expand, lambda: _layers.Reshape(image, name=expand))(x)
        if isinstance(layer, _layers.Rescaling):
            fixed.add(layer.name)
            y = copied(layer.name, lambda: _affine(layer.name, layer.scale, layer.offset))(x)
        elif isinstance(layer, _layers.AveragePooling2D):
            fixed.add(layer.name)
            y = copied(layer.name, lambda: _average(layer))(x)
        else:
            identity = f"{layer.name}_identity"
            fixed.add(identity)
            y = copied(identity, lambda: _affine(identity))(x)
            y = copied(layer.name, lambda: copy_norm_of_images(layer, x.shape))(y, **kwargs)
        squeeze = f"{layer.name}_squeeze"
        return y if len(shape) == 3 else copied(squeeze, lambda: _layers.Reshape(tuple(shape), name=squeeze))(y)

    model = rebuild(flat.model, call)
    aliases = {layer.name: flat.aliases.get(layer.name, ()) for layer in model.layers}
    return FlatModel(model, aliases, frozenset(fixed))


def _affine(name: str, scale: Any = 1.0, offset: Any = 0.0) -> Any:
    constant = keras.initializers.Constant
    return ConstantDepthwiseConv2D(
        1,
        use_bias=bool(np.any(offset)),
        depthwise_initializer=constant(np.reshape(scale, (1, 1, -1, 1)) if np.ndim(scale) else float(scale)),
        bias_initializer=constant(offset if np.ndim(offset) else float(offset)),
        trainable=False,
        name=name,
    )


def _average(pooling: Any) -> Any:
    return ConstantDepthwiseConv2D(
        pooling.pool_size,
        strides=pooling.strides,
        use_bias=False,
        depthwise_initializer=keras.initializers.Constant(1.0 / float(np.prod(pooling.pool_size))),
        trainable=False,
        name=pooling.name,
    )


def norm_as_affine(norm: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a BatchNormalization as y = (x - mean) * factor + offset, as inference and the converter compute it.

    Args:
        norm: A built BatchNormalization.

    Returns:
        mean, factor and offset, float64, one number for each channel.
    """
    mean = norm.moving_mean.numpy().astype(np.float64)
    factor = 1.0 / np.sqrt(norm.moving_variance.numpy().astype(np.float64) + norm.epsilon)
    if norm.scale:
        factor = factor * norm.gamma.numpy()
    offset = norm.beta.numpy().astype(np.float64) if norm.center else np.zeros_like(mean)
    return mean, factor, offset
