"""Groups of records that belong together, such as those of one person, and splits that keep each group whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._checks import InvalidArgumentError


def check_groups(groups: Any, count: int, owner: str, name: str = "groups") -> np.ndarray:
    """Returns one value for each record as an array.

    Args:
        groups: A value for each record: integers or strings. Records of one value belong together.
        count: Number of records.
        owner: The function that was given the groups, with which errors begin.
        name: What it calls them.

    Raises:
        InvalidArgumentError: Not one value for each record, or values that are missing (NaN or None).
    """
    try:
        values = np.asarray(groups)
    except ValueError as error:
        raise InvalidArgumentError(
            f"{owner}: Expected {name} to be one value for each of {count} records. Received parts of several lengths."
        ) from error
    if values.shape != (count,):
        raise InvalidArgumentError(
            f"{owner}: Expected {name} to be one value for each of {count} records. Received shape {values.shape}."
        )
    missing = np.array([value is None or value != value for value in values.tolist()], bool)
    if missing.any():
        raise InvalidArgumentError(
            f"{owner}: {name} lacks a value for {int(missing.sum())} records, the first at index {missing.argmax()}. "
            "Give a record without a group a value of its own."
        )
    return values


def check_group_pair(
    groups: Any,
    sizes: tuple[int, int],
    owner: str = "audit",
    names: tuple[str, str] = ("members", "non_members"),
    fewest: tuple[int, int] = (1, 1),
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the groups of two sets as integers, alike in both.

    Args:
        groups: Pair of arrays, the groups of the first set and those of the second.
        sizes: Numbers of records of both.
        owner: The function that was given the groups.
        names: What it calls the sets.
        fewest: Numbers of groups that each set has at least, so that the parts it is split into have one each.

    Raises:
        InvalidArgumentError: No pair; a group that is in both sets; too few groups; as `check_groups`.
    """
    if not isinstance(groups, (tuple, list)) or len(groups) != 2:
        raise InvalidArgumentError(
            f"{owner}: Expected groups as a pair, (groups of {names[0]}, groups of {names[1]}), or None. Received "
            f"{type(groups).__name__}."
        )
    one, other = (
        check_groups(part, size, owner, f"groups of {name}") for part, size, name in zip(groups, sizes, names)
    )
    if not all(np.issubdtype(part.dtype, np.number) for part in (one, other)):
        one, other = one.astype(str), other.astype(str)
    values, codes = np.unique(np.concatenate([one, other]), return_inverse=True)
    first, second = codes[: sizes[0]], codes[sizes[0] :]
    shared = np.intersect1d(first, second)
    if len(shared):
        group = shared[0]
        raise InvalidArgumentError(
            f"{owner}: Group {str(values[group])!r} has {int((first == group).sum())} records in {names[0]} and "
            f"{int((second == group).sum())} in {names[1]}; {len(shared)} groups are in both. A group is in one set: "
            "leave its records out of the other."
        )
    for part, name, least in zip((first, second), names, fewest):
        if len(np.unique(part)) < least:
            raise InvalidArgumentError(
                f"{owner}: Expected {name} to be of at least {least} groups, since it is split and no group is. "
                f"Received {len(np.unique(part))}. Leave groups out if all of its records may be split."
            )
    return first, second


def group_folds(groups: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """Returns the number of the fold of each record, such that no group is split and folds are of about one size.

    Groups come in random order, larger ones first, each into the smallest fold so far.

    Args:
        groups: Shape (n,).
        folds: Number of folds.
        generator: Draws the order.

    Returns:
        Shape (n,), integers below `folds`.

    Raises:
        InvalidArgumentError: Fewer groups than folds.
    """
    values, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(values) < folds:
        raise InvalidArgumentError(
            f"Expected at least {folds} groups, so that none is split over {folds} folds. Received {len(values)}."
        )
    order = generator.permutation(len(values))
    order = order[np.argsort(-sizes[order], kind="stable")]
    totals: np.ndarray = np.zeros(folds, int)
    fold: np.ndarray = np.zeros(len(values), int)
    for group in order:
        fold[group] = totals.argmin()
        totals[fold[group]] += sizes[group]
    # The largest group is not always in the first fold.
    return np.asarray(generator.permutation(folds)[fold][codes])


def count_groups(groups: Optional[Sequence[np.ndarray]]) -> Optional[tuple[int, ...]]:
    """Returns the number of groups of each set, or None without groups."""
    return None if groups is None else tuple(len(np.unique(part)) for part in groups)
