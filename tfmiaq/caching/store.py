"""A folder that keeps finished work by the hash of what made it, and survives kills, full disks and broken files."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq._checks import as_path
from tfmiaq.loading.arrays import read_npz
from tfmiaq.loading.json_text import parse_json
from tfmiaq.loading.limits import read_text

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PROBE_BYTES = 2**16
_UNFINISHED = ".unfinished-"
# No single file takes so long to write.
_LEFT_SECONDS = 24 * 3600


class FullDiskError(OSError):
    """No space is left for a file."""

    def __init__(self, path: Any, error: BaseException) -> None:
        reason = " ".join(str(error).split())
        super().__init__(
            f"No space is left to write '{path}' ({reason:.200}). Make space, and make the same call again: it goes on "
            "with all that is finished, where a cache or a folder keeps it."
        )


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of value that a `Store` keeps.

    Attributes:
        suffix: End of the file's name, as in ".npz".
        save: Function of a path and a value that writes the file.
        load: Function of a path that returns the value.
    """

    suffix: str
    save: Callable[[pathlib.Path, Any], Any]
    load: Callable[[pathlib.Path], Any]


def _save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    # By way of memory: on a full disk the archive's own end would raise again, out of sight, and print that.
    whole = io.BytesIO()
    np.savez_compressed(whole, **arrays)  # type: ignore[arg-type, unused-ignore]
    path.write_bytes(whole.getbuffer())


def _load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    return read_npz(path)


ARRAYS = Kind(".npz", _save_arrays, _load_arrays)
"""Dictionaries of NumPy arrays."""

VALUES = Kind(
    ".json",
    lambda path, values: path.write_text(json.dumps(values), encoding="utf-8"),
    lambda path: parse_json(read_text(path, "stored values"), "stored values"),
)
"""Numbers, strings, lists and dictionaries, as JSON."""


def keras_model(load: Callable[[str], Any]) -> Kind:
    """Returns the kind of Keras models that `load` reads from a path."""
    return Kind(".keras", lambda path, model: model.save(str(path)), lambda path: load(str(path)))


def private_folder(folder: Any) -> pathlib.Path:
    """Makes a folder, and those above it, that nobody else can read, unless they exist; returns its path.

    What is kept of members, and of models that were trained on them, is for who made it.
    """
    folder = as_path("save", "the folder", folder)
    for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    return folder


def _is_of_full_disk(error: Optional[BaseException]) -> bool:
    """Returns whether a full disk raised an error, or the one that it followed."""
    while error is not None:
        # HDF5 and TensorFlow tell the number, or the words, in the text alone.
        if getattr(error, "errno", None) in _FULL or re.search(r"errno = (28|27|122)\b|No space left", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_space(folder: Optional[Any]) -> None:
    """Writes a small file into a folder, which is made, and into that of temporary files, and removes both.

    So a folder that cannot be written is told before long work. TensorFlow, too, fails without temporary files, in
    words that say nothing of it. What killed processes have left half-written in the folder for a day is removed.

    Args:
        folder: Path of the folder that the work is to be kept in. None for none.

    Raises:
        FullDiskError: No space is left.
        OSError: The folder cannot be made or written.
    """
    if folder is None:
        return
    folder = private_folder(folder)
    _remove_left(folder)
    for place in (folder, pathlib.Path(os.environ.get("TMPDIR", "/tmp"))):
        try:
            with tempfile.TemporaryFile(prefix=_UNFINISHED, dir=place) as file:
                file.write(bytes(_PROBE_BYTES))
        except OSError as error:
            if _is_of_full_disk(error):
                raise FullDiskError(place, error) from error
            if place == folder:
                raise


def _remove_left(folder: pathlib.Path) -> None:
    """Removes what processes that were killed have left half-written in a folder, a day or more ago."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left)


def write_whole(path: Any, save: Callable[[pathlib.Path], Any]) -> None:
    """Writes a file such that its name stands for a whole file at all times, or for none.

    The file is written beside its place and then renamed, so that a process that is killed leaves no part of it there.

    Args:
        path: Path of the file. Its folder is made if there is none. Only its owner can read the file, and a folder that
            is made.
        save: Function that writes the file to the path that it is given, whose name ends as that of `path` does.

    Raises:
        FullDiskError: No space is left.
        OSError: The file cannot be written.
    """
    path = pathlib.Path(path)
    try:
        _write_whole(path, save)
    except Exception as error:
        if _is_of_full_disk(error):
            raise FullDiskError(path, error) from error
        raise


def _write_whole(path: pathlib.Path, save: Callable[[pathlib.Path], Any]) -> None:
    private_folder(path.parent)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=path.parent))
    try:
        unfinished = scratch / f"it{path.suffix}"
        save(unfinished)
        with unfinished.open("rb") as file:
            # A machine that loses power must not keep the name without the content.
            os.fsync(file.fileno())
        unfinished.chmod(0o600)
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(scratch)


def write_text(path: Any, text: str) -> None:
    """Writes a whole text file, as `write_whole`, with a line break at its end."""
    write_whole(path, lambda unfinished: unfinished.write_text(f"{text}\n", encoding="utf-8"))


class Store:
    """Values by key, in files. What is there is whole; what cannot be read is removed, with a warning, and made again.

    Example:
        >>> store = Store("cache")
        >>> scores = store.get_or_make(fingerprint(x, y), lambda: {"auc": attack(x, y)}, VALUES)

    Args:
        folder: Path of the folder, which is made when the first value is stored. None for a store that keeps nothing.
    """

    def __init__(self, folder: Optional[Any]) -> None:
        self.folder = None if folder is None else as_path("Store", "the folder", folder)

    def path(self, key: str, kind: Kind) -> Optional[pathlib.Path]:
        """Returns the path of the file under a key, whether or not it exists; None if the store keeps nothing."""
        return None if self.folder is None else self.folder / f"{key}{kind.suffix}"

    def get(self, key: str, kind: Kind) -> Optional[Any]:
        """Returns the value under a key, or None if there is none that can be read. Removes a file that is broken."""
        path = self.path(key, kind)
        if path is None or not path.is_file():
            return None
        try:
            return kind.load(path)
        except Exception as error:
            # A file that is cut short or changed raises whatever its reader meets first.
            warnings.warn(f"{path} is broken ({error}) and is made again.", stacklevel=2)
            path.unlink(missing_ok=True)
            return None

    def put(self, key: str, value: Any, kind: Kind) -> bool:
        """Stores a value, and returns whether it could be stored. Warns if it could not.

        Raises:
            FullDiskError: No space is left. What comes after it could not be kept either, and would be lost with it.
        """
        path = self.path(key, kind)
        if path is None:
            return False
        try:
            write_whole(path, lambda unfinished: kind.save(unfinished, value))
        except FullDiskError:
            raise
        except Exception as error:
            # A model with layers of the user's own that cannot be saved.
            warnings.warn(f"{path} could not be written ({error}).", stacklevel=2)
            return False
        return True

    def get_or_make(
        self, key: str, make: Callable[[], Any], kind: Kind, is_right: Optional[Callable[[Any], bool]] = None
    ) -> Any:
        """Returns the value under a key, or makes it and stores it.

        Args:
            key: Hash of everything that the value depends on; see `fingerprint`.
            make: Function that makes the value. A value that cannot be stored is returned all the same.
            kind: Kind of the value.
            is_right: Function that returns whether a stored value has the expected shape. One that has not is made
                again.

        Returns:
            The value.

        Raises:
            FullDiskError: As `put`.
        """
        value = self.get(key, kind)
        if value is None or (is_right is not None and not is_right(value)):
            value = make()
            self.put(key, value, kind)
        return value

    def export(self, key: str, kind: Kind, path: Any) -> bool:
        """Copies the file under a key to a path of its own, and returns whether there was one.

        Without one, a file that an earlier call has left at `path` is removed, because it holds another value.
        """
        source = self.path(key, kind)
        if source is None or not source.is_file():
            pathlib.Path(path).unlink(missing_ok=True)
            return False
        write_whole(path, lambda unfinished: shutil.copyfile(source, unfinished))
        return True
