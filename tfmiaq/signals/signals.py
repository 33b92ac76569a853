"""Signals: what an attacker sees of each record, taken in one pass and in batches; memory grows with records alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np
from scipy import special

from tfmiaq._checks import AT_LEAST_ONE, check, integer
from tfmiaq.signals import outputs as kinds
from tfmiaq.signals.outputs import CLASSES, SEVERAL, VALUES, Format
from tfmiaq.signals.records import Records, pair
from tfmiaq.signals.targets import Target, classes_of, log_odds, log_probabilities, outputs_in_chunks

# Of more classes than this, those whose numbers leave the same remainder are kept together.
KEPT_CLASSES = 128
# Columns of `Signals.features` and of `Signals.augmented`.
FEATURES = (
    "confidence",
    "loss",
    "entropy",
    "modified_entropy",
    "correct",
    "largest_log_probability",
    "second_log_probability",
)
_LEAST_LOG_PROBABILITY = -30.0
AUGMENTED = ("label_agreement", "augmented_confidence")
# Squared errors, in variances of the labels, below which confidences do not grow, and up to which a value is right.
_LEAST_ERROR, _RIGHT = 1e-6, 0.25


class _OtherFormatError(Exception):
    """The first outputs of a target could be taken for another format than later ones say."""

    def __init__(self, found: Format) -> None:
        super().__init__(found)
        self.found = found


@dataclasses.dataclass(frozen=True)
class Signals:
    """Signals of n records.

    Of a target that gives labels, all but `labels`, `correct` and `label_agreement` are None. With several labels of a
    record, each a sigmoid of its own, p below is the probability that all of them are as they are: the product over the
    labels. Of values (regression), the entropies and `logits` are None.

    Attributes:
        labels: Shape (n,), int, the true classes. With several labels of a record, how many it has; of values, in which
            quarter of them it lies, 0 to 3.
        correct: Shape (n,), bool, whether the target's top class is the true one; whether all of several labels are
            right; whether a value is less than half a standard deviation of the values off.
        losses: Shape (n,), cross-entropy on the true class, in nats, at least 0; of several labels the sum; of values
            the squared error, in squares of their unit.
        confidences: Shape (n,), logit-scaled: log(p / (1 - p)) of the true class's probability p (Carlini et al. 2022,
            equation 2), from logits, so that it does not saturate. Of values -log(e + 1e-6), where e is the squared
            error in variances of the values: the same of p = 1 / (1 + e).
        entropies: Shape (n,), entropy of the class probabilities, in nats.
        modified_entropies: Shape (n,), -(1 - p) log p - sum over other classes of q log(1 - q) (Song and Mittal 2021,
            equation 7).
        logits: Shape (n, at most 128), float32: all logits, or log-probabilities where the target gives probabilities.
            Of more than 128 classes, column j is the logarithm of what the classes j, j + 128, ... hold together. One
            unit is two logits, of which the first is 0.
        label_agreement: Shape (n,), part of a record's augmented queries whose label is right, or None without them.
        augmented_confidences: Shape (n,), mean over those queries of the logit-scaled confidence, or None.
        augmented_outputs: Shape (n, 3, at most 128), float16, means of the log-probabilities over three groups of those
            queries (`signals.AugmentedQueries`), or None. Of quantized outputs they tell how often classes tie.
        hidden: Shape (n, 3 or 0), float32, the size of the last hidden layer (`HeldModel.hidden`), or None for who does
            not hold the file.
        residuals: Shape (n, 2), of values: the output and the signed error, means over columns, in standard deviations
            of the values; else None.
        task: "classes", "several labels" or "values": what the labels are.
    """

    labels: np.ndarray
    correct: np.ndarray
    losses: Optional[np.ndarray] = None
    confidences: Optional[np.ndarray] = None
    entropies: Optional[np.ndarray] = None
    modified_entropies: Optional[np.ndarray] = None
    logits: Optional[np.ndarray] = None
    label_agreement: Optional[np.ndarray] = None
    augmented_confidences: Optional[np.ndarray] = None
    augmented_outputs: Optional[np.ndarray] = None
    hidden: Optional[np.ndarray] = None
    residuals: Optional[np.ndarray] = None
    task: str = CLASSES

    @property
    def outputs(self) -> np.ndarray:
        """Log-probabilities, the whole output in a compact form: shape (n, at most 128), float16, from -30 to 0.

        With several labels of a record, those of each label; of values, zeros of shape (n, 1).
        """
        return compact(self.log_p)

    @property
    def log_p(self) -> np.ndarray:
        """Log-probabilities, float64, as `outputs`."""
        if self.logits is None:
            return np.zeros((len(self.labels), 1))
        return log_sigmoid(self.logits) if self.task == SEVERAL else normalized(self.logits)

    @property
    def features(self) -> np.ndarray:
        """What trained attacks learn from: shape (n, columns), float32, columns in the order of `FEATURES`.

        Of values the entropies are 0, and the last two columns are `residuals`.
        """
        none: np.ndarray = np.zeros(len(self.labels))
        top = np.sort(self.log_p, axis=1) if self.residuals is None else self.residuals[:, ::-1]
        columns: dict[str, Any] = {
            "confidence": self.confidences,
            "loss": self.losses,
            "entropy": none if self.entropies is None else self.entropies,
            "modified_entropy": none if self.modified_entropies is None else self.modified_entropies,
            "correct": self.correct,
            "largest_log_probability": top[:, -1],
            "second_log_probability": top[:, -2],
        }
        return np.column_stack([columns[name] for name in FEATURES]).astype(np.float32)

    @property
    def augmented(self) -> Optional[np.ndarray]:
        """Signals of augmented queries: shape (n, columns), float32, columns in the order of `AUGMENTED`, or None."""
        columns = {"label_agreement": self.label_agreement, "augmented_confidence": self.augmented_confidences}
        if any(column is None for column in columns.values()):
            return None
        return np.column_stack([columns[name] for name in AUGMENTED]).astype(np.float32)

    def class_name(self, label: int) -> str:
        """Returns what records of one of `labels` are called: "class 3", "2 labels", "value in quarter 1 of 4"."""
        if self.task == SEVERAL:
            return f"{label} label{'' if label == 1 else 's'}"
        return f"value in quarter {label + 1} of 4" if self.task == VALUES else f"class {label}"

    def __repr__(self) -> str:
        return f"Signals({len(self.labels)} records: {', '.join(self.to_arrays())})"

    def __getitem__(self, index: Any) -> Signals:
        return Signals(**{name: part[index] for name, part in self.to_arrays().items()}, task=self.task)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the signals that are not None, by name, without `task`."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "task"}
        return {name: part for name, part in parts.items() if part is not None}

    @staticmethod
    def concatenate(parts: Sequence[Signals]) -> Signals:
        """Returns the signals of several sets as one, in order."""
        arrays = [part.to_arrays() for part in parts]
        joined = {name: np.concatenate([array[name] for array in arrays]) for name in arrays[0]}
        return Signals(**joined, task=parts[0].task)


def normalized(logits: Any) -> np.ndarray:
    """Returns the log-probabilities of logits, shape (n, classes)."""
    return logits - special.logsumexp(logits, axis=1, keepdims=True)


def log_sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the sigmoids of logits, float64, without loss at either end."""
    return -np.logaddexp(0.0, -logits.astype(np.float64))


def compact(log_p: np.ndarray) -> np.ndarray:
    """Returns log-probabilities as float16, those below -30 as -30."""
    return np.maximum(log_p, _LEAST_LOG_PROBABILITY).astype(np.float16)


def from_scores(scores: np.ndarray, labels: np.ndarray, are_probabilities: bool, fine: bool = False) -> Signals:
    """Returns the signals of scored records.

    Args:
        scores: Shape (n, classes), finite logits or probabilities.
        labels: Shape (n,), classes from 0 on.
        are_probabilities: Which of the two they are.
        fine: As `targets.log_probabilities`.
    """
    rows = np.arange(len(labels))
    logits: np.ndarray = log_probabilities(scores, fine) if are_probabilities else scores.astype(np.float64)
    log_p = logits - special.logsumexp(logits, axis=1, keepdims=True)
    own = log_p[rows, labels]
    others = log_p.copy()
    others[rows, labels] = -np.inf
    # log(1 - p) of the true class is what the others hold together.
    rest = special.logsumexp(others, axis=1)
    probabilities = np.exp(log_p)
    # The largest other probability nears 1, where log(1 - q) needs the same care.
    not_others = np.log1p(-np.minimum(np.exp(others), 1 - 1e-12))
    correct = logits.argmax(1) == labels
    if logits.shape[1] > KEPT_CLASSES:
        columns = [special.logsumexp(logits[:, column::KEPT_CLASSES], axis=1) for column in range(KEPT_CLASSES)]
        logits = np.column_stack(columns)
    return Signals(
        labels=labels,
        correct=correct,
        losses=np.maximum(-own, 0.0),
        confidences=own - rest,
        entropies=-(probabilities * log_p).sum(1),
        modified_entropies=-np.exp(rest) * own - (np.exp(others) * not_others).sum(1),
        logits=logits.astype(np.float32),
    )


def from_sigmoids(logits: np.ndarray, labels: np.ndarray) -> Signals:
    """Returns the signals of records that each sigmoid says one label of.

    Args:
        logits: Shape (n, k), finite logits of k sigmoids.
        labels: Shape (n, k), 0 or 1 each; or (n,), the one label of k that each record has, from 0 on.
    """
    of_classes = labels.ndim == 1
    y = np.eye(logits.shape[1], dtype=bool)[labels] if of_classes else labels == 1
    margins: np.ndarray = np.where(y, logits, -logits).astype(np.float64)
    log_p = log_sigmoid(margins)
    own = log_p.sum(1)
    # log(1 - p) of the whole: near p = 1 the sum of what each label lacks, near 0 log1p.
    sure = own > -np.log(2)
    lacking = np.maximum(-np.expm1(np.where(sure, own, -1.0)), np.finfo(np.float64).tiny)
    rest = np.where(sure, np.log(lacking), np.log1p(-np.exp(np.where(sure, -1.0, own))))
    p = np.exp(log_p)
    kept: np.ndarray = logits.astype(np.float64)
    if kept.shape[1] > KEPT_CLASSES:
        kept = np.column_stack([kept[:, column::KEPT_CLASSES].mean(1) for column in range(KEPT_CLASSES)])
    return Signals(
        labels=labels if of_classes else y.sum(1).astype(np.int64),
        correct=logits.argmax(1) == labels if of_classes else (margins > 0).all(1),
        losses=np.maximum(-own, 0.0),
        confidences=own - rest,
        entropies=-(p * log_p + special.expit(-margins) * log_sigmoid(-margins)).sum(1),
        modified_entropies=-2 * (special.expit(-margins) * log_p).sum(1),
        logits=kept.astype(np.float32),
        task=CLASSES if of_classes else SEVERAL,
    )


def from_values(outputs: np.ndarray, values: np.ndarray, scale: float, quarters: np.ndarray) -> Signals:
    """Returns the signals of values that a target estimates.

    Args:
        outputs: Shape (n,) or (n, d).
        values: The true ones, of the same shape.
        scale: Variance of the values.
        quarters: Shape (3,), the quartiles of the values; of several columns, of their sum.
    """
    errors = (outputs.astype(np.float64) - values).reshape(len(values), -1)
    losses = (errors**2).mean(1)
    spread = np.sqrt(scale)
    centered = outputs.reshape(len(values), -1).mean(1) / spread
    return Signals(
        labels=np.searchsorted(quarters, values.reshape(len(values), -1).sum(1)).astype(np.int64),
        correct=losses < _RIGHT * scale,
        losses=losses,
        confidences=-np.log(losses / scale + _LEAST_ERROR),
        residuals=np.column_stack([centered, errors.mean(1) / spread]),
        task=VALUES,
    )


def read_signals(scores: np.ndarray, labels: np.ndarray, known: kinds.Labels, found: Format) -> Signals:
    """Returns the signals of outputs in a format.

    Args:
        scores: As `outputs.as_scores` returns them.
        labels: As `labels.read_labels` returns them.
        known: What is known of the labels of all sets.
        found: As `outputs.format_of` returns it.
    """
    if found.kind == kinds.HARD:
        return Signals(labels=labels, correct=scores == labels)
    if found.kind == VALUES:
        return from_values(scores, labels.astype(np.float64), known.scale, np.array(known.quarters))
    if found.kind == kinds.LOGITS:
        return from_scores(scores, labels, are_probabilities=False)
    if found.kind == kinds.PROBABILITIES:
        return from_scores(scores, labels, are_probabilities=True, fine=found.fine)
    logits = log_odds(scores, found.fine) if found.kind == kinds.SIGMOIDS else scores
    if logits.ndim == 1:
        return from_scores(np.column_stack([np.zeros(len(logits)), logits]), labels, are_probabilities=False)
    return from_sigmoids(logits, labels)


def extract(
    target: Target,
    records: Any,
    *,
    name: str = "records",
    batch_size: int = 256,
    progress: Optional[Callable[[str], None]] = None,
    threads: Optional[int] = None,
) -> Signals:
    """Returns the signals of a set of records.

    Example:
        >>> found = tfmiaq.signals.extract(model, (x, y))
        >>> found.confidences.mean()

    Args:
        target: Keras model, scikit-learn classifier or regressor, .tflite path or bytes, function from records (n, ...)
            to outputs, or `SavedOutputs`. Outputs are probabilities or logits (n, classes), one unit (n, 1) or (n,), a
            sigmoid or its logit, values (n,) or (n, d), or labels (n,); `outputs.format_of` says which is taken for
            what.
        records: Pair (x, y), or a tf.data.Dataset of such pairs; y integer classes (n,), one-hot rows, rows of several
            labels, values, or names that a scikit-learn classifier has in its classes_. x an array, a DataFrame, or a
            dict or list of arrays; None with saved outputs.
        name: What errors call the records.
        batch_size: Records in one call.
        progress: Called with `name` before the records are scored.
        threads: Threads of the .tflite interpreter; None for its default.

    Raises:
        TypeError: A target or a set of another type.
        ValueError: As `records.pair`, and for a target that gives other shapes or NaN, or outputs that do not go with
            the labels.
    """
    options = check("extract", batch_size=(batch_size, AT_LEAST_ONE), threads=(threads, integer(1, or_none=True)))
    found = pair(records, name, "extract", any_kind=True, classes=classes_of(target))
    (signals,) = extract_sets([(name, target, found)], progress=progress, **options)
    return signals


def extract_sets(
    sets: Sequence[tuple[str, Target, Records]],
    batch_size: int = 256,
    progress: Optional[Callable[[str], None]] = None,
    threads: Optional[int] = None,
) -> list[Signals]:
    """Returns the signals of several sets whose outputs come from one model.

    What the outputs are is decided once, for all of the sets.

    Args:
        sets: For each set its name, the target that it is scored with, and its records, as `records.pair` returns them.
        batch_size: As `extract`.
        progress: As `extract`.
        threads: As `extract`.

    Raises:
        TypeError: As `extract`.
        ValueError: As `extract`, and for sets of which one has scores and another labels.
    """
    known = kinds.Labels.of([labels for _, _, (_, labels) in sets])
    assumed: Optional[Format] = None
    while True:
        try:
            found = _read(sets, batch_size, progress, threads, known, assumed)
            break
        except _OtherFormatError as error:
            # Another reading, once the first one's arrays are gone with the exception that holds them.
            assumed = error.found
    if len({signals.losses is None for signals in found}) > 1:
        raise ValueError("audit: The target gave scores for one set and labels for the other.")
    return found


def _read(
    sets: Sequence[tuple[str, Target, Records]],
    batch_size: int,
    progress: Optional[Callable[[str], None]],
    threads: Optional[int],
    known: kinds.Labels,
    assumed: Optional[Format],
) -> list[Signals]:
    shapes: dict[int, tuple[int, ...]] = {}
    found = []
    for name, target, records in sets:
        if progress:
            progress(name)
        parts = []
        for labels, scores, activation in outputs_in_chunks(target, records, name, batch_size, threads):
            shape = shapes.setdefault(scores.ndim, scores.shape[1:])
            if scores.shape[1:] != shape:
                raise ValueError(f"audit: The target gave scores of {shape[0]} classes, then of {scores.shape[1]}.")
            if len(shapes) > 1:
                raise ValueError("audit: The target gave scores for one set and labels for the other.")
            scores, activation = kinds.values_behind(scores, known, activation)
            of_part = kinds.format_of(scores, known, activation)
            wider = of_part if assumed is None else assumed.joined(of_part)
            if assumed is not None and wider != assumed:
                raise _OtherFormatError(wider)
            assumed = wider
            parts.append(read_signals(scores, labels, known, assumed))
        found.append(Signals.concatenate(parts))
    return found
