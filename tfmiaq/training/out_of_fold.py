"""Outputs of teachers on training records that they were not trained on.

TensorFlow is imported when a model is trained, so that the command line prints the options without it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Optional

import joblib
import numpy as np
from scipy import sparse, special
from sklearn import model_selection
from tqdm.auto import tqdm

from tfmiaq import signals
from tfmiaq._checks import AT_LEAST_ONE, N_JOBS, SEED, check, integer
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.parallel import in_parallel, own_python_state, own_random_state
from tfmiaq.caching.store import ARRAYS, Store, check_space
from tfmiaq.signals.duplicates import NEAR, find_duplicates

TrainFloat = Callable[[Any, Any], Any]
REPEATS = integer(1, 1000)
# Twice what `audit` tells of as near: a fold loses nothing by two records that are no duplicates, and a twin in another
# fold voids the defence. So most twins are found that differ in one binary feature of a hundred.
_NEAR = 2 * NEAR


def _fold_predictions(
    number: int,
    train_fn: TrainFloat,
    x: np.ndarray,
    y: np.ndarray,
    fold: np.ndarray,
    copies: Optional[np.ndarray],
    seed: int,
    cache: Optional[Any],
) -> tuple[int, np.ndarray]:
    """Returns the number of a fold, and the probabilities on it of a model that is trained on all other records.

    They are of shape (m, classes); of copies of all records, shape (k, n, ...), (k, m, classes).
    """
    kept: np.ndarray = np.ones(len(y), bool)
    kept[fold] = False
    # Processes share the array; the folds of all repeats would be many copies of it.
    of_fold = None if copies is None else copies[:, fold]

    def train() -> dict[str, np.ndarray]:
        # The teacher is queried, and not used after that.
        lend = getattr(train_fn, "lend", None)
        with own_python_state(seed) if lend else own_random_state(seed):
            teacher = (lend or train_fn)(x[kept], y[kept])
            queried = x[~kept] if of_fold is None else of_fold.reshape(-1, *of_fold.shape[2:])
            logits = signals.predict_logits(teacher, queried)
        probabilities = special.softmax(logits, axis=1).astype(np.float32)
        return {"probabilities": probabilities.reshape(*shape, -1)}

    shape = (len(fold),) if of_fold is None else of_fold.shape[:2]
    more = () if of_fold is None else (of_fold,)
    found = Store(cache).get_or_make(
        "" if cache is None else fingerprint("out of fold", x, y, kept, train_fn, seed, *more),
        train,
        ARRAYS,
        lambda stored: np.shape(stored.get("probabilities", ()))[:-1] == shape,
    )
    return number, found["probabilities"]


def _folds(count: int, folds: int, seed: int, groups: Optional[np.ndarray], left_out: int = 1) -> list[np.ndarray]:
    """Returns the indices of the records that each teacher is not trained on; no group is split."""
    if left_out > 1:
        generator = np.random.default_rng(seed)
        names, of_record = np.unique(np.arange(count) if groups is None else groups, return_inverse=True)
        sizes = np.bincount(of_record)
        out: np.ndarray = np.zeros((folds, len(names)), bool)
        load: np.ndarray = np.zeros(folds)
        order = generator.permutation(len(names))
        for unit in order[np.argsort(-sizes[order], kind="stable")]:
            # Those with the fewest so far, in random order where they are even.
            chosen = np.lexsort((generator.random(folds), load))[:left_out]
            out[chosen, unit] = True
            load[chosen] += sizes[unit]
        return [np.flatnonzero(out[teacher][of_record]) for teacher in range(folds)]
    if groups is None:
        splits = model_selection.KFold(folds, shuffle=True, random_state=seed).split(np.zeros(count))
        return [fold for _, fold in splits]
    fold_of = signals.group_folds(groups, folds, np.random.default_rng(seed))
    return [np.flatnonzero(fold_of == fold) for fold in range(folds)]


def _kept_together(x: np.ndarray, groups: Optional[np.ndarray], folds: int) -> Optional[np.ndarray]:
    """Returns groups in which exact and near duplicates are together too, or the groups themselves without any."""
    found = find_duplicates(x, x[:0], groups, near=_NEAR)
    pairs = np.concatenate([found.exact, found.near])
    if not len(pairs):
        return groups
    of_record = np.arange(len(x)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(of_record.max()) + 1
    links = sparse.coo_matrix((np.ones(len(pairs)), (of_record[pairs[:, 0]], of_record[pairs[:, 1]])), (count, count))
    of_group = sparse.csgraph.connected_components(links, directed=False)[1]
    together = of_group[of_record]
    sizes = np.bincount(together)
    if len(sizes) < folds or sizes.max() > len(x) // 2:
        warnings.warn(
            f"out_of_fold_predictions: Of {len(x)} records {int(sizes.max())} are chained together as near duplicates, "
            "too many for one fold: duplicates may be in several folds, which voids the defence for them. Leave them "
            "out of the training records.",
            stacklevel=3,
        )
        return groups
    return together


def check_training(owner: str, train_fn: Any, seed: Any, n_jobs: Any) -> None:
    """Raises TypeError for a train_fn that cannot be called, InvalidArgumentError for a wrong seed or n_jobs."""
    if not callable(train_fn):
        raise TypeError(f"{owner}: Expected a function from (x, y) to a model. Received {train_fn!r:.200}.")
    check(owner, n_jobs=(n_jobs, N_JOBS), seed=(seed, SEED))


def out_of_fold_predictions(
    train_fn: TrainFloat,
    x: Any,
    y: Any,
    *,
    folds: int = 5,
    repeats: int = 1,
    left_out: int = 1,
    groups: Optional[Any] = None,
    copies: Optional[Any] = None,
    cache: Optional[Any] = None,
    n_jobs: Optional[int] = None,
    seed: int = 0,
    verbose: bool = True,
) -> np.ndarray:
    """Returns the outputs of models on training records that they were not trained on.

    The records are split into folds; for each fold a teacher is trained on all others and queried on this one. So no
    output carries what only training on the record itself could have taught (knowledge cross-distillation, Chourasia et
    al. 2022, section 4; Split-AI of SELENA, Tang et al. 2022, is the same with overlapping sets).

    Two ways around that are measured. The outputs on other records come from teachers that were trained on this one,
    and carry something of it. And a second record of the same person, or a near-duplicate, voids it where the teachers
    of the record's fold have seen the twin. So exact and near duplicates (`find_duplicates`) are kept in one fold, and
    `groups` tells what else belongs together. Shifted or mirrored images, and other records of a person, are not found.
    `cross_distill` has the figures.

    With `left_out` above 1 it is Split-AI: the teachers' training sets overlap, and each record is labelled by the mean
    of the teachers that it was left out of.

    Args:
        train_fn: Function from records and labels (x, y) to a trained model.
        x: Training records, shape (n, ...).
        y: Integer classes, shape (n,), or one-hot.
        folds: Number of folds, as of `CrossDistillation`.
        repeats: How often the records are split anew, as of `CrossDistillation`.
        left_out: Teachers that a record is left out of, as of `CrossDistillation`.
        groups: Shape (n,), a value for each record, such as its person, patient or device: no group is split over
            folds, so that no teacher has seen another record of the person. None where each record is one.
        copies: Shape (k, n, ...), k copies of each record that its teachers are queried on in its place. None for the
            records themselves.
        cache: Folder that keeps every finished teacher's outputs, so that a call that was stopped goes on. None keeps
            nothing.
        n_jobs: Processes that train teachers side by side (joblib). None for one, or for what joblib's context says.
        seed: Seed of the splits and of the teachers' trainings.
        verbose: Show a progress bar over the teachers where standard error is a terminal.

    Returns:
        Probabilities, float32, shape (n, classes), or of copies (k, n, classes); each row sums to 1.

    Raises:
        InvalidArgumentError: Folds, repeats, n_jobs or a seed out of their ranges; not a group for each record, or
            fewer groups than folds.
        TypeError: A train_fn that cannot be called.
        RuntimeError: A worker process died. What was finished is in the cache.
        ValueError: Records and labels that do not go together; copies that are not k of each record; a teacher whose
            outputs are labels, or that has no output for some class.
    """
    check_training("out_of_fold_predictions", train_fn, seed, n_jobs)
    x, y = signals.pair((x, y), "train", "out_of_fold_predictions")
    checked = check(
        "out_of_fold_predictions",
        folds=(folds, integer(2, len(y))),
        repeats=(repeats, REPEATS),
        left_out=(left_out, AT_LEAST_ONE),
        n_jobs=(n_jobs, N_JOBS),
        seed=(seed, SEED),
    )
    folds, repeats, seed = checked["folds"], checked["repeats"], checked["seed"]
    groups = None if groups is None else signals.check_groups(groups, len(y), "out_of_fold_predictions")
    groups = _kept_together(x, groups, folds)
    check("out_of_fold_predictions", left_out=(left_out, integer(1, folds - 1)))
    copies = None if copies is None else np.asarray(copies)
    if copies is not None and (copies.shape[1:] != x.shape or not len(copies)):
        raise ValueError(
            f"out_of_fold_predictions: Expected copies of shape (k, {', '.join(map(str, x.shape))}), of all records. "
            f"Received shape {copies.shape}."
        )
    if copies is not None and copies.dtype.kind == "f" and not np.isfinite(copies).all():
        raise ValueError("out_of_fold_predictions: The copies of records hold NaN or infinity.")
    check_space(cache)
    splits = functools.partial(_folds, len(y), folds, groups=groups, left_out=left_out)
    held_out = [fold for repeat in range(repeats) for fold in splits(seed + repeat)]
    calls = [
        joblib.delayed(_fold_predictions)(number, train_fn, x, y, fold, copies, seed + number, cache)
        for number, fold in enumerate(held_out)
    ]
    died = (
        "out_of_fold_predictions: A process that trained a teacher died, by lack of memory perhaps. What is finished "
        "is kept in the cache, if there is one: make the same call again to go on, with a smaller n_jobs."
    )
    running = in_parallel(calls, checked["n_jobs"], died)
    found = dict(tqdm(running, total=len(calls), desc="teachers", disable=None if verbose else True))
    widths = {probabilities.shape[-1] for probabilities in found.values()}
    if len(widths) > 1 or max(widths) <= y.max():
        raise ValueError(
            f"out_of_fold_predictions: Expected a probability for each of {y.max() + 1} classes. Received "
            f"{', '.join(map(str, sorted(widths)))}."
        )
    kinds = () if copies is None else copies.shape[:1]
    total = np.zeros((*kinds, len(y), widths.pop()), np.float32)
    for number, fold in enumerate(held_out):
        total[..., fold, :] += found[number]
    return total / (repeats * left_out)
