"""The door for .tflite files: what a file declares is checked before an interpreter, which trusts it, is built."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np

from tfmiaq.loading.flatbuffer_reader import DamagedError, Reader, Schema
from tfmiaq.loading.limits import bytes_limit, check_declared

IDENTIFIER = b"TFL3"
_VERSION = 3
_MOST_DIMENSIONS = 16
# Bits of an element by the number of its type (schema.fbs, TensorType). Strings (5), resources (13) and variants (14)
# have none.
_BITS = {0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128, 12: 64, 15: 32, 16: 16, 17: 4}
_BITS |= {18: 16, 19: 2}
_WITHOUT_BITS = (5, 13, 14)
# Operations that take a missing input (-1), behind their first two (schema.fbs, BuiltinOperator): convolutions,
# FULLY_CONNECTED, recurrent ones, SVDF and TRANSPOSE_CONV.
_OPTIONAL_INPUTS = frozenset((3, 4, 9, 16, 24, 27, 35, 44, 46, 52, 67, 132, 141))
# Operations that run other graphs of the file: fields of their options with the graphs' numbers.
_CALLS = {118: (0, 1), 119: (0, 1), 129: (0,)}
_WITHOUT_OUTPUTS = frozenset((129, 144))

_TENSOR_MAP = Schema({0: ("name", "string"), 1: ("tensor", "u32")})
_QUANTIZATION = Schema({2: ("scale", "[f32]"), 3: ("zero_point", "[i64]"), 5: ("details", "table"), 6: ("axis", "i32")})
_TENSOR = Schema(
    {
        **{0: ("shape", "[i32]"), 1: ("type", "i8"), 2: ("buffer", "u32"), 3: ("name", "string")},
        **{4: ("quantization", _QUANTIZATION), 5: ("is_variable", "u8"), 6: ("sparsity", "table")},
        **{7: ("shape_signature", "[i32]")},
    }
)
_OPERATOR = Schema(
    {
        **{0: ("code", "u32"), 1: ("inputs", "[i32]"), 2: ("outputs", "[i32]"), 3: ("options_type", "u8")},
        **{4: ("options", "table"), 5: ("custom_options", "[u8]"), 8: ("intermediates", "[i32]")},
        **{9: ("large_offset", "u64"), 10: ("large_size", "u64"), 12: ("options_2", "table")},
    }
)
_GRAPH = Schema(
    {
        **{0: ("tensors", [_TENSOR]), 1: ("inputs", "[i32]"), 2: ("outputs", "[i32]")},
        **{3: ("operators", [_OPERATOR]), 4: ("name", "string")},
    }
)
_MODEL = Schema(
    {
        0: ("version", "u32"),
        1: ("codes", [Schema({0: ("old", "i8"), 1: ("custom", "string"), 2: ("version", "i32"), 3: ("code", "i32")})]),
        2: ("graphs", [_GRAPH]),
        3: ("description", "string"),
        4: ("buffers", [Schema({0: ("data", "[u8]"), 1: ("offset", "u64"), 2: ("size", "u64")})]),
        5: ("metadata_buffer", "[i32]"),
        6: ("metadata", [Schema({0: ("name", "string"), 1: ("buffer", "u32")})]),
        7: (
            "signatures",
            [
                Schema(
                    {
                        **{0: ("inputs", [_TENSOR_MAP]), 1: ("outputs", [_TENSOR_MAP])},
                        **{2: ("key", "string"), 4: ("graph", "u32")},
                    }
                )
            ],
        ),
    }
)


def check_tflite(data: bytes, max_bytes: Optional[int] = None) -> None:
    """Checks that a .tflite is whole, and that its operations can run in their order.

    Checked are the identifier; every offset and vector; shapes and sizes of tensors against their buffers, and against
    the limit; scales; the numbers by which operations, graphs and signatures name tensors, buffers and one another; and
    that each operation reads only what is written before it. What the options of an operation mean is not.

    Args:
        data: The bytes of the file.
        max_bytes: Bytes that the tensors of one record may take in memory; None for 4 GiB.

    Raises:
        ValueError: A damaged file, "damaged .tflite: " and what is wrong with it; or one above the limit.
    """
    limit = bytes_limit("read_model", max_bytes)
    if data[4:8] != IDENTIFIER:
        raise ValueError(f"is no TFLite model: its identifier is {data[4:8]!r}, not {IDENTIFIER!r}")
    reader = Reader(data)
    try:
        model = reader.root(_MODEL)
        for fault in _faults(model, len(data), limit, reader):
            raise DamagedError(fault)
    except DamagedError as error:
        raise ValueError(f"damaged .tflite: {error}") from error


def _faults(model: dict[str, Any], size: int, limit: int, reader: Reader) -> Iterator[str]:
    if model.get("version") != _VERSION:
        yield f"its version is {model.get('version')}, not {_VERSION}"
    graphs, buffers = model.get("graphs", []), model.get("buffers", [])
    if not graphs:
        yield "it has no graph"
    for number, buffer in enumerate(buffers):
        # Files above 2 GB keep their buffers behind the flatbuffer.
        if buffer.get("offset", 0) > 1 and buffer["offset"] + buffer.get("size", 0) > size:
            yield f"buffer {number} lies beyond the end of the file"
    for entry in model.get("metadata", []):
        if entry.get("buffer", 0) >= len(buffers):
            yield f"metadata {entry.get('name', '')!r:.80} has buffer {entry['buffer']} of {len(buffers)}"
    for number, graph in enumerate(graphs):
        yield from _faults_of_graph(graph, model, f"graph {number}", limit, reader)
    yield from _faults_of_calls(model, reader)
    for signature in model.get("signatures", []):
        if signature.get("graph", 0) >= len(graphs):
            yield f"a signature is of graph {signature['graph']} of {len(graphs)}"
        graph = graphs[signature.get("graph", 0)]
        for side in ("inputs", "outputs"):
            named = [entry.get("tensor", 0) for entry in signature.get(side, [])]
            own = {int(index) for index in graph.get(side, ())}
            if any(index not in own for index in named) or any(
                "name" not in entry for entry in signature.get(side, [])
            ):
                yield f"a signature names {side} that its graph does not have"


def _faults_of_graph(
    graph: dict[str, Any], model: dict[str, Any], what: str, limit: int, reader: Reader
) -> Iterator[str]:
    tensors, buffers = graph.get("tensors", []), model.get("buffers", [])
    declared, ready = 0, set()
    for index, tensor in enumerate(tensors):
        yield from _faults_of_tensor(tensor, buffers, f"tensor {index} of {what}")
        taken = _bytes_of(tensor)
        declared += taken
        check_declared("The .tflite", declared, limit, "tensors")
        if not taken or _content(tensor, buffers) is not None or tensor.get("is_variable"):
            ready.add(index)
    for side in ("inputs", "outputs"):
        if any(not 0 <= index < len(tensors) for index in graph.get(side, ())):
            yield f"{side} of {what} name tensors beyond its {len(tensors)}"
    given = {int(index) for index in graph.get("inputs", ())}
    if len(given) < len(graph.get("inputs", ())):
        yield f"an input of {what} is named twice"
    ready |= given
    for index, operator in enumerate(graph.get("operators", [])):
        yield from _faults_of_operator(operator, model, len(tensors), f"operation {index} of {what}")
        read = {int(tensor) for tensor in operator.get("inputs", ()) if tensor >= 0}
        early = read - ready
        if early:
            yield f"operation {index} of {what} reads tensor {min(early)} before it is written"
        written = [int(tensor) for tensor in operator.get("outputs", ())]
        for tensor in written:
            fixed = tensor in given or _content(tensors[tensor], buffers) is not None
            if fixed or written.count(tensor) > 1 or (tensor in ready and not _is_free(tensors[tensor])):
                yield f"operation {index} of {what} writes tensor {tensor}, which is written already"
        ready |= set(written)
    missing = {int(index) for index in graph.get("outputs", ())} - ready
    if missing:
        yield f"no operation of {what} writes its output, tensor {min(missing)}"


def _is_free(tensor: dict[str, Any]) -> bool:
    """Returns whether a tensor may be written though nothing has to write it: a state, or one without elements."""
    return bool(tensor.get("is_variable")) or not _bytes_of(tensor)


def _content(tensor: dict[str, Any], buffers: list[dict[str, Any]]) -> Any:
    """Returns the bytes of a constant; None for what an operation writes."""
    buffer = buffers[tensor.get("buffer", 0)] if tensor.get("buffer", 0) < len(buffers) else {}
    if buffer.get("offset", 0) > 1:
        return np.zeros(0, np.uint8)
    data = buffer.get("data")
    return data if data is not None and len(data) else None


def _bytes_of(tensor: dict[str, Any]) -> int:
    """Returns the bytes of a tensor; 1 for a type whose elements have no size of their own."""
    bits = _BITS.get(tensor.get("type", 0))
    elements = math.prod(int(size) for size in tensor.get("shape", ()))
    return 1 if bits is None else -(-elements * bits // 8)


def _faults_of_tensor(tensor: dict[str, Any], buffers: list[dict[str, Any]], what: str) -> Iterator[str]:
    kind, shape = tensor.get("type", 0), [int(size) for size in tensor.get("shape", ())]
    if kind not in _BITS and kind not in _WITHOUT_BITS:
        yield f"{what} has type {kind}, which is none"
    if len(shape) > _MOST_DIMENSIONS or any(size < 0 for size in shape):
        yield f"{what} has shape {shape[: _MOST_DIMENSIONS + 1]!s:.80}"
    signature = tensor.get("shape_signature")
    if signature is not None and len(signature) and len(signature) != len(shape):
        yield f"{what} has {len(shape)} dimensions, and {len(signature)} in its signature"
    if signature is not None and any(size < -1 for size in signature):
        yield f"{what} has a size below -1 in its signature"
    if tensor.get("buffer", 0) >= max(len(buffers), 1):
        yield f"{what} has buffer {tensor['buffer']} of {len(buffers)}"
    taken, content = _bytes_of(tensor), _content(tensor, buffers)
    is_dense = kind in _BITS and "sparsity" not in tensor
    if content is not None and len(content) and is_dense and len(content) != taken:
        yield f"{what} takes {taken:,} bytes, and its buffer has {len(content):,}"
    if kind == 5 and content is not None and len(content) and not _is_strings(content):
        yield f"{what} has strings that lie outside its buffer"
    yield from _faults_of_scales(tensor.get("quantization", {}), shape, what)


def _is_strings(content: np.ndarray) -> bool:
    """Returns whether a buffer of strings is what TFLite reads: their number, their places, the bytes."""
    if len(content) < 4:
        return False
    count = int(content[:4].view("<i4")[0])
    if count < 0 or len(content) < 4 * (count + 2):
        return False
    places = content[4 : 4 * (count + 2)].copy().view("<i4")
    return bool(places[0] == 4 * (count + 2) and places[-1] == len(content) and (np.diff(places) >= 0).all())


def _faults_of_scales(quantization: dict[str, Any], shape: list[int], what: str) -> Iterator[str]:
    scale, zero = quantization.get("scale", np.zeros(0)), quantization.get("zero_point", np.zeros(0))
    if len(zero) not in (0, 1, len(scale)):
        yield f"{what} has {len(scale)} scales and {len(zero)} zero points"
    if not np.isfinite(scale).all() or (scale < 0).any():
        yield f"{what} has a scale below 0, or none that is finite"
    axis = quantization.get("axis", 0)
    if len(scale) > 1 and not (0 <= axis < len(shape) and len(scale) == shape[axis]):
        yield f"{what} has {len(scale)} scales along dimension {axis} of shape {shape}"


def _code(model: dict[str, Any], operator: dict[str, Any]) -> int:
    code = model["codes"][operator.get("code", 0)]
    return max(int(code.get("old", 0)), int(code.get("code", 0)))


def _faults_of_operator(operator: dict[str, Any], model: dict[str, Any], count: int, what: str) -> Iterator[str]:
    codes = model.get("codes", [])
    if operator.get("code", 0) >= len(codes):
        yield f"{what} has code {operator.get('code', 0)} of {len(codes)}"
    code = _code(model, operator)
    least = {"inputs": -1, "outputs": 0, "intermediates": 0}
    for side, low in least.items():
        if any(not low <= index < count for index in operator.get(side, ())):
            yield f"{side} of {what} name tensors beyond the {count} of its graph"
    inputs = [int(index) for index in operator.get("inputs", ())]
    if -1 in (inputs if code not in _OPTIONAL_INPUTS else inputs[:2] if code < 10 else inputs[:1]):
        yield f"{what} has no tensor for an input that it needs"
    if not len(operator.get("outputs", ())) and code not in _WITHOUT_OUTPUTS:
        yield f"{what} has no output"
    if operator.get("large_offset", 0) or operator.get("large_size", 0):
        yield f"{what} has options behind the flatbuffer"


def _faults_of_calls(model: dict[str, Any], reader: Reader) -> Iterator[str]:
    """Yields faults of operations that run other graphs: they must exist, and never lead back."""
    graphs = model["graphs"]
    calls: list[set[int]] = [set() for _ in graphs]
    for number, graph in enumerate(graphs):
        for operator in graph.get("operators", []):
            code = _code(model, operator)
            if code not in _CALLS:
                continue
            options = operator.get("options")
            called = [0 if options is None else reader.integer(options, field) for field in _CALLS[code]]
            if any(not 0 <= graph_number < len(graphs) for graph_number in called):
                yield f"an operation of graph {number} runs graph {max(called)} of {len(graphs)}"
            calls[number] |= set(called)
    finished: set[int] = set()
    for _ in graphs:
        finished |= {number for number, called in enumerate(calls) if called <= finished}
    if len(finished) < len(graphs):
        yield f"graph {min(set(range(len(graphs))) - finished)} runs itself"
