"""What the weights of a .tflite take in it, layer by layer, and why some take a whole byte."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from tfmiaq._tables import format_table, html_table
from tfmiaq.tflite.flatbuffer import TFLiteModel, is_packed, read_model, unpack
from tfmiaq.tflite.packing import weighted_operations

_HEAD = ("layer", "operation", "stored as", "weights", "bytes", "int8 bytes", "why not INT4")


@dataclasses.dataclass(frozen=True)
class StoredLayer:
    """The weights of one layer.

    Attributes:
        layer: Name of the layer, as far as the file tells it.
        operation: TFLite's name of the operation that reads them.
        stored_as: "INT4", "INT8" or "FLOAT32".
        weights: Number of weights.
        stored_bytes: Bytes that they take, without biases and scales.
        int8_bytes: Bytes that they would take as int8; of float weights, those that they take.
        reason: Why they are no INT4, or an empty string.
    """

    layer: str
    operation: str
    stored_as: str
    weights: int
    stored_bytes: int
    int8_bytes: int
    reason: str


@dataclasses.dataclass(frozen=True, repr=False)
class StoredWeights:
    """What the weights of a file take; prints as a table.

    Attributes:
        layers: Every layer with weights, in order.
        file_bytes: Size of the file.
    """

    layers: tuple[StoredLayer, ...]
    file_bytes: int

    @property
    def packed(self) -> tuple[str, ...]:
        """Names of the layers whose weights take half a byte."""
        return tuple(layer.layer for layer in self.layers if layer.stored_as == "INT4")

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(layer.stored_bytes for layer in self.layers)

    @property
    def int8_bytes(self) -> int:
        """Bytes that all weights would take as int8."""
        return sum(layer.int8_bytes for layer in self.layers)

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        rows: list[tuple[str, ...]] = []
        for row in self.layers:
            counts = (row.weights, row.stored_bytes, row.int8_bytes)
            rows.append((row.layer, row.operation, row.stored_as, *(f"{count:,}" for count in counts), row.reason))
        return _HEAD, rows

    def _line(self) -> str:
        return (
            f"{len(self.packed)} of {len(self.layers)} layers packed: weights of {self.stored_bytes:,} B, "
            f"{self.int8_bytes:,} B as int8, in a file of {self.file_bytes:,} B"
        )

    def __str__(self) -> str:
        return f"{format_table(*self._table())}\n{self._line()}"

    def __repr__(self) -> str:
        return f"<StoredWeights: {self._line()}>"

    def _repr_html_(self) -> str:
        return html_table(*self._table(), note=self._line())


def stored_weights(file: TFLiteModel) -> StoredWeights:
    """Returns what the weights of each layer take in a .tflite, and why they are no INT4.

    Example:
        >>> print(tfmiaq.tflite.stored_weights(tfmiaq.convert(quantized, pack=True)))

    Args:
        file: Bytes or path of a .tflite. Of one that is not packed, "pack=True was not asked for" stands beside the
            layers that `convert(pack=True)` may pack.

    Raises:
        ValueError: No such file, or what it holds is no TFLite model.
    """
    data = read_model(file)
    from tensorflow.lite.python import schema_py_generated as schema

    types = {
        schema.TensorType.INT4: ("INT4", 0.5),
        schema.TensorType.INT8: ("INT8", 1),
        schema.TensorType.FLOAT32: ("FLOAT32", 4),
    }
    unpacked, packed = unpack(data), is_packed(data)
    rows, seen = [], set()
    for name, _, weights, fault in weighted_operations(unpacked):
        # The calls of one layer have a tensor each, and the codes once.
        if weights.buffer in seen:
            continue
        seen.add(weights.buffer)
        stored_as, size = types[weights.type]
        count = math.prod(int(size) for size in weights.shape)
        rows.append(
            StoredLayer(
                layer=layer_name(weights),
                operation=name,
                stored_as=stored_as,
                weights=count,
                stored_bytes=math.ceil(count * size),
                int8_bytes=count * max(1, int(size)),
                reason=fault or ("" if stored_as == "INT4" or packed else "pack=True was not asked for"),
            )
        )
    return StoredWeights(tuple(rows), len(data))


def layer_name(tensor: Any) -> str:
    """Returns the name of the layer whose kernel a tensor is, or the tensor's where none stands in it."""
    name = tensor.name.decode() if isinstance(tensor.name, bytes) else str(tensor.name)
    # The converter joins the paths of the operations that it merged; that of the kernel's FakeQuant is the layer's own.
    for path in reversed(name.split(";")):
        found = re.search(r"quant_([^/;]+)/FakeQuant", path)
        if found:
            return found[1]
    found = re.search(r"quant_([^/;]+)", name)
    return found[1] if found else name[-48:]
