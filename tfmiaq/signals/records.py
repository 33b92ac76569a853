"""Sets of records, as users give them and in the one form that everything behind works on."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from tfmiaq.signals.inputs import Inputs, as_x, have_nan, is_dataset, read_dataset
from tfmiaq.signals.labels import alike, read_labels

Records = tuple[Any, Any]


def pair(
    records: Any,
    name: str,
    owner: str = "audit",
    *,
    any_kind: bool = False,
    classes: Optional[np.ndarray] = None,
) -> tuple[Any, np.ndarray]:
    """Returns a set of records as an array or `Inputs`, and its labels in one form.

    Args:
        records: Pair (x, y), or a tf.data.Dataset of such pairs. x may be None where outputs are saved already, and
            then has no features.
        name: What `owner` calls the set.
        owner: The function that was given the records, with which errors begin.
        any_kind: Whether labels may be other than classes, records DataFrames or several inputs, and hold NaN, as
            `tfmiaq.audit` takes them.
        classes: What the target calls its classes, as `labels.read_labels`.

    Raises:
        TypeError: No pair (x, y).
        ValueError: No records, NaN, labels that are no classes or not one for each record.
    """
    if is_dataset(records):
        records = read_dataset(records, name, owner)
    if not isinstance(records, (tuple, list)) or len(records) != 2:
        raise TypeError(
            f"{owner}: Expected {name} as a pair (x, y), or as a tf.data.Dataset of such pairs. Received "
            f"{type(records).__name__}{f' of {len(records)}' if isinstance(records, (tuple, list)) else ''}."
        )
    if records[1] is None:
        raise ValueError(f"{owner}: {name} has no labels. Expected a pair (x, y), with one label for each record.")
    x, y = records[0], np.asarray(records[1])
    if x is None:
        if not y.size or not y.ndim:
            raise ValueError(f"{owner}: {name} holds no records.")
        return np.zeros((len(y), 0), np.float32), read_labels(y, name, owner, any_kind, classes)
    x = as_x(x, len(y) if y.ndim else 0, owner, name)
    if not len(x.shape) or not len(y.shape) or not len(x) or not len(y):
        raise ValueError(f"{owner}: {name} holds no records (x of shape {x.shape}, y of shape {y.shape}).")
    if len(x) != len(y):
        raise ValueError(f"{owner}: {name} has {len(x)} records and {len(y)} labels; give one label for each record.")
    if not any_kind:
        _check_plain(x, name, owner)
    return x, read_labels(y, name, owner, any_kind, classes)


def _check_plain(x: Any, name: str, owner: str) -> None:
    if isinstance(x, Inputs):
        raise ValueError(f"{owner}: Expected x of {name} as one array. Received {x!r:.200}.")
    bad = np.flatnonzero(have_nan(x))
    if len(bad):
        raise ValueError(f"{owner}: {name} has NaN or infinity in {len(bad)} records, the first at index {bad[0]}.")


def check_records(
    members: Any,
    non_members: Any,
    owner: str = "audit",
    names: tuple[str, str] = ("members", "non_members"),
    *,
    any_kind: bool = False,
    classes: Optional[np.ndarray] = None,
) -> tuple[Records, Records]:
    """Returns two sets in one form.

    Args:
        members: Pair (x, y), or a tf.data.Dataset of such pairs.
        non_members: The same.
        owner: The function that was given the records, with which errors begin.
        names: What it calls them.
        any_kind: As `pair`.
        classes: As `pair`.

    Raises:
        TypeError: A set that is no pair (x, y).
        ValueError: An empty set, NaN, records of different shapes or types, labels that are no classes.
    """
    given = [
        read_dataset(part, name, owner) if is_dataset(part) else part
        for part, name in zip((members, non_members), names)
    ]
    (x_in, y_in), (x_out, y_out) = (
        pair(part, name, owner, any_kind=any_kind, classes=classes) for part, name in zip(given, names)
    )
    if any_kind:
        shapes = {np.shape(part[1])[1:] for part in given}
        width = shapes.pop()[0] if len(shapes) == 1 and () not in shapes else 0
        y_in, y_out = alike(y_in, y_out, names, owner, width)
    forms = [x.form if isinstance(x, Inputs) else x.shape[1:] for x in (x_in, x_out)]
    if forms[0] != forms[1]:
        raise ValueError(
            f"{owner}: {names[0]} has records of shape {forms[0]} and {names[1]} of shape {forms[1]}. "
            "Both must come from one preprocessing."
        )
    for one, other in _parts(x_in, x_out):
        if np.issubdtype(one.dtype, np.integer) != np.issubdtype(other.dtype, np.integer):
            raise ValueError(
                f"{owner}: {names[0]} is {one.dtype} and {names[1]} {other.dtype}. Scale both alike: a difference in "
                "preprocessing reveals members by itself."
            )
    return (x_in, y_in), (x_out, y_out)


def _parts(one: Any, other: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    if isinstance(one, Inputs):
        # A column of whole numbers with a missing one is float, by pandas' own rule.
        return [] if hasattr(one.given, "iloc") else list(zip(one.parts.values(), other.parts.values()))
    return [(one, other)]


def sample(records: Records, count: int, generator: np.random.Generator) -> Records:
    """Returns a random sample of a set in the set's order; the whole set if it has no more than `count` records."""
    x, y = records
    some = np.sort(generator.choice(len(y), min(count, len(y)), replace=False))
    return x[some], y[some]


def match_classes(members: Records, non_members: Records, seed: int = 0) -> tuple[Records, Records]:
    """Returns random parts of two sets that have as many records of each class as one another.

    The way out where the classes of members and non-members are mixed unlike, which an attack would find in the place
    of membership.

    Example:
        >>> members, non_members = tfmiaq.signals.match_classes((x_train, y_train), (x_test, y_test))

    Args:
        members: Pair (x, y), classes as integers, names or one-hot rows.
        non_members: The same.
        seed: Seed of the choice.

    Raises:
        ValueError: No class that both sets have; labels that are no classes.
    """
    generator = np.random.default_rng(seed)
    sets = []
    for records in (members, non_members):
        x, y = records[0], np.asarray(records[1])
        kinds = read_labels(y, "records", "match_classes") if y.dtype.kind in "biuf" else y
        sets.append((x if isinstance(x, np.ndarray) else as_x(x, len(y), "match_classes", "records"), y, kinds))
    shared = np.intersect1d(sets[0][2], sets[1][2])
    if not len(shared):
        raise ValueError("match_classes: Members and non-members have no class in common.")
    places: list[list[np.ndarray]] = [[], []]
    for kind in shared:
        where = [np.flatnonzero(kinds == kind) for _, _, kinds in sets]
        count = min(map(len, where))
        for found, of_set in zip(where, places):
            of_set.append(generator.choice(found, count, replace=False))
    chosen = [np.sort(np.concatenate(of_set)) for of_set in places]
    one, other = (
        (x[index].given if isinstance(x, Inputs) else x[index], y[index]) for (x, y, _), index in zip(sets, chosen)
    )
    return one, other
