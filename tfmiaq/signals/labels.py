"""Labels of every kind, in one form each: a class, several labels at once, or values."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

_FORMS = "Expected integer classes from 0 on, shape (n,), or one-hot rows"


def read_labels(
    y: Any, name: str, owner: str, any_kind: bool = False, classes: Optional[np.ndarray] = None
) -> np.ndarray:
    """Returns labels in one form.

    Args:
        y: Integers, booleans or whole floats, shape (n,) or (n, 1); one-hot rows; with `any_kind` also rows of several
            labels (0 or 1 each) and numbers that are no classes; with `classes` also names of these.
        name: What `owner` calls the set.
        owner: The function that was given the labels, with which errors begin.
        any_kind: Whether labels may be other than classes.
        classes: Shape (k,), what the target calls its classes, in the order of its outputs; None where it has no names.

    Returns:
        Classes or whole numbers: int64, shape (n,). Several labels: int8, shape (n, k). Values: float64, shape (n,) or
        (n, d).

    Raises:
        ValueError: Labels that are missing, of another kind, or names that the target does not have.
    """
    found = _numbers_or_names(y, name, owner)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim not in (1, 2):
        raise ValueError(f"{owner}: Labels of {name} have shape {found.shape}. {_FORMS}.")
    if found.ndim == 1 and classes is not None:
        return _by_names(found, name, owner, classes)
    if found.dtype.kind not in "biuf":
        values = ", ".join(repr(str(value)) for value in np.unique(found.astype(str))[:3])
        raise ValueError(
            f"{owner}: Labels of {name} are names ({values}), and nothing says which output is whose. {_FORMS}: in the "
            "order of the target's outputs. A scikit-learn classifier says it by its classes_."
        )
    if found.ndim == 2:
        return _of_rows(found, name, owner, any_kind)
    whole: Optional[np.ndarray] = found.astype(np.int64) if bool(np.all(np.mod(found, 1) == 0)) else None
    if not any_kind and (whole is None or (whole < 0).any()):
        where = int(np.flatnonzero((np.mod(found, 1) != 0) | (found < 0))[0])
        raise ValueError(
            f"{owner}: Labels of {name} have shape {found.shape} and type {found.dtype}, and {found[where]} at index "
            f"{where}. {_FORMS}."
        )
    return found.astype(np.float64) if whole is None else whole


def _numbers_or_names(y: Any, name: str, owner: str) -> np.ndarray:
    """Returns an array of numbers or of text, none of them missing."""
    found = np.asarray(y)
    if found.dtype == object:
        flat = found.reshape(-1).tolist()
        missing = np.array([value is None or _differs_from_itself(value) for value in flat], bool)
        _check_there(missing, name, owner)
        found = np.array(flat).reshape(found.shape) if flat else found
        if found.dtype == object:
            found = found.astype(str)
    if found.dtype.kind in "fc":
        _check_there(~np.isfinite(found.reshape(len(found) if found.ndim else 0, -1)).all(1), name, owner)
    return found


def _differs_from_itself(value: Any) -> bool:
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return True  # pandas.NA says neither.


def _check_there(missing: np.ndarray, name: str, owner: str) -> None:
    if missing.any():
        raise ValueError(
            f"{owner}: {int(missing.sum())} labels of {name} are missing (NaN, infinite or None), the first at index "
            f"{int(missing.argmax())}. Leave these records out."
        )


def _by_names(y: np.ndarray, name: str, owner: str, classes: np.ndarray) -> np.ndarray:
    places = {value: place for place, value in enumerate(classes.tolist())}
    found = [places.get(value) for value in y.tolist()]
    if None in found:
        where = found.index(None)
        known = ", ".join(map(repr, classes.tolist()[:10])) + (", ..." if len(classes) > 10 else "")
        raise ValueError(
            f"{owner}: Label {y[where]!r} of {name}, at index {where}, is none of the target's classes_ ({known}). "
            "Pass the labels that the target was trained on."
        )
    return np.array(found, np.int64)


def _of_rows(y: np.ndarray, name: str, owner: str, any_kind: bool) -> np.ndarray:
    are_bits = bool(((y == 0) | (y == 1)).all())
    if are_bits and (y.sum(1) == 1).all():
        return y.argmax(1).astype(np.int64)
    if not any_kind:
        raise ValueError(
            f"{owner}: Labels of {name} have shape {y.shape} and are not one-hot. {_FORMS}; several labels of a record "
            "and values are for tfmiaq.audit alone."
        )
    if are_bits:
        return y.astype(np.int8)
    if (y >= 0).all() and (abs(y.sum(1) - 1) < 1e-3).all():
        raise ValueError(
            f"{owner}: Labels of {name} have shape {y.shape}, and rows that sum to 1 but are not one-hot: soft labels. "
            "Membership is audited on the class of a record: pass y.argmax(1) if the largest is the class."
        )
    return y.astype(np.float64)


def alike(
    one: np.ndarray, other: np.ndarray, names: tuple[str, str], owner: str, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels of two sets in one form, where one set's rows look one-hot and the other's do not.

    Args:
        one: Labels of the first set, as `read_labels` returns them.
        other: Those of the second.
        names: What `owner` calls the sets.
        owner: The function that was given the labels.
        width: Columns of the rows that were given, or 0 where a set had no rows or both had others.

    Raises:
        ValueError: Labels of different forms.
    """
    if one.ndim == other.ndim == 1:
        return one, other
    found = [np.eye(width, dtype=np.int8)[y] if y.ndim == 1 and width else y for y in (one, other)]
    if found[0].shape[1:] != found[1].shape[1:]:
        rows = 0 if one.ndim == 2 else 1
        raise ValueError(
            f"{owner}: Labels of {names[rows]} have shape {(one, other)[rows].shape} and are not one-hot, those of "
            f"{names[1 - rows]} have shape {(one, other)[1 - rows].shape}. Give both sets labels of one form."
        )
    if found[0].dtype != found[1].dtype:
        return found[0].astype(np.float64), found[1].astype(np.float64)
    return found[0], found[1]
