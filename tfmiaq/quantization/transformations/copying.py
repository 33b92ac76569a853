"""Copies layers, in float32 and with their weights."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import keras, tf

_layers = keras.layers


def in_float32(config: Any) -> Any:
    """Returns a configuration without mixed precision: the sums of an int8 kernel do not fit a float16's 11 bits."""
    if isinstance(config, dict):
        if config.get("class_name") == "Policy" or str(config.get("config", "")).startswith("mixed_"):
            return "float32"
        return {key: in_float32(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        values = [in_float32(value) for value in config]
        return tuple(values) if isinstance(config, tuple) else values
    return "float32" if isinstance(config, str) and config.startswith("mixed_") else config


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """Within it new layers compute in float32, whatever the global policy."""
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(policy)


def copy_layer(layer: Any, shapes: Any, name: Optional[str] = None) -> Any:
    """Returns a layer of the same type, configuration and weights, built for inputs of the given shapes.

    Raises:
        ValueError: The layer cannot be made from its configuration.
    """
    try:
        config = in_float32(layer.get_config())
        config["name"] = name or layer.name
        copy = type(layer).from_config(config)
        copy_trainable(copy, layer)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"Layer {layer.name!r} of type {type(layer).__name__} cannot be copied: {error} Give it a get_config that "
            "returns the arguments of its constructor."
        ) from error
    weights = layer.get_weights()
    if weights:
        build(copy, shapes)
        if copy.weights:
            set_weights(copy, weights)
        else:
            # Some layers make their weights when they are called, as MultiHeadAttention does.
            _PENDING[copy] = (layer, weights)
    return copy


_PENDING: weakref.WeakKeyDictionary[Any, tuple[Any, list[np.ndarray]]] = weakref.WeakKeyDictionary()


def copy_trainable(copy: Any, layer: Any) -> None:
    """Freezes the layers inside a copy that are frozen in the original, of Keras 2 or 3."""
    inside, originals = (list(one._flatten_layers(include_self=False)) for one in (copy, layer))
    if [type(one).__name__ for one in inside] == [type(one).__name__ for one in originals]:
        for one, original in zip(inside, originals):
            one._trainable = original.trainable


def call_copy(copy: Any, args: tuple, kwargs: dict) -> Any:
    """Returns what a layer from `copy_layer` makes of its inputs; sets the weights that it could not have before."""
    outputs = copy(*args, **kwargs)
    if copy in _PENDING:
        layer, weights = _PENDING.pop(copy)
        copy_trainable(copy, layer)
        set_weights(copy, weights)
    return outputs


def build(layer: Any, shapes: Any) -> None:
    """Builds a layer outside a model, its weights named as inside one."""
    if not layer.built:
        with tf.name_scope(layer.name):
            layer.build(shapes)
        layer.built = True


def set_weights(layer: Any, weights: Sequence[np.ndarray]) -> None:
    """Sets the weights of a built layer, and the state that it derives from them."""
    layer.set_weights(weights)
    if isinstance(layer, _layers.Normalization):
        layer.finalize_state()


def shapes_of(tensors: Any) -> Any:
    """Returns the static shapes of a structure of tensors."""
    return tf.nest.map_structure(lambda tensor: tensor.shape, tensors)


def copy_norm_of_images(norm: Any, shape: Any, name: Optional[str] = None) -> Any:
    """Returns a copy of a BatchNormalization over the last axis, built for images of the given shape."""
    copy = _layers.BatchNormalization.from_config({**norm.get_config(), "axis": -1, "name": name or norm.name})
    build(copy, shape)
    copy.set_weights(norm.get_weights())
    return copy
