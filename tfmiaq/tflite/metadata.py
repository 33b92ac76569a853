"""The JSON object that `convert` stores in a .tflite, beside the network."""

from __future__ import annotations

import json
from typing import Any, Optional

import numpy as np

from tfmiaq.loading.json_text import parse_json
from tfmiaq.tflite.associated_files import append_files, read_files
from tfmiaq.tflite.flatbuffer import TFLiteModel, pack, read_model, unpack

_ENTRY = b"tfmiaq"


def write_metadata(model: TFLiteModel, metadata: dict[str, Any]) -> bytes:
    """Returns a copy of a .tflite with a JSON object in its metadata, in the place of an earlier one.

    Files behind it, such as labels, are kept.

    Args:
        model: Bytes or path of a .tflite.
        metadata: What `json` can write.

    Raises:
        ValueError: No such file, or what it holds is no TFLite model.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    data = read_model(model)
    unpacked = unpack(data)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(json.dumps(metadata, separators=(",", ":")).encode(), np.uint8)
    unpacked.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = _ENTRY, len(unpacked.buffers) - 1
    unpacked.metadata = [old for old in unpacked.metadata or [] if old.name != _ENTRY] + [entry]
    return append_files(pack(unpacked), read_files(data))


def read_metadata(model: TFLiteModel) -> Optional[dict[str, Any]]:
    """Returns what `convert` wrote into a .tflite.

    Example:
        >>> tfmiaq.tflite.read_metadata("model.tflite")["policy"]

    Args:
        model: Bytes or path of a .tflite.

    Returns:
        A dictionary with "version", "target", "policy" (as `BitwidthPolicy.to_json` writes it), "labels",
        "normalization" and "audit", or None for a file that another tool wrote.

    Raises:
        ValueError: No such file, what it holds is no TFLite model, or a damaged one.
    """
    unpacked = unpack(model)
    for entry in unpacked.metadata or []:
        if entry.name == _ENTRY:
            text = bytes(np.asarray(unpacked.buffers[entry.buffer].data, np.uint8))
            metadata = parse_json(text, "damaged .tflite: its metadata")
            if not isinstance(metadata, dict):
                raise ValueError(f"damaged .tflite: its metadata is no JSON object, but {metadata!r:.80}.")
            return metadata
    return None
