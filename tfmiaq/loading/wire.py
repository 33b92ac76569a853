"""Messages between two processes: JSON, with arrays and bytes behind it. Unlike pickles they run nothing."""

from __future__ import annotations

import json
import struct
from typing import IO, Any, Optional

import numpy as np

_HEAD = struct.Struct("<II")
_PLAIN = (str, bool, type(None))


def send(stream: IO[bytes], value: Any) -> None:
    """Writes a value: plain values, lists, dictionaries with strings as keys, arrays, bytes and NumPy types."""
    parts: list[bytes] = []
    text = json.dumps(_packed(value, parts)).encode()
    stream.write(_HEAD.pack(len(text), len(parts)))
    stream.write(text)
    for part in parts:
        stream.write(struct.pack("<Q", len(part)))
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Returns the next value.

    Raises:
        EOFError: The other process is gone.
    """
    length, count = _HEAD.unpack(_exactly(stream, _HEAD.size))
    text = _exactly(stream, length)
    parts = [_exactly(stream, struct.unpack("<Q", _exactly(stream, 8))[0]) for _ in range(count)]
    return _unpacked(json.loads(text), parts)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if data is None or len(data) < count:
        raise EOFError("the other process is gone")
    return data


def _packed(value: Any, parts: list[bytes]) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (int, float, np.integer, np.floating)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (list, tuple)):
        return [_packed(item, parts) for item in value]
    if isinstance(value, dict):
        return {"fields": {str(key): _packed(item, parts) for key, item in value.items()}}
    if isinstance(value, type):
        return {"type": np.dtype(value).str}
    if isinstance(value, bytes):
        parts.append(value)
        return {"bytes": len(parts) - 1}
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        # Strings have no bytes of one size.
        return {"strings": [_text(item) for item in array.ravel().tolist()], "shape": list(array.shape)}
    parts.append(array.tobytes())
    return {"array": len(parts) - 1, "dtype": array.dtype.str, "shape": list(array.shape)}


def _text(item: Any) -> str:
    return item.decode("latin-1") if isinstance(item, bytes) else str(item)


def _unpacked(value: Any, parts: list[bytes]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, parts) for item in value]
    if not isinstance(value, dict):
        return value
    if "fields" in value:
        return {key: _unpacked(item, parts) for key, item in value["fields"].items()}
    if "type" in value:
        return np.dtype(value["type"]).type
    if "bytes" in value:
        return parts[value["bytes"]]
    shape: Optional[list[int]] = value["shape"]
    if "strings" in value:
        return np.array([item.encode("latin-1") for item in value["strings"]], object).reshape(shape)
    return np.frombuffer(parts[value["array"]], np.dtype(value["dtype"])).reshape(shape).copy()
