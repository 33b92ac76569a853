"""Keeps the notes of converter and interpreter off the terminal, those that C++ code prints among them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import IO, Any

_SUMMARY = b"Summary on the non-converted ops:"
# Lines of that summary: rules, bullets, counts by operation and by type, and blanks.
_OF_SUMMARY = re.compile(
    rb"^\s*$|^-+$|^ \* |^- [\w.]+:\s+\d+ occurrences|^\s*\((?:\w+: \d+(?:, )?)+\)$",
)
_NOTES = re.compile(
    rb"^(?:INFO|WARNING): (?:Created TensorFlow Lite|All log messages before absl|Attempting to use a delegate)"
    rb"|^[IW]\d{4} \d\d:\d\d:|^[IW]0000 00:00:"
    rb"|^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] "
)


def without_notes(text: bytes) -> bytes:
    """Returns what was printed without the notes of TensorFlow's C++ code; errors stay."""
    kept, in_summary = [], False
    for line in text.splitlines(keepends=True):
        bare = line.rstrip(b"\r\n")
        in_summary = bare.startswith(_SUMMARY) or (in_summary and bool(_OF_SUMMARY.match(bare)))
        if not in_summary and not _NOTES.match(bare):
            kept.append(line)
    return b"".join(kept)


class _Redirection:
    """A file descriptor that is written to a file; what is no note is written to its own place at the end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._own = os.dup(descriptor)
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        os.dup2(self._file.fileno(), descriptor)

    def end(self) -> None:
        os.dup2(self._own, self._descriptor)
        with self._file as file:
            file.seek(0)
            left = without_notes(file.read())
        try:
            while left:
                left = left[os.write(self._own, left) :]
        finally:
            os.close(self._own)


class _Silence:
    """What threads that are quiet at the same time share: the first sets it up, the last takes it down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._undo = contextlib.ExitStack()

    def enter(self) -> None:
        with self._lock:
            if not self._count:
                self._set_up()
            self._count += 1

    def leave(self) -> None:
        with self._lock:
            self._count -= 1
            if not self._count:
                _flush()
                self._undo.close()

    def _set_up(self) -> None:
        self._undo = contextlib.ExitStack()
        logger = logging.getLogger("tensorflow")
        self._undo.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        self._undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        _flush()
        # A process without a terminal may have no descriptors to redirect, or no folder for files.
        with contextlib.suppress(OSError):
            self._undo.callback(_Redirection(2).end)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


_SILENCE = _Silence()


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Within it converter and interpreter print no notes and give no warnings.

    C++ code writes its notes to the descriptor of standard error itself. Within the scope that is a file; at its end,
    all that is no note is written where it belongs, also what other threads have written meanwhile. Threads may be
    quiet at the same time.
    """
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()
