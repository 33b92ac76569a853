"""What the outputs of a target are: labels, probabilities, logits, one unit, several labels at once, or values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from scipy import special

# Kinds of outputs, each of which could be mistaken for the next: a set that is one kind so far may turn out another.
HARD, PROBABILITIES, SIGMOIDS, SIGMOID_LOGITS, LOGITS, VALUES = (
    "labels",
    "probabilities",
    "sigmoids",
    "logits of sigmoids",
    "logits",
    "values",
)
_ORDER = (HARD, PROBABILITIES, SIGMOIDS, SIGMOID_LOGITS, LOGITS, VALUES)
# Kinds of labels.
CLASSES, SEVERAL = "classes", "several labels"

# int8 probabilities have steps of 1/256, so that rows sum to one only about.
_SUM_TOLERANCE = 0.05
_ROWS_THAT_SUM = 0.9
# Of probabilities that are rounded to steps, zero is what lies below half a step; no step is as small as this.
SMALLEST_STEP = 1e-7


@dataclasses.dataclass(frozen=True)
class Format:
    """How outputs are read.

    Attributes:
        kind: One of the kinds of outputs.
        fine: Whether probabilities are resolved below 1e-7, as those of a floating-point softmax, so that zero means
            less than the smallest number of their type.
        scale: Variance of the labels, of outputs that are values.
    """

    kind: str
    fine: bool = False
    scale: float = 1.0

    def joined(self, other: Format) -> Format:
        """Returns the format that fits the outputs of both."""
        kind = max(self.kind, other.kind, key=_ORDER.index)
        return Format(kind, self.fine or other.fine, self.scale)


@dataclasses.dataclass(frozen=True)
class Labels:
    """What is known of the labels of all sets together, by which one output is told from another.

    Attributes:
        kind: CLASSES, SEVERAL or VALUES. Whole numbers are classes, until one output says otherwise.
        shape: Shape of one record's labels.
        low: Smallest label.
        high: Largest label.
        numbers: Up to three different labels.
        scale: Variance of the labels; the mean of the columns' variances where there are several.
        where: Index of a label that is no class, or None.
        quarters: Quartiles of the labels, of the sums of their columns where there are several.
    """

    kind: str
    shape: tuple[int, ...]
    low: float
    high: float
    numbers: tuple[float, ...]
    scale: float
    where: Optional[int]
    quarters: tuple[float, ...]

    @classmethod
    def of(cls, labels: Sequence[np.ndarray]) -> Labels:
        """Returns what is known of the labels of several sets.

        Args:
            labels: For each set its labels, as `labels.read_labels` returns them.
        """
        y = np.concatenate(labels)
        kind = CLASSES if y.ndim == 1 and y.dtype.kind in "iu" else SEVERAL if y.dtype == np.int8 else VALUES
        numbers: np.ndarray = np.unique(y[:10_000])[:3]
        bad = np.flatnonzero((np.mod(y, 1) != 0) | (y < 0)) if y.ndim == 1 else np.zeros(0, int)
        scale = float(np.var(y.astype(np.float64), axis=0).mean()) or 1.0
        where = int(bad[0]) if len(bad) else None
        quarters = np.asarray(np.quantile(y.reshape(len(y), -1).sum(1), [0.25, 0.5, 0.75])).tolist()
        ends = float(y.min()), float(y.max())
        return cls(kind, y.shape[1:], *ends, tuple(numbers.tolist()), scale, where, tuple(quarters))

    @property
    def are_binary(self) -> bool:
        """Whether there are no labels but 0 and 1."""
        return self.kind == CLASSES and self.low >= 0 and self.high <= 1


def as_scores(outputs: Any, count: int, name: str, start: int = 0, nan_in_x: int = 0) -> np.ndarray:
    """Returns outputs as scores (n, k), or as labels or values (n,).

    Args:
        outputs: What the target gave.
        count: Number of records it was queried with.
        name: What errors call the records.
        start: Index of the first of them.
        nan_in_x: How many of the records hold NaN or infinity.

    Raises:
        ValueError: Several outputs, another shape, no numbers, NaN or infinity.
    """
    if isinstance(outputs, dict) or (isinstance(outputs, (list, tuple)) and np.ndim(outputs[0]) > 1):
        raise ValueError(
            f"audit: The target gave {len(outputs)} outputs ({type(outputs).__name__}) for {count} {name}. Audit one "
            "at a time: pass a function that returns it, such as lambda x: model.predict(x)[0]."
        )
    scores = np.asarray(outputs)
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if scores.ndim not in (1, 2) or len(scores) != count or scores.shape[1:] == (0,):
        raise ValueError(
            f"audit: The target gave outputs of shape {np.shape(outputs)} for {count} {name}. Expected (n, classes), "
            "probabilities or logits; (n,) or (n, 1), of one unit, or integer labels."
        )
    if scores.dtype == bool:
        scores = scores.astype(np.int64)
    if scores.dtype.kind not in "iuf":
        raise ValueError(
            f"audit: The target gave outputs of type {scores.dtype} for {count} {name}. Expected numbers: scores, or "
            "classes as integers from 0 on."
        )
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores.reshape(count, -1)).all(1))
        cause = (
            f" {nan_in_x} of these records hold NaN or infinity: fill them in as for training, or audit a model that "
            "takes them."
            if nan_in_x
            else ""
        )
        raise ValueError(
            f"audit: The target gave NaN or infinity for {len(bad)} of {count} {name}, the first at index "
            f"{start + bad[0]}.{cause}"
        )
    return scores


def values_behind(scores: np.ndarray, known: Labels, activation: Optional[str]) -> tuple[np.ndarray, Optional[str]]:
    """Returns what a model gives where the labels are values, as a sigmoid's estimate of a share: no logits.

    Args:
        scores: As `as_scores` returns them.
        known: The labels of all sets.
        activation: "softmax" or "sigmoid" whose logits the scores are, or None.

    Returns:
        The scores and the activation; of values, those behind the activation, and None.
    """
    if known.kind != VALUES or activation is None:
        return scores, activation
    return np.asarray(special.expit(scores) if activation == "sigmoid" else special.softmax(scores, axis=-1)), None


def are_probabilities(scores: np.ndarray) -> bool:
    """Returns whether scores (n, classes) look like probabilities: not negative, and rows that sum to about one."""
    return bool((scores >= 0).all() and (scores <= 1).all() and (abs(scores.sum(1) - 1) < _SUM_TOLERANCE).all())


def format_of(scores: np.ndarray, known: Labels, activation: Optional[str] = None) -> Format:
    """Returns how outputs are read, by the labels and by their own range.

    One unit is a probability of class 1 where it lies from 0 to 1, else a logit, if the labels are 0 and 1; of other
    labels it is a value. Rows of scores are probabilities where they sum to about one (0.05, in nine of ten rows),
    sigmoids where they lie from 0 to 1 but do not, else logits; with several labels of a record each is a sigmoid of
    its own.

    Args:
        scores: As `as_scores` returns them.
        known: The labels of all sets.
        activation: "softmax" or "sigmoid" where the scores are known to be the logits of one; None where nothing is.

    Raises:
        ValueError: Labels of a kind that such outputs do not go with.
    """
    within = bool(scores.size and scores.min() >= 0 and scores.max() <= 1)
    fine = within and scores.dtype.kind == "f" and bool(((scores > 0) & (scores < SMALLEST_STEP)).any())
    if scores.ndim == 1:
        return _format_of_one(scores, known, activation, within, fine)
    width = scores.shape[1]
    if known.kind == CLASSES:
        _check_classes(known, width)
        if activation is not None or not within:
            return Format(SIGMOID_LOGITS if activation == "sigmoid" else LOGITS)
        sums = np.mean(abs(scores.sum(1) - 1) < _SUM_TOLERANCE)
        return Format(PROBABILITIES if sums >= _ROWS_THAT_SUM else SIGMOIDS, fine)
    if known.shape != (width,):
        if known.where is not None:
            raise ValueError(
                f"audit: The target gives {width} scores for each record, and the label at index {known.where} is no "
                f"class: labels go from {known.low:g} to {known.high:g}. Expected integer classes from 0 to "
                f"{width - 1}."
            )
        raise ValueError(
            f"audit: The target gives {width} scores for each record, and labels have shape (n, "
            f"{', '.join(map(str, known.shape))}). Give one label for each score, or one class for each record."
        )
    if known.kind == VALUES:
        return Format(VALUES, scale=known.scale)
    return Format(SIGMOIDS, fine) if within and activation is None else Format(SIGMOID_LOGITS)


def _check_classes(known: Labels, width: int) -> None:
    if known.low < 0 or known.high >= width:
        hint = ""
        if known.high == width and known.low == 1:
            hint = " They start at 1: pass y - 1."
        elif known.low < 0:
            hint = " Some are negative: pass (y > 0).astype(int) of labels -1 and 1."
        raise ValueError(
            f"audit: Label {known.high if known.high >= width else known.low:g} is beyond the target's {width} classes "
            f"(0 to {width - 1}).{hint}"
        )


def _format_of_one(scores: np.ndarray, known: Labels, activation: Optional[str], within: bool, fine: bool) -> Format:
    if known.shape:
        raise ValueError(
            f"audit: The target gives one output for each record, and labels have shape (n, "
            f"{', '.join(map(str, known.shape))}). Give one label for each record."
        )
    if activation is not None:
        _check_one_unit(known, within=True)
        return Format(SIGMOID_LOGITS)
    is_whole = scores.dtype.kind in "iu" or bool(np.all(np.mod(scores, 1) == 0))
    if known.kind == CLASSES and is_whole:
        return Format(HARD)
    if known.are_binary:
        return Format(SIGMOIDS, fine) if within else Format(SIGMOID_LOGITS)
    _check_one_unit(known, within)
    return Format(VALUES, scale=known.scale)


def _check_one_unit(known: Labels, within: bool) -> None:
    """Raises ValueError for labels that a probability of class 1 cannot have."""
    if within and known.kind == CLASSES and not known.are_binary:
        several = len(known.numbers) > 2
        way = "pass a model with one output for each class" if several else f"pass (y == {known.high:g}).astype(int)"
        raise ValueError(
            f"audit: The target gives one output for each record, from 0 to 1, and labels go from {known.low:g} to "
            f"{known.high:g}. One unit is the probability of class 1, with labels 0 and 1: {way}; of values in a "
            "larger range than 0 to 1 such outputs are no estimates."
        )
