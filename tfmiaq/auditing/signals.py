"""What an attacker sees of each record: the target's logits, and the loss on the true label."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Optional, Union

import numpy as np
from scipy import special

Records = tuple[Any, Any]
Target = Union[Any, bytes, str, "os.PathLike[str]", Callable[[np.ndarray], np.ndarray]]

# int8 probabilities have steps of 1/256, so that rows sum to one only about.
_SUM_TOLERANCE = 0.05
_SMALLEST_PROBABILITY = 1e-7


@dataclasses.dataclass(frozen=True)
class Signals:
    """Per-record signals of one set.

    Attributes:
        logits: Shape (n, classes), float; log-probabilities where the target answers probabilities.
        labels: Shape (n,), int, the true classes.
        losses: Shape (n,), cross-entropy on the true class, in nats.
    """

    logits: np.ndarray
    labels: np.ndarray
    losses: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether the target's top class is the true one, shape (n,)."""
        return self.logits.argmax(1) == self.labels


def _pair(records: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(records, (tuple, list)) or len(records) != 2:
        raise TypeError(f"audit: Expected {name} as a pair (x, y). Received {type(records).__name__}.")
    x, y = (np.asarray(part) for part in records)
    if not len(x.shape) or not len(y.shape) or not len(x) or not len(y):
        raise ValueError(f"audit: {name} holds no records (x of shape {x.shape}, y of shape {y.shape}).")
    if len(x) != len(y):
        raise ValueError(f"audit: {name} has {len(x)} records and {len(y)} labels; give one label for each record.")
    if np.issubdtype(x.dtype, np.inexact) and not np.isfinite(x).all():
        bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
        raise ValueError(f"audit: {name} has NaN or infinity in {len(bad)} records, the first at index {bad[0]}.")
    return x, _labels(y, name)


def _labels(y: np.ndarray, name: str) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2:
        if not (((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()):
            raise ValueError(
                f"audit: Labels of {name} have shape {y.shape} and are not one-hot. Expected integer classes of "
                "shape (n,) or one-hot rows; multi-label targets are not supported."
            )
        return y.argmax(1).astype(np.int64)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.number) or not np.all(np.mod(y, 1) == 0) or (y < 0).any():
        raise ValueError(
            f"audit: Labels of {name} have shape {y.shape} and type {y.dtype}. Expected integer classes from 0 on, "
            "shape (n,), or one-hot rows."
        )
    return y.astype(np.int64)


def check_records(members: Any, non_members: Any) -> tuple[Records, Records]:
    """Both sets as arrays with integer labels.

    Raises:
        TypeError: A set that is no pair (x, y).
        ValueError: An empty set, NaN, records of different shapes or types, labels that are no classes.
    """
    (x_in, y_in), (x_out, y_out) = _pair(members, "members"), _pair(non_members, "non_members")
    if x_in.shape[1:] != x_out.shape[1:]:
        raise ValueError(
            f"audit: Members have records of shape {x_in.shape[1:]} and non_members of shape {x_out.shape[1:]}. "
            "Both must come from one preprocessing."
        )
    if np.issubdtype(x_in.dtype, np.integer) != np.issubdtype(x_out.dtype, np.integer):
        raise ValueError(
            f"audit: Members are {x_in.dtype} and non_members {x_out.dtype}. Scale both alike: a difference in "
            "preprocessing tells members apart by itself."
        )
    return (x_in, y_in), (x_out, y_out)


def _predictor(target: Target, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    if isinstance(target, (bytes, bytearray, memoryview, str, os.PathLike)):
        from tfmiaq.interpreter import Interpreter

        interpreter = Interpreter(bytes(target) if isinstance(target, (bytearray, memoryview)) else target)
        return lambda x: interpreter.predict(x, batch_size)
    if hasattr(target, "predict"):
        model: Any = target
        return lambda x: model.predict(x, batch_size=batch_size, verbose=0)
    if callable(target):
        return target
    raise TypeError(
        "audit: Expected a Keras model, a .tflite (path or bytes), or a function from records to scores as target. "
        f"Received {type(target).__name__}."
    )


def _logits(outputs: Any, count: int, name: str) -> np.ndarray:
    scores = np.asarray(outputs, np.float64)
    if scores.ndim != 2 or len(scores) != count or scores.shape[1] < 2:
        raise ValueError(
            f"audit: The target answered shape {scores.shape} for {count} {name}. Expected (n, classes) with at least "
            "two classes: probabilities or logits."
        )
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores).all(1))
        raise ValueError(
            f"audit: The target answered NaN or infinity for {len(bad)} of {count} {name}, the first at index {bad[0]}."
        )
    return scores


def _are_probabilities(scores: np.ndarray) -> bool:
    return bool((scores >= 0).all() and (scores <= 1).all() and (abs(scores.sum(1) - 1) < _SUM_TOLERANCE).all())


def extract(
    target: Target,
    members: Any,
    non_members: Any,
    batch_size: int = 256,
    progress: Optional[Callable[[str], None]] = None,
) -> tuple[Signals, Signals]:
    """Signals of members and of non-members.

    Args:
        target: Keras model, .tflite path or bytes, or function from records (n, ...) to probabilities or logits
            (n, classes). Rows of non-negative scores that sum to one are taken for probabilities.
        members: Pair (x, y) of training records; y integer classes (n,) or one-hot (n, classes).
        non_members: The same of records that were not trained on.
        batch_size: Records in one call.
        progress: Called with the name of each set before it is scored.

    Returns:
        Signals of the members and of the non-members.

    Raises:
        TypeError: A target or a set of another type.
        ValueError: As `check_records`, and for a target that answers other shapes, NaN or too few classes.
    """
    (x_in, y_in), (x_out, y_out) = check_records(members, non_members)
    predict = _predictor(target, batch_size)
    raw = []
    for x, name in ((x_in, "members"), (x_out, "non_members")):
        if progress:
            progress(name)
        raw.append(_logits(predict(x), len(x), name))
    if raw[0].shape[1] != raw[1].shape[1]:
        raise ValueError(f"audit: The target answered {raw[0].shape[1]} classes, then {raw[1].shape[1]}.")
    highest = max(int(y_in.max()), int(y_out.max()))
    if highest >= raw[0].shape[1]:
        raise ValueError(f"audit: Label {highest} is beyond the target's {raw[0].shape[1]} classes (0 to n - 1).")
    if all(map(_are_probabilities, raw)):
        raw = [np.log(np.maximum(scores, _SMALLEST_PROBABILITY)) for scores in raw]
    signals = []
    for logits, labels in zip(raw, (y_in, y_out)):
        losses = special.logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]
        signals.append(Signals(logits, labels, losses))
    return signals[0], signals[1]
