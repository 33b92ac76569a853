"""Which weights take half a byte in a packed .tflite, as far as the Keras layer tells."""

from __future__ import annotations

from typing import Any, Optional

from tfmiaq._backend import keras

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
