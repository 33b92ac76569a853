"""Reference models: trained through the target's own pipeline, on records that the attacker chooses."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

import numpy as np

from tfmiaq._checks import N_JOBS, SEED, InvalidArgumentError, as_path, check_choice, check_fields, integer, real
from tfmiaq.signals.groups import check_groups
from tfmiaq.signals.records import pair

TrainFn = Union[Callable[..., Any], Sequence[Callable[..., Any]]]
SPLITS = ("half", "disjoint")
MINUTES = real(0, closed="right", or_none=True, none_means="the number of models that count says")
KNOWN_SEED = dataclasses.replace(SEED, or_none=True, none_means="a seed that the attacker does not know")


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceModels:
    """What an attacker who adapts trains: models that go through the target's own pipeline.

    Example:
        >>> reference_models = tfmiaq.ReferenceModels([train_float, quantize_and_tune], count=8, cache="cache")
        >>> report = tfmiaq.audit(quantized, members, non_members, reference_models=reference_models)

    Attributes:
        train_fn: The target's pipeline: a function from (x, y) to a trained model, or a list of functions, of which the
            later ones take (model, x, y). Stages that two pipelines begin with alike are trained once, if there is a
            cache. The result may be any target of `audit`, a .tflite too. The random generators are seeded before each
            stage.
        count: Number of models, at least 2; an even number puts every record in half of their training sets, where
            these are halves. The report says whether more of them would find more. Stages like `FloatTraining` make
            them cheap.
        splits: "half": each model trains on as many of all audited records as there are members, which is a half of
            them where members and non-members are as many (`signals.TrainingSets`). "disjoint": on as many of the
            population, for attackers who have none of the audited records.
        population: Pair (x, y) of further records, for "disjoint".
        cache: Folder that keeps every finished model's signals, by data, pipeline and seed: an audit that was stopped
            goes on there. None keeps nothing.
        n_jobs: Processes that train models side by side (joblib); -1 for all cores, None for one, or for what
            `joblib.parallel_config` says, Dask and Ray among it.
        population_groups: A value for each record of the population, such as its person: no group is split. None where
            each record is a group of its own.
        minutes: Time of the clock in which as many models are trained as it allows: at least `count` of them, however
            long they take, and at most 256. The cache keeps the time that each one took, so that an audit that was
            stopped goes on with what is left of it, and one that ended trains nothing further. The report tells the
            number. None for `count` models.
        known_seed: Seed of the target's own training, for an attacker who knows it: every stage of every model is
            seeded with it, as `defend(seed=)` and a call of `keras.utils.set_random_seed` before each stage do. So all
            models start from the target's first weights, and where they have as many records as the target, draw its
            order of records and its noise. Such an attacker finds much more (docs/defence.md). Models that canaries are
            trained on in have seeds of their own. From 0 to 2**32 - 1. None for an attacker who does not know it: each
            model and stage then has a seed of its own.

    Raises:
        TypeError: A train_fn that cannot be called as it will be; a population that is no pair.
        ValueError: Fewer than 2 models; unknown splits; a population without "disjoint", or the other way round; a
            cache that is a file; n_jobs of 0; minutes that are not above 0; a known_seed out of its range.
    """

    train_fn: TrainFn
    count: int = 16
    splits: str = "half"
    population: Optional[Any] = dataclasses.field(default=None, repr=False)
    cache: Optional[Any] = None
    n_jobs: Optional[int] = None
    population_groups: Optional[Any] = dataclasses.field(default=None, repr=False)
    minutes: Optional[float] = None
    known_seed: Optional[int] = None

    def __post_init__(self) -> None:
        if not self.steps or not all(map(callable, self.steps)):
            raise TypeError(
                "ReferenceModels: Expected train_fn as a function from (x, y) to a trained model, or a list of "
                f"functions of which the later ones take (model, x, y). Received {self.train_fn!r:.200}."
            )
        _check_arity(self.steps)
        check_fields(self, count=integer(2), n_jobs=N_JOBS, minutes=MINUTES, known_seed=KNOWN_SEED)
        check_choice("ReferenceModels", "splits", self.splits, SPLITS)
        if (self.splits == "disjoint") != (self.population is not None):
            raise ValueError(
                "ReferenceModels: splits='disjoint' and population=(x, y) go together; give both or neither."
            )
        if self.population is not None:
            object.__setattr__(
                self, "population", pair(self.population, "population", "ReferenceModels", any_kind=True)
            )
        if self.population_groups is not None:
            count = 0 if self.population is None else len(self.population[1])
            found = check_groups(self.population_groups, count, "ReferenceModels", "population_groups")
            if len(np.unique(found)) < 2:
                raise InvalidArgumentError(
                    "ReferenceModels: Expected population_groups of at least 2 groups, since the population is split "
                    "and no group is. Received 1."
                )
            object.__setattr__(self, "population_groups", found)
        cache = None if self.cache is None else as_path("ReferenceModels", "cache", self.cache)
        if cache is not None and cache.exists() and not cache.is_dir():
            raise ValueError(f"ReferenceModels: Expected cache as a folder. {str(self.cache)!r} is a file.")

    @property
    def steps(self) -> tuple[Callable[..., Any], ...]:
        """The stages of the pipeline."""
        return tuple(self.train_fn) if isinstance(self.train_fn, (list, tuple)) else (self.train_fn,)  # type: ignore


def _check_arity(steps: Sequence[Callable[..., Any]]) -> None:
    for number, step in enumerate(steps):
        names = ("x", "y") if number == 0 else ("model", "x", "y")
        try:
            inspect.signature(step).bind(*names)
        except ValueError:
            continue  # Some built-in functions have no signature.
        except TypeError as error:
            raise TypeError(
                f"ReferenceModels: Stage {number + 1} of train_fn is called with ({', '.join(names)}), and does not "
                f"take that: {error}."
            ) from error
