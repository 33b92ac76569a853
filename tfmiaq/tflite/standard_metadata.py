"""TensorFlow Lite's own metadata, TFLITE_METADATA: what readers on Android and elsewhere find in a file.

It is a FlatBuffer of the schema metadata_schema.fbs (tflite-support 0.4), whose files lie in an archive behind the
model. The numbers below are its slots and enums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import flatbuffers
import numpy as np

from tfmiaq.tflite.associated_files import append_files, read_files
from tfmiaq.tflite.flatbuffer import TFLiteModel, pack, read_model, unpack

LABELS_FILE = "labels.txt"
_ENTRY = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
# The oldest parser that knows all that is written here.
_PARSER = "1.0.0"
_FEATURES, _IMAGE = 1, 2
_COLORS = {1: 2, 3: 1}
_NORMALIZATION = 1
_AXIS_LABELS = 2


class _Writer:
    """Builds tables of the schema from their slots."""

    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(1024)

    def table(self, offsets: Mapping[int, Optional[int]], **scalars: tuple[int, int]) -> int:
        """Returns the place of a table.

        Args:
            offsets: Places of strings, vectors and tables by slot; those that are None are left out.
            **scalars: Slot and value of numbers, by kind: "byte" for enums and unions, "width" and "height".
        """
        slots = [*offsets, *(slot for slot, _ in scalars.values())]
        self.builder.StartObject(max(slots, default=-1) + 1)
        for slot, place in offsets.items():
            if place is not None:
                self.builder.PrependUOffsetTRelativeSlot(slot, place, 0)
        for kind, (slot, value) in scalars.items():
            if kind == "byte":
                self.builder.PrependUint8Slot(slot, value, 0)
            else:
                self.builder.PrependUint32Slot(slot, value, 0)
        return int(self.builder.EndObject())

    def text(self, value: str) -> int:
        return int(self.builder.CreateString(value))

    def numbers(self, values: Any) -> int:
        return int(self.builder.CreateNumpyVector(np.atleast_1d(np.asarray(values, np.float32))))

    def tables(self, places: Sequence[int]) -> Optional[int]:
        if not places:
            return None
        self.builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            self.builder.PrependUOffsetTRelative(place)
        return int(self.builder.EndVector())


def write_standard_metadata(
    model: TFLiteModel,
    *,
    name: str,
    version: str,
    labels: Optional[Sequence[str]] = None,
    normalization: Mapping[str, Mapping[str, Any]],
) -> bytes:
    """Returns a copy of a .tflite with standard metadata, in the place of an earlier one, and a file of labels.

    Inputs and outputs have their names and, where they are integers, the range of what their codes stand for. An input
    of images has its size and color space. Labels are those of the last axis of the first output.

    Args:
        model: Bytes or path of a .tflite.
        name: Name of the model.
        version: Version of what has made it.
        labels: Names of the classes, or None.
        normalization: By input, "scale" and "offset": the input takes values * scale + offset. Nothing is written of an
            input that is not in it.

    Raises:
        ValueError: No such file, or what it holds is no TFLite model.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    data = read_model(model)
    unpacked, files = unpack(data), read_files(data)
    names = _names(unpacked)
    graph, writer = unpacked.subgraphs[0], _Writer()
    inputs = [
        _input(writer, graph.tensors[index], names.get(index), normalization.get(names.get(index, "")))
        for index in graph.inputs
    ]
    labelled = [labels if place == 0 else None for place in range(len(graph.outputs))]
    outputs = [
        _output(writer, graph.tensors[index], names.get(index), named) for index, named in zip(graph.outputs, labelled)
    ]
    of_graph = writer.table({2: writer.tables(inputs), 3: writer.tables(outputs)})
    texts = {0: name, 1: "Quantized and converted by tfmiaq.", 2: version, 7: _PARSER}
    places: dict[int, Optional[int]] = {slot: writer.text(text) for slot, text in texts.items()}
    writer.builder.Finish(writer.table({**places, 3: writer.tables([of_graph])}), _IDENTIFIER)

    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(bytes(writer.builder.Output()), np.uint8)
    unpacked.buffers.append(buffer)
    entry.name, entry.buffer = _ENTRY, len(unpacked.buffers) - 1
    unpacked.metadata = [old for old in unpacked.metadata or [] if old.name != _ENTRY] + [entry]
    files.pop(LABELS_FILE, None)
    if labels is not None:
        files[LABELS_FILE] = "".join(f"{label}\n" for label in labels).encode()
    return append_files(pack(unpacked), files)


def _names(model: Any) -> dict[int, str]:
    """Returns the names that a signature gives inputs and outputs, by tensor; else those of the tensors."""
    graph = model.subgraphs[0]
    names = {int(index): graph.tensors[index].name.decode() for index in (*graph.inputs, *graph.outputs)}
    for signature in model.signatureDefs or []:
        names |= {int(pair.tensorIndex): pair.name.decode() for pair in (*signature.inputs, *signature.outputs)}
    return names


def _input(writer: _Writer, tensor: Any, name: Optional[str], known: Optional[Mapping[str, Any]]) -> int:
    shape = [int(size) for size in tensor.shape]
    properties, kind = None, _FEATURES
    if len(shape) == 4 and shape[3] in _COLORS:
        size = writer.table({}, height=(1, shape[1]), width=(0, shape[2])) if min(shape[1:3]) > 1 else None
        properties, kind = writer.table({1: size}, byte=(0, _COLORS[shape[3]])), _IMAGE
    units = None
    if known is not None:
        scale, offset = (np.asarray(known[key], np.float64) for key in ("scale", "offset"))
        # Readers compute (value - mean) / std.
        options = writer.table({0: writer.numbers(0.0 - offset / scale), 1: writer.numbers(1 / scale)})
        units = writer.tables([writer.table({1: options}, byte=(0, _NORMALIZATION))])
    return _tensor(writer, tensor, name, {3: _content(writer, kind, properties), 4: units})


def _output(writer: _Writer, tensor: Any, name: Optional[str], labels: Optional[Sequence[str]]) -> int:
    files = None
    if labels is not None:
        texts = {0: writer.text(LABELS_FILE), 1: writer.text("Names of the classes, in their order.")}
        files = writer.tables([writer.table(dict(texts), byte=(2, _AXIS_LABELS))])
    return _tensor(writer, tensor, name, {3: _content(writer, _FEATURES, None), 6: files})


def _content(writer: _Writer, kind: int, properties: Optional[int]) -> int:
    return writer.table({1: writer.table({}) if properties is None else properties}, byte=(0, kind))


def _tensor(writer: _Writer, tensor: Any, name: Optional[str], fields: Mapping[int, Optional[int]]) -> int:
    ends = _ends(tensor)
    stats = None if ends is None else writer.table({0: writer.numbers(ends[1]), 1: writer.numbers(ends[0])})
    return writer.table({0: writer.text(name or ""), **fields, 5: stats})


def _ends(tensor: Any) -> Optional[tuple[float, float]]:
    """Returns the smallest and the largest number that an integer tensor stands for; None for other tensors."""
    from tensorflow.lite.python import schema_py_generated as schema

    codes = {schema.TensorType.INT8: (-128, 127), schema.TensorType.UINT8: (0, 255)}.get(tensor.type)
    quantization = tensor.quantization
    if codes is None or quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return None
    scale, zero = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    return (codes[0] - zero) * scale, (codes[1] - zero) * scale
