"""Arrays from .npy and .npz files: sizes are checked before memory is taken, and nothing is unpickled."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, Optional

import numpy as np

from tfmiaq.loading.limits import RefusedFileError, bytes_limit, check_declared, open_zip

_CHUNK_BYTES = 2**22
_MOST_DIMENSIONS = 32
_DAMAGES: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    SyntaxError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
_DAMAGES += (NotImplementedError, RuntimeError, OverflowError)


class Header:
    """What a .npy file, or a member of an .npz, says of itself.

    Attributes:
        shape: Its shape.
        dtype: Its type.
        by_columns: Whether its first index varies fastest.
        bytes: Bytes of its values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, by_columns: bool) -> None:
        self.shape, self.dtype, self.by_columns = shape, dtype, by_columns
        self.bytes = math.prod(shape) * dtype.itemsize


def _read_header(stream: IO[bytes], name: str) -> Header:
    """Returns the header at the beginning of a stream.

    Raises:
        ValueError: No header, or one of Python objects, which only a pickle holds.
    """
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"version {version}")
        shape, by_columns, dtype = read(stream)
    except Exception as error:
        # NumPy's reader parses the header as Python: what it meets first is of any type.
        raise _damaged(name, error) from error
    if dtype.hasobject:
        raise RefusedFileError(f"{name} holds Python objects, which run code when they are read. Save numbers.")
    if len(shape) > _MOST_DIMENSIONS or any(size < 0 for size in shape):
        raise ValueError(f"{name} is damaged: its shape is {shape!s:.80}.")
    return Header(shape, dtype, by_columns)


def _damaged(name: str, error: Exception) -> ValueError:
    text = " ".join(str(error).split())[:200]
    return ValueError(f"{name} is damaged, or no array file ({type(error).__name__}: {text}).")


def open_npy(path: Any, max_bytes: Optional[int] = None) -> np.ndarray:
    """Returns the array of a .npy file, which stays on the disk.

    Args:
        path: Path of the file.
        max_bytes: Bytes that it may have; None for 4 GiB.

    Raises:
        ValueError: No such file, a damaged one, one of Python objects, or one above the limit.
    """
    path = pathlib.Path(path)
    name = repr(str(path))
    if not path.is_file():
        raise ValueError(f"No .npy file at {name}.")
    with path.open("rb") as stream:
        header = _read_header(stream, name)
        left = os.fstat(stream.fileno()).st_size - stream.tell()
    check_declared(name, header.bytes, bytes_limit("open_npy", max_bytes))
    if left != header.bytes:
        raise ValueError(f"{name} is damaged: it declares {header.bytes:,} bytes of values, and has {left:,}.")
    if not header.bytes:
        return np.zeros(header.shape, header.dtype)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except _DAMAGES as error:
        raise _damaged(name, error) from error


class NpzFile:
    """The arrays of an .npz file, whose sizes are known before any is read. A context manager.

    Example:
        >>> with NpzFile("records.npz") as file:
        ...     x = file.read("x_train")

    Args:
        path: Path of the file.
        max_bytes: Bytes that its arrays may take in memory, all together; None for 4 GiB.

    Attributes:
        headers: Shape and type of each array, by name.

    Raises:
        ValueError: No such file, a damaged one, one of Python objects, or one above the limit.
    """

    def __init__(self, path: Any, max_bytes: Optional[int] = None) -> None:
        path = pathlib.Path(path)
        self.name = repr(str(path))
        if not path.is_file():
            raise ValueError(f"No .npz file at {self.name}.")
        self.limit = bytes_limit("NpzFile", max_bytes)
        self._archive = open_zip(path, self.name, self.limit)
        try:
            self.headers = dict(self._headers())
            check_declared(self.name, sum(header.bytes for header in self.headers.values()), self.limit)
        except BaseException:
            self._archive.close()
            raise

    def _headers(self) -> Iterator[tuple[str, Header]]:
        for member in self._archive.infolist():
            key = member.filename.removesuffix(".npy")
            with self._open(key, member) as stream:
                header = _read_header(stream, f"{key!r} in {self.name}")
                left = member.file_size - stream.tell()
            if left != header.bytes:
                told = f"it declares {header.bytes:,} bytes of values, and has {left:,}"
                raise ValueError(f"{key!r} in {self.name} is damaged: {told}.")
            yield key, header

    @contextlib.contextmanager
    def _open(self, key: str, member: Any) -> Iterator[IO[bytes]]:
        try:
            stream = self._archive.open(member)
        except _DAMAGES as error:
            raise _damaged(f"{key!r} in {self.name}", error) from error
        with stream:
            yield stream

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(self, *error: Any) -> None:
        self._archive.close()

    def read(self, key: str, dtype: Any = None) -> np.ndarray:
        """Returns an array, converted piece by piece: memory holds it once, whatever it is stored as.

        Args:
            key: Its name, one of `headers`.
            dtype: Type to convert it to; None for its own.

        Raises:
            ValueError: Damaged values, or a type that takes more than the limit.
        """
        header = self.headers[key]
        name = f"{key!r} in {self.name}"
        kind = np.dtype(header.dtype if dtype is None else dtype)
        check_declared(name, math.prod(header.shape) * kind.itemsize, self.limit)
        flat = np.empty(math.prod(header.shape), kind)
        step = max(1, _CHUNK_BYTES // max(1, header.dtype.itemsize))
        member = self._archive.getinfo(f"{key}.npy" if f"{key}.npy" in self._archive.namelist() else key)
        with self._open(key, member) as stream:
            try:
                _read_header(stream, name)
                for start in range(0, len(flat), step):
                    count = min(step, len(flat) - start)
                    data = stream.read(count * header.dtype.itemsize)
                    flat[start : start + count] = np.frombuffer(data, header.dtype, count)
                stream.read(1)  # The check sum is compared at the end of the member.
            except _DAMAGES as error:
                raise _damaged(name, error) from error
        return flat.reshape(header.shape, order="F" if header.by_columns else "C")


def read_npz(path: Any, max_bytes: Optional[int] = None) -> dict[str, np.ndarray]:
    """Returns all arrays of an .npz file.

    Args:
        path: As `NpzFile`.
        max_bytes: As `NpzFile`.

    Raises:
        ValueError: As `NpzFile`.
    """
    with NpzFile(path, max_bytes) as file:
        return {key: file.read(key) for key in file.headers}
