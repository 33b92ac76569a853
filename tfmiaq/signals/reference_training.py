"""The training of reference models, one or many, and the signals that are kept of each."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import inspect
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Optional

import joblib
import numpy as np

from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.parallel import in_parallel, own_python_state, own_random_state
from tfmiaq.caching.store import ARRAYS, Store, keras_model
from tfmiaq.loading.keras_files import open_keras_model
from tfmiaq.signals.access import FILE, HIDDEN, QUERY, views
from tfmiaq.signals.inputs import given
from tfmiaq.signals.queries import Queries, count_of, query_augmented
from tfmiaq.signals.records import Records
from tfmiaq.signals.reference_models import ReferenceModels
from tfmiaq.signals.reference_sets import TrainingSets, draw_sets
from tfmiaq.signals.reference_signals import ReferenceSignals
from tfmiaq.signals.signals import AUGMENTED, FEATURES, Signals, extract
from tfmiaq.signals.targets import Target, with_all_classes

Arrays = dict[str, np.ndarray]
# Counts in the keys of stored results: raise it when what is stored means something else.
_FORMAT = 2
# With more of them no attack has found more (docs/attacks_measured.md), and their signals fill the memory.
_MOST_MODELS = 256
_SECONDS = "seconds"
_DIED = (
    "audit: A process that trained a reference model died, by lack of memory perhaps. What is finished is kept in the "
    "cache folder, if one was given: run the same audit again to go on, with a smaller n_jobs."
)


@dataclasses.dataclass(frozen=True)
class _Job:
    """One reference model: everything that its process needs."""

    index: int
    steps: tuple[Callable[..., Any], ...]
    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    chosen: np.ndarray
    folder: Optional[str]
    batch_size: int
    queries: Optional[Queries]
    access: str = QUERY
    groups: Optional[np.ndarray] = None


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
        # Each step is seeded anew, so that going on from a stored parent gives the same model.
        train, seeded = _trainer(job.steps, depth)
        more = {"groups": job.groups} if job.groups is not None and _takes_groups(train) else {}
        with seeded(job.seeds[depth]):
            model = train(x, y, **more) if depth == 0 else train(model, x, y, **more)
        # What other pipelines may begin with, the float model above all.
        if (depth == 0 or depth < len(job.steps) - 1) and hasattr(model, "save"):
            store.put(job.keys[depth], model, models)
    return model


def _trainer(steps: Sequence[Callable[..., Any]], depth: int) -> tuple[Callable[..., Any], Callable[[int], Any]]:
    """Returns a stage, or its `lend` where nothing keeps the model; and what seeds it."""
    lend = getattr(steps[depth], "lend", None)
    if lend is None:
        return steps[depth], own_random_state
    is_kept = depth + 1 < len(steps) and not hasattr(steps[depth + 1], "lend")
    return (steps[depth], _own_states) if is_kept else (lend, own_python_state)


@contextlib.contextmanager
def _own_states(seed: int) -> Iterator[None]:
    """Seeds all random generators, that of this thread too."""
    with own_random_state(seed), own_python_state(seed):
        yield


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
    inside = {**_arrays_of_view(seen[FILE], pool, job), HIDDEN: seen[HIDDEN](pool[0])}
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
        inside[fingerprint(job.keys[-1], FILE)] += (f"{FILE}_{HIDDEN}",)
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
    members: Optional[int] = None,
    units: Optional[np.ndarray] = None,
) -> ReferenceSignals:
    """Trains reference models and returns their signals on the audited records.

    Models run side by side through joblib: in processes with `n_jobs`, or wherever `joblib.parallel_config` says.

    Args:
        options: The pipeline, the number of models or the time for them, and where finished ones are kept.
        pool: Pair (x, y) of the n audited records, labels as integers.
        batch_size: Records scored in one call.
        queries: Makes augmented queries, as `signals.AugmentedQueries`; None for none.
        seed: Seed of splits and trainings.
        progress: Called with the number of models that were finished since the last call.
        access: "query" for the signals of the models' outputs; "file" for those of the logits in front of output
            rounding and softmax, where a model is a .tflite or a Keras model, with the others beside them.
        groups: Shape (n,), the group of each audited record: no group is split, and stages of the pipeline that have an
            argument `groups` get those of the records that they train on. None where each is a group of its own.
        sets: The models' training sets: as many as they are, whatever `options` says. None for random ones
            (`reference_sets.draw_sets`).
        members: Number of records that the target trained on, for random sets as large; None for halves.
        units: Shape (n,), what random sets do not split, such as duplicates: one that is left in gives away the other
            that is left out. None for the groups.

    Raises:
        RuntimeError: A worker process died. What was finished is in the cache.
        ValueError: As `signals.extract`, for a model that train_fn returned.
    """
    done: dict[int, Arrays] = {}
    if sets is None:
        wanted = options.count
        clock = None if options.minutes is None else _Clock(options.minutes)
        while wanted > len(done):
            sets = draw_sets(options, pool, members, seed, groups if units is None else units, wanted)
            if options.population is None:
                sets = dataclasses.replace(sets, groups=groups)
            jobs = _jobs(options, pool, sets, batch_size, queries, seed, access)
            _train_all(jobs[len(done) :], done, options, pool, sets, progress, clock)
            wanted = len(done) + (0 if clock is None else clock.further(len(done)))
    else:
        jobs = _jobs(options, pool, sets, batch_size, queries, seed, access)
        _train_all(jobs, done, options, pool, sets, progress, None)
    assert sets is not None
    stacked = {
        name: np.stack([done[index][name] for index in range(len(done))])
        for of_key in _keys(jobs[0]).values()
        for name in of_key
    }
    inside = {name[len(FILE) + 1 :]: array for name, array in stacked.items() if name.startswith(FILE)}
    outputs = ReferenceSignals(
        trained_on=sets.trained_on,
        set_size=sets.size,
        **{name: array for name, array in stacked.items() if not name.startswith(FILE)},
    )
    if not inside:
        return outputs
    return ReferenceSignals(trained_on=sets.trained_on, query=outputs, set_size=sets.size, **inside)


class _Clock:
    """How many models a time allows, by the time that each one took, now or in the audit that is gone on with."""

    def __init__(self, minutes: float) -> None:
        self._allowed = 60 * minutes
        self._taken = 0.0
        self._timed = 0
        self._last = time.monotonic()

    def start(self) -> None:
        """Starts the time of the next model."""
        self._last = time.monotonic()

    def stop(self) -> float:
        """Returns the seconds since the model before was finished, or since `start`."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return seconds

    def add(self, seconds: float) -> None:
        """Counts a model."""
        self._taken += seconds
        self._timed += 1

    def further(self, made: int) -> int:
        """Returns how many models to train before the next look: half of what there is time for, an even number."""
        if made >= _MOST_MODELS:
            return 0
        if not self._timed:
            # All are of a cache that knows no times.
            return 2
        left = (self._allowed - self._taken) / max(self._taken / self._timed, 1e-3)
        return 0 if left < 2 else min(2 * max(int(left / 4), 1), max(_MOST_MODELS - made, 2))


def _train_all(
    jobs: Sequence[_Job],
    done: dict[int, Arrays],
    options: ReferenceModels,
    pool: Records,
    sets: TrainingSets,
    progress: Optional[Callable[[int], None]],
    clock: Optional[_Clock],
) -> None:
    """Trains the models of jobs, or finds them in the cache, and adds their arrays to `done`."""
    others = None if sets.records is pool else sets.records
    store = Store(options.cache)
    missing = []
    for job in jobs:
        stored = _kept(store, job, len(pool[1]))
        if stored is None:
            missing.append(job)
            continue
        done[job.index] = stored
        seconds = (store.get(fingerprint(job.keys[-1], _SECONDS), ARRAYS) or {}).get(_SECONDS)
        if clock is not None and seconds is not None:
            clock.add(float(seconds))
    if progress:
        progress(len(jobs) - len(missing))
    if clock is not None:
        clock.start()
    by_index = {job.index: job for job in jobs}
    calls = [joblib.delayed(_run)(job, pool, others) for job in missing]
    for index, found in in_parallel(calls, options.n_jobs, _DIED):
        job = by_index[index]
        done[index] = found
        if options.cache is not None and _kept(store, job, len(pool[1])) is None:
            _keep(store, job, found)
        if clock is not None:
            seconds = clock.stop()
            clock.add(seconds)
            store.put(fingerprint(job.keys[-1], _SECONDS), {_SECONDS: np.array(seconds)}, ARRAYS)
        if progress:
            progress(1)


def _jobs(
    options: ReferenceModels,
    pool: Records,
    sets: TrainingSets,
    batch_size: int,
    queries: Optional[Queries],
    seed: int,
    access: str,
) -> list[_Job]:
    others = () if sets.records is pool else sets.records
    data = fingerprint(_FORMAT, *pool, *others, *(() if sets.groups is None else (sets.groups,)))
    prints = [fingerprint(step) for step in options.steps]
    folder = None if options.cache is None else str(pathlib.Path(options.cache).absolute())
    jobs = []
    for index, chosen in enumerate(sets.chosen):
        # Each model has room for the seeds of its stages.
        seeds: tuple[int, ...] = tuple(seed + 1000 * index + depth for depth in range(len(prints)))
        drawn: tuple[Any, ...] = seeds[:1]
        if options.known_seed is not None:
            seeds = (options.known_seed,) * len(prints)
            drawn = ("known", options.known_seed)
        keys = tuple(fingerprint(data, chosen, prints[: depth + 1], *drawn) for depth in range(len(prints)))
        groups = None if sets.groups is None else sets.groups[chosen]
        jobs.append(_Job(index, options.steps, keys, seeds, chosen, folder, batch_size, queries, access, groups))
    return jobs
