"""How a model of a row of the frontier is trained."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
from frontier_rows import Row, Task

import tfmiaq
from tfmiaq import signals, training


def _recipe(
    task: Task, epochs: int, rate: float, loss: Optional[Any] = None, mixup: float = 0.0
) -> tfmiaq.TrainingRecipe:
    return tfmiaq.TrainingRecipe(
        epochs=epochs,
        learning_rate=rate,
        batch_size=task.batch_size,
        loss=loss,
        augment=training.flips_and_shifts() if task.augment else None,
        weight_decay=5e-4,
        mixup=mixup,
    )


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Trains a float model."""

    network: Callable[..., Any]
    classes: int
    recipe: tfmiaq.TrainingRecipe

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        return self.recipe.fit(self.network(x.shape[1:], self.classes), x, y)


@dataclasses.dataclass(frozen=True)
class Job:
    """The training of one model."""

    task: Task
    row: Row
    x: np.ndarray
    y: np.ndarray
    outside: signals.Records
    classes: int
    folder: pathlib.Path
    index: int

    def recipe(self, epochs: int, rate: float) -> tfmiaq.TrainingRecipe:
        return _recipe(self.task, epochs, rate, self.row.loss() if self.row.loss else None, self.row.mixup)

    def fresh(self) -> Any:
        return self.task.network(self.x.shape[1:], self.classes)

    def quantized(self, model: Any) -> Any:
        if self.row.tfmot:
            import tensorflow_model_optimization as tfmot

            return tfmot.quantization.keras.quantize_model(model)
        if self.row.bits is None:
            return model
        policy = tfmiaq.BitwidthPolicy.uniform(*self.row.bits)
        if self.row.output is not None:
            policy = dataclasses.replace(policy, output=tfmiaq.OutputBits(*self.row.output))
        return tfmiaq.quantize_model(model, policy)


def train(job: Job, score: Callable[[Any, int], None]) -> Any:
    """Trains a row's model; `score` is called with it and the epoch on the trajectory, and not at the end."""
    task, row = job.task, job.row
    weights = job.folder / f"weights-{job.index}.npz"
    if row.tuned:
        model = job.fresh()
        if weights.is_file():
            with np.load(weights) as file:
                model.set_weights([file[name] for name in file.files])
        else:
            _recipe(task, task.epochs, task.learning_rate).fit(model, job.x, job.y)
            np.savez(weights, *model.get_weights())
        return job.recipe(task.tuning, task.learning_rate / 5).fit(job.quantized(model), job.x, job.y)
    epochs = max(1, round(row.length * task.epochs))
    if row.teacher_weight is not None and task.student and not row.mixup:
        epochs = max(1, round(row.length * task.student))
    recipe = job.recipe(epochs, task.learning_rate)
    model = job.quantized(job.fresh())
    if row.noise is not None:
        recipe = dataclasses.replace(recipe, learning_rate=0.25, weight_decay=None, dp=training.DPSGD(1.0, row.noise))
        return recipe.fit(training.without_batch_normalization(model), job.x, job.y)
    if row.teacher_weight is not None:
        folds, repeats, epochs = row.teachers or task.teachers
        taught = _recipe(task, epochs, task.learning_rate, mixup=0.4 if row.mixup else 0.0)
        return tfmiaq.cross_distill(
            Teacher(task.network, job.classes, taught),
            model,
            job.x,
            job.y,
            tfmiaq.CrossDistillation(folds, repeats, row.teacher_weight),
            recipe=recipe,
            cache=job.folder / "teachers",
            seed=1_000 * job.index,
        )
    if row.outside == "distilled":
        teacher = _recipe(task, task.epochs, task.learning_rate).fit(job.fresh(), job.x, job.y)
        x = job.outside[0]
        plain = dataclasses.replace(_recipe(task, epochs, task.learning_rate), augment=None)
        tfmiaq.distill(teacher, model, x, recipe=plain)
        return model
    callbacks: list[Any] = []
    if row.outside == "stopped":
        callbacks = [tfmiaq.callbacks.LeakageEarlyStopping((job.x, job.y), job.outside)]
    if row.falling:
        uniform = tfmiaq.BitwidthPolicy.uniform
        policies = {0: uniform(8, 8), epochs // 4: uniform(4, 4), epochs // 2: uniform(*row.bits or (8, 8))}
        callbacks = [tfmiaq.callbacks.BitwidthSchedule(policies)]
    if row.trajectory:
        wanted = {epoch - 1: epoch for epoch in task.early}
        scored = lambda epoch, logs: score(model, wanted[epoch]) if epoch in wanted else None  # noqa: E731
        callbacks = [tfmiaq.keras.callbacks.LambdaCallback(on_epoch_end=scored)]
    labels = job.y
    if row.smoothing:
        labels = (1 - row.smoothing) * np.eye(job.classes)[job.y] + row.smoothing / job.classes
    recipe.fit(model, job.x, labels, callbacks)
    if row.trajectory:
        np.savez(weights, *model.get_weights())
    return model
