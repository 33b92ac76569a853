"""Norms of the gradient of each record of a batch, from what the layers of a model are given and give.

The norm comes from the inputs of each layer and from the gradient of its outputs, without the gradient of each record
itself ("ghost norms": Goodfellow 2015; Li et al. 2022, section 4; Bu et al. 2022, section 4).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

from tfmiaq._backend import QuantizeWrapperV2, keras, tf
from tfmiaq._checks import InvalidArgumentError


def check_model(owner: str, model: Any) -> None:
    """Raises InvalidArgumentError if a model has weights whose gradients have no norm for each record."""
    if not isinstance(model, keras.Model):
        raise InvalidArgumentError(
            f"{owner}: dp clips gradients of a model of tfmiaq.keras. Received {type(model).__name__}."
        )
    known = {id(weight) for owner_of in _layers(model) for weight in owner_of[1].trainable_weights}
    rest = [weight for weight in model.trainable_weights if id(weight) not in known]
    mixing = [layer.name for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    if mixing:
        raise InvalidArgumentError(
            f"{owner}: dp clips gradients by record, and BatchNormalization mixes the records of a batch: "
            f"{', '.join(mixing[:5])}. Use GroupNormalization, or no normalization "
            "(tfmiaq.training.without_batch_normalization)."
        )
    if rest:
        raise InvalidArgumentError(
            f"{owner}: dp knows the gradients by record of Dense, Conv2D, DepthwiseConv2D, GroupNormalization and "
            f"LayerNormalization. Received other trained weights: {', '.join(weight.name for weight in rest[:5])}. "
            "Freeze these layers (trainable=False), or leave dp out."
        )
    nodes = [node for of_depth in getattr(model, "_nodes_by_depth", {}).values() for node in of_depth]
    _check_called_once(node.layer.name for node in nodes if _kind(node.layer))
    active = [layer.name for layer in model._flatten_layers() if getattr(layer, "activity_regularizer", None)]
    if active:
        raise InvalidArgumentError(
            f"{owner}: dp clips the gradient of the loss, which an activity_regularizer goes past: "
            f"{', '.join(active[:5])}. Leave it out."
        )


def _kind(layer: Any) -> str:
    """Returns how the gradient by record of a layer is computed, or ""."""
    kinds = {"Dense": "product", "Conv2D": "conv", "DepthwiseConv2D": "depthwise"}
    kinds |= {"GroupNormalization": "scale", "LayerNormalization": "scale"}
    for name, kind in kinds.items():
        if isinstance(layer, keras.layers.Layer) and type(layer).call is getattr(keras.layers, name).call:
            is_plain = getattr(layer, "groups", 1) == 1 or kind == "scale"
            # TensorFlow has no gradient of dilated depthwise kernels on processors.
            is_plain = is_plain and (kind != "depthwise" or tuple(layer.dilation_rate) == (1, 1))
            is_last = kind in ("product",) or getattr(layer, "data_format", "channels_last") == "channels_last"
            axis = getattr(layer, "axis", -1)
            axis = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
            of_last = kind != "scale" or axis in (-1, len(layer.input_shape) - 1)
            return kind if is_plain and is_last and of_last else ""
    return ""


def _layers(model: Any) -> list[tuple[Any, Any, str]]:
    """Returns the layers whose gradients by record are known, what owns the weights of each, and its kind."""
    found = list(model._flatten_layers(recursive=True, include_self=False))
    owners = {id(layer.layer): layer for layer in found if isinstance(layer, QuantizeWrapperV2)}
    known = [(layer, owners.get(id(layer), layer), _kind(layer)) for layer in found]
    return [(layer, owner, kind) for layer, owner, kind in known if kind and owner.trainable_weights]


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call of a layer: its inputs, and its outputs before the activation; of a scale, before scale and offset."""

    layer: Any
    kind: str
    inputs: Any
    outputs: Any


@contextlib.contextmanager
def recorded(model: Any) -> Iterator[list[_Call]]:
    """Within it the calls of layers whose gradients by record are known are put into a list."""
    calls: list[_Call] = []
    layers = _layers(model)
    for layer, _, kind in layers:
        record = _record_scale if kind == "scale" else _record_product

        def call(inputs: Any, layer: Any = layer, kind: str = kind, record: Any = record) -> Any:
            return record(calls, layer, kind, inputs)

        layer.__dict__["call"] = tf.autograph.experimental.do_not_convert(call)
    try:
        yield calls
    finally:
        for layer, _, _ in layers:
            del layer.__dict__["call"]
    _check_called_once(call.layer.name for call in calls)


def _check_called_once(names: Iterable[str]) -> None:
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise InvalidArgumentError(
            f"DPSGD: Expected trained layers that are called once for each record. Received {', '.join(twice)}, called "
            "more often."
        )


@contextlib.contextmanager
def _instead(layer: Any, **attributes: Any) -> Iterator[None]:
    # Not by setattr, which tracks layers among attributes.
    before = {name: layer.__dict__[name] for name in attributes}
    layer.__dict__.update(attributes)
    try:
        yield
    finally:
        layer.__dict__.update(before)


def _record_product(calls: list[_Call], layer: Any, kind: str, inputs: Any) -> Any:
    activation = layer.activation
    with _instead(layer, activation=None):
        outputs = type(layer).call(layer, inputs)
    calls.append(_Call(layer, kind, inputs, outputs))
    return outputs if activation is None else activation(outputs)


def _record_scale(calls: list[_Call], layer: Any, kind: str, inputs: Any) -> Any:
    neutral = {"gamma": tf.ones_like(layer.gamma)} if layer.scale else {}
    neutral |= {"beta": tf.zeros_like(layer.beta)} if layer.center else {}
    with _instead(layer, **neutral):
        normalized = type(layer).call(layer, inputs)
    outputs = normalized * layer.gamma if layer.scale else normalized
    outputs = outputs + layer.beta if layer.center else outputs
    calls.append(_Call(layer, kind, normalized, outputs))
    return outputs


def squares(call: _Call, delta: Any, records: Any) -> list[Any]:
    """Returns the squared norms of a layer's gradients, shape (records,), one tensor for each of its weights."""
    layer, width = call.layer, delta.shape[-1]
    flat = tf.reshape(delta, [records, -1, width])
    if call.kind == "scale":
        found = []
        if layer.scale:
            scaled = tf.reshape(call.inputs * delta, [records, -1, width])
            found.append(tf.reduce_sum(tf.reduce_sum(scaled, 1) ** 2, -1))
        return [*found, tf.reduce_sum(tf.reduce_sum(flat, 1) ** 2, -1)] if layer.center else found
    inputs = tf.cast(call.inputs, delta.dtype)
    kernel = {"product": _of_product, "conv": _of_convolution, "depthwise": _of_depthwise}[call.kind]
    found = [kernel(layer, inputs, delta, records)]
    return [*found, tf.reduce_sum(tf.reduce_sum(flat, 1) ** 2, -1)] if layer.use_bias else found


def _of_product(_: Any, inputs: Any, delta: Any, records: Any) -> Any:
    """Returns the squared norms of the gradients of a dense kernel, by the cheaper way."""
    rows, deltas = (tf.reshape(part, [records, -1, part.shape[-1]]) for part in (inputs, delta))
    inner = delta.shape[1:-1]
    # Without the gradients themselves, where there are few positions (Bu et al. 2022, section 4.1).
    if inner.is_fully_defined() and 2 * math.prod(inner) ** 2 < rows.shape[-1] * deltas.shape[-1]:
        grams = tf.matmul(rows, rows, transpose_b=True) * tf.matmul(deltas, deltas, transpose_b=True)
        return tf.maximum(tf.reduce_sum(grams, [1, 2]), 0.0)
    return _sum_of_squares(tf.matmul(rows, deltas, transpose_a=True))


def _sum_of_squares(values: Any) -> Any:
    return tf.reduce_sum(values**2, list(range(1, values.shape.rank)))


def _of_convolution(layer: Any, inputs: Any, delta: Any, records: Any) -> Any:
    """Returns the squared norms of the gradients of a kernel of a convolution."""
    inner, is_dilated = delta.shape[1:-1], tuple(layer.dilation_rate) != (1, 1)
    if is_dilated or tuple(layer.kernel_size) == (1, 1) or not _is_large(inner):
        deltas = tf.reshape(delta, [records, -1, delta.shape[-1]])
        taps = [tf.reshape(tap, [records, -1, tap.shape[-1]]) for tap in _taps(layer, inputs, delta)]
        return tf.add_n([_sum_of_squares(tf.matmul(tap, deltas, transpose_a=True)) for tap in taps])

    def of_record(pair: Any) -> Any:
        found = tf.compat.v1.nn.conv2d_backprop_filter(
            pair[0], [*layer.kernel_size, inputs.shape[-1], delta.shape[-1]], pair[1], *_geometry(layer)
        )
        return tf.reduce_sum(found**2)

    by_record = [tf.reshape(part, [records, -1, *_inner(part)]) for part in (inputs, delta)]
    return tf.map_fn(of_record, by_record, fn_output_signature=delta.dtype)


def _of_depthwise(layer: Any, inputs: Any, delta: Any, records: Any) -> Any:
    """Returns the squared norms of the gradients of a kernel of a depthwise convolution."""
    channels, multiplier = inputs.shape[-1], layer.depth_multiplier

    def as_channels(part: Any) -> Any:
        height, width, depth = _inner(part)
        by_record = tf.reshape(part, [records, -1, height, width, depth])
        return tf.reshape(tf.transpose(by_record, [1, 2, 3, 0, 4]), [-1, height, width, records * depth])

    # All records side by side as channels of one: each channel has a kernel of its own.
    kernel = [*layer.kernel_size, records * channels, multiplier]
    found = tf.nn.depthwise_conv2d_backprop_filter(as_channels(inputs), kernel, as_channels(delta), *_geometry(layer))
    return tf.reduce_sum(tf.reshape(found, [-1, records, channels * multiplier]) ** 2, [0, 2])


def _is_large(inner: Any) -> bool:
    """Returns whether a kernel is used at so many positions that one record at a time is cheaper."""
    return bool(inner.is_fully_defined()) and math.prod(inner) >= 512


def _inner(part: Any) -> tuple[Any, ...]:
    """Returns height, width and channels, as numbers where they are known."""
    return tuple(tf.shape(part)[axis] if part.shape[axis] is None else part.shape[axis] for axis in (1, 2, 3))


def _geometry(layer: Any) -> tuple[list[int], str]:
    return [1, *layer.strides, 1], layer.padding.upper()


def _taps(layer: Any, inputs: Any, delta: Any) -> Iterator[Any]:
    """Yields the inputs that each weight of a window is used on, shape (rows, height, width, channels)."""
    (height, width), (steps, across) = _inner(delta)[:2], layer.strides
    pads = [[0, 0], [0, 0], [0, 0], [0, 0]]
    if layer.padding == "same":
        for axis in (1, 2):
            size, out = _inner(inputs)[axis - 1], _inner(delta)[axis - 1]
            reach = (layer.kernel_size[axis - 1] - 1) * layer.dilation_rate[axis - 1] + 1
            total = tf.maximum((out - 1) * layer.strides[axis - 1] + reach - size, 0)
            pads[axis] = [total // 2, total - total // 2]
    padded = tf.pad(inputs, pads) if layer.padding == "same" else inputs
    for row in range(layer.kernel_size[0]):
        for column in range(layer.kernel_size[1]):
            top, left = row * layer.dilation_rate[0], column * layer.dilation_rate[1]
            bottom, right = top + (height - 1) * steps + 1, left + (width - 1) * across + 1
            yield padded[:, top:bottom:steps, left:right:across]
