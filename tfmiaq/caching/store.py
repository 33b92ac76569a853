"""A folder that keeps finished work by the hash of what made it, and survives kills, full disks and broken files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq.loading.arrays import read_npz
from tfmiaq.loading.json_text import parse_json
from tfmiaq.loading.limits import read_text


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
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type, unused-ignore]


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
    folder = pathlib.Path(folder)
    for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_whole(path: Any, save: Callable[[pathlib.Path], Any]) -> None:
    """Writes a file such that its name stands for a whole file at all times, or for none.

    The file is written beside its place and then renamed, so that a process that is killed leaves no part of it there.

    Args:
        path: Path of the file. Its folder is made if there is none. Only its owner can read the file, and a folder that
            is made.
        save: Function that writes the file to the path that it is given, whose name ends as that of `path` does.

    Raises:
        OSError: The file cannot be written.
    """
    path = pathlib.Path(path)
    private_folder(path.parent)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=".unfinished-", dir=path.parent))
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
        self.folder = None if folder is None else pathlib.Path(folder)

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
        """Stores a value, and returns whether it could be stored. Warns if it could not."""
        path = self.path(key, kind)
        if path is None:
            return False
        try:
            write_whole(path, lambda unfinished: kind.save(unfinished, value))
        except Exception as error:
            # A full disk, or a model with layers of the user's own that cannot be saved.
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
