"""The .tflite as a data structure: its bytes, and what rides in its metadata."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any, Optional, Union

import flatbuffers
import numpy as np

IDENTIFIER = b"TFL3"
TFLiteModel = Union[bytes, str, "os.PathLike[str]"]
_ENTRY = b"tfmiaq"


def read_model(model: TFLiteModel) -> bytes:
    """The bytes of a .tflite given as bytes or as a path.

    Raises:
        ValueError: No such file, or what it holds is no TFLite model.
    """
    if isinstance(model, (str, os.PathLike)):
        path = pathlib.Path(model)
        if not path.is_file():
            raise ValueError(f"No .tflite file at {str(path)!r}.")
        data, name = path.read_bytes(), repr(str(path))
    else:
        data, name = bytes(model), f"The buffer of {len(model):,} bytes"
    if data[4:8] != IDENTIFIER:
        raise ValueError(f"{name} is no TFLite model: its identifier is {data[4:8]!r}, not {IDENTIFIER!r}.")
    return data


def unpack(model: TFLiteModel) -> Any:
    """The model as the schema's ModelT.

    Raises:
        ValueError: As `read_model`.
    """
    # TensorFlow is imported late: the bytes alone need none of it.
    from tensorflow.lite.python import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(read_model(model), 0))


def _pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def write_metadata(model: TFLiteModel, metadata: dict[str, Any]) -> bytes:
    """A copy of a .tflite with a JSON object in its metadata, in the place of an earlier one.

    Args:
        model: Bytes or path of a .tflite.
        metadata: What `json` can write.

    Returns:
        The flatbuffer.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    unpacked = unpack(model)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(json.dumps(metadata, separators=(",", ":")).encode(), np.uint8)
    unpacked.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = _ENTRY, len(unpacked.buffers) - 1
    unpacked.metadata = [old for old in unpacked.metadata or [] if old.name != _ENTRY] + [entry]
    return _pack(unpacked)


def read_metadata(model: TFLiteModel) -> Optional[dict[str, Any]]:
    """What `convert` wrote into a .tflite.

    Example:
        >>> tfmiaq.tflite.read_metadata("model.tflite")["policy"]

    Args:
        model: Bytes or path of a .tflite.

    Returns:
        A dictionary with "version", "target", "policy" (as `BitwidthPolicy.to_json` writes it), "labels",
        "normalization" and "audit", or None for a file that another tool wrote.

    Raises:
        ValueError: No such file, or what it holds is no TFLite model.
    """
    unpacked = unpack(model)
    for entry in unpacked.metadata or []:
        if entry.name == _ENTRY:
            text = bytes(np.asarray(unpacked.buffers[entry.buffer].data, np.uint8))
            metadata: dict[str, Any] = json.loads(text)
            return metadata
    return None
