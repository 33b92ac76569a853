"""What one step of an output of a .tflite is worth: how far rounding alone moves it."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from tfmiaq.tflite.flatbuffer import operation_names

# Operations whose outputs are codes of their input, or the values of its codes.
_KEEP_CODES = (
    "DEQUANTIZE",
    "EXPAND_DIMS",
    "MAX_POOL_2D",
    "PAD",
    "RESHAPE",
    "SLICE",
    "SPLIT",
    "SQUEEZE",
    "STRIDED_SLICE",
    "TRANSPOSE",
)
# How far an output moves when everything that the operation reads moves by one: the largest slope of a sigmoid is 1/4,
# that of tanh 1, and a softmax moves by up to 2 p (1 - p) <= 1/2 when its logits move to both sides.
_SLOPES = {"LOGISTIC": 0.25, "SOFTMAX": 0.5, "TANH": 1.0}


def steps_of_outputs(model: Any) -> dict[int, Optional[float]]:
    """Returns for the index of each output tensor the value of one step, or None where float operations make it.

    A step is the int8 scale of the output; of a float output, the scale of what is dequantized to it; behind a sigmoid,
    tanh or softmax, the larger one of the output's scale and what one step of their input moves.

    Args:
        model: A ModelT.
    """
    graph = model.subgraphs[0]
    makers = {
        int(output): (name, operator)
        for name, operator in zip(operation_names(model), graph.operators)
        for output in operator.outputs
    }

    def step(index: int) -> Optional[float]:
        own = _scale(graph.tensors[index])
        if index not in makers:
            return own
        name, operator = makers[index]
        if name in _SLOPES:
            below = step(int(operator.inputs[0]))
            known = [value for value in (own, None if below is None else _SLOPES[name] * below) if value is not None]
            return max(known) if known else None
        if name in _KEEP_CODES:
            data = int(operator.inputs[1 if name == "SPLIT" else 0])
            below = step(data)
            return own if below is None else below
        return own

    return {int(index): step(int(index)) for index in graph.outputs}


def _scale(tensor: Any) -> Optional[float]:
    scales = None if tensor.quantization is None else tensor.quantization.scale
    return float(scales[0]) if scales is not None and np.size(scales) == 1 and scales[0] > 0 else None


def constants(model: Any) -> set[int]:
    """Returns the indices of the tensors that hold values of their own."""
    graph = model.subgraphs[0]
    return {
        index
        for index, tensor in enumerate(graph.tensors)
        if model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data)
    }
