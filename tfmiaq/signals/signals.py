"""Signals: what an attacker sees of each record, taken in one pass and in batches; memory grows with records alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np
from scipy import special

from tfmiaq._checks import AT_LEAST_ONE, check, integer
from tfmiaq.signals.records import Records, pair
from tfmiaq.signals.targets import Target, are_probabilities, log_probabilities, outputs_in_chunks

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


class _NotProbabilitiesError(Exception):
    """The first outputs of a target looked like probabilities, and later ones do not."""


@dataclasses.dataclass(frozen=True)
class Signals:
    """Signals of n records.

    Of a target that gives labels, all but `labels`, `correct` and `label_agreement` are None.

    Attributes:
        labels: Shape (n,), int, the true classes.
        correct: Shape (n,), bool, whether the target's top class is the true one.
        losses: Shape (n,), cross-entropy on the true class, in nats, at least 0.
        confidences: Shape (n,), logit-scaled: log(p / (1 - p)) of the true class's probability p (Carlini et al. 2022,
            equation 2), from logits, so that it does not saturate.
        entropies: Shape (n,), entropy of the class probabilities, in nats.
        modified_entropies: Shape (n,), -(1 - p) log p - sum over other classes of q log(1 - q) (Song and Mittal 2021,
            equation 7).
        logits: Shape (n, at most 128), float32: all logits, or log-probabilities where the target gives probabilities.
            Of more than 128 classes, column j is the logarithm of what the classes j, j + 128, ... hold together.
        label_agreement: Shape (n,), part of a record's augmented queries whose label is right, or None without them.
        augmented_confidences: Shape (n,), mean over those queries of the logit-scaled confidence, or None.
        augmented_outputs: Shape (n, 3, at most 128), float16, means of the log-probabilities over three groups of those
            queries (`signals.AugmentedQueries`), or None. Of quantized outputs they tell how often classes tie.
        hidden: Shape (n, 3 or 0), float32, the size of the last hidden layer (`HeldModel.hidden`), or None for who does
            not hold the file.
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

    @property
    def outputs(self) -> np.ndarray:
        """Log-probabilities, the whole output in a compact form: shape (n, at most 128), float16, from -30 to 0."""
        return compact(normalized(self.logits))

    @property
    def features(self) -> np.ndarray:
        """What trained attacks learn from: shape (n, columns), float32, columns in the order of `FEATURES`."""
        top = np.sort(normalized(self.logits), axis=1)
        columns: dict[str, Any] = {
            "confidence": self.confidences,
            "loss": self.losses,
            "entropy": self.entropies,
            "modified_entropy": self.modified_entropies,
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

    def __repr__(self) -> str:
        return f"Signals({len(self.labels)} records: {', '.join(self.to_arrays())})"

    def __getitem__(self, index: Any) -> Signals:
        return Signals(**{name: part[index] for name, part in self.to_arrays().items()})

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the signals that are not None, by name."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: part for name, part in parts.items() if part is not None}

    @staticmethod
    def concatenate(parts: Sequence[Signals]) -> Signals:
        """Returns the signals of several sets as one, in order."""
        arrays = [part.to_arrays() for part in parts]
        return Signals(**{name: np.concatenate([array[name] for array in arrays]) for name in arrays[0]})


def normalized(logits: Any) -> np.ndarray:
    """Returns the log-probabilities of logits, shape (n, classes)."""
    return logits - special.logsumexp(logits, axis=1, keepdims=True)


def compact(log_p: np.ndarray) -> np.ndarray:
    """Returns log-probabilities as float16, those below -30 as -30."""
    return np.maximum(log_p, _LEAST_LOG_PROBABILITY).astype(np.float16)


def from_scores(scores: np.ndarray, labels: np.ndarray, are_probabilities: bool) -> Signals:
    """Returns the signals of scored records.

    Args:
        scores: Shape (n, classes), finite logits or probabilities.
        labels: Shape (n,), classes from 0 on.
        are_probabilities: Which of the two they are.
    """
    rows = np.arange(len(labels))
    logits: np.ndarray = scores.astype(np.float64)
    if are_probabilities:
        logits = log_probabilities(logits)
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
        target: Keras model, scikit-learn classifier, .tflite path or bytes, function from records (n, ...) to
            probabilities or logits (n, classes) or to labels (n,), or `SavedOutputs`. Rows of non-negative scores that
            sum to one are taken for probabilities.
        records: Pair (x, y); y integer classes (n,) or one-hot (n, classes). x may be None with saved outputs.
        name: What errors call the records.
        batch_size: Records in one call.
        progress: Called with `name` before the records are scored.
        threads: Threads of the .tflite interpreter; None for its default.

    Raises:
        TypeError: A target or a set of another type.
        ValueError: As `records.pair`, and for a target that gives other shapes, NaN or too few classes.
    """
    options = check("extract", batch_size=(batch_size, AT_LEAST_ONE), threads=(threads, integer(1, or_none=True)))
    (found,) = extract_sets([(name, target, pair(records, name, "extract"))], progress=progress, **options)
    return found


def extract_sets(
    sets: Sequence[tuple[str, Target, Records]],
    batch_size: int = 256,
    progress: Optional[Callable[[str], None]] = None,
    threads: Optional[int] = None,
) -> list[Signals]:
    """Returns the signals of several sets whose outputs come from one model.

    Whether the outputs are probabilities or logits is decided once, for all of the sets.

    Args:
        sets: For each set its name, the target that it is scored with, and its records with integer labels.
        batch_size: As `extract`.
        progress: As `extract`.
        threads: As `extract`.

    Raises:
        TypeError: As `extract`.
        ValueError: As `extract`, and for sets of which one has scores and another labels.
    """
    assume_probabilities = None
    while True:
        try:
            found = _read(sets, batch_size, progress, threads, assume_probabilities)
            break
        except _NotProbabilitiesError:
            # A second reading, once the first one's arrays are gone with the exception that holds them.
            assume_probabilities = False
    if len({signals.losses is None for signals in found}) > 1:
        raise ValueError("audit: The target gave scores for one set and labels for the other.")
    return found


def _read(
    sets: Sequence[tuple[str, Target, Records]],
    batch_size: int,
    progress: Optional[Callable[[str], None]],
    threads: Optional[int],
    assume_probabilities: Optional[bool],
) -> list[Signals]:
    classes = None
    found = []
    for name, target, records in sets:
        if progress:
            progress(name)
        parts = []
        for labels, scores in outputs_in_chunks(target, records, name, batch_size, threads):
            if scores.ndim == 1:
                parts.append(Signals(labels=labels, correct=scores == labels))
                continue
            classes = classes or scores.shape[1]
            if scores.shape[1] != classes:
                raise ValueError(f"audit: The target gave scores of {classes} classes, then of {scores.shape[1]}.")
            if labels.max() >= classes:
                raise ValueError(f"audit: Label {labels.max()} is beyond the target's {classes} classes (0 to n - 1).")
            looks_so = assume_probabilities is not False and are_probabilities(scores)
            if assume_probabilities and not looks_so:
                raise _NotProbabilitiesError
            assume_probabilities = looks_so
            parts.append(from_scores(scores, labels, looks_so))
        found.append(Signals.concatenate(parts))
    return found
