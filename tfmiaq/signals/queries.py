"""Augmented queries: several copies of each record, changed a little, and the target's outputs on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

import numpy as np

from tfmiaq.signals.records import Records
from tfmiaq.signals.signals import from_scores
from tfmiaq.signals.targets import Target, are_probabilities, check_outputs, predictor, slices_of

Queries = Callable[[np.ndarray, int], np.ndarray]

_SHIFTS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


def query_augmented(
    target: Target,
    records: Records,
    queries: Queries,
    count: int = 10,
    batch_size: int = 256,
    threads: Optional[int] = None,
) -> dict[str, np.ndarray]:
    """Returns signals of the target on augmented copies of records.

    Args:
        target: As for `signals.extract`, but no saved outputs.
        records: Pair (x, y), labels as integers.
        queries: Function from records and the number of a query, from 0 on, to copies of them, as `augmented_queries`.
        count: Number of queries for each record.
        batch_size: Records in one call.
        threads: Threads of the .tflite interpreter.

    Returns:
        The fields `label_agreement` and, of a target that gives scores, `augmented_confidences` of `Signals`, by name.
    """
    x, y = records
    predict = predictor(target, batch_size, threads)
    right: np.ndarray = np.zeros(len(y), np.float32)
    confidences: np.ndarray = np.zeros(len(y))
    only_labels = False
    for part in slices_of(len(y), batch_size):
        piece, labels = x[part], y[part]
        for number in range(count):
            scores = check_outputs(predict(queries(piece, number)), len(piece), "augmented queries", part.start)
            only_labels = scores.ndim == 1
            right[part] += (scores if only_labels else scores.argmax(1)) == labels
            if not only_labels:
                confidences[part] += from_scores(scores, labels, are_probabilities(scores)).confidences
    found = {"label_agreement": right / count}
    return found if only_labels else {**found, "augmented_confidences": confidences / count}


def augmented_queries(x: np.ndarray, number: int) -> np.ndarray:
    """Returns the copies of records that a label-only attacker queries (Choquette-Choo et al. 2021, section 4).

    Images (n, height, width, channels) are shifted by up to a pixel each way, in five directions, as they are and
    mirrored. Of integer or binary records one value in twenty is exchanged with another record's; to others Gaussian
    noise of a fifth of each feature's standard deviation is added.

    Args:
        x: Records of shape (n, ...).
        number: Number of the query, from 0 on.

    Returns:
        Array of the shape and type of `x`.
    """
    if x.ndim == 4:
        down, right = _SHIFTS[number % len(_SHIFTS)]
        pad = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        moved = pad[:, 1 + down : 1 + down + x.shape[1], 1 + right : 1 + right + x.shape[2]]
        return moved[:, :, ::-1] if number // len(_SHIFTS) % 2 else moved
    generator = np.random.default_rng(number)
    if np.issubdtype(x.dtype, np.integer) or np.all((x == 0) | (x == 1)):
        return np.where(generator.random(x.shape) < 0.05, x[generator.permutation(len(x))], x)
    noise = generator.normal(size=x.shape) * 0.2 * x.std(axis=0, keepdims=True)
    return (x + noise).astype(x.dtype)
