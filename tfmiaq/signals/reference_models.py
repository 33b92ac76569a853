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

from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.parallel import in_parallel, own_random_state
from tfmiaq.caching.store import Store
from tfmiaq.signals import signals

TrainFn = Union[Callable[..., Any], Sequence[Callable[..., Any]]]
Queries = Callable[[np.ndarray, int], np.ndarray]
Arrays = dict[str, np.ndarray]
SPLITS = ("half", "disjoint")
# Counts in the keys of stored results: raise it when what is stored means something else.
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class ReferenceSignals:
    """What k reference models answer on the n audited records.

    Attributes:
        features: Shape (k, n, 7), as `Signals.features`.
        trained_on: Shape (k, n), bool: whether the record was in the model's training set.
        augmented: Shape (k, n, 2), as `Signals.augmented`, or None if changed copies were not asked for.
    """

    features: np.ndarray
    trained_on: np.ndarray
    augmented: Optional[np.ndarray] = None

    @property
    def confidences(self) -> np.ndarray:
        """Logit-scaled confidences, shape (k, n)."""
        return self.features[:, :, 0].astype(np.float64)

    @property
    def losses(self) -> np.ndarray:
        """Losses, shape (k, n)."""
        return self.features[:, :, 1].astype(np.float64)

    def first(self, count: int) -> ReferenceSignals:
        """The first models alone."""
        copies = None if self.augmented is None else self.augmented[:count]
        return ReferenceSignals(self.features[:count], self.trained_on[:count], copies)


def half_splits(count: int, models: int, seed: int) -> np.ndarray:
    """Which records each model trains on: half of them, and of two neighbouring models the other half.

    So every record is in half of the models' sets, however few they are.

    Args:
        count: Number of records.
        models: Number of models.
        seed: Seed of the split.

    Returns:
        Bool array of shape (models, count).
    """
    generator = np.random.default_rng(seed)
    chosen = np.zeros((models, count), bool)
    for model in range(0, models, 2):
        order = generator.permutation(count)
        chosen[model, order[: count // 2]] = True
        if model + 1 < models:
            chosen[model + 1, order[count // 2 :]] = True
    return chosen


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


def _fit_set(population: Optional[signals.Records], pool: signals.Records, chosen: np.ndarray) -> signals.Records:
    x, y = population if population is not None else pool
    return x[chosen], y[chosen]


def _train(job: _Job, x: np.ndarray, y: np.ndarray) -> Any:
    from tfmiaq.quantization import keras

    def load(path: str) -> Any:
        return keras.models.load_model(path, compile=False)

    store = Store(job.folder) if job.folder else None
    model, start = None, 0
    if store:
        for depth in range(len(job.steps), 0, -1):
            model = store.model(job.keys[depth - 1], load)
            if model is not None:
                start = depth
                break
    for depth in range(start, len(job.steps)):
        # Each step has a seed of its own, so that going on from a stored parent gives the same model.
        with own_random_state(job.seed + depth):
            model = job.steps[depth](x, y) if depth == 0 else job.steps[depth](model, x, y)
        # What other pipelines may begin with, the float model above all.
        if store and (depth == 0 or depth < len(job.steps) - 1) and hasattr(model, "save"):
            store.put_model(job.keys[depth], model)
    return model


def _signals_of(model: Any, *arguments: Any) -> tuple[signals.Signals, signals.Signals]:
    try:
        return signals.extract(model, *arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f"audit: What train_fn made cannot be scored. {error}") from error


def _run(job: _Job, pool: signals.Records, population: Optional[signals.Records]) -> tuple[int, Arrays]:
    """Trains one model, stores what it answers, and returns it: the folder may be out of the worker's reach."""
    model = _train(job, *_fit_set(population, pool, job.chosen))
    half = len(pool[1]) // 2
    parts = _signals_of(model, (pool[0][:half], pool[1][:half]), (pool[0][half:], pool[1][half:]), job.batch_size)
    found = signals.Signals.concatenate(parts)
    if found.losses is None:
        raise ValueError(
            "audit: train_fn made a model that answers labels. Reference models are the attacker's own, and are asked "
            "for scores: return the model that the labels come from, or leave train_fn out."
        )
    arrays = {"features": found.features}
    if job.queries is not None:
        asked = signals.query_augmented(model, pool, job.queries, batch_size=job.batch_size)
        copies = dataclasses.replace(found, **asked).augmented
        assert copies is not None
        arrays["augmented"] = copies
    del model
    gc.collect()
    if job.folder:
        _keep(Store(job.folder), job, arrays)
    return job.index, arrays


def _places(job: _Job) -> dict[str, tuple[str, int]]:
    """Of each array that a job makes, its key in the store and its width."""
    places = {"features": (job.keys[-1], 7)}
    if job.queries is not None:
        places["augmented"] = (fingerprint(job.keys[-1], job.queries), 2)
    return places


def _keep(store: Store, job: _Job, arrays: Arrays) -> None:
    for name, (key, _) in _places(job).items():
        store.put_arrays(key, {name: arrays[name]})


def _kept(store: Store, job: _Job, count: int) -> Optional[Arrays]:
    """All that a job makes, or None if any of it is missing."""
    arrays = {}
    for name, (key, width) in _places(job).items():
        found = (store.arrays(key) or {}).get(name)
        if found is None or found.shape != (count, width) or not np.isfinite(found).all():
            return None
        arrays[name] = found
    return arrays


def train_references(
    train_fn: TrainFn,
    pool: signals.Records,
    count: int,
    *,
    splits: str = "half",
    population: Optional[signals.Records] = None,
    folder: Optional[Any] = None,
    n_jobs: Optional[int] = None,
    batch_size: int = 256,
    queries: Optional[Queries] = None,
    seed: int = 0,
    progress: Optional[Callable[[int], None]] = None,
) -> ReferenceSignals:
    """Trains reference models and takes their signals on the audited records.

    Models run side by side through joblib: in processes with `n_jobs`, or wherever `joblib.parallel_config` says.

    Args:
        train_fn: Function from records and labels (x, y) to a trained model; or several of them, a pipeline, of which
            the later ones take (model, x, y): those that two pipelines begin with alike are trained once. Any target of
            `audit` will do as the result, a .tflite too. The random generators are seeded before each of them.
        pool: Pair (x, y) of the n audited records.
        count: Number of models.
        splits: "half": each model trains on half of the pool (online attacks). "disjoint": on random halves of the
            population, so that no audited record is ever trained on (offline attacks).
        population: Pair (x, y) of further records, for "disjoint".
        folder: Folder that keeps what is finished, by data, pipeline and seed; None for none.
        n_jobs: Number of processes; None for what joblib's context says, else one model after the other.
        batch_size: Records scored in one call.
        queries: Makes changed copies of the records, as `signals.augmented_queries`, which the models are asked for too.
        seed: Seed of splits and trainings.
        progress: Called with the number of models that were finished since the last call.

    Returns:
        The models' signals.

    Raises:
        RuntimeError: A worker process died. What was finished is in the folder.
        ValueError: As `signals.extract`, for a model that train_fn made.
    """
    steps = tuple(train_fn) if isinstance(train_fn, (list, tuple)) else (train_fn,)
    source = population if splits == "disjoint" else None
    chosen = half_splits(len((source or pool)[1]), count, seed)
    data = fingerprint(_FORMAT, *pool, *(source or ()))
    prints = [fingerprint(step) for step in steps]
    jobs = []
    done: dict[int, Arrays] = {}
    for index in range(count):
        keys = tuple(
            fingerprint(data, chosen[index], prints[: depth + 1], seed + 1000 * index) for depth in range(len(steps))
        )
        where = str(pathlib.Path(folder).absolute()) if folder else None
        job = _Job(index, steps, keys, seed + 1000 * index, chosen[index], where, batch_size, queries)
        stored = _kept(Store(folder), job, len(pool[1])) if folder else None
        if stored is not None:
            done[index] = stored
        else:
            jobs.append(job)
    if progress:
        progress(len(done))
    died = (
        "audit: A process that trained a reference model died, by lack of memory perhaps. What is finished is kept "
        "in the cache folder, if one was given: run the same audit again to go on, with a smaller n_jobs."
    )
    for index, found in in_parallel([joblib.delayed(_run)(job, pool, source) for job in jobs], n_jobs, died):
        done[index] = found
        if folder:
            job = next(job for job in jobs if job.index == index)
            if _kept(Store(folder), job, len(pool[1])) is None:
                _keep(Store(folder), job, found)
        if progress:
            progress(1)
    trained_on = chosen if source is None else np.zeros((count, len(pool[1])), bool)
    stacked = {name: np.stack([done[index][name] for index in range(count)]) for name in done[0]}
    return ReferenceSignals(trained_on=trained_on, **stacked)


def _check_arity(steps: Sequence[Callable[..., Any]]) -> None:
    for number, step in enumerate(steps):
        names = ("x", "y") if number == 0 else ("model", "x", "y")
        try:
            inspect.signature(step).bind(*names)
        except ValueError:
            continue  # Some built-in functions have no signature.
        except TypeError as error:
            raise TypeError(
                f"audit: Stage {number + 1} of train_fn is called with ({', '.join(names)}), and does not take that: "
                f"{error}."
            ) from error


def check(
    train_fn: Optional[TrainFn],
    count: int,
    splits: str,
    population: Optional[Any],
    members: int,
    folder: Optional[Any] = None,
) -> Optional[signals.Records]:
    """Refuses arguments that reference models cannot be trained with, before any is.

    Returns:
        The population with integer labels, or None.

    Raises:
        TypeError: A train_fn that cannot be called as it will be.
        ValueError: Too few models, unknown splits, a population without "disjoint" or the other way round, a folder
            that is a file.
    """
    if train_fn is None:
        return None
    steps = train_fn if isinstance(train_fn, (list, tuple)) else [train_fn]
    if not steps or not all(map(callable, steps)):
        raise TypeError(
            "audit: Expected train_fn as a function from (x, y) to a trained model, or a list of functions of which "
            f"the later ones take (model, x, y). Received {train_fn!r}."
        )
    _check_arity(steps)
    if folder is not None and pathlib.Path(folder).exists() and not pathlib.Path(folder).is_dir():
        raise ValueError(f"audit: Expected cache as a folder. {str(folder)!r} is none.")
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise ValueError(f"audit: Expected n_reference of at least 2. Received {count!r}.")
    if splits not in SPLITS:
        raise ValueError(f"audit: Unknown splits {splits!r}. Expected one of {', '.join(map(repr, SPLITS))}.")
    if (splits == "disjoint") != (population is not None):
        raise ValueError("audit: splits='disjoint' and population=(x, y) go together; give both or neither.")
    if population is None:
        return None
    x, y = signals.pair(population, "population")
    if len(y) < members:
        warnings.warn(
            f"audit: Reference models train on {len(y) // 2} of {len(y)} records of the population, the target on "
            f"{members}: the attack is weaker than one with more records.",
            stacklevel=3,
        )
    return x, y
