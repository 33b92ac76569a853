"""What a file from outside may take: its size on the disk says nothing of what it becomes when it is unpacked."""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any, Optional

from tfmiaq._checks import check, integer, real

MAX_BYTES = 4 * 2**30
"""Bytes that the arrays of one file may take in memory, unless a call says otherwise."""
MAX_SECONDS = 300.0
"""Seconds that it may take to make a model of a file, unless a call says otherwise."""
MAX_MEMBERS = 10_000
MAX_TEXT_BYTES = 64 * 2**20
_WAY_OUT = "Raise max_bytes (on the command line --max_bytes) if the file is right."


class RefusedFileError(ValueError):
    """A file is not opened, though it may be whole."""


class TooLargeError(RefusedFileError):
    """A file declares more than its limit."""


def bytes_limit(owner: str, max_bytes: Optional[int]) -> int:
    """Returns a limit in bytes, `MAX_BYTES` for None.

    Raises:
        InvalidArgumentError: No integer of at least 1.
    """
    checked = check(owner, max_bytes=(max_bytes, integer(1, or_none=True, none_means=f"{MAX_BYTES:,}")))["max_bytes"]
    return MAX_BYTES if checked is None else int(checked)


def seconds_limit(owner: str, max_seconds: Optional[float]) -> float:
    """Returns a limit in seconds, `MAX_SECONDS` for None.

    Raises:
        InvalidArgumentError: No number above 0.
    """
    rule = real(0.0, closed="neither", or_none=True, none_means=f"{MAX_SECONDS:g}")
    checked = check(owner, max_seconds=(max_seconds, rule))["max_seconds"]
    return MAX_SECONDS if checked is None else float(checked)


def check_declared(name: str, declared: int, max_bytes: int, what: str = "arrays") -> None:
    """Raises TooLargeError if what a file declares takes more than the limit.

    Args:
        name: What the file is called.
        declared: Bytes that it takes in memory.
        max_bytes: The limit.
        what: What takes them.
    """
    if declared > max_bytes:
        raise TooLargeError(
            f"{name} declares {what} of {declared:,} bytes in memory, above the limit of {max_bytes:,}. {_WAY_OUT}"
        )


def open_zip(path: Any, name: str, max_bytes: int) -> zipfile.ZipFile:
    """Returns an open zip archive whose members keep within the limits; the caller closes it.

    The sizes are those of the archive's directory. Python's reader gives no more of a member than it declares there.

    Args:
        path: Path of the archive.
        name: What errors call it.
        max_bytes: Bytes that all of its members may take, unpacked.

    Raises:
        ValueError: No zip archive, more than 10,000 members, or members of more bytes.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, ValueError) as error:
        raise ValueError(f"{name} is damaged, or no zip archive ({error}).") from error
    members = archive.infolist()
    try:
        if len(members) > MAX_MEMBERS:
            raise TooLargeError(f"{name} has {len(members):,} members. Expected at most {MAX_MEMBERS:,}.")
        check_declared(name, sum(member.file_size for member in members), max_bytes, "members")
    except TooLargeError:
        archive.close()
        raise
    return archive


def read_text(path: Any, name: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Returns the text of a UTF-8 file.

    Args:
        path: Path of the file.
        name: What it is, with which errors begin, as in "A policy's file".
        max_bytes: Size that the file may have.

    Raises:
        ValueError: No such file, one above the limit, or one that is no text.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{name}: No file at {str(path)!r}.")
    if path.stat().st_size > max_bytes:
        raise TooLargeError(f"{name}: {str(path)!r} has {path.stat().st_size:,} bytes. Expected at most {max_bytes:,}.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: {str(path)!r} is no UTF-8 text ({error}).") from error
