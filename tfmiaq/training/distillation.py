"""Training on another model's outputs, so that no training record is learnt from its own label alone.

TensorFlow is imported when a model is trained, so that the command line prints the options without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Optional

import joblib
import numpy as np
from scipy import special
from sklearn import model_selection
from tqdm.auto import tqdm

from tfmiaq import signals
from tfmiaq._checks import N_JOBS, SEED, check, check_fields, integer, real
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.parallel import in_parallel, own_python_state, own_random_state
from tfmiaq.caching.store import ARRAYS, Store
from tfmiaq.training.recipe import FINE_TUNING, FROM_SCRATCH, TrainingRecipe, check_recipe

TrainFloat = Callable[[Any, Any], Any]
_REPEATS = integer(1, 1000)


@dataclasses.dataclass(frozen=True)
class CrossDistillation:
    """How teachers label the training records that they were not trained on; see `cross_distill`.

    Example:
        >>> options = tfmiaq.CrossDistillation(folds=5, repeats=3, teacher_weight=0.8)
        >>> tfmiaq.cross_distill(train_float, student, x_train, y_train, options)

    Attributes:
        folds: Number of parts that the records are split into, and of teachers: each is trained on all parts but one
            and labels that one. From 2 to the number of records. With more folds each teacher has more records.
        repeats: How often the records are split anew. The labels are the mean over all repeats, so that there are
            `folds` times `repeats` teachers. From 1 to 1000.
        teacher_weight: Weight of the teachers' output in the soft label, from 0 (the true label alone) to 1 (the
            output alone).

    Raises:
        InvalidArgumentError: Fields out of their ranges; all of them are listed.
    """

    folds: int = 5
    repeats: int = 1
    teacher_weight: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, folds=integer(2), repeats=_REPEATS, teacher_weight=real(0, 1))

    def check_fits(self, records: int, owner: str) -> None:
        """Raises InvalidArgumentError if there are more folds than records."""
        check(owner, folds=(self.folds, integer(2, records)))


def distill(
    teacher: Any,
    student: Any,
    x: Any,
    *,
    recipe: Optional[TrainingRecipe] = None,
    temperature: float = 1.0,
    keep: float = 1.0,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Trains a student on the outputs of a teacher on reference records, which need no labels.

    The student never sees the teacher's training records. What it learns of them comes through the teacher's outputs on
    other records (distillation for membership privacy, Shejwalkar and Houmansadr 2021). A quantized student takes its
    ranges from the reference records.

    The figures in docs/frontier.md are of 3 to 4 reference models, and no stronger attacker is tried yet. What a second
    record of a member, or a near-duplicate, among the reference records gives away is not measured; it voids
    `cross_distill`.

    Example:
        >>> student = tfmiaq.quantize_model(fresh_model, policy)
        >>> tfmiaq.distill(float_model, student, x_reference, recipe=tfmiaq.TrainingRecipe(epochs=20))

    Args:
        teacher: Any target of `tfmiaq.audit` whose outputs are probabilities or logits.
        student: A Keras model, quantized or not, which is compiled and trained in place.
        x: Reference records, shape (n, ...), like the teacher's training records, and none of them.
        recipe: How the student is trained. None for 10 epochs at a peak learning rate of 0.05. Without a loss of its
            own the loss is `tfmiaq.losses.Distillation` at the temperature.
        temperature: Temperature of the soft labels, above 0. A higher one makes them flatter.
        keep: Part of the reference records that is used, above 0 and up to 1: those of the teacher's outputs of lowest
            entropy, which its training records influence least (section IV-B).
        callbacks: Keras callbacks of the training.

    Returns:
        The student.

    Raises:
        InvalidArgumentError: A temperature or a `keep` out of its range.
        TypeError: A student that is no Keras model; a recipe that is no TrainingRecipe.
        ValueError: No records, NaN; a teacher whose outputs are labels, or that has other numbers of classes than the
            student.
    """
    from tfmiaq.losses import Distillation
    from tfmiaq.quantization.layer_graph import ends_in_softmax

    check("distill", temperature=(temperature, real(1e-6)), keep=(keep, real(0, 1, closed="right")))
    _check_training("distill", student, recipe)
    x = np.asarray(x)
    if not x.ndim or x.dtype.kind not in "biuf":
        raise ValueError(f"distill: Expected records as an array of numbers, shape (n, ...). Received {x!r:.80}.")
    recipe = dataclasses.replace(FINE_TUNING, learning_rate=0.05) if recipe is None else recipe
    logits = signals.predict_logits(teacher, x, recipe.batch_size, "distill")
    classes = student.outputs[0].shape[-1]
    if logits.shape[1] != classes:
        raise ValueError(f"distill: The teacher has {logits.shape[1]} classes, the student {classes}.")
    log_probabilities = logits - special.logsumexp(logits, axis=1, keepdims=True)
    entropies = -(np.exp(log_probabilities) * log_probabilities).sum(1)
    kept = np.sort(np.argsort(entropies, kind="stable")[: max(1, round(keep * len(x)))])
    soft = special.softmax(logits[kept] / temperature, axis=1).astype(np.float32)
    if recipe.loss is None:
        recipe = dataclasses.replace(recipe, loss=Distillation(temperature, from_logits=not ends_in_softmax(student)))
    return recipe.fit(student, x[kept], soft, callbacks)


def _check_training(owner: str, student: Any, recipe: Optional[Any]) -> None:
    """Raises TypeError if a student is no Keras model, or a recipe is no TrainingRecipe."""
    from tfmiaq._backend import keras

    if not isinstance(student, keras.Model):
        raise TypeError(f"{owner}: Expected a keras.Model as student. Received {type(student).__name__}.")
    check_recipe(owner, recipe)


def _fold_predictions(
    number: int, train_fn: TrainFloat, x: np.ndarray, y: np.ndarray, fold: np.ndarray, seed: int, cache: Optional[Any]
) -> tuple[int, np.ndarray]:
    """Returns the number of a fold, and the probabilities on it of a model that is trained on all other records."""
    kept: np.ndarray = np.ones(len(y), bool)
    kept[fold] = False

    def train() -> dict[str, np.ndarray]:
        # The teacher is queried, and not used after that.
        lend = getattr(train_fn, "lend", None)
        with own_python_state(seed) if lend else own_random_state(seed):
            teacher = (lend or train_fn)(x[kept], y[kept])
            logits = signals.predict_logits(teacher, x[~kept])
        return {"probabilities": special.softmax(logits, axis=1).astype(np.float32)}

    found = Store(cache).get_or_make(
        "" if cache is None else fingerprint("out of fold", x, y, kept, train_fn, seed),
        train,
        ARRAYS,
        lambda stored: len(stored.get("probabilities", ())) == len(fold),
    )
    return number, found["probabilities"]


def _folds(count: int, folds: int, seed: int, groups: Optional[np.ndarray]) -> list[np.ndarray]:
    """Returns the indices of each fold's records; no group is split."""
    if groups is None:
        splits = model_selection.KFold(folds, shuffle=True, random_state=seed).split(np.zeros(count))
        return [fold for _, fold in splits]
    fold_of = signals.group_folds(groups, folds, np.random.default_rng(seed))
    return [np.flatnonzero(fold_of == fold) for fold in range(folds)]


def out_of_fold_predictions(
    train_fn: TrainFloat,
    x: Any,
    y: Any,
    *,
    folds: int = 5,
    repeats: int = 1,
    groups: Optional[Any] = None,
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
    and carry something of it. And a second record of the same person, or a near-duplicate, voids it, because the
    teachers of the record's fold have seen the twin. `cross_distill` has the figures.

    Args:
        train_fn: Function from records and labels (x, y) to a trained model.
        x: Training records, shape (n, ...).
        y: Integer classes, shape (n,), or one-hot.
        folds: Number of folds, as of `CrossDistillation`.
        repeats: How often the records are split anew, as of `CrossDistillation`.
        groups: Shape (n,), a value for each record, such as its person, patient or device: no group is split over
            folds, so that no teacher has seen another record of the person. None where each record is one.
        cache: Folder that keeps every finished teacher's outputs, so that a call that was stopped goes on. None keeps
            nothing.
        n_jobs: Processes that train teachers side by side (joblib). None for one, or for what joblib's context says.
        seed: Seed of the splits and of the teachers' trainings.
        verbose: Show a progress bar over the teachers where standard error is a terminal.

    Returns:
        Probabilities, float32, shape (n, classes); each row sums to 1.

    Raises:
        InvalidArgumentError: Folds, repeats, n_jobs or a seed out of their ranges; not a group for each record, or
            fewer groups than folds.
        TypeError: A train_fn that cannot be called.
        RuntimeError: A worker process died. What was finished is in the cache.
        ValueError: Records and labels that do not go together; a teacher whose outputs are labels, or that has no
            output for some class.
    """
    if not callable(train_fn):
        raise TypeError(
            f"out_of_fold_predictions: Expected a function from (x, y) to a model. Received {train_fn!r:.200}."
        )
    x, y = signals.pair((x, y), "train", "out_of_fold_predictions")
    checked = check(
        "out_of_fold_predictions",
        folds=(folds, integer(2, len(y))),
        repeats=(repeats, _REPEATS),
        n_jobs=(n_jobs, N_JOBS),
        seed=(seed, SEED),
    )
    folds, repeats, seed = checked["folds"], checked["repeats"], checked["seed"]
    groups = None if groups is None else signals.check_groups(groups, len(y), "out_of_fold_predictions")
    held_out = [fold for repeat in range(repeats) for fold in _folds(len(y), folds, seed + repeat, groups)]
    calls = [
        joblib.delayed(_fold_predictions)(number, train_fn, x, y, fold, seed + number, cache)
        for number, fold in enumerate(held_out)
    ]
    died = (
        "out_of_fold_predictions: A process that trained a teacher died, by lack of memory perhaps. What is finished "
        "is kept in the cache, if there is one: make the same call again to go on, with a smaller n_jobs."
    )
    running = in_parallel(calls, checked["n_jobs"], died)
    found = dict(tqdm(running, total=len(calls), desc="teachers", disable=None if verbose else True))
    widths = {probabilities.shape[1] for probabilities in found.values()}
    if len(widths) > 1 or max(widths) <= y.max():
        raise ValueError(
            f"out_of_fold_predictions: Expected a probability for each of {y.max() + 1} classes. Received "
            f"{', '.join(map(str, sorted(widths)))}."
        )
    total = np.zeros((len(y), widths.pop()), np.float32)
    for number, fold in enumerate(held_out):
        total[fold] += found[number]
    return total / repeats


def cross_distill(
    train_fn: TrainFloat,
    student: Any,
    x: Any,
    y: Any,
    options: Optional[CrossDistillation] = None,
    *,
    recipe: Optional[TrainingRecipe] = None,
    groups: Optional[Any] = None,
    cache: Optional[Any] = None,
    n_jobs: Optional[int] = None,
    seed: int = 0,
    verbose: bool = True,
) -> Any:
    """Trains a student on its training records, labelled by teachers that were not trained on them.

    This is knowledge cross-distillation (Chourasia et al. 2022); SELENA (Tang et al. 2022) does the same with
    overlapping sets. The student learns of each record what its teachers know without it, so that it is hardly more
    confident on its own training records than on others. No reference records are needed. The student should start from
    random weights: a copy of a model that was trained on the records has them in its weights. Where records are few and
    the labels are learnt well, teachers of fewer records cost accuracy (docs/frontier.md). A smaller `teacher_weight`
    and more `repeats` win some of it back.

    Stronger attackers find far more than docs/frontier.md says, whose figures are of 3 to 4 reference models: on
    Location-30 an AUC of 0.859 where the table says 0.661, and of 0.759 where it says 0.558 (1-bit outputs), with whole
    outputs and 64 reference models (docs/attacks_measured.md). A second record of the same person, or a near-duplicate,
    voids the defence where `groups` do not tell of it, because the teachers of its fold have seen the twin: the AUC is
    0.548 to 0.570 with one record for each person, and 0.844 to 0.856 with two (docs/defence.md).

    Example:
        >>> student = tfmiaq.quantize_model(build_model(), policy)
        >>> tfmiaq.cross_distill(train_float, student, x_train, y_train, tfmiaq.CrossDistillation(folds=5))

    Args:
        train_fn: Function from records and labels (x, y) to a trained float model, the teacher.
        student: A Keras model, quantized or not, which is compiled and trained in place.
        x: Training records, shape (n, ...).
        y: Integer classes, shape (n,), or one-hot.
        options: Folds, repeats and the teachers' weight. None for `CrossDistillation()`.
        recipe: How the student is trained. None for `tfmiaq.training.FROM_SCRATCH`.
        groups: As of `out_of_fold_predictions`. Give them where one person may have several records.
        cache: As of `out_of_fold_predictions`.
        n_jobs: As of `out_of_fold_predictions`.
        seed: As of `out_of_fold_predictions`.
        verbose: As of `out_of_fold_predictions`.

    Returns:
        The student.

    Raises:
        InvalidArgumentError: More folds than records; n_jobs or a seed out of their ranges.
        TypeError: A student that is no Keras model; options or a recipe of another type; as `out_of_fold_predictions`.
        RuntimeError: As `out_of_fold_predictions`.
        ValueError: As `out_of_fold_predictions`; teachers of other numbers of classes than the student's.
    """
    _check_training("cross_distill", student, recipe)
    options = CrossDistillation() if options is None else options
    if not isinstance(options, CrossDistillation):
        raise TypeError(f"cross_distill: Expected a CrossDistillation or None as options. Received {options!r:.200}.")
    soft = soft_labels(
        train_fn,
        x,
        y,
        student.outputs[0].shape[-1],
        options,
        groups=groups,
        cache=cache,
        n_jobs=n_jobs,
        seed=seed,
        verbose=verbose,
    )
    return (FROM_SCRATCH if recipe is None else recipe).fit(student, np.asarray(x), soft)


def soft_labels(
    train_fn: TrainFloat,
    x: Any,
    y: Any,
    classes: int,
    options: CrossDistillation,
    *,
    groups: Optional[Any] = None,
    cache: Optional[Any] = None,
    n_jobs: Optional[int] = None,
    seed: int = 0,
    verbose: bool = True,
) -> np.ndarray:
    """Returns what a student of `cross_distill` is trained on: shape (n, classes), float32.

    Args, errors: As of `cross_distill`.
    """
    x, y = signals.pair((x, y), "train", "cross_distill")
    options.check_fits(len(y), "cross_distill")
    if y.max() >= classes:
        raise ValueError(f"cross_distill: The labels go up to {y.max()}, and the student has {classes} classes.")
    soft = out_of_fold_predictions(
        train_fn,
        x,
        y,
        folds=options.folds,
        repeats=options.repeats,
        groups=groups,
        cache=cache,
        n_jobs=n_jobs,
        seed=seed,
        verbose=verbose,
    )
    if soft.shape[1] != classes:
        raise ValueError(f"cross_distill: The teachers have {soft.shape[1]} classes, the student {classes}.")
    weight = options.teacher_weight
    return weight * soft + (1 - weight) * np.eye(classes, dtype=np.float32)[y]
