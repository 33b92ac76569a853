"""Training on another model's answers, so that its training records are seen at second hand only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional

import joblib
import numpy as np
from scipy import special
from sklearn import model_selection
from tqdm import tqdm

from tfmiaq import signals
from tfmiaq._backend import keras
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.parallel import in_parallel, own_random_state
from tfmiaq.caching.store import Store
from tfmiaq.losses import Distillation
from tfmiaq.quantization.layer_graph import ends_in_softmax
from tfmiaq.training.recipe import FROM_SCRATCH, TrainingRecipe, cosine_sgd


def distill(
    teacher: Any,
    student: Any,
    x: Any,
    *,
    temperature: float = 1.0,
    keep: float = 1.0,
    epochs: int = 10,
    batch_size: int = 64,
    optimizer: Optional[Any] = None,
    callbacks: Sequence[Any] = (),
    verbose: int = 0,
) -> Any:
    """Trains a student on what a teacher answers on reference records, which need no labels.

    The teacher's training records never reach the student: what it tells of them went through the teacher's answers on
    others (distillation for membership privacy, Shejwalkar and Houmansadr 2021). A quantized student takes its ranges
    from the reference records.

    Its figures in docs/frontier.md are of 3 to 4 reference models, and no stronger attacker is tried on it yet. What a
    second record of a member, or a near-duplicate, among the reference records gives away is not measured; it voids
    `cross_distill`.

    Example:
        >>> student = tfmiaq.quantize_model(fresh_model, policy)
        >>> tfmiaq.distill(float_model, student, x_reference, epochs=20)

    Args:
        teacher: Any target of `tfmiaq.audit` that answers scores.
        student: A Keras model, quantized or not, which is compiled and trained in place.
        x: Reference records, shape (n, ...), like the teacher's training records, and none of them.
        temperature: Of the soft labels, above 0; higher ones are flatter.
        keep: Share of the reference records that is kept, above 0 and up to 1: those on which the teacher is surest,
            where its training records sway it least (section IV-B).
        epochs: Epochs of training.
        batch_size: Records in a batch.
        optimizer: Keras optimizer; SGD with Nesterov momentum and a cosine schedule from 0.05 if not given.
        callbacks: Keras callbacks of the training.
        verbose: As of `fit`.

    Returns:
        The History of the training.

    Raises:
        TypeError: A student that is no Keras model.
        ValueError: No records, NaN, a share or a temperature out of its range; a teacher that answers labels, or other
            numbers of classes than the student.
    """
    if not isinstance(student, keras.Model):
        raise TypeError(f"distill: Expected a keras.Model as student. Received {type(student).__name__}.")
    if not 0 < keep <= 1:
        raise ValueError(f"distill: Expected keep above 0 and up to 1. Received {keep!r}.")
    loss = Distillation(temperature, from_logits=not ends_in_softmax(student))
    x = np.asarray(x)
    logits = signals.predict_logits(teacher, x, batch_size, "distill")
    classes = student.outputs[0].shape[-1]
    if logits.shape[1] != classes:
        raise ValueError(f"distill: The teacher has {logits.shape[1]} classes, the student {classes}.")
    log_probabilities = logits - special.logsumexp(logits, axis=1, keepdims=True)
    entropies = -(np.exp(log_probabilities) * log_probabilities).sum(1)
    kept = np.sort(np.argsort(entropies, kind="stable")[: max(1, round(keep * len(x)))])
    soft = special.softmax(logits[kept] / temperature, axis=1).astype(np.float32)
    student.compile(optimizer or cosine_sgd(0.05, epochs, len(kept), batch_size), loss)
    return student.fit(x[kept], soft, batch_size=batch_size, epochs=epochs, callbacks=list(callbacks), verbose=verbose)


def _fold_predictions(
    number: int,
    train_fn: Callable[[Any, Any], Any],
    x: np.ndarray,
    y: np.ndarray,
    fold: np.ndarray,
    seed: int,
    folder: Any,
) -> tuple[int, np.ndarray]:
    """The fold's number, and probabilities of a model of all other records on its own."""
    kept = np.ones(len(y), bool)
    kept[fold] = False
    store = None if folder is None else Store(folder)
    key = "" if store is None else fingerprint("out of fold", x, y, kept, train_fn, seed)
    stored = store.arrays(key) if store else None
    if stored is not None and len(stored.get("answers", ())) == len(fold):
        return number, stored["answers"]
    with own_random_state(seed):
        teacher = train_fn(x[kept], y[kept])
        logits = signals.predict_logits(teacher, x[~kept])
    answers = special.softmax(logits, axis=1).astype(np.float32)
    if store:
        store.put_arrays(key, {"answers": answers})
    return number, answers


def check_folds(folds: int, repeats: int, records: int) -> None:
    """Refuses numbers that `out_of_fold_predictions` cannot split so many records by, before any teacher is trained.

    Raises:
        ValueError: Folds or repeats out of their range.
    """
    for name, value, low, high in (("folds", folds, 2, records), ("repeats", repeats, 1, 1000)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
            raise ValueError(f"out_of_fold_predictions: Expected {name} from {low} to {high}. Received {value!r}.")


def check_share(share: float, owner: str) -> None:
    """Refuses a share of the teachers in the labels that is none.

    Raises:
        ValueError: A share out of its range, or no number.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float, np.floating)) or not 0 <= share <= 1:
        raise ValueError(f"{owner}: Expected share from 0 to 1. Received {share!r}.")


def out_of_fold_predictions(
    train_fn: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    folds: int = 5,
    repeats: int = 1,
    folder: Optional[Any] = None,
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
        folds: Number of folds, from 2 to n. More folds make teachers of more records, and more of them.
        repeats: How often the records are split anew; the answers are the mean. Teachers: folds times repeats.
        folder: Folder that keeps every finished teacher's answers, so that a call that was stopped goes on. None keeps
            nothing.
        n_jobs: Processes that train teachers side by side (joblib); None for one, or for what joblib's context says.
        seed: Seed of the splits and the trainings.
        verbose: Show a progress bar over the teachers where standard error is a terminal.

    Returns:
        Probabilities, float32, shape (n, classes); each row sums to 1.

    Raises:
        TypeError: A train_fn that cannot be called.
        RuntimeError: A worker process died. What was finished is in the folder.
        ValueError: Records and labels that do not go together; folds or repeats out of their range; a teacher that
            answers labels, or not for all classes.
    """
    if not callable(train_fn):
        raise TypeError(
            f"out_of_fold_predictions: Expected a function from (x, y) to a model. Received {train_fn!r:.200}."
        )
    x, y = signals.pair((x, y), "train", "out_of_fold_predictions")
    check_folds(folds, repeats, len(y))
    rounds = [
        model_selection.KFold(folds, shuffle=True, random_state=seed + repeat).split(y) for repeat in range(repeats)
    ]
    held_out = [fold for splits in rounds for _, fold in splits]
    calls = [
        joblib.delayed(_fold_predictions)(number, train_fn, x, y, fold, seed + number, folder)
        for number, fold in enumerate(held_out)
    ]
    died = (
        "out_of_fold_predictions: A process that trained a teacher died, by lack of memory perhaps. What is finished is "
        "kept in the folder, if one was given: make the same call again to go on, with a smaller n_jobs."
    )
    running = in_parallel(calls, n_jobs, died)
    found = dict(tqdm(running, total=len(calls), desc="teachers", disable=None if verbose else True))
    widths = {answers.shape[1] for answers in found.values()}
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
    train_fn: Callable[[Any, Any], Any],
    student: Any,
    x: Any,
    y: Any,
    *,
    share: float = 1.0,
    folds: int = 5,
    repeats: int = 1,
    recipe: Optional[TrainingRecipe] = None,
    folder: Optional[Any] = None,
    n_jobs: Optional[int] = None,
    seed: int = 0,
    verbose: bool = True,
) -> Any:
    """Trains a student on its training records, labelled by teachers that were not trained on them.

    The student learns of each record what its teachers know without it, so that it is hardly surer of its own training
    records than of others; no reference records are needed. It should start afresh: a copy of a model that was trained
    on the records has them in its weights. Where records are few and the labels are learnt well, teachers of fewer
    records cost accuracy (docs/frontier.md); a smaller `share` and more `repeats` buy some of it back.

    Stronger attackers find far more than docs/frontier.md says, whose figures are of 3 to 4 reference models: on
    Location-30 an independent re-implementation of the attack has an AUC of 0.848 where the table says 0.662 (45
    reference models, whole output vector), and of 0.767 where it says 0.558 (1-bit outputs, 22 reference models, 67
    queries for each record). A second record of the same person, or a near-duplicate, voids the defence, because the
    teachers of its fold have seen the twin: the AUC is 0.548 to 0.570 with one record for each person, and 0.844 to
    0.856 with two. All of it is being measured anew (docs/defence.md).

    Example:
        >>> student = tfmiaq.quantize_model(build_model(), policy)
        >>> tfmiaq.cross_distill(train_float, student, x_train, y_train, folds=5)

    Args:
        train_fn: Function from records and labels (x, y) to a trained float model, the teacher.
        student: A Keras model, quantized or not, which is compiled and trained in place.
        x: Training records, shape (n, ...).
        y: Integer classes, shape (n,), or one-hot.
        share: Share of the teachers' answer in the soft label, from 0 (the label alone) to 1 (the answer alone).
        folds: As of `out_of_fold_predictions`.
        repeats: As of `out_of_fold_predictions`.
        recipe: How the student is trained; None for a whole training, 24 epochs at a peak of 0.1.
        folder: As of `out_of_fold_predictions`.
        n_jobs: As of `out_of_fold_predictions`.
        seed: As of `out_of_fold_predictions`.
        verbose: As of `out_of_fold_predictions`.

    Returns:
        The student.

    Raises:
        TypeError: A student that is no Keras model; as `out_of_fold_predictions`.
        RuntimeError: As `out_of_fold_predictions`.
        ValueError: A share out of its range; as `out_of_fold_predictions`; other numbers of classes than the student's.
    """
    if not isinstance(student, keras.Model):
        raise TypeError(f"cross_distill: Expected a keras.Model as student. Received {type(student).__name__}.")
    check_share(share, "cross_distill")
    x, y = signals.pair((x, y), "train", "cross_distill")
    classes = student.outputs[0].shape[-1]
    if y.max() >= classes:
        raise ValueError(f"cross_distill: The labels go up to {y.max()}, and the student has {classes} classes.")
    soft = out_of_fold_predictions(
        train_fn, x, y, folds=folds, repeats=repeats, folder=folder, n_jobs=n_jobs, seed=seed, verbose=verbose
    )
    if soft.shape[1] != classes:
        raise ValueError(f"cross_distill: The teachers have {soft.shape[1]} classes, the student {classes}.")
    labels = share * soft + (1 - share) * np.eye(classes, dtype=np.float32)[y]
    return (recipe or FROM_SCRATCH).fit(student, x, labels)
