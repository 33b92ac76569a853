"""Ranges of activations from a sample of them, at the bits of now."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmiaq._backend import number
from tfmiaq.quantization.quantizers import ReluQuantizer, relu_top

# Parts of the largest activation that a range may end at.
_PARTS = np.linspace(0.02, 1.0, 99)
# TFLite wants a range that is not empty.
_SHORTEST = 1e-3


def least_squares_end(values: np.ndarray, largest: float, bits: int) -> float:
    """Returns where to clip non-negative activations so that, rounded to 2^b levels, they have least squared error.

    Args:
        values: A sample of the activations.
        largest: The largest of all; the end lies between a fiftieth of it and itself.
        bits: 1 to 8.
    """
    top = 2.0**bits - 1.0
    ends = largest * _PARTS
    errors = []
    for step in ends / top:
        rounded = np.clip(np.round(values / step), 0.0, top) * step
        errors.append(np.square(values - rounded).mean())
    return float(ends[int(np.argmin(errors))])


def set_range(quantizer: Any, variables: dict[str, Any], lowest: float, largest: float, values: np.ndarray) -> None:
    """Sets a range to the end of least squared error for a ReLU, and to all that was seen for another tensor.

    When its bits change, the end of a ReLU's range follows as in training: the straight line of `relu_top` is laid
    through this end.

    Args:
        quantizer: A quantizer that keeps a range.
        variables: Its variables.
        lowest: The least activation.
        largest: The largest activation.
        values: A sample of activations.
    """
    largest = max(largest, _SHORTEST)
    if isinstance(quantizer, ReluQuantizer):
        bits = round(number(variables["bits"]))
        values = np.maximum(values.astype(np.float64), 0.0)
        end = least_squares_end(values, largest, bits)
        if bits == 8:
            variables["max"].assign(end)
            variables["spread"].assign(float(np.sqrt(np.square(values).mean())))
        else:
            variables["max"].assign(largest)
            variables["spread"].assign(end / float(relu_top(np.float32(np.finfo(np.float32).max), 1.0, float(bits))))
    else:
        variables["min"].assign(min(lowest, 0.0))
        variables["max"].assign(largest)
    variables["seen"].assign(1.0)
