"""Stages of a pipeline: what trains a float model, and a quantized one after it, for the target and reference models.

Each stage has two calls. Called itself it returns a model that is the caller's own. `lend` returns the same weights in
a model that the next training on this thread may change: many models of one pipeline are then built and traced once.

TensorFlow is imported when a model is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.parallel import drawn_seeds, own_random_state
from tfmiaq.policy import BitwidthPolicy
from tfmiaq.training.distillation import CrossDistillation, labelled
from tfmiaq.training.dp_sgd import has_batch_normalization, without_batch_normalization
from tfmiaq.training.out_of_fold import TrainFloat, out_of_fold_predictions
from tfmiaq.training.recipe import TrainingRecipe


def _check_recipe(stage: Any) -> None:
    if not isinstance(stage.recipe, TrainingRecipe):
        raise TypeError(f"{type(stage).__name__}: Expected a TrainingRecipe as recipe. Received {stage.recipe!r:.200}.")


@dataclasses.dataclass(frozen=True)
class FloatTraining:
    """Trains a model that a function builds.

    As a stage of `ReferenceModels`, of `defend`, or as teacher of `cross_distill`, it costs a fraction of a function
    that builds and trains: all its models are built and traced once, and started anew for each. They are the same as
    one by one.

    Example:
        >>> train_float = tfmiaq.FloatTraining(build_model, tfmiaq.TrainingRecipe(epochs=24, learning_rate=0.1))
        >>> reference_models = tfmiaq.ReferenceModels(train_float, count=16)

    Attributes:
        build_fn: Function without arguments that returns a fresh Keras model of always the same architecture. One at
            the top level of a module goes into other processes.
        recipe: How the model is trained.
    """

    build_fn: Callable[[], Any]
    recipe: TrainingRecipe

    def __post_init__(self) -> None:
        if not callable(self.build_fn):
            raise TypeError(
                f"FloatTraining: Expected build_fn as a function that returns a model. Received {self.build_fn!r:.200}."
            )
        _check_recipe(self)

    def get_config(self) -> dict[str, Any]:
        """Returns everything that defines the stage, for its fingerprint."""
        return dict(vars(self))

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns a trained model."""
        return self._train(x, y, True)

    def lend(self, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns a trained model, which the next training on this thread may change."""
        return self._train(x, y, False)

    def _train(self, x: np.ndarray, y: np.ndarray, own: bool) -> Any:
        from tfmiaq.training import repeated

        seed, after = drawn_seeds()
        made_by = fingerprint(self.build_fn)
        model = repeated.fresh(self.build_fn, made_by, seed)
        trained = repeated.train(model, self.recipe, x, y, seed, made_by)
        if trained is not None and not own:
            return trained
        with own_random_state(seed):
            if trained is None:
                trained = self.recipe.fit(model, x, y)
            else:
                with repeated.random_state_in_variables():
                    model = self.build_fn()
                trained = _copied(trained, model, self.recipe, x, y)
        return _left_at(after, trained)


def _copied(trained: Any, fresh: Any, recipe: TrainingRecipe, x: np.ndarray, y: np.ndarray) -> Any:
    """Returns a fresh model with the weights of a trained one, compiled like it."""
    fresh.set_weights(trained.get_weights())
    recipe.compile(fresh, len(x), recipe.labels(fresh, y))
    return fresh


def _left_at(seed: int, model: Any) -> Any:
    """Leaves TensorFlow's random generators at a place that does not depend on what was traced."""
    with own_random_state(seed):
        return model


def _train_quantized(
    model: Any, start: Any, policy: BitwidthPolicy, recipe: TrainingRecipe, x: np.ndarray, y: np.ndarray, own: bool
) -> Any:
    """Returns a trained quantized model that starts from the weights of a float one.

    Args:
        model: A float model, which gives the architecture.
        start: The float model of the same architecture that gives the weights.
        policy: The bits of each layer.
        recipe: How the quantized model is trained.
        x: Records.
        y: Integer classes, or soft labels.
        own: Whether the caller keeps the model.
    """
    from tfmiaq.quantization import quantize_model
    from tfmiaq.training import repeated

    seed, after = drawn_seeds()
    trained = repeated.train_quantized(model, start.get_weights(), policy, recipe, x, y, seed)
    if trained is not None and not own:
        return trained
    with own_random_state(seed):
        if trained is None:
            trained = recipe.fit(quantize_model(start, policy), x, y)
        else:
            trained = _copied(trained, quantize_model(start, policy), recipe, x, y)
    return _left_at(after, trained)


@dataclasses.dataclass(frozen=True)
class QuantizedTraining:
    """Trains the quantized model on from the float model.

    Example:
        >>> stages = [train_float, tfmiaq.QuantizedTraining(tfmiaq.BitwidthPolicy.mia_default(), recipe)]
        >>> reference_models = tfmiaq.ReferenceModels(stages, count=16)

    Attributes:
        policy: The bits of each layer.
        recipe: How the quantized model is trained.
    """

    policy: BitwidthPolicy
    recipe: TrainingRecipe

    def __post_init__(self) -> None:
        if not isinstance(self.policy, BitwidthPolicy):
            raise TypeError(f"QuantizedTraining: Expected a BitwidthPolicy as policy. Received {self.policy!r:.200}.")
        _check_recipe(self)

    def get_config(self) -> dict[str, Any]:
        """Returns everything that defines the stage, for its fingerprint."""
        return dict(vars(self))

    def prepare(self, x: np.ndarray, y: np.ndarray, verbose: bool, groups: Optional[np.ndarray] = None) -> None:
        """Does nothing: this stage trains one model only."""

    def __call__(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the trained quantized model."""
        return _train_quantized(model, model, self.policy, self.recipe, x, y, True)

    def lend(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the trained quantized model, which the next training on this thread may change."""
        return _train_quantized(model, model, self.policy, self.recipe, x, y, False)


def _shuffle_weights(model: Any, secret: int) -> None:
    """Shuffles the values of each trained matrix of a fresh model, which initializers draw independently."""
    generator = np.random.default_rng(secret)
    for variable in model.trainable_weights:
        if len(variable.shape) > 1:
            values = np.asarray(variable)
            variable.assign(generator.permutation(values.reshape(-1)).reshape(values.shape))


def _train_student(
    student: Any, policy: Optional[BitwidthPolicy], recipe: TrainingRecipe, x: np.ndarray, y: np.ndarray, own: bool
) -> Any:
    """Returns a student that is trained from its own weights: quantized, or float without a policy."""
    from tfmiaq.training import repeated

    if policy is not None:
        return _train_quantized(student, student, policy, recipe, x, y, own)
    seed, after = drawn_seeds()
    with own_random_state(seed), repeated.random_state_in_variables():
        fresh = type(student).from_config(student.get_config()) if own else None
    trained = repeated.train(student, recipe, x, y, seed)
    if trained is not None and not own:
        return trained
    with own_random_state(seed):
        trained = recipe.fit(student, x, y) if trained is None else _copied(trained, fresh, recipe, x, y)
    return _left_at(after, trained)


@dataclasses.dataclass(frozen=True)
class CrossDistilledTraining:
    """Trains the quantized model by cross-distillation, from random weights.

    A recipe that clips by record (`dp`) trains a student without the BatchNormalization layers that the model has.

    Example:
        >>> distil = tfmiaq.CrossDistilledTraining(policy, recipe, train_float, tfmiaq.CrossDistillation(5, 3))
        >>> reference_models = tfmiaq.ReferenceModels([train_float, distil], count=16)

    Attributes:
        policy: The bits of each layer. None for a float student.
        recipe: How the student is trained.
        train_fn: Function from (x, y) to a trained float model, the teacher. A `FloatTraining` costs least.
        options: Folds, repeats, copies and the teachers' weight. Folds, teachers and copies have the seed 0.
        cache: Folder that keeps the teachers' outputs. None keeps nothing.
    """

    policy: Optional[BitwidthPolicy]
    recipe: TrainingRecipe
    train_fn: TrainFloat
    options: CrossDistillation
    cache: Optional[str] = None

    def __post_init__(self) -> None:
        if not isinstance(self.policy, (BitwidthPolicy, type(None))):
            raise TypeError(
                f"CrossDistilledTraining: Expected a BitwidthPolicy or None as policy. Received {self.policy!r:.200}."
            )
        _check_recipe(self)
        if not callable(self.train_fn):
            raise TypeError(
                f"CrossDistilledTraining: Expected train_fn as a function from (x, y) to a model. Received "
                f"{self.train_fn!r:.200}."
            )
        if not isinstance(self.options, CrossDistillation):
            raise TypeError(
                f"CrossDistilledTraining: Expected a CrossDistillation as options. Received {self.options!r:.200}."
            )
        self.options.check_recipe(self.recipe)

    def get_config(self) -> dict[str, Any]:
        """Returns everything that defines the stage, for its fingerprint. A cache that was moved changes nothing."""
        return {name: value for name, value in vars(self).items() if name != "cache"}

    def prepare(self, x: np.ndarray, y: np.ndarray, verbose: bool, groups: Optional[np.ndarray] = None) -> None:
        """Trains the teachers, whose outputs a call then finds in the cache."""
        more: dict[str, Any] = {"cache": self.cache, "verbose": verbose, "groups": groups}
        options = self.options
        out_of_fold_predictions(
            self.train_fn,
            x,
            y,
            folds=options.folds,
            repeats=options.repeats,
            left_out=options.left_out,
            copies=options.changed(x, 0),
            **more,
        )

    def __call__(
        self,
        model: Any,
        x: np.ndarray,
        y: np.ndarray,
        groups: Optional[np.ndarray] = None,
        secret: Optional[int] = None,
    ) -> Any:
        """Returns the trained quantized model, the same whether its teachers are trained or found in the cache.

        `groups` has the group of each record: no group is split over folds. By a `secret`, an integer of any size, the
        student's first weights are shuffled, so that who knows or finds the seed does not know them.
        """
        return self._train(model, x, y, groups, True, secret)

    def lend(self, model: Any, x: np.ndarray, y: np.ndarray, groups: Optional[np.ndarray] = None) -> Any:
        """Returns the trained quantized model, which the next training on this thread may change."""
        return self._train(model, x, y, groups, False)

    def _train(
        self,
        model: Any,
        x: np.ndarray,
        y: np.ndarray,
        groups: Optional[np.ndarray],
        own: bool,
        secret: Optional[int] = None,
    ) -> Any:
        from tfmiaq._backend import keras
        from tfmiaq.training import repeated

        seed, after = drawn_seeds()
        with own_random_state(seed), repeated.random_state_in_variables():
            # Before the teachers, who may be trained in the place of a model that is lent.
            clips = self.recipe.dp is not None and has_batch_normalization(model)
            student = without_batch_normalization(model) if clips else keras.models.clone_model(model)
        if secret is not None:
            _shuffle_weights(student, secret)
        classes = model.outputs[0].shape[-1]
        more: dict[str, Any] = {"cache": self.cache, "verbose": False, "groups": groups}
        records, soft = labelled(self.train_fn, x, y, classes, self.options, **more)
        recipe = self.options.student_recipe(self.recipe, len(y))
        trained = _train_student(student, self.policy, recipe, records, soft, own)
        return _left_at(after, trained) if own else trained
