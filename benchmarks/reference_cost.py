"""What a reference model costs: trained by separate Keras fits, and by stages that are traced once.

    python benchmarks/reference_cost.py --location=location30.npz --dataset=cifar10.npz

Networks times pipelines: float, float and then w2 a4, and cross-distilled by 15 teachers, as docs/frontier.md has them.
Both ways go through `ReferenceModels`, signals included, with the same recipes. Times are processor time, of one
thread. A model of the fast way costs `further`, and the first one `first`, tracing included; `ratio of 64` is of 64
models. Half an hour.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import networks
import numpy as np
from absl import app, flags

import tfmiaq
from tfmiaq import datasets, signals
from tfmiaq._backend import tf

LOCATION = flags.DEFINE_string("location", None, "Path of Location-30 as an .npz with x and y; None for random bits.")
DATASET = flags.DEFINE_string("dataset", "digits", "Name of a data set of images, or the path of an .npz file.")
NETWORKS = flags.DEFINE_multi_string("networks", [], "Networks to measure; all without it.")
PIPELINES = flags.DEFINE_multi_string("pipelines", [], "Pipelines to measure; all without it.")
MODELS = flags.DEFINE_integer("models", 4, "Models of the fast way, of which the first traces.", 2)
SEPARATE = flags.DEFINE_integer("separate_models", 2, "Models of separate fits.", 2)
RECORDS = flags.DEFINE_integer("records", 2_000, "Images that each network of images is trained on.", 32)
EPOCHS = flags.DEFINE_integer("epochs", 6, "Epochs of the networks of images.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of splits and trainings.", 0)
RESULTS = flags.DEFINE_string("results", "benchmarks/reference_cost.json", "Result file.")

_OPTIONS = tfmiaq.CrossDistillation(folds=5, repeats=3)
_W2_A4 = tfmiaq.BitwidthPolicy.mia_default()


@dataclasses.dataclass(frozen=True)
class Task:
    """A network, its records, and how it is trained."""

    build: Callable[[], Any]
    pool: signals.Records
    recipe: tfmiaq.TrainingRecipe
    tuning: tfmiaq.TrainingRecipe
    teaching: tfmiaq.TrainingRecipe


@dataclasses.dataclass(frozen=True)
class SeparateFloat:
    """Builds and trains a float model, as a user's function does."""

    build: Callable[[], Any]
    recipe: tfmiaq.TrainingRecipe

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        return self.recipe.fit(self.build(), x, y)


@dataclasses.dataclass(frozen=True)
class SeparateQuantized:
    """Quantizes a float model and trains it on."""

    task: Task

    def __call__(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        return self.task.tuning.fit(tfmiaq.quantize_model(model, _W2_A4), x, y)


@dataclasses.dataclass(frozen=True)
class SeparateDistilled:
    """Trains a quantized model by cross-distillation."""

    task: Task

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        student = tfmiaq.quantize_model(self.task.build(), _W2_A4)
        teacher = SeparateFloat(self.task.build, self.task.teaching)
        return tfmiaq.cross_distill(teacher, student, x, y, _OPTIONS, recipe=self.task.recipe, verbose=False)


@dataclasses.dataclass(frozen=True)
class FastDistilled:
    """The same by a stage that is traced once, which takes its architecture from a model that is not trained."""

    task: Task

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        return self.lend(x, y)

    def lend(self, x: np.ndarray, y: np.ndarray) -> Any:
        teacher = tfmiaq.FloatTraining(self.task.build, self.task.teaching)
        stage = tfmiaq.CrossDistilledTraining(_W2_A4, self.task.recipe, teacher, _OPTIONS)
        return stage.lend(self.task.build(), x, y)


def pipelines(task: Task) -> dict[str, tuple[list[Any], list[Any]]]:
    """For each pipeline the stages of separate fits, and those of the fast way."""
    train_float = tfmiaq.FloatTraining(task.build, task.recipe)
    quantize = tfmiaq.QuantizedTraining(_W2_A4, task.tuning)
    return {
        "float": ([SeparateFloat(task.build, task.recipe)], [train_float]),
        "float + w2 a4": ([SeparateFloat(task.build, task.recipe), SeparateQuantized(task)], [train_float, quantize]),
        "cross-distilled w2 a4": ([SeparateDistilled(task)], [FastDistilled(task)]),
    }


def _of(recipe: tfmiaq.TrainingRecipe, epochs: int) -> tfmiaq.TrainingRecipe:
    return dataclasses.replace(recipe, epochs=epochs)


def tasks() -> dict[str, Task]:
    """The networks by name."""
    if LOCATION.value is None:
        generator = np.random.default_rng(SEED.value)
        x, y = generator.integers(0, 2, (3_200, 446)).astype(np.float32), generator.integers(0, 30, 3_200)
    else:
        with np.load(LOCATION.value) as file:
            order = np.random.default_rng(0).permutation(len(file["y"]))[:3_200]
            x, y = file["x"][order].astype(np.float32), file["y"][order].astype(np.int64) - file["y"].min()
    recipe, tuning = tfmiaq.training.FROM_SCRATCH, tfmiaq.TrainingRecipe(8, 0.02)
    found = {"MLP": Task(functools.partial(networks.mlp, (446,), 30), (x, y), recipe, tuning, _of(recipe, 3))}
    data = datasets.load(DATASET.value)
    images = data.x_train[: 2 * RECORDS.value], data.y_train[: 2 * RECORDS.value]
    fewer = max(1, EPOCHS.value // 3)
    recipe, tuning, teaching = _of(recipe, EPOCHS.value), _of(tuning, fewer), _of(recipe, fewer)
    shape, classes = images[0].shape[1:], int(data.y_train.max()) + 1
    for name, build in (("ResNet-8", networks.resnet8), ("small MobileNet", networks.small_mobilenet)):
        found[name] = Task(functools.partial(build, shape, classes), images, recipe, tuning, teaching)
    return found


def seconds(stages: list[Any], pool: signals.Records, count: int) -> list[float]:
    """Processor seconds of each reference model, its signals included."""
    marks = [time.process_time()]
    signals.train_references(
        tfmiaq.ReferenceModels(stages, count),
        pool,
        seed=SEED.value,
        progress=lambda done: marks.append(time.process_time()) if done else None,
    )
    return np.diff(marks).tolist()


def measured(separate: list[Any], fast: list[Any], pool: signals.Records) -> dict[str, float]:
    """Figures of a pipeline, in processor seconds a model."""
    one = float(np.mean(seconds(separate, pool, SEPARATE.value)))
    first, *further = seconds(fast, pool, MODELS.value)
    other = float(np.mean(further))
    found = {"separate": one, "first": first, "further": other, "ratio of 64": (first + 63 * other) / (64 * one)}
    return {name: round(value, 3) for name, value in found.items()}


def main(argv: list[str]) -> None:
    del argv
    # Threads that wait for work would count too, the more so the busier the machine is with other programs.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    path = pathlib.Path(RESULTS.value)
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": {}}
    result["command"] = "python benchmarks/reference_cost.py --location=location30.npz --dataset=cifar10.npz"
    result |= {"seed": SEED.value, "records": RECORDS.value, "epochs": EPOCHS.value}
    result |= {"models": MODELS.value, "separate_models": SEPARATE.value}
    for name, task in tasks().items():
        for pipeline, (separate, fast) in pipelines(task).items():
            wanted = not NETWORKS.value or name in NETWORKS.value
            if not wanted or (PIPELINES.value and pipeline not in PIPELINES.value):
                continue
            # What the first training of a process costs anyway is in neither way.
            tfmiaq.TrainingRecipe(1).fit(task.build(), task.pool[0][:64], task.pool[1][:64])
            row = measured(separate, fast, task.pool)
            result["rows"][f"{name}: {pipeline}"] = row
            print(f"{name}: {pipeline}: {row}", flush=True)
            path.write_text(f"{json.dumps(result, indent=1)}\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
