"""Training on another model's outputs, so that no training record is learnt from its own label alone.

TensorFlow is imported when a model is trained, so that the command line prints the options without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from scipy import special

from tfmiaq import signals
from tfmiaq._checks import AT_LEAST_ONE, InvalidArgumentError, check, check_fields, integer, real
from tfmiaq.caching import own_random_state
from tfmiaq.training.changed import Change, change_for
from tfmiaq.training.dp_sgd import has_batch_normalization
from tfmiaq.training.out_of_fold import REPEATS, TrainFloat, check_training, out_of_fold_predictions
from tfmiaq.training.recipe import CLIPPED, FINE_TUNING, FROM_SCRATCH, TrainingRecipe, check_recipe, default_recipe


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
            output alone). Below 1 a student learns wrong labels too, and may give away mislabelled records as a float
            does (docs/defence.md).
        left_out: From the training of how many of the `folds` teachers a record is left out; they label it. 1 for
            folds. With 10 of 25 teachers it is Split-AI of SELENA (Tang et al. 2022, section 4.2). Below `folds`.
        copies: How many changed copies of each record the student is trained on in its place, each labelled by the
            teachers of the record. Copies are shuffled together, and steps stay about as many: the recipe's epochs are
            divided by `copies`, which has to divide them. Most records leak a little less by it, and mislabelled ones
            more (docs/defence.md). All copies are held in memory, once. 0 for the records themselves, up to 1000.
        change: Function from records (n, ...), which it leaves as they are, and the number of a copy, from 0 on, to the
            copies, an array of the same shape; always the same ones. None for `ImagesShifted()` of images,
            `FeaturesDropped()` of binary records and `FeaturesExchanged()` of others, all in `tfmiaq.training`.

    Raises:
        InvalidArgumentError: Fields out of their ranges; all of them are listed. A change without copies.
    """

    folds: int = 5
    repeats: int = 1
    teacher_weight: float = 1.0
    left_out: int = 1
    copies: int = 0
    change: Optional[Change] = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            folds=integer(2),
            repeats=REPEATS,
            teacher_weight=real(0, 1),
            left_out=AT_LEAST_ONE,
            copies=integer(0, 1000),
        )
        check("CrossDistillation", left_out=(self.left_out, integer(1, self.folds - 1)))
        if self.change is not None and (not callable(self.change) or not self.copies):
            raise InvalidArgumentError(
                "CrossDistillation: Expected change to be None, or beside copies of at least 1 a function from records "
                f"and the number of a copy to copies. Received {self.change!r:.200} and copies={self.copies}."
            )

    def changed(self, x: np.ndarray, seed: int) -> Optional[np.ndarray]:
        """Returns the copies of records, shape (copies, n, ...); None without copies.

        Raises:
            ValueError: A change that gives arrays of another shape, or that works in place.
        """
        if not self.copies:
            return None
        change = change_for(x) if self.change is None else self.change
        given = x.view()
        given.flags.writeable = False
        found: Optional[np.ndarray] = None
        for place, number in enumerate(range(seed * self.copies, (seed + 1) * self.copies)):
            each = np.asarray(change(given, number))
            if each.shape != x.shape:
                raise ValueError(
                    f"CrossDistillation: Expected change to give copies of shape {x.shape}. Received {each.shape}."
                )
            if found is None:
                found = np.empty((self.copies, *x.shape), each.dtype)
            found[place] = each
        return found

    def check_recipe(self, recipe: Optional[TrainingRecipe]) -> None:
        """Raises InvalidArgumentError if a student's recipe has no whole number of epochs for each copy.

        None stands for any of the recipes that a student has where none is given.
        """
        possible = [each.epochs for each in ((CLIPPED, FROM_SCRATCH) if recipe is None else (recipe,))]
        if self.copies and any(epochs % self.copies for epochs in possible):
            least, most = min(possible), max(possible)
            epochs = f"{least} epochs" if least == most else f"{least} or {most} epochs, as it has without a recipe"
            raise InvalidArgumentError(
                f"CrossDistillation: The epochs of a student on copies are divided by their number. Expected copies "
                f"that divide {epochs}. Received {self.copies}."
            )

    def student_recipe(self, recipe: TrainingRecipe, records: int) -> TrainingRecipe:
        """Returns the recipe of a student on all copies, which has about as many steps as the given one on the records.

        Args:
            recipe: The recipe.
            records: Number of records, each of which has the copies.

        Raises:
            InvalidArgumentError: The copies do not divide its epochs.
        """
        self.check_recipe(recipe)
        if not self.copies:
            return recipe
        # Records of less than a batch would leave the copies in one step.
        batch_size = -(-records // -(-records // recipe.batch_size))
        return dataclasses.replace(recipe, epochs=recipe.epochs // self.copies, batch_size=batch_size)

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

    How much it leaks to an attacker of many reference models is not measured. Nor is what a second record of a member,
    or a near-duplicate, among the reference records gives away; it voids `cross_distill`.

    Example:
        >>> student = tfmiaq.quantize_model(fresh_model, policy)
        >>> tfmiaq.distill(float_model, student, x_reference, recipe=tfmiaq.TrainingRecipe(epochs=20))

    Args:
        teacher: Any target of `tfmiaq.audit` whose outputs are probabilities or logits.
        student: A Keras model, quantized or not, which is compiled and trained in place. One of one unit, a sigmoid or
            its logit, learns the probability of class 1.
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
    from tfmiaq.quantization.layer_graph import ends_in_sigmoid, ends_in_softmax

    check("distill", temperature=(temperature, real(1e-6)), keep=(keep, real(0, 1, closed="right")))
    _check_training("distill", student, recipe)
    x = np.asarray(x)
    if not x.ndim or x.dtype.kind not in "biuf":
        raise ValueError(f"distill: Expected records as an array of numbers, shape (n, ...). Received {x!r:.80}.")
    recipe = dataclasses.replace(FINE_TUNING, learning_rate=0.05) if recipe is None else recipe
    logits = signals.predict_logits(teacher, x, recipe.batch_size, "distill")
    has_one_unit = student.outputs[0].shape[-1] == 1
    classes = max(student.outputs[0].shape[-1], 2)
    if logits.shape[1] != classes:
        raise ValueError(f"distill: The teacher has {logits.shape[1]} classes, the student {classes}.")
    log_probabilities = logits - special.logsumexp(logits, axis=1, keepdims=True)
    entropies = -(np.exp(log_probabilities) * log_probabilities).sum(1)
    kept = np.sort(np.argsort(entropies, kind="stable")[: max(1, round(keep * len(x)))])
    soft = special.softmax(logits[kept] / temperature, axis=1).astype(np.float32)
    soft = soft[:, 1:] if has_one_unit else soft
    if recipe.loss is None:
        ends_in_probabilities = ends_in_sigmoid(student) if has_one_unit else ends_in_softmax(student)
        recipe = dataclasses.replace(recipe, loss=Distillation(temperature, from_logits=not ends_in_probabilities))
    return recipe.fit(student, x[kept], soft, callbacks)


def _check_training(owner: str, student: Any, recipe: Optional[Any]) -> None:
    """Raises TypeError if a student is no Keras model, or a recipe is no TrainingRecipe."""
    from tfmiaq._backend import keras

    if not isinstance(student, keras.Model):
        raise TypeError(f"{owner}: Expected a keras.Model as student. Received {type(student).__name__}.")
    check_recipe(owner, recipe)


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
    random weights: a copy of a model that was trained on the records has them in its weights. A smaller
    `teacher_weight` and more `repeats` raise accuracy, and leakage with it.

    How the student is trained matters as much as its labels (docs/frontier.md, Location-30, who holds the file): in
    batches of 64, with BatchNormalization, it has an AUC of 0.865 at a test accuracy of 0.612; in 24 steps with each
    record's gradient clipped, no normalization, and copies of the records in their place, 0.687 at 0.606; what has 30
    steps is `tfmiaq.training.CLIPPED`. It is no proof: the labels of other records come from teachers that have seen
    this one.

    Exact and near duplicates stay in one fold. A second record of the same person in another fold voids the defence,
    because the teachers of its fold have seen the twin: give `groups`.

    Example:
        >>> student = tfmiaq.quantize_model(build_model(), policy)
        >>> tfmiaq.cross_distill(train_float, student, x_train, y_train, tfmiaq.CrossDistillation(folds=5))

    Args:
        train_fn: Function from records and labels (x, y) to a trained float model, the teacher.
        student: A Keras model, quantized or not, which is compiled and trained in place.
        x: Training records, shape (n, ...).
        y: Integer classes, shape (n,), or one-hot.
        options: Folds, repeats, copies and the teachers' weight. None for `CrossDistillation()`.
        recipe: How the student is trained. None for `tfmiaq.training.CLIPPED` where all its layers of weights are
            Dense, else for `tfmiaq.training.FROM_SCRATCH`.
        groups: As of `out_of_fold_predictions`. Give them where one person may have several records.
        cache: As of `out_of_fold_predictions`.
        n_jobs: As of `out_of_fold_predictions`.
        seed: As of `out_of_fold_predictions`, and of the student's training.
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
    if not isinstance(options, (CrossDistillation, type(None))):
        raise TypeError(f"cross_distill: Expected a CrossDistillation or None as options. Received {options!r:.200}.")
    if recipe is None:
        recipe = FROM_SCRATCH if has_batch_normalization(student) else default_recipe(True, student)
    options = CrossDistillation() if options is None else options
    options.check_recipe(recipe)
    records, soft = labelled(
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
    # Teachers of a cache leave other random states behind than those that are trained here.
    with own_random_state(seed + options.folds * options.repeats):
        return options.student_recipe(recipe, len(np.asarray(y))).fit(student, records, soft)


def labelled(
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
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a student of `cross_distill` is trained on: records (m, ...), and soft labels (m, classes), float32.

    They are the n given records, or all copies of them. A student of one unit, a sigmoid or its logit, is trained on
    the probability of class 1, shape (m, 1).

    Args, errors: As of `cross_distill`.
    """
    check_training("cross_distill", train_fn, seed, n_jobs)
    units, classes = classes, max(classes, 2)
    x, y = signals.pair((x, y), "train", "cross_distill")
    options.check_fits(len(y), "cross_distill")
    if y.max() >= classes:
        raise ValueError(f"cross_distill: The labels go up to {y.max()}, and the student has {classes} classes.")
    copies = options.changed(x, seed)
    soft = out_of_fold_predictions(
        train_fn,
        x,
        y,
        folds=options.folds,
        repeats=options.repeats,
        left_out=options.left_out,
        copies=copies,
        groups=groups,
        cache=cache,
        n_jobs=n_jobs,
        seed=seed,
        verbose=verbose,
    )
    if soft.shape[-1] != classes:
        raise ValueError(f"cross_distill: The teachers have {soft.shape[-1]} classes, the student {classes}.")
    weight = options.teacher_weight
    mixed = (weight * soft + (1 - weight) * np.eye(classes, dtype=np.float32)[y]).reshape(-1, classes)
    records = x if copies is None else copies.reshape(-1, *x.shape[1:])
    return records, mixed[:, 1:] if units == 1 else mixed
