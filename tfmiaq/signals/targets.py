"""Targets: the outputs of a Keras model, a .tflite, a classifier, a function or a file, checked and in one form."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, Optional, Union

import numpy as np

from tfmiaq.loading.arrays import open_npy
from tfmiaq.signals.keras_models import keras_predictor
from tfmiaq.signals.records import Records, pair

Target = Union[Any, bytes, str, "os.PathLike[str]", Callable[[np.ndarray], np.ndarray], tuple[Any, Any]]

# int8 probabilities have steps of 1/256, so that rows sum to one only about.
_SUM_TOLERANCE = 0.05
_SMALLEST_PROBABILITY = 1e-7
_BATCHES_IN_A_CHUNK = 8


@dataclasses.dataclass(frozen=True)
class SavedOutputs:
    """Outputs of a model that were saved, in the place of the model: a target of one set of records.

    Attributes:
        outputs: Shape (n, classes) or (n,), or the path of a .npy file, which is read in chunks.
    """

    outputs: Any

    def open(self) -> Any:
        """Returns the outputs as an array; those of a file stay on the disk."""
        if isinstance(self.outputs, (str, os.PathLike)):
            return open_npy(self.outputs)
        return self.outputs


def targets_of_sets(target: Target) -> tuple[Any, Any]:
    """Returns the targets of members and of non-members: one target twice, or saved outputs of each.

    Raises:
        ValueError: Saved outputs that are no pair.
    """
    if not isinstance(target, (tuple, list)):
        return target, target
    if len(target) != 2:
        raise ValueError(
            f"audit: Expected saved outputs as a pair (of members, of non-members). Received {len(target)}."
        )
    return SavedOutputs(target[0]), SavedOutputs(target[1])


def predictor(target: Target, batch_size: int, threads: Optional[int] = None) -> Callable[[np.ndarray], Any]:
    """Returns a function from records to the target's outputs.

    Args:
        target: As for `signals.extract`, but no saved outputs.
        batch_size: Records in one call of the model.
        threads: Threads of the .tflite interpreter; None for its default.

    Raises:
        TypeError: A target of another type.
    """
    if isinstance(target, (bytes, bytearray, memoryview, str, os.PathLike)):
        from tfmiaq.tflite.interpreter import Interpreter

        content = bytes(target) if isinstance(target, (bytearray, memoryview)) else target
        interpreter = Interpreter(content, threads=threads)
        return lambda x: interpreter.predict(x, batch_size)
    if hasattr(target, "predict_on_batch"):
        return keras_predictor(target, batch_size)
    for name in ("predict_proba", "predict"):
        if hasattr(target, name):
            return getattr(target, name)
    if callable(target):
        return target
    raise TypeError(
        "audit: Expected a Keras model, a .tflite (path or bytes), a function from records to scores, or a pair of "
        f"saved outputs as target. Received {type(target).__name__}."
    )


def slices_of(count: int, batch_size: int) -> Iterator[slice]:
    """Returns the slices of n records that are scored in one piece, so that memory does not grow with their outputs."""
    size = batch_size * _BATCHES_IN_A_CHUNK
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def outputs_in_chunks(
    target: Target, records: Records, name: str, batch_size: int, threads: Optional[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the labels of some records and the target's checked outputs on them, until all records are through.

    Args:
        target: As for `signals.extract`.
        records: Pair (x, y), labels as integers.
        name: What errors call the records.
        batch_size: Records in one call of the model.
        threads: Threads of the .tflite interpreter; None for its default.

    Raises:
        TypeError: A target of another type.
        ValueError: As `check_outputs`, and for saved outputs of another number than the records.
    """
    x, y = records
    if isinstance(target, SavedOutputs):
        saved = target.open()
        if len(saved) != len(y):
            raise ValueError(f"audit: {len(saved)} saved outputs for {len(y)} {name}.")
        for part in slices_of(len(y), batch_size):
            yield y[part], check_outputs(saved[part], len(y[part]), name, part.start)
        return
    predict = predictor(target, batch_size, threads)
    for part in slices_of(len(y), batch_size):
        yield y[part], check_outputs(predict(x[part]), len(y[part]), name, part.start)


def check_outputs(outputs: Any, count: int, name: str, start: int = 0) -> np.ndarray:
    """Returns scores (n, classes), or the labels (n,) of a target that gives those.

    Args:
        outputs: What the target gave.
        count: Number of records it was queried with.
        name: What errors call the records.
        start: Index of the first of them.

    Raises:
        ValueError: Another shape, fewer than two classes, NaN or infinity.
    """
    scores = np.asarray(outputs)
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    are_labels = scores.ndim == 1 and np.issubdtype(scores.dtype, np.integer)
    if len(scores) != count or not (are_labels or (scores.ndim == 2 and scores.shape[1] >= 2)):
        raise ValueError(
            f"audit: The target gave outputs of shape {np.shape(outputs)} for {count} {name}. Expected (n, classes) "
            "with at least two classes, probabilities or logits, or integer labels of shape (n,)."
        )
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores.reshape(count, -1)).all(1))
        raise ValueError(
            f"audit: The target gave NaN or infinity for {len(bad)} of {count} {name}, the first at index "
            f"{start + bad[0]}."
        )
    return scores


def are_probabilities(scores: np.ndarray) -> bool:
    """Returns whether scores (n, classes) look like probabilities: not negative, and rows that sum to about one."""
    return bool((scores >= 0).all() and (scores <= 1).all() and (abs(scores.sum(1) - 1) < _SUM_TOLERANCE).all())


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Returns the logarithms of probabilities of at least 1e-7 each, float64."""
    return np.asarray(np.log(np.maximum(probabilities, _SMALLEST_PROBABILITY)), np.float64)


def predict_logits(target: Target, x: np.ndarray, batch_size: int = 256, owner: str = "audit") -> np.ndarray:
    """Returns all outputs of a target on records, as logits.

    Args:
        target: As for `signals.extract`, but no saved outputs.
        x: Records, shape (n, ...).
        batch_size: Records in one call.
        owner: The function that was given the records, with which errors about them begin.

    Returns:
        Shape (n, classes); log-probabilities where the target gives probabilities.

    Raises:
        TypeError: A target of another type.
        ValueError: No records, NaN, or a target that gives labels.
    """
    pair((x, np.zeros(len(x), int)), "records", owner)
    scores = check_outputs(predictor(target, batch_size)(x), len(x), "records")
    if scores.ndim == 1:
        raise ValueError("Expected a target that gives scores of all classes. Received one that gives labels.")
    if are_probabilities(scores):
        return log_probabilities(scores)
    return np.asarray(scores, np.float64)
