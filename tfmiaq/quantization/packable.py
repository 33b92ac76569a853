"""The int8 codes of weights, and which weights take half a byte in a packed .tflite, as far as a layer tells."""

from __future__ import annotations

from typing import Any, Optional

from tfmiaq._backend import keras, tf

_layers = keras.layers
# A scale and a zero point of one channel in a .tflite: a float32 and an int64.
BYTES_OF_SCALE = 12


def fits_int4(layer: Any, weight_bits: Optional[int]) -> bool:
    """Returns whether `convert(pack=True)` stores the weights of a layer as INT4.

    It does for up to 4 bits, an even number of inputs, and a layer that TFLite runs as FULLY_CONNECTED or could: a
    Dense, or a 1 x 1 convolution of stride 1. A Dense has one scale in an int8 file and one for each unit in a packed
    one: it must have more inputs than those take. The file decides in the end (`tfmiaq.tflite.stored_weights`).

    Args:
        layer: A built Keras layer.
        weight_bits: Bits of its weights, 1 to 8, or None for float or without any.
    """
    if weight_bits is None or weight_bits > 4:
        return False
    inputs, outputs = layer.kernel.shape[-2:] if type(layer) in (_layers.Conv2D, _layers.Dense) else (1, 1)
    if inputs % 2:
        return False
    if type(layer) is _layers.Conv2D:
        return bool((*layer.kernel_size, *layer.strides, layer.groups) == (1, 1, 1, 1, 1))
    scales = (outputs - 1) * (2 if layer.use_bias else 1)
    return bool(scales * BYTES_OF_SCALE < inputs * outputs // 2)


def int8_refinement(bits: Any) -> Any:
    """Returns how many int8 codes lie between two neighbouring weight levels, for a top level n = 2^(b-1) - 1, or 1.

    That is floor(127 / n), and 16 floor(7 / n) for up to 4 bits: a packed file holds the upper halves of those bytes.
    """
    top = tf.maximum(tf.pow(2.0, tf.cast(bits, tf.float32) - 1.0) - 1.0, 1.0)
    in_int4 = tf.floor(7.0 / top + 1e-3)
    return 16.0 * in_int4 + (1.0 - tf.minimum(in_int4, 1.0)) * tf.floor(127.0 / top + 1e-3)
