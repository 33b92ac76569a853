"""What a candidate is scored by: the leakage and the accuracy of a model on samples of records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq import metrics, signals

_BATCH, _CALIBRATION_RECORDS = 64, 640


@dataclasses.dataclass(frozen=True)
class Samples:
    """Records that allocations are scored on.

    Attributes:
        members: Pair (x, y) of records whose membership is attacked.
        non_members: Their counterparts.
        validation: Pair (x, y) of records for the accuracy; None if the non-members serve for it.
        calibration: Batches of training records, which statistics and ranges follow the bits on.
    """

    members: signals.Records
    non_members: signals.Records
    validation: Optional[signals.Records]
    calibration: tuple[np.ndarray, ...]

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Returns the arrays that a score depends on, for its fingerprint."""
        return (*self.members, *self.non_members, *(self.validation or ()))


def draw_samples(
    train: signals.Records,
    validation: signals.Records,
    members: Optional[Any],
    non_members: Optional[Any],
    count: int,
    seed: int,
) -> Samples:
    """Returns samples of the records that a search was given.

    Args:
        train: Pair (x, y) of training records.
        validation: Pair (x, y) of records that choose the policy.
        members: Pair (x, y) of records whose membership is attacked; None for the training records.
        non_members: Their counterparts; None for the validation records.
        count: Largest number of records of each sample.
        seed: Seed of the samples.

    Raises:
        TypeError, ValueError: As `signals.check_records`.
    """
    attacked = signals.check_records(
        train if members is None else members, validation if non_members is None else non_members, "search_policy"
    )
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(train[1]))
    starts = range(0, min(len(order), _CALIBRATION_RECORDS), _BATCH)
    return Samples(
        members=signals.sample(attacked[0], count, generator),
        non_members=signals.sample(attacked[1], count, generator),
        validation=None if non_members is None else signals.sample(validation, count, generator),
        calibration=tuple(train[0][order[start : start + _BATCH]] for start in starts),
    )


def measure(predict: Callable[[np.ndarray], np.ndarray], samples: Samples) -> tuple[float, float]:
    """Returns the leakage (AUC of the confidence attack) and the accuracy of a model.

    Args:
        predict: Function from records to logits or probabilities.
        samples: The records.

    Raises:
        ValueError: A model whose outputs are not those of at least two classes.
    """
    sets = [("members", predict, samples.members), ("non_members", predict, samples.non_members)]
    inside, outside = signals.extract_sets(sets)
    if inside.confidences is None or outside.confidences is None:
        raise ValueError("search_policy: Expected a model with logits or probabilities of at least two classes.")
    correct = outside.correct
    if samples.validation is not None:
        correct = predict(samples.validation[0]).argmax(-1) == samples.validation[1]
    leakage = metrics.auc_estimate(inside.confidences, outside.confidences).value
    return leakage, float(np.mean(correct))
