"""Tables of a flatbuffer, read with every offset checked: the format has no redundancy, and readers check nothing."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any, Optional

import numpy as np

# Every byte of a sound file belongs to one part. One whose parts overlap could name the same bytes without end.
_SPARE_ITEMS = 1_000_000
_SCALARS = {"i8": 1, "u8": 1, "i32": 4, "u32": 4, "f32": 4, "i64": 8, "u64": 8}
_FORMATS = {"i8": "<b", "u8": "<B", "i32": "<i", "u32": "<I", "f32": "<f", "i64": "<q", "u64": "<Q"}
_ARRAYS = {"i8": "i1", "u8": "u1", "i32": "<i4", "u32": "<u4", "f32": "<f4", "i64": "<i8", "u64": "<u8"}


class DamagedError(ValueError):
    """A file is not what its format says."""


@dataclasses.dataclass(frozen=True)
class Schema:
    """Fields of a table by their number: their name and type.

    A type is a scalar ("i32"), "string", a vector of scalars ("[i32]"), "table" for one that is checked as such, a
    `Schema` for a table, or a list of one `Schema` for a vector of tables.

    Attributes:
        fields: Name and type of each field by its number.
    """

    fields: dict[int, tuple[str, Any]]


class Reader:
    """Reads a flatbuffer.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._size = len(data)
        self._left = len(data) + _SPARE_ITEMS

    def root(self, schema: Schema) -> dict[str, Any]:
        """Returns the fields of the root table, those of a default value left out.

        Raises:
            DamagedError: Offsets, sizes or vectors beyond the file, or parts that overlap.
        """
        return self._table(self._offset(0, "the root"), schema, "the model")

    def _number(self, kind: str, at: int, what: str) -> Any:
        if not 0 <= at <= self._size - _SCALARS[kind]:
            raise DamagedError(f"{what} lies at byte {at:,} of {self._size:,}")
        return struct.unpack_from(_FORMATS[kind], self._data, at)[0]

    def _offset(self, at: int, what: str) -> int:
        target = at + self._number("u32", at, what)
        if target == at or target >= self._size:
            raise DamagedError(f"{what} lies at byte {target:,} of {self._size:,}")
        return int(target)

    def _fields(self, at: int, what: str) -> tuple[list[int], int]:
        """Returns the places of a table's fields in it, 0 for one that is not there, and the table's size."""
        vtable = at - self._number("i32", at, what)
        if not 0 <= vtable <= self._size - 4:
            raise DamagedError(f"the fields of {what} lie at byte {vtable:,} of {self._size:,}")
        length, size = struct.unpack_from("<HH", self._data, vtable)
        if length < 4 or length % 2 or vtable + length > self._size or size < 4 or at + size > self._size:
            raise DamagedError(f"{what} has fields of {length} bytes and a size of {size}")
        self._spend(length // 2, what)
        places = list(struct.unpack_from(f"<{length // 2 - 2}H", self._data, vtable + 4))
        if any(place and not 4 <= place < size for place in places):
            raise DamagedError(f"a field of {what} lies outside it")
        return places, int(size)

    def _table(self, at: int, schema: Optional[Schema], what: str) -> dict[str, Any]:
        places, size = self._fields(at, what)
        if schema is None:
            return {"places": places, "at": at, "size": size}
        found: dict[str, Any] = {}
        for number, (name, kind) in schema.fields.items():
            place = places[number] if number < len(places) else 0
            if not place:
                continue
            if place + (_SCALARS.get(kind, 4) if isinstance(kind, str) else 4) > size:
                raise DamagedError(f"{name} of {what} lies outside it")
            found[name] = self._value(at + place, kind, f"{name} of {what}")
        return found

    def _value(self, at: int, kind: Any, what: str) -> Any:
        if isinstance(kind, str) and kind in _SCALARS:
            return self._number(kind, at, what)
        target = self._offset(at, what)
        if isinstance(kind, Schema):
            return self._table(target, kind, what)
        if kind == "table":
            return self._table(target, None, what)
        if isinstance(kind, list):
            start, count = self._vector(target, 4, what)
            return [self._table(self._offset(start + 4 * i, what), kind[0], f"{what} {i}") for i in range(count)]
        if kind == "string":
            start, count = self._vector(target, 1, what)
            try:
                return self._data[start : start + count].decode("utf-8")
            except UnicodeDecodeError as error:
                raise DamagedError(f"{what} is no text") from error
        item = kind[1:-1]
        start, count = self._vector(target, _SCALARS[item], what, is_bytes=item == "u8")
        return np.frombuffer(self._data, _ARRAYS[item], count, start)

    def _vector(self, at: int, size: int, what: str, is_bytes: bool = False) -> tuple[int, int]:
        count = int(self._number("u32", at, what))
        if at + 4 + count * size > self._size:
            raise DamagedError(f"{what} has {count:,} items, beyond the end of the file")
        # Bytes are shared by tensors of equal weights, and are not copied here.
        self._spend(1 if is_bytes else count, what)
        return at + 4, count

    def _spend(self, items: int, what: str) -> None:
        self._left -= items
        if self._left < 0:
            raise DamagedError(f"its parts overlap: more items than bytes, at {what}")

    def integer(self, table: Any, number: int, default: int = 0) -> int:
        """Returns a field of 32 bits of a table that was read without a schema.

        Raises:
            DamagedError: It lies outside the table.
        """
        place = table["places"][number] if number < len(table["places"]) else 0
        if not place:
            return default
        if place + 4 > table["size"]:
            raise DamagedError("an option of an operation lies outside its table")
        return int(self._number("i32", table["at"] + place, "an option of an operation"))
