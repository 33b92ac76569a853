"""Named data sets and .npz files, as float images or vectors with integer labels."""

from __future__ import annotations

import csv
import dataclasses
import math
import pathlib
from typing import Any, Optional

import numpy as np

from tfmiaq._checks import SEED, as_path, check
from tfmiaq.loading.arrays import NpzFile
from tfmiaq.loading.limits import check_declared

NAMES = ("digits", "cifar10", "mnist", "fashion_mnist")
_KEYS = ("x_train", "y_train", "x_test", "y_test")
_RECORDS = ("x_train", "x_test")
_X = "x"
_IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_GROUPS = ("groups_train", "groups_test")
Groups = tuple[Optional[np.ndarray], Optional[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set split in two.

    Attributes:
        name: Its name, or the file's.
        x_train: float32, shape (n, ...). Images of bytes have a channel axis and are scaled to values from 0 to 1;
            tables of bytes are not. Other records, such as sequences of shape (n, steps, features), stay as they are.
        y_train: int64, shape (n,), classes; float64 where they are values; of several labels each, shape (n, k).
        x_test: float32, shape (m, ...).
        y_test: The same, shape (m, ...).
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
        """Number of classes: one more than the highest label, or the number of labels of each record.

        Raises:
            ValueError: Labels that are values.
        """
        if self.y_train.dtype.kind == "f":
            raise ValueError(f"{self.name!r} has values as labels, and no classes.")
        return self.y_train.shape[1] if self.y_train.ndim == 2 else int(max(self.y_train.max(), self.y_test.max())) + 1


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
        way = ""
        if name.endswith(".csv") or pathlib.Path(name).is_dir():
            way = " A .csv or a folder of images holds one set: give --members and --non_members."
        raise ValueError(
            f"Unknown data set {name!r}. Expected one of {', '.join(NAMES)}, or the path of an .npz file.{way}"
        )
    x_train, y_train, x_test, y_test = arrays
    records = (_records(x_train, rescale), _labels(y_train), _records(x_test, rescale), _labels(y_test))
    return Dataset(name, *records, *groups)


def load_unlabelled(
    name: str,
    label: Optional[str] = None,
    rescale: bool = True,
    image_size: Optional[tuple[int, ...]] = None,
    max_bytes: Optional[int] = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns records without labels: those to calibrate a model on, and those to compare it with its file on.

    Args:
        name: What `load` takes; an .npz with an array x alone; a .csv with a header; or a folder of images, in folders
            for each class or not.
        label: Column of a .csv that is left out.
        rescale: Whether images are divided by 255.
        image_size: Height and width that images of a folder are resized to; None for images of one size.
        max_bytes: Bytes that the arrays of an .npz may take in memory; None for 4 GiB.

    Returns:
        Training and test records where there are both, else the same records twice.

    Raises:
        ValueError: As `load` and `load_files`.
    """
    path = as_path("load_unlabelled", "name", name)
    if path.is_dir():
        x, _ = _load_images([path], rescale, image_size)[0]
    elif path.suffix == ".csv" and path.is_file():
        x, _ = _load_csv([path], label, is_labelled=label is not None)[0]
    elif path.suffix == ".npz" and path.is_file() and (found := _load_x(path, max_bytes)) is not None:
        x = _records(found, rescale)
    else:
        data = load(name, rescale=rescale, max_bytes=max_bytes)
        return data.x_train, data.x_test
    return x, x


def _load_x(path: pathlib.Path, max_bytes: Optional[int]) -> Any:
    """Returns the array x of an .npz that has no training and test records, or None."""
    with NpzFile(path, max_bytes) as data:
        if _X not in data.headers or any(key in data.headers for key in _RECORDS):
            return None
        _check_array(path, _X, data.headers[_X], "biuf")
        return _Read(data.read(_X, np.float32), data.headers[_X].dtype)


def _check_array(path: pathlib.Path, key: str, header: Any, kinds: str) -> None:
    """Raises ValueError for an array of objects, or without records."""
    if header.dtype.kind not in kinds or not header.shape:
        raise ValueError(
            f"{key} of {str(path)!r} has type {header.dtype} and shape {header.shape}. Expected "
            f"numbers{' or names' if 'U' in kinds else ''}, one or more for each record."
        )


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
            _check_array(path, key, known[key], "biuf" if key in _RECORDS else "biufUS")
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
    # A table of bytes holds counts or codes, whose range its model has been trained on; other numbers may be sequences.
    are_images = scaled.ndim >= 3 and x.stored == np.uint8
    if rescale and are_images and scaled.max(initial=0) > 1:
        scaled /= 255.0
    return scaled[..., np.newaxis] if are_images and scaled.ndim == 3 else scaled


def _labels(y: np.ndarray) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] > 1:
        are_one_hot = bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())
        return y.argmax(1).astype(np.int64) if are_one_hot else y
    flat = y.reshape(-1)
    if flat.dtype.kind in "biu" or (flat.dtype.kind == "f" and np.all(np.mod(flat, 1) == 0)):
        return flat.astype(np.int64)
    return flat


def load_files(
    members: str,
    non_members: str,
    label: Optional[str] = None,
    rescale: bool = True,
    image_size: Optional[tuple[int, ...]] = None,
) -> Dataset:
    """Returns two sets of records as a data set: members as its training records, non-members as its others.

    Args:
        members: A .csv with a header, or a folder of images with a folder for each class.
        non_members: The same of the non-members.
        label: Name of the column of a .csv that holds the labels. All others are features, and numbers; an empty cell
            is NaN.
        rescale: Whether images are divided by 255.
        image_size: Height and width that images are resized to, as Keras' `image_dataset_from_directory` does. None for
            images of one size.

    Returns:
        The data set. Classes of image folders are numbered by their names in alphabetical order.

    Raises:
        ValueError: Files of different kinds, columns or classes; text among the features; images of several sizes.
    """
    paths = [as_path("load_files", name, path) for name, path in (("members", members), ("non_members", non_members))]
    for flag, path in zip(("members", "non_members"), paths):
        if not path.is_dir() and not (path.is_file() and path.suffix == ".csv"):
            raise ValueError(f"Expected --{flag} as a .csv file or a folder of images. Received {str(path)!r}.")
    if paths[0].is_dir() != paths[1].is_dir():
        raise ValueError(f"Expected members and non-members of one kind. Received {members!r} and {non_members!r}.")
    if paths[0].is_dir():
        (x_in, y_in), (x_out, y_out) = _load_images(paths, rescale, image_size)
    else:
        (x_in, y_in), (x_out, y_out) = _load_csv(paths, label)
    return Dataset(members, x_in, _labels(y_in), x_out, _labels(y_out))


def _load_csv(
    paths: list[pathlib.Path], label: Optional[str], is_labelled: bool = True
) -> list[tuple[np.ndarray, np.ndarray]]:
    columns: Optional[list[str]] = None
    found = []
    for path in paths:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            try:
                names = list(rows.fieldnames or ())
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(f"{str(path)!r} is damaged, or no .csv in UTF-8 ({error}).") from error
            if label not in names and (is_labelled or not names):
                way = "Name the column of labels: --label=COLUMN." if label is None else f"It has no {label!r}."
                raise ValueError(f"{str(path)!r} has the columns {', '.join(names):.300}. {way}")
            if columns is not None and set(names) != set(columns):
                raise ValueError(
                    f"{str(path)!r} has other columns than {str(paths[0])!r}: "
                    f"{', '.join(sorted(set(names) ^ set(columns))):.300}."
                )
            columns = columns or names
            try:
                table = list(rows)
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(f"{str(path)!r} is damaged, or no .csv in UTF-8 ({error}).") from error
        x = [[_number(row[name], name, path, at) for name in columns if name != label] for at, row in enumerate(table)]
        y = [row[label] for row in table] if label is not None else []
        if None in y:
            raise ValueError(f"{str(path)!r} has no label in record {y.index(None)}: its line is too short.")
        width = len(columns) - (label is not None)
        found.append((np.array(x, np.float32).reshape(len(table), width), _labels_of_text(y)))
    if len({y.dtype.kind for _, y in found}) > 1:
        # One set has whole numbers alone, or one of them names.
        found = [(x, y.astype(np.result_type(*(part.dtype for _, part in found)))) for x, y in found]
    return found


def _number(text: Optional[str], column: str, path: pathlib.Path, at: int) -> float:
    try:
        return float(text) if text else float("nan")
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} has text in the column {column!r:.80}: {text!r:.80} in record {at}. Write numbers, as the "
            "model takes them; or audit a pipeline that takes text in Python, with a pandas.DataFrame as x."
        ) from error


def _labels_of_text(labels: list[str]) -> np.ndarray:
    for kind in (np.int64, np.float64):
        try:
            return np.array(labels).astype(kind)
        except ValueError:
            continue
    return np.array(labels)


def _load_images(
    folders: list[pathlib.Path], rescale: bool, image_size: Optional[tuple[int, ...]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    from PIL import Image

    from tfmiaq._backend import keras

    classes = [sorted(path.name for path in folder.iterdir() if path.is_dir()) for folder in folders]
    if len(folders) > 1 and (classes[0] != classes[1] or not classes[0]):
        raise ValueError(
            f"Expected folders with one folder for each class, the same in both. Received {', '.join(classes[0])} in "
            f"{str(folders[0])!r} and {', '.join(classes[1])} in {str(folders[1])!r}."
        )
    sizes: dict[tuple[int, ...], pathlib.Path] = {}
    modes = set()
    for folder in folders:
        for path in sorted(folder.glob("*/*" if classes[0] else "*")):
            if path.suffix.lower() in _IMAGES:
                with Image.open(path) as image:
                    sizes.setdefault((image.height, image.width), path)
                    modes.add(image.mode)
    if not sizes or (image_size is None and len(sizes) > 1):
        told = ", ".join(f"{height}x{width} ({path})" for (height, width), path in list(sizes.items())[:2])
        raise ValueError(
            f"Expected images of one size. Received {told or 'no images'}. Give --image_size=HEIGHT,WIDTH to resize."
        )
    if image_size is not None and len(image_size) != 2:
        raise ValueError(f"Expected --image_size=HEIGHT,WIDTH. Received {','.join(map(str, image_size))}.")
    found = []
    for folder in folders:
        dataset = keras.utils.image_dataset_from_directory(
            str(folder),
            labels="inferred" if classes[0] else None,
            image_size=image_size or next(iter(sizes)),
            color_mode="grayscale" if modes <= {"L", "1"} else "rgb",
            shuffle=False,
            batch_size=None,
        )
        parts = [(part[0].numpy(), int(part[1])) if classes[0] else (part.numpy(), 0) for part in dataset]
        x = np.stack([image for image, _ in parts]) / np.float32(255 if rescale else 1)
        found.append((x, np.array([y for _, y in parts])))
    return found
