"""Training sets of reference models: as large as the target's where the records allow it."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Optional

import numpy as np

from tfmiaq.signals.groups import group_folds
from tfmiaq.signals.records import Records
from tfmiaq.signals.reference_models import ReferenceModels

# Sets whose sizes differ by less than this part count as alike.
ALIKE = 0.1
# A record is expected in the sets of this many models, and outside of as many, whatever the target's size.
_FEWEST_OF_A_KIND = 2
# Models that all train on the whole population would differ by chance alone.
_MOST_OF_POPULATION = 0.75


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSets:
    """Training sets of reference models.

    Attributes:
        records: Pair (x, y) of m records, which may be others than the audited ones.
        chosen: Shape (k, m), bool: the records that each of k models trains on.
        trained_on: Shape (k, n), bool: whether each of n audited records counts as trained on.
        groups: Shape (m,), the group of each record, for stages that take groups; or None.
    """

    records: Records
    chosen: np.ndarray
    trained_on: np.ndarray
    groups: Optional[np.ndarray] = None

    @property
    def size(self) -> int:
        """Number of records that a model trains on: the median."""
        return int(np.median(self.chosen.sum(1)))


def draw_sets(
    options: ReferenceModels,
    pool: Records,
    members: Optional[int],
    seed: int,
    groups: Optional[np.ndarray] = None,
    models: Optional[int] = None,
) -> TrainingSets:
    """Returns random sets of the audited records, or of the population, one for each model.

    A reference model that trains on half as many records as the target memorizes other things, and more of each: it
    says little about the target. So sets are as large as the target's. Two bounds stand before that. Of the audited
    records a set takes no more and no fewer than leave each record in the sets of two of `options.count` models and
    outside of two, as a mean. Of a population it takes at most three quarters.

    Sets of a half are `half_splits`. Others are drawn independently: if every record were in as many of them, the sets
    of the other models would tell a model's own.

    Args:
        options: The population, and the fewest models.
        pool: Pair (x, y) of the n audited records.
        members: Number of records that the target trained on; None for halves.
        seed: Seed of the sets. Further models change none of the first ones' sets.
        groups: Shape (n,), the group of each audited record, which is not split; or None.
        models: Number of models; None for `options.count`.
    """
    count = options.count if models is None else models
    if options.population is not None:
        population, groups = options.population, options.population_groups
        chosen = _sets(len(population[1]), count, members, seed, groups, (0.0, _MOST_OF_POPULATION))
        return TrainingSets(population, chosen, np.zeros((count, len(pool[1])), bool), groups)
    least = min(_FEWEST_OF_A_KIND / options.count, 0.5)
    chosen = _sets(len(pool[1]), count, members, seed, groups, (least, 1 - least))
    return TrainingSets(pool, chosen, chosen, groups)


def _sets(
    records: int,
    models: int,
    members: Optional[int],
    seed: int,
    groups: Optional[np.ndarray],
    bounds: tuple[float, float],
) -> np.ndarray:
    """Returns sets of `members` of some records, within bounds of their parts; shape (models, records), bool."""
    size = records // 2 if members is None else int(np.clip(members, bounds[0] * records, bounds[1] * records))
    if are_alike(records // 2, size):
        return half_splits(records, models, seed, groups)
    codes = np.arange(records) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(codes)
    chosen: np.ndarray = np.zeros((models, records), bool)
    for model in range(models):
        order = np.random.default_rng([seed, model]).permutation(len(sizes))
        # Whole groups, up to the number of records that is nearest.
        ends = np.cumsum(sizes[order])
        chosen[model] = np.isin(codes, order[: int(abs(ends - size).argmin()) + 1])
    return chosen


def are_alike(one: int, other: int) -> bool:
    """Returns whether training sets of these sizes give models that memorize alike: within a tenth of the second."""
    return abs(one - other) <= ALIKE * other


def warn_of_small_population(options: ReferenceModels, members: int) -> None:
    """Warns where reference models train on fewer records than a target of `members` records."""
    if options.population is None:
        return
    count = len(options.population[1])
    size = draw_sets(dataclasses.replace(options, count=2), options.population, members, 0).size
    if size < members and not are_alike(size, members):
        warnings.warn(
            f"audit: Reference models train on {size} of {count} records of the population, the target on {members}: "
            "the attack is weaker than one with more records.",
            stacklevel=4,
        )


def half_splits(count: int, models: int, seed: int, groups: Optional[np.ndarray] = None) -> np.ndarray:
    """Returns which records each model trains on: half of them, and of two neighbouring models the other half.

    Every record is in half of the models' sets, however few models there are. Where each model is attacked in turn with
    the others as its references, draw the sets independently instead: the complement of a target's set gives it away.

    Args:
        count: Number of records.
        models: Number of models.
        seed: Seed of the split.
        groups: Shape (count,), a value for each record; no group is split. The halves are of about one size then.

    Returns:
        Bool array of shape (models, count).

    Raises:
        InvalidArgumentError: A single group.
    """
    generator = np.random.default_rng(seed)
    chosen: np.ndarray = np.zeros((models, count), bool)
    for model in range(0, models, 2):
        if groups is not None:
            chosen[model] = group_folds(groups, 2, generator) == 0
            chosen[model + 1 : model + 2] = ~chosen[model]
            continue
        order = generator.permutation(count)
        chosen[model, order[: count // 2]] = True
        if model + 1 < models:
            chosen[model + 1, order[count // 2 :]] = True
    return chosen
