"""Reference models: trained through the target's own pipeline, on records that the attacker chooses."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

import joblib
import numpy as np

from tfmiaq._checks import N_JOBS, check_choice, check_fields, integer
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.parallel import in_parallel, own_python_state, own_random_state
from tfmiaq.caching.store import ARRAYS, Store, keras_model
from tfmiaq.loading.keras_files import open_keras_model
from tfmiaq.signals.access import FILE, QUERY, views
from tfmiaq.signals.groups import check_groups
from tfmiaq.signals.inputs import given
from tfmiaq.signals.queries import Queries, count_of, query_augmented
from tfmiaq.signals.records import Records, pair
from tfmiaq.signals.reference_signals import ReferenceSignals, half_splits
from tfmiaq.signals.signals import AUGMENTED, FEATURES, Signals, extract
from tfmiaq.signals.targets import Target, with_all_classes

TrainFn = Union[Callable[..., Any], Sequence[Callable[..., Any]]]
Arrays = dict[str, np.ndarray]
SPLITS = ("half", "disjoint")
# Counts in the keys of stored results: raise it when what is stored means something else.
_FORMAT = 2
_DIED = (
    "audit: A process that trained a reference model died, by lack of memory perhaps. What is finished is kept in the "
    "cache folder, if one was given: run the same audit again to go on, with a smaller n_jobs."
)


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
        count: Number of models, at least 2; an even number puts every record in half of their training sets. The
            report says whether more of them would find more. Stages like `FloatTraining` make them cheap.
        splits: "half": each model trains on a random half of all audited records. "disjoint": on random halves of the
            population, for attackers who have none of the audited records.
        population: Pair (x, y) of further records, for "disjoint".
        cache: Folder that keeps every finished model's signals, by data, pipeline and seed: an audit that was stopped
            goes on there. None keeps nothing.
        n_jobs: Processes that train models side by side (joblib); -1 for all cores, None for one, or for what
            `joblib.parallel_config` says, Dask and Ray among it.
        population_groups: A value for each record of the population, such as its person: no group is split. None where
            each record is a group of its own.

    Raises:
        TypeError: A train_fn that cannot be called as it will be; a population that is no pair.
        ValueError: Fewer than 2 models; unknown splits; a population without "disjoint", or the other way round; a
            cache that is a file; n_jobs of 0.
    """

    train_fn: TrainFn
    count: int = 16
    splits: str = "half"
    population: Optional[Any] = dataclasses.field(default=None, repr=False)
    cache: Optional[Any] = None
    n_jobs: Optional[int] = None
    population_groups: Optional[Any] = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.steps or not all(map(callable, self.steps)):
            raise TypeError(
                "ReferenceModels: Expected train_fn as a function from (x, y) to a trained model, or a list of "
                f"functions of which the later ones take (model, x, y). Received {self.train_fn!r:.200}."
            )
        _check_arity(self.steps)
        check_fields(self, count=integer(2), n_jobs=N_JOBS)
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
            object.__setattr__(self, "population_groups", found)
        if self.cache is not None and pathlib.Path(self.cache).exists() and not pathlib.Path(self.cache).is_dir():
            raise ValueError(f"ReferenceModels: Expected cache as a folder. {str(self.cache)!r} is a file.")

    @property
    def steps(self) -> tuple[Callable[..., Any], ...]:
        """The stages of the pipeline."""
        return tuple(self.train_fn) if isinstance(self.train_fn, (list, tuple)) else (self.train_fn,)  # type: ignore

    def warn_if_weak(self, members: int) -> None:
        """Warns where reference models train on fewer records than a target of `members` records."""
        if self.population is not None and len(self.population[1]) < members:
            count = len(self.population[1])
            warnings.warn(
                f"audit: Reference models train on {count // 2} of {count} records of the population, the target on "
                f"{members}: the attack is weaker than one with more records.",
                stacklevel=4,
            )


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


@dataclasses.dataclass(frozen=True)
class _Job:
    """One reference model: everything that its process needs."""

    index: int
    steps: tuple[Callable[..., Any], ...]
    keys: tuple[str, ...]
    seed: int
    chosen: np.ndarray
    folder: Optional[str]
    batch_size: int
    queries: Optional[Queries]
    access: str = QUERY
    groups: Optional[np.ndarray] = None


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSets:
    """Training sets of reference models that are given instead of drawn.

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


def _drawn_sets(options: ReferenceModels, pool: Records, seed: int, groups: Optional[np.ndarray]) -> TrainingSets:
    """Returns random halves of the audited records, or of the population."""
    if options.population is None:
        chosen = half_splits(len(pool[1]), options.count, seed, groups)
        return TrainingSets(pool, chosen, chosen, groups)
    population, groups = options.population, options.population_groups
    chosen = half_splits(len(population[1]), options.count, seed, groups)
    return TrainingSets(population, chosen, np.zeros((options.count, len(pool[1])), bool), groups)


def _takes_groups(step: Callable[..., Any]) -> bool:
    """Returns whether a stage has an argument `groups`, as stages have that split the records themselves."""
    try:
        return "groups" in inspect.signature(step).parameters
    except ValueError:
        return False  # Some built-in functions have no signature.


def _train(job: _Job, x: np.ndarray, y: np.ndarray) -> Any:
    # Its classes are registered when it is imported.
    import tfmiaq.quantization  # noqa: F401

    models = keras_model(lambda path: open_keras_model(path, compile=False, imported=True))
    store = Store(job.folder)
    model, start = None, 0
    for depth in range(len(job.steps), 0, -1):
        model = store.get(job.keys[depth - 1], models)
        if model is not None:
            start = depth
            break
    for depth in range(start, len(job.steps)):
        # Each step has a seed of its own, so that going on from a stored parent gives the same model.
        train, seeded = _trainer(job.steps, depth)
        more = {"groups": job.groups} if job.groups is not None and _takes_groups(train) else {}
        with seeded(job.seed + depth):
            model = train(x, y, **more) if depth == 0 else train(model, x, y, **more)
        # What other pipelines may begin with, the float model above all.
        if (depth == 0 or depth < len(job.steps) - 1) and hasattr(model, "save"):
            store.put(job.keys[depth], model, models)
    return model


def _trainer(steps: Sequence[Callable[..., Any]], depth: int) -> tuple[Callable[..., Any], Callable[[int], Any]]:
    """Returns a stage, or its `lend` where nothing keeps the model; and what seeds it."""
    is_kept = depth + 1 < len(steps) and not hasattr(steps[depth + 1], "lend")
    lend = None if is_kept else getattr(steps[depth], "lend", None)
    return (steps[depth], own_random_state) if lend is None else (lend, own_python_state)


def _signals_of(model: Any, pool: Records, batch_size: int) -> Signals:
    try:
        return extract(model, pool, name="audited records", batch_size=batch_size)
    except (TypeError, ValueError) as error:
        raise type(error)(f"audit: The model that train_fn returned cannot be scored. {error}") from error


def _run(job: _Job, pool: Records, others: Optional[Records]) -> tuple[int, Arrays]:
    """Trains one model, stores its signals, and returns them: the folder may be out of the worker's reach.

    `others` are the records that it trains on, or None for the pool, which then is sent to a worker once.
    """
    x, y = pool if others is None else others
    model = _train(job, given(x[job.chosen]), y[job.chosen])
    if pool[1].ndim == 1 and pool[1].dtype.kind == "i":
        model = with_all_classes(model, int(pool[1].max()) + 1)
    arrays = _arrays_of(model, pool, job)
    del model
    if not hasattr(job.steps[-1], "lend"):
        # A model that is lent is used again, and collecting takes longer than a small one's signals.
        gc.collect()
    _keep(Store(job.folder), job, arrays)
    return job.index, arrays


def _arrays_of(model: Any, pool: Records, job: _Job) -> Arrays:
    """Returns the signals of a trained model: of its outputs, and of its logits for the attacker who holds the file.

    The logits are kept in the cache for a later audit too, as they cost no run of the model.
    """
    if job.access == QUERY and job.folder is None:
        return _arrays_of_view(model, pool, job)
    seen = views(model, job.batch_size)
    inside = _arrays_of_view(seen[FILE], pool, job)
    # Of a model that gives labels the attacker, who has trained it, reads the logits.
    outputs = inside if seen[QUERY] is seen[FILE] else _arrays_of_view(seen[QUERY], pool, job, inside)
    return {**outputs, **{f"{FILE}_{name}": array for name, array in inside.items()}}


def _arrays_of_view(target: Target, pool: Records, job: _Job, instead: Optional[Arrays] = None) -> Arrays:
    found = _signals_of(target, pool, job.batch_size)
    if found.losses is None and instead is not None:
        return instead
    if found.losses is None:
        raise ValueError(
            "audit: train_fn returned a model that gives labels. Reference models are the attacker's own, and are "
            "queried for scores: return the model that the labels come from, or leave reference_models out."
        )
    arrays = {"features": found.features, "outputs": found.outputs}
    if job.queries is not None:
        found = dataclasses.replace(found, **query_augmented(target, pool, job.queries, batch_size=job.batch_size))
        assert found.augmented is not None and found.augmented_outputs is not None
        arrays.update(augmented=found.augmented, augmented_outputs=found.augmented_outputs)
    return arrays


def _keys(job: _Job) -> dict[str, tuple[str, ...]]:
    """Returns the names of the arrays that an audit needs of a job, by their key in the store."""
    names: dict[str, tuple[str, ...]] = {job.keys[-1]: ("features", "outputs")}
    if job.queries is not None:
        names[fingerprint(job.keys[-1], job.queries, count_of(job.queries))] = ("augmented", "augmented_outputs")
    if job.access == FILE:
        inside = {fingerprint(key, FILE): tuple(f"{FILE}_{name}" for name in of_key) for key, of_key in names.items()}
        names.update(inside)
    return names


def _keep(store: Store, job: _Job, arrays: Arrays) -> None:
    for key, names in _keys(dataclasses.replace(job, access=FILE)).items():
        if set(names) <= set(arrays):
            store.put(key, {name: arrays[name] for name in names}, ARRAYS)


def _kept(store: Store, job: _Job, count: int) -> Optional[Arrays]:
    """Returns all arrays that a job makes, or None if any of them is missing."""
    arrays = {}
    for key, names in _keys(job).items():
        stored = store.get(key, ARRAYS) or {}
        for name in names:
            found = stored.get(name)
            if found is None or len(found) != count or not np.isfinite(found).all():
                return None
            columns = {"features": (len(FEATURES),), "augmented": (len(AUGMENTED),)}.get(name.removeprefix(f"{FILE}_"))
            if columns and found.shape[1:] != columns:
                return None
            arrays[name] = found
    return arrays


def train_references(
    options: ReferenceModels,
    pool: Records,
    *,
    batch_size: int = 256,
    queries: Optional[Queries] = None,
    seed: int = 0,
    progress: Optional[Callable[[int], None]] = None,
    access: str = QUERY,
    groups: Optional[np.ndarray] = None,
    sets: Optional[TrainingSets] = None,
) -> ReferenceSignals:
    """Trains reference models and returns their signals on the audited records.

    Models run side by side through joblib: in processes with `n_jobs`, or wherever `joblib.parallel_config` says.

    Args:
        options: The pipeline, the number of models, their training sets, and where finished ones are kept.
        pool: Pair (x, y) of the n audited records, labels as integers.
        batch_size: Records scored in one call.
        queries: Makes augmented queries, as `signals.AugmentedQueries`; None for none.
        seed: Seed of splits and trainings.
        progress: Called with the number of models that were finished since the last call.
        access: "query" for the signals of the models' outputs; "file" for those of the logits in front of output
            rounding and softmax, where a model is a .tflite or a Keras model, with the others beside them.
        groups: Shape (n,), the group of each audited record: no group is split, and stages of the pipeline that have an
            argument `groups` get those of the records that they train on. None where each is a group of its own.
        sets: The models' training sets. None for random halves, of the audited records or of the population.

    Raises:
        RuntimeError: A worker process died. What was finished is in the cache.
        ValueError: As `signals.extract`, for a model that train_fn returned.
    """
    count = options.count
    sets = _drawn_sets(options, pool, seed, groups) if sets is None else sets
    jobs = [dataclasses.replace(job, access=access) for job in _jobs(options, pool, sets, batch_size, queries, seed)]
    others = None if sets.records is pool else sets.records
    store = None if options.cache is None else Store(options.cache)
    done: dict[int, Arrays] = {}
    for job in jobs:
        stored = _kept(store, job, len(pool[1])) if store else None
        if stored is not None:
            done[job.index] = stored
    if progress:
        progress(len(done))
    calls = [joblib.delayed(_run)(job, pool, others) for job in jobs if job.index not in done]
    for index, found in in_parallel(calls, options.n_jobs, _DIED):
        done[index] = found
        if store and _kept(store, jobs[index], len(pool[1])) is None:
            _keep(store, jobs[index], found)
        if progress:
            progress(1)
    trained_on = sets.trained_on
    stacked = {
        name: np.stack([done[index][name] for index in range(count)])
        for of_key in _keys(jobs[0]).values()
        for name in of_key
    }
    inside = {name[len(FILE) + 1 :]: array for name, array in stacked.items() if name.startswith(FILE)}
    outputs = ReferenceSignals(
        trained_on=trained_on, **{name: array for name, array in stacked.items() if not name.startswith(FILE)}
    )
    return ReferenceSignals(trained_on=trained_on, query=outputs, **inside) if inside else outputs


def _jobs(
    options: ReferenceModels,
    pool: Records,
    sets: TrainingSets,
    batch_size: int,
    queries: Optional[Queries],
    seed: int,
) -> list[_Job]:
    others = () if sets.records is pool else sets.records
    data = fingerprint(_FORMAT, *pool, *others, *(() if sets.groups is None else (sets.groups,)))
    prints = [fingerprint(step) for step in options.steps]
    folder = None if options.cache is None else str(pathlib.Path(options.cache).absolute())
    jobs = []
    for index in range(options.count):
        # Each model has room for the seeds of its stages.
        first_seed = seed + 1000 * index
        chosen = sets.chosen[index]
        keys = tuple(fingerprint(data, chosen, prints[: depth + 1], first_seed) for depth in range(len(prints)))
        groups = None if sets.groups is None else sets.groups[chosen]
        jobs.append(_Job(index, options.steps, keys, first_seed, chosen, folder, batch_size, queries, groups=groups))
    return jobs
