"""Defences of small networks on real records that scikit-learn ships, each against the strongest of all attacks.

    python benchmarks/defences_small.py --models=66 --targets=8
    python benchmarks/defences_small.py --tasks=digits --rows='float*' --models=18
    python benchmarks/defences_small.py --tune

Two tasks: LeNet on 600 of the digits, and a perceptron on 400 of the records of breast cancer, each of which has 30
measures of cell nuclei. Each of `--models` models trains on its own random half, and is attacked with the others as its
reference models (`in_turn.py`). `--tune` searches lengths and rates on the records that are left, which no model of a
row trains on; calibration has 64 of those.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Optional

import networks
import numpy as np
from absl import app, flags
from calibrated import Traced, with_bits
from defences_ways import Way, clipped, smoothed, whole
from images_report import write_small_tables
from result_files import read, search
from rows_in_turn import CACHE, measure

import tfmiaq
from tfmiaq import datasets, signals, training

RESULTS = flags.DEFINE_string("results", "benchmarks/defences_small.json", "Result file.")
TABLE = flags.DEFINE_string("table", "docs/frontier_small.md", "Page whose tables are written anew with each row.")
TUNE = flags.DEFINE_bool("tune", False, "Search rates and lengths on records outside of the pool instead.")
ONLY_TABLE = flags.DEFINE_bool("only_table", False, "Write the tables from the result file, and measure nothing.")
_CALIBRATION = 64
_COMMAND = "python benchmarks/defences_small.py"
# One of each way to train.
_WITH_NULL = (
    "float, 40 epochs",
    "plain, clip 1, 40 epochs",
    "DP-SGD, noise 1, 40 epochs",
    "cross-distilled, clip 1, 40 epochs",
    "cross-distilled, clip 1, 40 epochs, calibrated w2 a4",
)


def _digits() -> signals.Records:
    data = datasets.load("digits", 0)
    return np.concatenate([data.x_train, data.x_test]).astype(np.float32), np.concatenate([data.y_train, data.y_test])


def _breast_cancer() -> signals.Records:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    # By robust statistics, so that a single record hardly moves them.
    x = (x - np.median(x, axis=0)) / (np.quantile(x, 0.75, axis=0) - np.quantile(x, 0.25, axis=0))
    return np.clip(x, -5, 5).astype(np.float32)[order], y[order].astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Task:
    """A network on a set of records.

    Attributes:
        records: Reads all records.
        network: Makes the network with BatchNormalization.
        plain: Makes the network that clips by record: with GroupNormalization, or without normalization.
        pool: Records of the rows; half of them are members.
        classes: Number of classes.
        rate: Rate of steps that clip, DP-SGD's best of the search.
        defended: Makes the student that `defend` makes of the network, and its recipe.
    """

    records: Callable[[], signals.Records]
    network: Callable[[], Any]
    plain: Callable[[], Any]
    pool: int
    classes: int
    rate: float
    defended: tuple[Callable[[], Any], tfmiaq.TrainingRecipe]

    def large(self, epochs: int, noise: float = 0.0, rate: Optional[float] = None) -> tfmiaq.TrainingRecipe:
        """All members in each batch, each record's gradient clipped."""
        return clipped(epochs, self.pool // 2, 1.0, noise, rate or self.rate)


def small(epochs: int, **more: Any) -> tfmiaq.TrainingRecipe:
    """Batches of 32."""
    return tfmiaq.TrainingRecipe(epochs=epochs, learning_rate=0.05, batch_size=32, **more)


def _lenet() -> Any:
    return networks.lenet((8, 8, 1), 10)


def _grouped_lenet() -> Any:
    return networks.group_normalized(_lenet())


def _mlp() -> Any:
    return networks.mlp((30,), 2)


def _plain_mlp() -> Any:
    return networks.plain_mlp((30,), 2)


TASKS = {
    "digits": Task(_digits, _lenet, _grouped_lenet, 600, 10, 0.5, (_lenet, training.FROM_SCRATCH)),
    "breast_cancer": Task(_breast_cancer, _mlp, _plain_mlp, 400, 2, 0.25, (_plain_mlp, training.CLIPPED)),
}
TASKS_TO_RUN = flags.DEFINE_multi_enum("tasks", list(TASKS), list(TASKS), "Tasks.")


def rows(task: Task, outside: np.ndarray) -> dict[str, Any]:
    """The pipelines of the rows, by name.

    Args:
        task: Network and records.
        outside: Records to calibrate on.
    """
    store = str(pathlib.Path(CACHE.value) / "teachers")
    found: dict[str, Any] = {}

    def add(name: str, stage: Any, *bits: tuple[int, int]) -> None:
        """A float model, and what is calibrated of it."""
        found.update(with_bits(name, stage, bits, _CALIBRATION, outside))

    def student(build: Any, recipe: Any, taught: int, policy: Any = None, **options: Any) -> Any:
        teacher = tfmiaq.FloatTraining(task.network, small(taught))
        distilled = tfmiaq.CrossDistilledTraining(policy, recipe, teacher, tfmiaq.CrossDistillation(**options), store)
        return Way(distilled, build, hide=whole)

    for epochs in (1, 2, 3, 4, 6, 8, 40):
        bits = ((8, 8), (4, 8), (2, 4), (1, 4)) if epochs == 40 else ()
        add(f"float, {epochs} epochs", tfmiaq.FloatTraining(task.network, small(epochs)), *bits)
    quantized = tfmiaq.QuantizedTraining(tfmiaq.BitwidthPolicy.mia_default(), tfmiaq.TrainingRecipe(epochs=10))
    found["float, 40 epochs, then trained at w2 a4 for 10"] = [
        tfmiaq.FloatTraining(task.network, small(40)),
        quantized,
        Traced(),
    ]
    for epochs, noise in itertools.product((10, 20, 40), (0.0, 0.5, 1.0, 2.0, 4.0)):
        kind = f"DP-SGD, noise {noise:g}" if noise else "plain, clip 1"
        add(f"{kind}, {epochs} epochs", tfmiaq.FloatTraining(task.plain, task.large(epochs, noise)))
    for epochs in (4, 8, 40):
        for name, loss in (
            ("RelaxLoss 0.5", tfmiaq.losses.RelaxLoss(0.5, from_logits=True)),
            ("HAMP 0.3", tfmiaq.losses.HighEntropyLabels(0.3, alpha=0.01, from_logits=True)),
        ):
            add(f"{name}, {epochs} epochs", tfmiaq.FloatTraining(task.network, small(epochs, loss=loss)))
        labels = functools.partial(smoothed, 0.3, task.classes)
        soft = Way(tfmiaq.FloatTraining(task.network, small(epochs)), labels=labels, hide=whole)
        add(f"label smoothing 0.3, {epochs} epochs", soft)
    selena = student(task.network, small(16), 16, folds=25, left_out=10)
    add("SELENA: 25 teachers of 16 epochs, 10 without the record, 16 epochs", selena)
    for epochs in (2, 4, 8):
        taught = student(task.network, small(epochs), 8, repeats=3)
        add(f"cross-distilled, BatchNormalization, batches of 32, {epochs} epochs", taught, *((2, 4),))
    for epochs in (10, 20, 40):
        taught = student(task.plain, task.large(epochs), 8, repeats=3)
        add(f"cross-distilled, clip 1, {epochs} epochs", taught, *((2, 4),))
    build, recipe = task.defended
    as_defend = student(build, recipe, 8, tfmiaq.BitwidthPolicy.mia_default())
    found["cross-distilled, defend's student, teachers drawn once, w2 a4"] = [as_defend, Traced()]
    return found


def _trials(task: Task, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """Setting, training and labels of each trial of the search."""
    teacher = tfmiaq.FloatTraining(task.network, small(8))
    soft = functools.cache(functools.partial(training.out_of_fold_predictions, teacher, x, y, repeats=3))
    for rate, epochs in itertools.product((0.25, 0.5, 1.0, 2.0), (10, 20, 40)):
        for kind, noise, labels in (("DP-SGD", 0.5, y), ("DP-SGD", 1.0, y), ("cross-distilled", 0.0, soft)):
            setting = {"kind": kind, "noise": noise, "rate": rate, "epochs": epochs}
            yield setting, tfmiaq.FloatTraining(task.plain, task.large(epochs, noise, rate)), (x, labels)
    for epochs in (2, 4, 8, 16):
        stage = tfmiaq.FloatTraining(task.network, small(epochs))
        yield {"kind": "cross-distilled, BatchNormalization", "epochs": epochs}, stage, (x, soft)


def main(argv: list[str]) -> None:
    del argv
    results = pathlib.Path(RESULTS.value)
    for name in () if ONLY_TABLE.value else TASKS_TO_RUN.value:
        task = TASKS[name]
        x, y = task.records()
        pool, (left, left_y) = (x[: task.pool], y[: task.pool]), (x[task.pool :], y[task.pool :])
        if TUNE.value:
            count = min(len(left_y), task.pool) // 2
            trials = _trials(task, left[:count], left_y[:count])
            search(trials, {"test_accuracy": (left[count:], left_y[count:])}, results, name)
        else:
            measure(name, rows(task, left[:_CALIBRATION]), pool, results, f"{_COMMAND} --tasks={name}", _WITH_NULL)
    if not TUNE.value:
        write_small_tables(read(results).get("rows", []), pathlib.Path(TABLE.value))


if __name__ == "__main__":
    app.run(main)
