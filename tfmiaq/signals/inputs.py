"""Records as users have them: arrays, DataFrames, dicts and lists of several inputs, datasets of TensorFlow."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Union

import numpy as np


class Inputs:
    """Records of several columns or inputs, which are kept as they came and indexed like an array.

    Args:
        given: A pandas DataFrame, or a dict, list or tuple of arrays of one length: the inputs of a model.
        owner: The function that was given the records, with which errors begin.
        name: What it calls them.

    Attributes:
        given: The same, as a model takes it; a list becomes a tuple of arrays, a dict one of arrays.

    Raises:
        ValueError: Inputs of different lengths, or none.
    """

    def __init__(self, given: Any, owner: str = "audit", name: str = "records") -> None:
        if isinstance(given, Mapping):
            given = {key: np.asarray(part) for key, part in given.items()}
        elif not is_frame(given):
            given = tuple(np.asarray(part) for part in given)
        self.given = given
        lengths = {str(key): part.shape[0] if part.ndim else 0 for key, part in self.parts.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"{owner}: The inputs of {name} have different numbers of records ({lengths}). Expected one record in "
                "each input, in one order."
            )

    @property
    def parts(self) -> dict[Any, np.ndarray]:
        """The arrays by name or number; of a DataFrame its columns."""
        if is_frame(self.given):
            return {name: self.given.iloc[:, place].to_numpy() for place, name in enumerate(self.given.columns)}
        return dict(self.given) if isinstance(self.given, dict) else dict(enumerate(self.given))

    @property
    def form(self) -> dict[str, Any]:
        """What two sets must have in common: the shape of a record in each input, and whether it is made of numbers."""
        return {str(name): (part.shape[1:], part.dtype.kind in "biufc") for name, part in self.parts.items()}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of records, and of inputs."""
        return len(self), len(self.parts)

    @property
    def ndim(self) -> int:
        """Two: records, and inputs."""
        return 2

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, index: Any) -> Inputs:
        if is_frame(self.given):
            return Inputs(self.given.iloc[index])
        return self._each(lambda part: part[index])

    def _each(self, change: Callable[[Any], Any]) -> Inputs:
        if isinstance(self.given, dict):
            return Inputs({name: change(part) for name, part in self.given.items()})
        return Inputs(tuple(change(part) for part in self.given))

    def __repr__(self) -> str:
        return f"Inputs({len(self)} records: {', '.join(map(str, self.parts))})"

    def get_config(self) -> dict[str, Any]:
        """Returns everything that defines the records, for their fingerprint."""
        return {
            str(name): part.tolist() if part.dtype == object else part
            for name, part in (*self.parts.items(), ("kind", np.array([type(self.given).__name__])))
        }

    def joined(self, other: Inputs) -> Inputs:
        """Returns these records and then those of another set with the same inputs."""
        if is_frame(self.given):
            return Inputs(sys.modules["pandas"].concat([self.given, other.given], ignore_index=True))
        joined = {name: np.concatenate([part, other.parts[name]]) for name, part in self.parts.items()}
        return Inputs(joined if isinstance(self.given, dict) else tuple(joined.values()))

    def matrix(self) -> np.ndarray:
        """Returns the records as float64 of shape (n, d), for distances and hashes; text becomes a number."""
        columns: list[np.ndarray] = []
        for part in self.parts.values():
            flat = part.reshape(len(self), -1)
            if flat.dtype.kind not in "biuf":
                flat = _as_numbers(flat)
            columns.append(flat.astype(np.float64))
        return np.concatenate(columns, axis=1)

    def exchanged(self, donors: Inputs, draws: Callable[[int, int], np.ndarray], chosen: Any, part: float) -> Inputs:
        """Returns copies of the records in which some values are those of other records.

        Args:
            donors: Records whose values are taken.
            draws: Function from a first number and a count to numbers between 0 and 1, shape (n, count).
            chosen: Shape (n,), which donor each record has.
            part: Part of the values that is taken.
        """
        done, copies = 0, {}
        for name, own in self.parts.items():
            flat = own.reshape(len(own), -1)
            other = donors.parts[name][chosen].reshape(flat.shape)
            copies[name] = np.where(draws(done, flat.shape[1]) < part, other, flat).reshape(own.shape)
            done += flat.shape[1]
        if is_frame(self.given):
            frame = self.given.copy()
            for place, (name, kind) in enumerate(zip(frame.columns, frame.dtypes)):
                column = sys.modules["pandas"].Series(copies[name], index=frame.index).astype(kind)
                frame.isetitem(place, column)
            return Inputs(frame)
        return Inputs(copies if isinstance(self.given, dict) else tuple(copies.values()))


def _as_numbers(values: np.ndarray) -> np.ndarray:
    """Returns a number from 0 to 1 for each text, the same in every set."""
    flat = values.reshape(-1).tolist()
    codes = {
        text: int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") for text in map(str, flat)
    }
    return np.array([codes[str(value)] / 2**48 for value in flat]).reshape(values.shape)


def is_frame(x: Any) -> bool:
    """Returns whether records are a pandas DataFrame; pandas is not imported for it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(x, pandas.DataFrame)


def is_dataset(records: Any) -> bool:
    """Returns whether records are a tf.data.Dataset; TensorFlow is not imported for it."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(records, tensorflow.data.Dataset)


def as_x(x: Any, count: int, owner: str, name: str) -> Union[np.ndarray, Inputs]:
    """Returns records without their labels as one array, or as `Inputs`.

    Args:
        x: An array or what becomes one, a DataFrame, or a dict, list or tuple of arrays, one for each input.
        count: Number of labels, by which a list of inputs is told from a list of records.
        owner: The function that was given the records, with which errors begin.
        name: What it calls them.

    Raises:
        TypeError: A dataset or a sparse matrix.
        ValueError: Records that are no array.
    """
    if isinstance(x, Inputs):
        return x
    if is_dataset(x):
        raise TypeError(
            f"{owner}: Received x of {name} as a tf.data.Dataset, and labels apart. Its order may change each time it "
            f"is read: pass a dataset of pairs (x, y) as {name}."
        )
    if hasattr(x, "tocsr"):
        raise TypeError(
            f"{owner}: Received x of {name} as a sparse matrix. Pass x.toarray(), and a function that takes that."
        )
    if isinstance(x, Mapping) or is_frame(x):
        return Inputs(x, owner, name)
    if isinstance(x, (list, tuple)) and len(x) and all(len(getattr(part, "shape", ())) for part in x):
        lengths = {int(part.shape[0]) for part in x}
        # A list of as many arrays as there are labels is a list of records.
        if len(x) != count and (lengths == {count} or len({tuple(part.shape) for part in x}) > 1):
            return Inputs(x, owner, name)
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(
            f"{owner}: x of {name} is a {type(x).__name__} that makes no array: {error} Expected an array of shape "
            "(n, ...), a DataFrame, or a dict or list of arrays, one for each input of the model."
        ) from error


def read_dataset(dataset: Any, name: str, owner: str) -> tuple[Any, Any]:
    """Returns the records and labels of a tf.data.Dataset as arrays, read once from its beginning to its end.

    Args:
        dataset: Its elements are pairs (x, y), or (x, y, weight), batched or not; x may be a dict or a tuple.
        name: What `owner` calls the set.
        owner: The function that was given the records, with which errors begin.

    Raises:
        TypeError: Elements that are no pairs.
        ValueError: A dataset without an end, or without elements.
    """
    tensorflow = sys.modules["tensorflow"]
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise TypeError(
            f"{owner}: Expected {name} as a dataset whose elements are pairs (x, y). Received elements of "
            f"{spec!r:.200}."
        )
    if int(dataset.cardinality()) == tensorflow.data.INFINITE_CARDINALITY:
        raise ValueError(f"{owner}: {name} is a dataset without an end. Leave out repeat(), or pass dataset.take(n).")
    if not _is_batched(tensorflow, spec[:2]):
        dataset = dataset.batch(256)
    batches = [tensorflow.nest.map_structure(lambda part: part.numpy(), element[:2]) for element in dataset]
    if not batches:
        raise ValueError(f"{owner}: {name} holds no records.")
    x, y = tensorflow.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
    return x, y


def _is_batched(tensorflow: Any, spec: Any) -> bool:
    shapes = [part.shape for part in tensorflow.nest.flatten(spec)]
    if any(shape.rank is None for shape in shapes):
        return True
    if any(shape.rank == 0 for shape in shapes):
        return False
    first = {shape[0] for shape in shapes}
    # batch(drop_remainder=True) leaves a size that all components share.
    return None in first or len(first) == 1


def given(x: Any) -> Any:
    """Returns records as a function, a pipeline or a train_fn takes them: in the form in which the user gave them."""
    return x.given if isinstance(x, Inputs) else x


def arrays(x: Any) -> Any:
    """Returns records as a Keras model or a .tflite takes them: a DataFrame of numbers as an array, else as they came.

    Raises:
        ValueError: A DataFrame with text, which no such model takes.
    """
    if not isinstance(x, Inputs):
        return x
    if not is_frame(x.given):
        return x.given
    text = [str(name) for name, (_, is_number) in x.form.items() if not is_number]
    if text:
        raise ValueError(
            f"audit: Columns {', '.join(text)} of the DataFrame hold no numbers, and the target takes an array. Encode "
            "them, or pass a function from a DataFrame to the target's outputs."
        )
    kind = np.result_type(*(part.dtype for part in x.parts.values()))
    return x.given.to_numpy(np.float32 if kind.kind == "f" else kind)


def concatenate(one: Any, other: Any) -> Any:
    """Returns the records of two sets as one."""
    if isinstance(one, Inputs):
        return one.joined(other)
    return np.concatenate([one, other])


def matrix(x: Any) -> np.ndarray:
    """Returns records as an array of shape (n, d)."""
    return x.matrix() if isinstance(x, Inputs) else x.reshape(len(x), -1)


def record_hashes(x: Any) -> np.ndarray:
    """Returns a hash of each record's values, shape (n,), 16 bytes each."""
    rows = np.ascontiguousarray(matrix(x))
    return np.array([hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in rows])


def have_nan(x: Any) -> np.ndarray:
    """Returns which records hold NaN or infinity, shape (n,), bool."""
    flat = matrix(x)
    if flat.dtype.kind not in "fc":
        return np.zeros(len(flat), bool)
    return np.asarray(~np.isfinite(flat).all(1))
