"""What single outputs of a layer read: rows of values whose product with the kernel is the output.

Rounding is learned on some positions of each record's outputs. Neighbouring positions read nearly the same, so a
sample of them says as much as all, at a small part of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfmiaq._backend import keras, tf

_layers = keras.layers
# At most so many values of rows are in memory for one network; a record gives at least one row.
_MOST_VALUES = 2**26


def product(rows: Any, kernel: Any) -> Any:
    """Returns outputs without bias, shape (n, channels), of rows (n, k) and a kernel of k weights for each channel."""
    return tf.matmul(rows, tf.reshape(kernel, [-1, tf.shape(kernel)[-1]]))


def depthwise_product(rows: Any, kernel: Any) -> Any:
    """Returns outputs without bias, shape (n, channels * multiplier), of rows (n, height, width, channels)."""
    found = tf.nn.depthwise_conv2d(rows, kernel, [1, 1, 1, 1], "VALID")
    return tf.reshape(found, [tf.shape(rows)[0], -1])


def product_of(layer: Any) -> Any:
    """Returns the function from rows and kernel to outputs of a layer that `has_rows`."""
    return depthwise_product if type(layer) is _layers.DepthwiseConv2D else product


def has_rows(layer: Any) -> bool:
    """Returns whether a layer's outputs are products of its kernel with rows of its input."""
    if type(layer) is _layers.Dense:
        return True
    return (
        type(layer) in (_layers.Conv2D, _layers.DepthwiseConv2D)
        and layer.data_format == "channels_last"
        and layer.padding in ("valid", "same")
        and getattr(layer, "groups", 1) == 1
    )


def sample(
    layer: Any, networks: Sequence[Sequence[Any]], most: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Returns the rows of the same positions in several networks, drawn anew for each record.

    Args:
        layer: A layer that `has_rows`.
        networks: For each network the layer's inputs: tensors (n, ...), which together are all records.
        most: Positions of a record.
        generator: Draws them.

    Returns:
        For each network an array (rows, ...) as the layer's product takes it.
    """
    positions = _positions(layer, networks[0][0].shape)
    count = sum(len(part) for part in networks[0])
    row = int(np.prod(layer.kernel_size)) if hasattr(layer, "kernel_size") else 1
    row *= int(networks[0][0].shape[-1])
    most = max(min(most, _MOST_VALUES // (row * count)), 1)
    total = int(np.prod(positions))
    if total <= most:
        chosen = np.tile(np.arange(total), (count, 1))
    else:
        chosen = generator.random((count, total), dtype=np.float32).argpartition(most, axis=1)[:, :most]
    return [_rows(layer, parts, chosen, positions) for parts in networks]


def _positions(layer: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the size of the output's axes but the first and the last."""
    if type(layer) is _layers.Dense:
        return tuple(shape[1:-1])
    return tuple(int(size) for size in layer.compute_output_shape(tuple(shape))[1:3])


def _rows(layer: Any, parts: Sequence[Any], chosen: np.ndarray, positions: tuple[int, ...]) -> np.ndarray:
    channels, of_record = parts[0].shape[-1], chosen.shape[1]
    window = tuple(layer.kernel_size) if hasattr(layer, "kernel_size") else ()
    rows = np.empty((len(chosen) * of_record, *window, channels), np.float32)
    start = 0
    for part in parts:
        values, places = np.asarray(part), chosen[start : start + len(part)]
        if window:
            values, places = _padded(layer, values, places, positions)
        size = values[0].size // channels
        places = places + size * np.arange(len(values)).reshape(-1, *[1] * (places.ndim - 1))
        end = start + len(values)
        out = rows[start * of_record : end * of_record].reshape(*places.shape, channels)
        values.reshape(-1, channels).take(places, axis=0, out=out, mode="clip")
        start = end
    return rows if type(layer) is _layers.DepthwiseConv2D else rows.reshape(len(rows), -1)


def _padded(
    layer: Any, values: np.ndarray, chosen: np.ndarray, positions: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs with zeros around them, and which of their flat places each chosen output reads."""
    pads, taps = [], []
    for axis, place in enumerate(np.unravel_index(chosen, positions)):
        inputs, size, stride, dilation = (
            values.shape[1 + axis],
            *(sizes[axis] for sizes in (layer.kernel_size, layer.strides, layer.dilation_rate)),
        )
        around = max((positions[axis] - 1) * stride + (size - 1) * dilation + 1 - inputs, 0)
        before = 0 if layer.padding == "valid" else around // 2
        pads.append((before, around - before))
        taps.append((place * stride)[..., None] + dilation * np.arange(size))
    if np.any(pads):
        values = np.pad(values, [(0, 0), *pads, (0, 0)])
    return values, taps[0][..., :, None] * values.shape[2] + taps[1][..., None, :]
