"""Changes of files, each by its seed: bytes are flipped, set, moved and cut, and values of JSON exchanged."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

_NUMBERS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    10**9,
    1e308,
    float("nan"),
    "",
    "relu",
    "os.system",
    [],
    {},
    [[]],
    "x" * 5000,
)


def change_bytes(data: bytes, chance: random.Random) -> bytes:
    """Returns bytes with one change or several; one in ten has a piece cut out, or loses its end."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            break
        place, kind = chance.randrange(len(changed)), chance.random()
        if kind < 0.3:
            changed[place] ^= 1 << chance.randrange(8)
        elif kind < 0.5:
            changed[place] = chance.randrange(256)
        elif kind < 0.8:
            start = place & ~3
            number = chance.choice((*_NUMBERS, chance.randrange(1 << 32), chance.randrange(len(changed))))
            changed[start : start + 4] = number.to_bytes(4, "little")
        elif kind < 0.9:
            source, count = chance.randrange(len(changed)), chance.choice((1, 2, 4, 16, 64))
            changed[place : place + count] = changed[source : source + count]
        elif kind < 0.95:
            del changed[place : place + chance.choice((1, 2, 4, 100))]
        elif chance.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def change_json(value: Any, chance: random.Random) -> Any:
    """Returns a JSON value with one of its parts exchanged, left out, renamed, or put inside others."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        changed = dict(value)
        kind = chance.random()
        if kind < 0.05:
            del changed[key]
        elif kind < 0.1:
            changed[f"{key}s"] = changed.pop(key)
        else:
            changed[key] = change_json(value[key], chance)
        return changed
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        changed_list = list(value)
        if chance.random() < 0.1:
            changed_list[place : place + 1] = [value[place]] * chance.choice((0, 2, 50))
        else:
            changed_list[place] = change_json(value[place], chance)
        return changed_list
    if chance.random() < 0.05:
        deep: Any = value
        for _ in range(chance.choice((10, 150, 900))):
            deep = [deep] if chance.random() < 0.5 else {"config": deep}
        return deep
    return chance.choice(_VALUES)


def change_json_text(data: bytes, chance: random.Random) -> bytes:
    """Returns a JSON text with its value changed, or with changed bytes."""
    if chance.random() < 0.3:
        return change_bytes(data, chance)
    return json.dumps(change_json(json.loads(data), chance)).encode()


def change_zip(data: bytes, chance: random.Random) -> bytes:
    """Returns a zip archive with one of its members changed, or with changed bytes."""
    if chance.random() < 0.3:
        return change_bytes(data, chance)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        changed = chance.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            change: Callable[..., bytes] = change_json_text if name.endswith(".json") else change_bytes
            new.writestr(name, change(content, chance) if name == changed else content)
    return stream.getvalue()
