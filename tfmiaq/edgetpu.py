"""Checks which operations of a .tflite the Edge TPU compiler accepts, without that compiler.

The rules are those of coral.ai, "TensorFlow models on the Edge TPU": model requirements, and the table of supported
operations with their known limitations.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq._tables import format_table, html_table
from tfmiaq.tflite.flatbuffer import TFLiteModel, is_packed, operation_names, read_model, unpack

COMPILER = "edgetpu_compiler"
# On-chip memory for parameters, in bytes: about 8 MB (coral.ai, "Edge TPU Compiler", parameter data caching).
ON_CHIP_BYTES = 8 * 1024 * 1024
_QUANTIZED = ("INT8", "UINT8")
_LARGEST_SOFTMAX = 16_000


@dataclasses.dataclass(frozen=True)
class OperationCheck:
    """One operation of the file.

    Attributes:
        index: Place in the file.
        operation: TFLite's name of it.
        output: Name of its first output tensor.
        mapped: Whether the compiler is expected to map it to the Edge TPU.
        reason: Why not, or an empty string.
    """

    index: int
    operation: str
    output: str
    mapped: bool
    reason: str = ""


@dataclasses.dataclass(frozen=True, repr=False)
class EdgeTpuCheck:
    """What the compiler is expected to do with a file; prints as a table.

    Attributes:
        operations: Every operation, in order.
        parameter_bytes: Weights and biases of the operations expected on the Edge TPU.
        compiler_log: Output of `edgetpu_compiler`, or None where it is not installed.
    """

    operations: tuple[OperationCheck, ...]
    parameter_bytes: int
    compiler_log: Optional[str]

    @property
    def mapped(self) -> bool:
        """Whether every operation is expected on the Edge TPU."""
        return all(operation.mapped for operation in self.operations)

    @property
    def fits_on_chip(self) -> bool:
        """Whether the parameters fit in the on-chip memory, so that none is fetched again for each record."""
        return self.parameter_bytes <= ON_CHIP_BYTES

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        rows: list[tuple[str, ...]] = [
            (str(o.index), o.operation, o.output[-48:], "yes" if o.mapped else "NO", o.reason) for o in self.operations
        ]
        return ("#", "operation", "output", "mapped", "reason"), rows

    def _line(self) -> str:
        on_chip = "fit" if self.fits_on_chip else "do not fit"
        return (
            f"{sum(o.mapped for o in self.operations)} of {len(self.operations)} operations mapped; parameters of "
            f"{self.parameter_bytes:,} B {on_chip} in the {ON_CHIP_BYTES:,} B on chip"
        )

    def __str__(self) -> str:
        lines = [format_table(*self._table()), self._line()]
        if self.compiler_log is None:
            lines.append(f"{COMPILER} is not on the PATH: this is what its documentation says.")
        else:
            lines += [f"{COMPILER} says:", self.compiler_log]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<EdgeTpuCheck: {self._line()}>"

    def _repr_html_(self) -> str:
        return html_table(*self._table(), note=self._line())


@dataclasses.dataclass(frozen=True)
class _Operation:
    """An operation with its tensors at hand."""

    name: str
    options: Any
    inputs: list[Any]
    outputs: list[Any]
    values: list[Optional[np.ndarray]]

    def shape(self, index: int = 0) -> list[int]:
        return [int(size) for size in self.inputs[index].shape]


def _fused(operation: _Operation) -> str:
    return "a fused activation" if getattr(operation.options, "fusedActivationFunction", 0) else ""


def _concatenation(operation: _Operation) -> str:
    constants = [value for value in operation.values if value is not None]
    if constants and (len(operation.inputs) != 2 or any(np.any(value) for value in constants)):
        return "constant inputs, unless it is one of two and all zeros"
    return _fused(operation)


def _depthwise(operation: _Operation) -> str:
    dilated = max(operation.options.dilationHFactor, operation.options.dilationWFactor) > 1
    return "a dilated kernel" if dilated else ""


def _conv(operation: _Operation) -> str:
    return "" if operation.options.dilationHFactor == operation.options.dilationWFactor else "unequal dilation"


def _fully_connected(operation: _Operation) -> str:
    if operation.options.weightsFormat:
        return "a weights format that is not the default"
    # The batch counts as a dimension of size 1.
    return "" if sum(size > 1 for size in operation.outputs[0].shape) <= 1 else "an output of more than one dimension"


def _spatial(axes: Optional[np.ndarray], rank: int) -> bool:
    return axes is not None and set(np.atleast_1d(axes) % rank) <= set(range(1, max(rank - 1, 2)))


def _mean(operation: _Operation) -> str:
    if _spatial(operation.values[1], len(operation.shape())):
        return ""
    return "a reduction along other than x and y"


def _not_batch(operation: _Operation) -> str:
    axes = operation.values[1] if len(operation.values) > 1 else None
    return "the batch dimension" if axes is None or 0 in np.atleast_1d(axes) else ""


def _pad(operation: _Operation) -> str:
    padding = operation.values[1]
    moved = [] if padding is None else [axis for axis, pair in enumerate(padding) if np.any(pair)]
    rank = len(operation.shape())
    allowed = padding is not None and set(moved) <= set(range(1, rank - 1))
    return "" if allowed else "padding along other than x and y"


def _prelu(operation: _Operation) -> str:
    return "" if sum(size > 1 for size in operation.shape(1)) <= 1 else "an alpha of more than one dimension"


def _softmax(operation: _Operation) -> str:
    shape = operation.shape()
    if sum(size > 1 for size in shape) > 1:
        return "an input of more than one dimension"
    return "" if math.prod(shape) <= _LARGEST_SOFTMAX else f"more than {_LARGEST_SOFTMAX:,} elements"


def _squeeze(operation: _Operation) -> str:
    sizes = operation.shape()
    leading = next((i for i, size in enumerate(sizes) if size > 1), len(sizes))
    kept = [int(size) for size in operation.outputs[0].shape if size > 1]
    return "" if kept == [s for s in sizes[leading:] if s > 1] and 1 not in sizes[leading:] else "inner ones"


def _strided_slice(operation: _Operation) -> str:
    strides = operation.values[3]
    if strides is None or np.any(strides != 1):
        return "strides other than 1"
    return "masks of ellipsis or new axis" if operation.options.ellipsisMask or operation.options.newAxisMask else ""


def _any(operation: _Operation) -> str:
    return ""


# Operations without a limitation of their own.
_UNLIMITED = (
    "ADD",
    "EXPAND_DIMS",
    "L2_NORMALIZATION",
    "LOGISTIC",
    "MAXIMUM",
    "MINIMUM",
    "MUL",
    "PACK",
    "QUANTIZE",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "RESHAPE",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
    "RSQRT",
    "SLICE",
    "SPACE_TO_DEPTH",
    "SPLIT",
    "SQUARED_DIFFERENCE",
    "SUB",
    "TANH",
    "TRANSPOSE",
    "TRANSPOSE_CONV",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
)
_RULES: dict[str, Callable[[_Operation], str]] = {
    **dict.fromkeys(_UNLIMITED, _any),
    **dict.fromkeys(["REDUCE_MAX", "REDUCE_MIN", "SUM"], _not_batch),
    "AVERAGE_POOL_2D": _fused,
    "MAX_POOL_2D": _fused,
    "CONCATENATION": _concatenation,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "MEAN": _mean,
    "PAD": _pad,
    "PRELU": _prelu,
    "SOFTMAX": _softmax,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
}


def _names(enum: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


def _types_and_shapes(operation: _Operation, types: dict[int, str]) -> str:
    """Returns which limit of all operations is broken: 8-bit tensors, at most three dimensions beside the batch."""
    tensors = [t for t, value in zip(operation.inputs, operation.values) if value is None] + operation.outputs
    odd = {types.get(tensor.type, f"type {tensor.type}") for tensor in tensors} - set(_QUANTIZED)
    if odd:
        return f"tensors of type {', '.join(sorted(odd))}; 8-bit integers only"
    shapes = [() if tensor.shape is None else tensor.shape for tensor in tensors]
    if any(len(shape) > 3 and any(size > 1 for size in shape[:-3]) for shape in shapes):
        return "more than three dimensions of a size above 1"
    return ""


def _operations(model: Any, schema: Any) -> list[_Operation]:
    types, graph = _names(schema.TensorType), model.subgraphs[0]

    def value(index: int) -> Optional[np.ndarray]:
        tensor = graph.tensors[index]
        data = model.buffers[tensor.buffer].data
        if data is None or not len(data):
            return None
        flat = np.asarray(data, np.uint8)
        kind = getattr(np, types.get(tensor.type, "").lower().replace("bool", "bool_"), None)
        shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
        # Strings, sparse tensors and those of 4 bits are other bytes than one number after the other.
        if not isinstance(kind, type) or flat.size != math.prod(shape) * np.dtype(kind).itemsize:
            return flat
        return flat.view(kind).reshape(shape)

    found = []
    for name, operator in zip(operation_names(model), graph.operators):
        inputs = [int(index) for index in ([] if operator.inputs is None else operator.inputs) if index >= 0]
        found.append(
            _Operation(
                name,
                operator.builtinOptions,
                [graph.tensors[index] for index in inputs],
                [graph.tensors[int(index)] for index in ([] if operator.outputs is None else operator.outputs)],
                [value(index) for index in inputs],
            )
        )
    return found


def _compile(data: bytes) -> Optional[str]:
    path = shutil.which(COMPILER)
    if path is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.tflite"
        file.write_bytes(data)
        command = [path, "--show_operations", "--out_dir", folder, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def check(model: TFLiteModel) -> EdgeTpuCheck:
    """Returns for each operation whether the Edge TPU compiler would map it, and why not.

    The compiler leaves everything behind the first operation that it does not map to the processor; the table shows
    each operation by itself. Where `edgetpu_compiler` is on the PATH it is run, and its output is added.

    Example:
        >>> print(tfmiaq.edgetpu.check(tfmiaq.convert(quantized, target="edgetpu")))

    Args:
        model: Bytes or path of a .tflite.

    Returns:
        The table, the bytes of parameters, and the compiler's log.

    Raises:
        ValueError: No such file, what it holds is no TFLite model, a damaged one, or one of packed weights.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    data = read_model(model)
    unpacked = unpack(data)
    if is_packed(data):
        raise ValueError(
            "edgetpu.check: The file has packed weights (INT4), and the Edge TPU takes int8. Convert the model with "
            "target='edgetpu', without pack=True."
        )
    try:
        checks, parameters = _check_operations(unpacked, schema)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The rules read what an operation of this name always has.
        raise ValueError(
            f"damaged .tflite: an operation lacks what its kind has ({type(error).__name__}: {error})."
        ) from error
    return EdgeTpuCheck(tuple(checks), parameters, _compile(data))


def _check_operations(unpacked: Any, schema: Any) -> tuple[list[OperationCheck], int]:
    """Returns the checks of all operations, and the bytes of parameters of those that are mapped."""
    types = _names(schema.TensorType)
    checks, parameters = [], 0
    for index, operation in enumerate(_operations(unpacked, schema)):
        rule = _RULES.get(operation.name)
        reason = "an operation that the Edge TPU does not know" if rule is None else ""
        reason = reason or _types_and_shapes(operation, types) or (rule(operation) if rule else "")
        name = (operation.outputs[0].name or b"").decode() if operation.outputs else ""
        checks.append(OperationCheck(index, operation.name, name, not reason, reason))
        if not reason:
            parameters += sum(value.nbytes for value in operation.values if value is not None)
    return checks, parameters
