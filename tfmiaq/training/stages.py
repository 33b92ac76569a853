"""Later stages of a pipeline: what trains a quantized model after a float one, for the target and reference models."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np

from tfmiaq.policy import BitwidthPolicy
from tfmiaq.training.distillation import CrossDistillation, TrainFloat, cross_distill, out_of_fold_predictions
from tfmiaq.training.recipe import TrainingRecipe


@dataclasses.dataclass(frozen=True)
class QuantizedTraining:
    """Trains the quantized model on from the float model.

    Attributes:
        policy: The bits of each layer.
        recipe: How the quantized model is trained.
    """

    policy: BitwidthPolicy
    recipe: TrainingRecipe

    def get_config(self) -> dict[str, Any]:
        """Returns everything that defines the stage, for its fingerprint."""
        return dict(vars(self))

    def prepare(self, x: np.ndarray, y: np.ndarray, verbose: bool) -> None:
        """Does nothing: this stage trains one model only."""

    def train(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the trained quantized model."""
        from tfmiaq.quantization import quantize_model

        return self.recipe.fit(quantize_model(model, self.policy), x, y)

    def __call__(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the trained quantized model."""
        return self.train(model, x, y)


@dataclasses.dataclass(frozen=True)
class CrossDistilledTraining:
    """Trains the quantized model by cross-distillation, from random weights.

    Attributes:
        policy: The bits of each layer.
        recipe: How the quantized model is trained.
        train_fn: Function from (x, y) to a trained float model, the teacher.
        options: Folds, repeats and the teachers' weight.
        cache: Folder that keeps the teachers' outputs.
    """

    policy: BitwidthPolicy
    recipe: TrainingRecipe
    train_fn: TrainFloat
    options: CrossDistillation
    cache: str

    def get_config(self) -> dict[str, Any]:
        """Returns everything that defines the stage, for its fingerprint. A cache that was moved changes nothing."""
        return {name: value for name, value in vars(self).items() if name != "cache"}

    def prepare(self, x: np.ndarray, y: np.ndarray, verbose: bool) -> None:
        """Trains the teachers, whose outputs `train` then finds in the cache."""
        folds, repeats = self.options.folds, self.options.repeats
        out_of_fold_predictions(self.train_fn, x, y, folds=folds, repeats=repeats, cache=self.cache, verbose=verbose)

    def train(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the trained quantized model."""
        return self._distill(self._student(model), x, y)

    def _student(self, model: Any) -> Any:
        from tfmiaq._backend import keras
        from tfmiaq.quantization import quantize_model

        return quantize_model(keras.models.clone_model(model), self.policy)

    def _distill(self, student: Any, x: np.ndarray, y: np.ndarray) -> Any:
        return cross_distill(
            self.train_fn, student, x, y, self.options, recipe=self.recipe, cache=self.cache, verbose=False
        )

    def __call__(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the trained quantized model, the same whether its teachers are trained or found in the cache."""
        from tfmiaq._backend import keras

        student = self._student(model)
        self.prepare(x, y, False)
        # Teachers that are trained now leave TensorFlow's generators at another place than teachers that are found.
        # Python's generator they put back.
        keras.utils.set_random_seed(random.getrandbits(32))
        return self._distill(student, x, y)
