"""Targets: the outputs of a Keras model, a .tflite, a classifier, a function or a file, checked and in one form."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, Optional, Union

import numpy as np

from tfmiaq.loading.arrays import open_npy
from tfmiaq.signals.inputs import arrays, given, have_nan
from tfmiaq.signals.keras_models import keras_predictor
from tfmiaq.signals.outputs import SMALLEST_STEP, are_probabilities, as_scores
from tfmiaq.signals.records import Records, pair

Target = Union[Any, bytes, str, "os.PathLike[str]", Callable[[np.ndarray], np.ndarray], tuple[Any, Any]]

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
        return np.asarray(self.outputs)


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


def classes_of(target: Target) -> Optional[np.ndarray]:
    """Returns what a scikit-learn classifier calls its classes, in the order of its outputs; None where it has none."""
    found = getattr(target, "classes_", None)
    return np.asarray(found) if isinstance(found, np.ndarray) and found.ndim == 1 else None


def predictor(target: Target, batch_size: int, threads: Optional[int] = None) -> Callable[[Any], Any]:
    """Returns a function from records to the target's outputs.

    Of a Keras model that ends in a softmax or sigmoid it gives the logits in front of it, which hold the same and do
    not saturate; its attribute `activation` says so, as that of `Logits` does.

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
        return lambda x: interpreter.predict(arrays(x), batch_size)
    if hasattr(target, "predict_on_batch"):
        return keras_predictor(target, batch_size)
    for name in ("predict_proba", "predict"):
        if hasattr(target, name):
            return _Classifier(getattr(target, name), classes_of(target) if name == "predict" else None)
    if isinstance(target, Logits):
        return target
    if callable(target):
        function: Callable[[Any], Any] = target
        return lambda x: function(given(x))
    raise TypeError(
        "audit: Expected a Keras model, a .tflite (path or bytes), a function from records to scores, or a pair of "
        f"saved outputs as target. Received {type(target).__name__}."
    )


@dataclasses.dataclass(frozen=True)
class Logits:
    """A function from records to logits, a target of `signals.extract`.

    Attributes:
        function: Gives logits, shape (n, classes), of records.
        activation: "softmax" or "sigmoid", whose logits they are; None where that is not known.
    """

    function: Callable[[Any], Any]
    activation: Optional[str] = None

    def __call__(self, x: Any) -> Any:
        """Returns the logits of records."""
        return self.function(given(x))


@dataclasses.dataclass(frozen=True)
class _Classifier:
    """A method of a scikit-learn model, whose labels become the places of their classes."""

    method: Callable[[Any], Any]
    classes: Optional[np.ndarray]

    def __call__(self, x: Any) -> Any:
        found = self.method(given(x))
        if isinstance(found, list) and all(np.ndim(part) == 2 and np.shape(part)[1] == 2 for part in found):
            # Of several labels, for each the probabilities that a record lacks it and has it.
            return np.column_stack([part[:, 1] for part in found])
        if self.classes is None or np.ndim(found) != 1:
            return found
        places = {name: place for place, name in enumerate(self.classes.tolist())}
        return np.array([places[name] for name in np.asarray(found).tolist()], np.int64)


def with_all_classes(target: Target, count: int) -> Target:
    """Returns a target whose outputs have one column for each of some classes.

    A scikit-learn classifier has none for a class that its training set lacked: its probability is 0.

    Args:
        target: As for `signals.extract`. Its classes_ are places of classes, as the labels are that stages get.
        count: Number of classes.
    """
    classes = classes_of(target)
    if classes is None or not hasattr(target, "predict_proba") or classes.dtype.kind not in "iu":
        return target
    if len(classes) == count or classes.min() < 0 or classes.max() >= count:
        return target

    def all_classes(x: Any) -> np.ndarray:
        found: np.ndarray = np.zeros((len(x), count))
        found[:, classes] = target.predict_proba(x)
        return found

    return all_classes


def slices_of(count: int, batch_size: int) -> Iterator[slice]:
    """Returns the slices of n records that are scored in one piece, so that memory does not grow with their outputs."""
    size = batch_size * _BATCHES_IN_A_CHUNK
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def outputs_in_chunks(
    target: Target, records: Records, name: str, batch_size: int, threads: Optional[int]
) -> Iterator[tuple[np.ndarray, np.ndarray, Optional[str]]]:
    """Yields labels of some records, the target's checked outputs on them, and the activation whose logits they are.

    Args:
        target: As for `signals.extract`.
        records: Pair (x, y), as `records.pair` returns it.
        name: What errors call the records.
        batch_size: Records in one call of the model.
        threads: Threads of the .tflite interpreter; None for its default.

    Raises:
        TypeError: A target of another type.
        ValueError: As `outputs.as_scores`, and for saved outputs of another number than the records.
    """
    x, y = records
    if isinstance(target, SavedOutputs):
        saved = target.open()
        if len(saved) != len(y):
            raise ValueError(
                f"audit: {len(saved)} saved outputs for {len(y)} {name}. Give one for each record, in the order of the "
                "records."
            )
        for part in slices_of(len(y), batch_size):
            yield y[part], as_scores(saved[part], len(y[part]), name, part.start), None
        return
    if not np.prod(x.shape[1:]):
        raise ValueError(
            f"audit: x of {name} is None, and the target needs records. Leave x out with saved outputs alone, as a "
            "pair (of members, of non-members)."
        )
    predict = predictor(target, batch_size, threads)
    activation = getattr(predict, "activation", None)
    with_nan = have_nan(x)
    for part in slices_of(len(y), batch_size):
        outputs = predict(x[part])
        yield y[part], as_scores(outputs, len(y[part]), name, part.start, int(with_nan[part].sum())), activation


def log_probabilities(probabilities: np.ndarray, fine: bool = False) -> np.ndarray:
    """Returns the logarithms of probabilities, float64.

    Args:
        probabilities: Any shape.
        fine: Whether zero is less than the smallest number of the array's type, as in the outputs of a floating-point
            softmax. Without, as in outputs that are rounded to steps, probabilities count as at least 1e-7.
    """
    least = SMALLEST_STEP
    if fine:
        least = float(np.finfo(probabilities.dtype).smallest_subnormal)
    return np.asarray(np.log(np.maximum(probabilities.astype(np.float64), least)))


def log_odds(probabilities: np.ndarray, fine: bool = False) -> np.ndarray:
    """Returns log(p / (1 - p)), float64; 1 - p counts as at least half a step of the array's type in front of 1.

    Args:
        probabilities: Any shape, from 0 to 1.
        fine: As `log_probabilities`.
    """
    kind = probabilities.dtype
    half_a_step = np.finfo(kind).epsneg / 2 if kind.kind == "f" else SMALLEST_STEP
    rest = np.maximum(1 - probabilities.astype(np.float64), half_a_step)
    return np.asarray(log_probabilities(probabilities, fine) - np.log(rest))


def predict_logits(target: Target, x: np.ndarray, batch_size: int = 256, owner: str = "audit") -> np.ndarray:
    """Returns all outputs of a target on records, as logits.

    Args:
        target: As for `signals.extract`, but no saved outputs; of classes.
        x: Records, shape (n, ...).
        batch_size: Records in one call.
        owner: The function that was given the records, with which errors about them begin.

    Returns:
        Shape (n, classes); log-probabilities where the target gives probabilities. Of one unit, a sigmoid or its logit,
        two columns: 0, and the logit.

    Raises:
        TypeError: A target of another type.
        ValueError: No records, NaN, or a target that gives labels.
    """
    if not hasattr(x, "__len__"):
        raise TypeError(f"{owner}: Expected records, shape (n, ...). Received {x!r:.200}.")
    pair((x, np.zeros(len(x), int)), "records", owner)
    predict = predictor(target, batch_size)
    scores = as_scores(predict(x), len(x), "records")
    activation = getattr(predict, "activation", None)
    if scores.ndim == 1:
        if not np.mod(scores, 1).any():
            raise ValueError("Expected a target that gives scores of all classes. Received one that gives labels.")
        is_probability = activation is None and scores.min() >= 0 and scores.max() <= 1
        logits = log_odds(scores) if is_probability else scores.astype(np.float64)
        return np.stack([np.zeros(len(logits)), logits], axis=1)
    if activation is None and are_probabilities(scores):
        return log_probabilities(scores)
    return np.asarray(scores, np.float64)
