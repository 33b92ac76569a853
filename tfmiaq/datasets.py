"""Named data sets and .npz files, as float images or vectors with integer labels."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any, Optional

import numpy as np

from tfmiaq._checks import SEED, check
from tfmiaq.loading.arrays import NpzFile
from tfmiaq.loading.limits import check_declared

NAMES = ("digits", "cifar10", "mnist", "fashion_mnist")
_KEYS = ("x_train", "y_train", "x_test", "y_test")
_RECORDS = ("x_train", "x_test")
_GROUPS = ("groups_train", "groups_test")
Groups = tuple[Optional[np.ndarray], Optional[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set split in two.

    Attributes:
        name: Its name, or the file's.
        x_train: float32, shape (n, ...). Images have a channel axis; images of bytes are scaled to values from 0 to 1.
        y_train: int64, shape (n,).
        x_test: float32, shape (m, ...).
        y_test: int64, shape (m,).
        groups_train: Shape (n,), the group of each training record, such as its person; or None.
        groups_test: Shape (m,), that of each test record; or None.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    groups_train: Optional[np.ndarray] = None
    groups_test: Optional[np.ndarray] = None

    @property
    def classes(self) -> int:
        """Number of classes: one more than the highest label."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1


def check_name(name: str) -> bool:
    """Returns whether `load` knows the name, or it is the path of an .npz file that exists."""
    return name in NAMES or (name.endswith(".npz") and pathlib.Path(name).is_file())


def load(name: str, seed: int = 0, rescale: bool = True, max_bytes: Optional[int] = None) -> Dataset:
    """Returns a data set.

    Args:
        name: "digits" (scikit-learn's, no download), "cifar10", "mnist" or "fashion_mnist" (Keras's own download), or
            the path of an .npz with x_train, y_train, x_test and y_test. It may have groups_train and groups_test too.
        seed: Shuffles "digits", which comes without a split; the first half becomes x_train.
        rescale: Whether images of bytes are divided by 255.
        max_bytes: Bytes that the arrays of an .npz may take in memory; None for 4 GiB.

    Returns:
        The data set.

    Raises:
        InvalidArgumentError: A seed out of its range.
        TypeError: No text as name.
        ValueError: An unknown name, a missing or damaged file, one above the limit, or an .npz without
            the four arrays, or with one of the two groups.
    """
    seed = check("load", seed=(seed, SEED))["seed"]
    groups: Groups = (None, None)
    if not isinstance(name, str):
        raise TypeError(
            f"load: Expected the name of a data set or the path of an .npz. Received {type(name).__name__}."
        )
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(x))
        x, y = x[order].reshape(-1, 8, 8, 1) / 16.0, y[order]
        half = len(x) // 2
        arrays = (x[:half], y[:half], x[half:], y[half:])
    elif name in NAMES:
        from tfmiaq._backend import keras

        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
        arrays = (x_train, y_train, x_test, y_test)
    elif name.endswith(".npz"):
        arrays, groups = _load_npz(pathlib.Path(name), max_bytes)
    else:
        raise ValueError(f"Unknown data set {name!r}. Expected one of {', '.join(NAMES)}, or the path of an .npz file.")
    x_train, y_train, x_test, y_test = arrays
    records = (_records(x_train, rescale), _labels(y_train), _records(x_test, rescale), _labels(y_test))
    return Dataset(name, *records, *groups)


def _load_npz(path: pathlib.Path, max_bytes: Optional[int]) -> tuple[tuple[Any, ...], Groups]:
    with NpzFile(path, max_bytes) as data:
        known = data.headers
        missing = [key for key in _KEYS if key not in known]
        if missing:
            raise ValueError(
                f"{str(path)!r} lacks {', '.join(missing)}. Expected the arrays {', '.join(_KEYS)}; it has "
                f"{', '.join(list(known)[:20])}."
            )
        if sum(key in known for key in _GROUPS) == 1:
            raise ValueError(f"{str(path)!r} has one of {' and '.join(_GROUPS)}. Give both arrays, or neither.")
        for key in _KEYS:
            if known[key].dtype.kind not in "biuf" or not known[key].shape:
                raise ValueError(
                    f"{key} of {str(path)!r} has type {known[key].dtype} and shape {known[key].shape}. Expected "
                    "numbers, one or more for each record."
                )
        elements = sum(math.prod(known[key].shape) for key in _RECORDS)
        check_declared(repr(str(path)), 4 * elements, data.limit, "records, as float32,")
        # Records become float32 while they are read: memory holds them once. What they were says how they are scaled.
        records = {key: _Read(data.read(key, np.float32), known[key].dtype) for key in _RECORDS}
        train, test = (data.read(key) if key in known else None for key in _GROUPS)
        return tuple(records[key] if key in _RECORDS else data.read(key) for key in _KEYS), (train, test)


@dataclasses.dataclass(frozen=True)
class _Read:
    """Records as float32, and the type that they are stored as."""

    values: np.ndarray
    stored: Any


def _records(x: Any, rescale: bool) -> np.ndarray:
    if not isinstance(x, _Read):
        x = _Read(x.astype(np.float32), x.dtype)
    scaled: np.ndarray = x.values
    if rescale and x.stored == np.uint8 and scaled.max(initial=0) > 1:
        scaled /= 255.0
    return scaled[..., np.newaxis] if scaled.ndim == 3 else scaled


def _labels(y: np.ndarray) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(1).astype(np.int64)
    return y.reshape(-1).astype(np.int64)
