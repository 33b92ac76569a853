"""Which weights take half a byte in a packed .tflite, as far as the Keras layer tells."""

from __future__ import annotations

from typing import Any, Optional

from tfmiaq._backend import keras

_layers = keras.layers


def fits_int4(layer: Any, weight_bits: Optional[int]) -> bool:
    """Returns whether `convert(pack=True)` stores the weights of a layer as INT4.

    It does for up to 4 bits, an even number of inputs, and a layer that TFLite runs as FULLY_CONNECTED or could: a
    Dense, or a 1 x 1 convolution of stride 1. The file decides in the end (`tfmiaq.tflite.stored_weights`).

    Args:
        layer: A built Keras layer.
        weight_bits: Bits of its weights, 1 to 8, or None for float or without any.
    """
    if weight_bits is None or weight_bits > 4:
        return False
    if type(layer) is _layers.Conv2D:
        if (*layer.kernel_size, *layer.strides) != (1, 1, 1, 1) or layer.groups != 1:
            return False
    elif type(layer) is not _layers.Dense:
        return False
    return int(layer.kernel.shape[-2]) % 2 == 0
