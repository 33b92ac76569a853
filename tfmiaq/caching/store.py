"""A folder of results by the hash of what made them, which survives kills, full disks and broken files."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, Optional

import numpy as np


class Store:
    """Arrays and models by key. What is there is whole: files are written beside their place and then renamed.

    Args:
        folder: Path of the folder, which is made if need be.
    """

    def __init__(self, folder: Any) -> None:
        self.folder = pathlib.Path(folder)

    def _path(self, key: str, suffix: str) -> pathlib.Path:
        return self.folder / f"{key}{suffix}"

    def arrays(self, key: str) -> Optional[dict[str, np.ndarray]]:
        """The arrays under a key, or None where there are none that can be read; broken files are removed."""
        path = self._path(key, ".npz")
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
            warnings.warn(f"{path} is broken ({error}) and is made again.", stacklevel=2)
            path.unlink(missing_ok=True)
            return None

    def put_arrays(self, key: str, arrays: dict[str, np.ndarray]) -> bool:
        """Stores arrays; tells whether they could be stored."""
        return self._write(key, ".npz", lambda path: _save_arrays(path, arrays))

    def model(self, key: str, load: Callable[[str], Any]) -> Optional[Any]:
        """The model under a key, or None where there is none that can be read; broken files are removed."""
        path = self._path(key, ".keras")
        if not path.is_file():
            return None
        try:
            return load(str(path))
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
            warnings.warn(f"{path} cannot be read ({error}) and is made again.", stacklevel=2)
            path.unlink(missing_ok=True)
            return None

    def put_model(self, key: str, model: Any) -> bool:
        """Stores a Keras model; tells whether it could be stored."""
        return self._write(key, ".keras", lambda path: model.save(str(path)))

    def _write(self, key: str, suffix: str, save: Callable[[pathlib.Path], Any]) -> bool:
        scratch = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch = pathlib.Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self.folder))
            path = scratch / f"it{suffix}"
            save(path)
            os.replace(path, self._path(key, suffix))
        except (OSError, ValueError, NotImplementedError) as error:
            warnings.warn(f"{self._path(key, suffix)} could not be written ({error}).", stacklevel=2)
            return False
        finally:
            if scratch is not None:
                with contextlib.suppress(OSError):
                    shutil.rmtree(scratch)
        return True


def _save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
