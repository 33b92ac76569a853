"""Sets of records, as users give them and as arrays with integer labels."""

from __future__ import annotations

from typing import Any

import numpy as np

Records = tuple[Any, Any]


def pair(records: Any, name: str, owner: str = "audit") -> tuple[np.ndarray, np.ndarray]:
    """Returns a set of records as arrays, with integer labels.

    Args:
        records: Pair (x, y); x may be None where outputs are saved already, and then has no features.
        name: What `owner` calls the set.
        owner: The function that was given the records, with which errors begin.

    Raises:
        TypeError: No pair (x, y).
        ValueError: No records, NaN, labels that are no classes or not one for each record.
    """
    if not isinstance(records, (tuple, list)) or len(records) != 2:
        raise TypeError(f"{owner}: Expected {name} as a pair (x, y). Received {type(records).__name__}.")
    x, y = records[0], np.asarray(records[1])
    if x is None:
        if not y.size:
            raise ValueError(f"{owner}: {name} holds no records.")
        return np.zeros((len(y), 0), np.float32), _labels(y, name, owner)
    x = np.asarray(x)
    if not len(x.shape) or not len(y.shape) or not len(x) or not len(y):
        raise ValueError(f"{owner}: {name} holds no records (x of shape {x.shape}, y of shape {y.shape}).")
    if len(x) != len(y):
        raise ValueError(f"{owner}: {name} has {len(x)} records and {len(y)} labels; give one label for each record.")
    if np.issubdtype(x.dtype, np.inexact) and not np.isfinite(x).all():
        bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
        raise ValueError(f"{owner}: {name} has NaN or infinity in {len(bad)} records, the first at index {bad[0]}.")
    return x, _labels(y, name, owner)


def _labels(y: np.ndarray, name: str, owner: str) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2:
        if not (((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()):
            raise ValueError(
                f"{owner}: Labels of {name} have shape {y.shape} and are not one-hot. Expected integer classes of "
                "shape (n,) or one-hot rows; multi-label targets are not supported."
            )
        return y.argmax(1).astype(np.int64)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.number) or not np.all(np.mod(y, 1) == 0) or (y < 0).any():
        raise ValueError(
            f"{owner}: Labels of {name} have shape {y.shape} and type {y.dtype}. Expected integer classes from 0 on, "
            "shape (n,), or one-hot rows."
        )
    return y.astype(np.int64)


def check_records(
    members: Any, non_members: Any, owner: str = "audit", names: tuple[str, str] = ("members", "non_members")
) -> tuple[Records, Records]:
    """Returns two sets as arrays with integer labels.

    Args:
        members: Pair (x, y).
        non_members: Pair (x, y).
        owner: The function that was given the records, with which errors begin.
        names: What it calls them.

    Raises:
        TypeError: A set that is no pair (x, y).
        ValueError: An empty set, NaN, records of different shapes or types, labels that are no classes.
    """
    (x_in, y_in), (x_out, y_out) = pair(members, names[0], owner), pair(non_members, names[1], owner)
    if x_in.shape[1:] != x_out.shape[1:]:
        raise ValueError(
            f"{owner}: {names[0]} has records of shape {x_in.shape[1:]} and {names[1]} of shape {x_out.shape[1:]}. "
            "Both must come from one preprocessing."
        )
    if np.issubdtype(x_in.dtype, np.integer) != np.issubdtype(x_out.dtype, np.integer):
        raise ValueError(
            f"{owner}: {names[0]} is {x_in.dtype} and {names[1]} {x_out.dtype}. Scale both alike: a difference in "
            "preprocessing reveals members by itself."
        )
    return (x_in, y_in), (x_out, y_out)


def sample(records: Records, count: int, generator: np.random.Generator) -> Records:
    """Returns a random sample of a set in the set's order; the whole set if it has no more than `count` records."""
    x, y = records
    some = np.sort(generator.choice(len(y), min(count, len(y)), replace=False))
    return x[some], y[some]
