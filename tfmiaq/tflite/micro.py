"""Weights of as many bits as they have levels, by the lookup tables of TensorFlow Lite for Microcontrollers.

TFLite Micro's compression stores a constant tensor as indices of 1 to 7 bits and a table of int8 codes for each
channel. A DECODE operation in front of each kernel writes the int8 codes into its arena, so that kernels and outputs
are those of the int8 file. Any kernel takes it: 3 x 3 and depthwise convolutions too.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Optional

import numpy as np

from tfmiaq.tflite.flatbuffer import TFLiteModel, read_model, unpack
from tfmiaq.tflite.packing import stored_codes, weighted_operations

# TFLite Micro plans its memory in one arena, whose size it does not tell beforehand.
_ARENA_BYTES = 64 * 2**20
_MOST_BITS = 7
# What DECODE reads before the tables.
_HEADER_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Table:
    """How one tensor of weights is stored in a compressed file.

    Attributes:
        tensor: Number of the tensor in the graph.
        bits: Bits of each index.
        axis: Axis of the channels, each of which has a table, or None for one table. TFLite Micro takes a table for
            each channel where there is a scale for each.
        stored_bytes: Bytes of indices and tables.
        int8_bytes: Bytes of the int8 codes.
    """

    tensor: int
    bits: int
    axis: Optional[int]
    stored_bytes: int
    int8_bytes: int


def tables_of(file: TFLiteModel) -> list[Table]:
    """Returns the tensors of weights that a lookup table makes smaller.

    Args:
        file: An int8 .tflite.
    """
    model = unpack(file)
    numbers = {id(tensor): number for number, tensor in enumerate(model.subgraphs[0].tensors)}
    found = {}
    for _, _, tensor, _ in weighted_operations(model):
        codes = stored_codes(model, tensor)
        if codes is None or tensor.quantization is None:
            continue
        table = _table(numbers[id(tensor)], codes, tensor.quantization)
        if table.bits <= _MOST_BITS and table.stored_bytes < table.int8_bytes:
            found[table.tensor] = table
    return list(found.values())


def _table(number: int, codes: np.ndarray, quantization: Any) -> Table:
    axis = int(quantization.quantizedDimension) if np.size(quantization.scale) > 1 else None
    channels = [codes] if axis is None else list(np.moveaxis(codes, axis, 0))
    entries = max(len(np.unique(channel)) for channel in channels)
    bits = max(1, math.ceil(math.log2(entries)))
    return Table(
        tensor=number,
        bits=bits,
        axis=axis,
        stored_bytes=math.ceil(codes.size * bits / 8) + entries * len(channels) + _HEADER_BYTES,
        int8_bytes=codes.size,
    )


def compress_for_micro(file: TFLiteModel) -> bytes:
    """Returns a .tflite for TFLite Micro whose weights take as many bits as they have levels.

    The package tflite-micro writes the file, and runs it once beside the int8 file: outputs are the same, bit by bit,
    or there is an error. Weights of 1 to 4 bits become smaller; those of 8 stay int8. Only TFLite Micro runs such a
    file, with the DECODE operation registered; `tfmiaq.tflite.Interpreter` and the Edge TPU's compiler do not.

    Example:
        >>> buffer = tfmiaq.convert(quantized, target="edgetpu")
        >>> pathlib.Path("model.tflite").write_bytes(tfmiaq.tflite.compress_for_micro(buffer))

    Args:
        file: Bytes or path of a .tflite from `convert` with integer ends, not packed.

    Raises:
        ImportError: The package tflite-micro is not installed.
        ValueError: No .tflite; no weights that become smaller; outputs that are not those of the int8 file.
        RuntimeError: TFLite Micro does not run the int8 file itself.
    """
    plain = read_model(file)
    records = _random_records(plain)
    tables = tables_of(plain)
    if not tables:
        raise ValueError(
            "compress_for_micro: No weights become smaller by a lookup table. Expected an int8 file with weights of "
            "fewer than 8 bits."
        )
    try:
        from tflite_micro import compression
    except ImportError as error:
        raise ImportError("compress_for_micro: It takes the package tflite-micro: pip install tflite-micro.") from error
    builder = compression.SpecBuilder()
    for table in tables:
        mode = compression.spec.PerTensor() if table.axis is None else compression.spec.PerChannel(axis=table.axis)
        builder.add_tensor(0, table.tensor).with_lut(table.bits, mode)
    compressed = bytes(compression.compress(plain, builder.build()))
    expected, found = (run_on_micro(buffer, records) for buffer in (plain, compressed))
    if not np.array_equal(expected, found):
        raise ValueError(
            "compress_for_micro: TFLite Micro computes other outputs from the compressed file. Ship the int8 file, and "
            "please report the model."
        )
    return compressed


def _random_records(file: bytes, count: int = 4) -> np.ndarray:
    """Returns random records of the integer type of a file's input."""
    from tensorflow.lite.python import schema_py_generated as schema

    graph = unpack(file).subgraphs[0]
    tensor = graph.tensors[graph.inputs[0]]
    types = {schema.TensorType.INT8: np.int8, schema.TensorType.UINT8: np.uint8}
    if len(graph.inputs) != 1 or tensor.type not in types:
        raise ValueError(
            "compress_for_micro: Expected a file of one integer input, as convert(model, target='edgetpu') gives it."
        )
    limits: Any = np.iinfo(types[tensor.type])
    shape = (count, *[int(size) for size in tensor.shape[1:]])
    return np.random.default_rng(0).integers(limits.min, limits.max + 1, shape).astype(types[tensor.type])


def run_on_micro(file: bytes, records: np.ndarray) -> np.ndarray:
    """Returns the codes of the first output of a .tflite for each record, as TFLite Micro's kernels for a PC compute.

    Args:
        file: The bytes of a .tflite.
        records: Codes of its one input, shape (n, ...).

    Raises:
        ImportError: The package tflite-micro is not installed.
        RuntimeError: TFLite Micro does not run the file.
    """
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(file, arena_size=_ARENA_BYTES)
    outputs = []
    for record in records:
        interpreter.set_input(record[None], 0)
        interpreter.invoke()
        outputs.append(np.array(interpreter.get_output(0))[0])
    return np.stack(outputs)
