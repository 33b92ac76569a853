"""Defences of image networks, each against the strongest of all attacks: what leaks at which test accuracy (CIFAR-10).

    python benchmarks/defences_images.py --dataset=cifar10.npz
    python benchmarks/defences_images.py --dataset=cifar10.npz --networks=resnet8 --rows='float*' --models=16
    python benchmarks/defences_images.py --dataset=cifar10.npz --tune
    python benchmarks/defences_images.py --only_table

Each of `--models` models trains on its own random half of a pool, which is that of `post_training.py`, and is attacked
with the others as its reference models (`in_turn.py`). Rows of floats of 24 epochs, and of what is quantized after
them, are those of `post_training.py --in_turn=8`. Calibration has 256 records outside of the pool. Rows that clip by
record have GroupNormalization; the others have BatchNormalization. Rows "augmented" train on flips and shifts, and
their attackers query 24 copies of each record too, flipped and shifted alike. `--tune` searches rates and lengths of
DP-SGD and of ours on records outside of the pool, which no model of a row trains on.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import app, flags
from calibrated import with_bits
from defences_ways import Way, clipped, smoothed, whole
from images_report import write_tables
from networks import NETWORKS, OF_IMAGES, group_normalized
from result_files import read, search
from rows_in_turn import CACHE, measure

import tfmiaq
from tfmiaq import datasets, signals, training

DATASET = flags.DEFINE_string("dataset", "cifar10", "CIFAR-10: its name, or the path of an .npz file.")
NETWORKS_TO_RUN = flags.DEFINE_multi_enum("networks", list(OF_IMAGES), list(OF_IMAGES), "Networks.")
MEMBERS = flags.DEFINE_integer("members", 1_000, "Members of each model.", 100)
RESULTS = flags.DEFINE_string("results", "benchmarks/defences_images.json", "Result file.")
FURTHER = flags.DEFINE_string("further", "benchmarks/post_training_in_turn.json", "Result file of `post_training.py`.")
SMALL = flags.DEFINE_string("small", "benchmarks/defences_images_16.json", "Result file at 16 x 16 pixels.")
TABLE = flags.DEFINE_string("table", "docs/frontier_images.md", "Page whose tables are written anew with each row.")
ONLY_TABLE = flags.DEFINE_bool("only_table", False, "Write the tables from the result files, and measure nothing.")
TUNE = flags.DEFINE_bool("tune", False, "Search rates and lengths on records outside of the pool instead.")
_CLASSES, _CALIBRATION = 10, 256
_SHAPE = (32, 32, 3)
_COMMAND = "python benchmarks/defences_images.py --dataset=cifar10.npz"
# At 0.1 and 0.05 the small VGG learns next to nothing.
_RATES = {"small_vgg": 0.005}
_CHANGE = training.ImagesShifted(mirror=True)
# One of each way to train.
_WITH_NULL = (
    "float, 8 epochs",
    "augmented float, 24 epochs",
    "cross-distilled, teachers of 12 epochs, 24 epochs",
    "cross-distilled, teachers of 8 epochs, 24 epochs",
    "augmented cross-distilled, teachers of 48 epochs, 144 epochs",
    "augmented cross-distilled, teachers of 48 epochs of weight 0.85, 144 epochs",
    "plain, clip 1, GroupNormalization, rate 0.5, 20 epochs",
    "DP-SGD, noise 0.1, GroupNormalization, rate 0.5, 20 epochs",
    "HAMP 0.3, 12 epochs",
    "RelaxLoss 1.0, 24 epochs",
    "SELENA: 25 teachers of 12 epochs, 10 without the record, 24 epochs",
)


def _normalized(network: str) -> Any:
    return OF_IMAGES[network](_SHAPE, _CLASSES)


def _grouped(network: str) -> Any:
    """The network with GroupNormalization, which can be trained by record."""
    return group_normalized(_normalized(network))


def small(network: str, epochs: int, augment: Any = None) -> tfmiaq.TrainingRecipe:
    """Batches of 64, as networks with BatchNormalization are trained."""
    rate = _RATES.get(network, 0.1)
    return tfmiaq.TrainingRecipe(epochs=epochs, learning_rate=rate, batch_size=64, augment=augment)


@dataclasses.dataclass(frozen=True)
class AsTrained:
    """Queries as augmented rows are trained: shifted by up to four pixels each way, half of them mirrored.

    Attributes:
        count: Number of queries for each record.
    """

    count: int = 24

    def __call__(self, x: np.ndarray, number: int) -> np.ndarray:
        """Copies of records, with other draws than those that a student is trained on."""
        return _CHANGE(x, 10_000 + number)


def by_record(epochs: int, noise: float, rate: float, augment: Any = None) -> tfmiaq.TrainingRecipe:
    """Batches of a tenth of the members, each record's gradient clipped; with `augment` that of four copies' mean."""
    recipe = clipped(epochs, MEMBERS.value // 10, 1.0, noise, rate)
    if augment is None:
        return recipe
    return dataclasses.replace(recipe, augment=augment, dp=training.DPSGD(1.0, noise, copies=4))


def rows(network: str, outside: np.ndarray) -> dict[str, list[Any]]:
    """The pipelines of the rows, by name.

    Args:
        network: Name of the network.
        outside: Records to calibrate on.
    """
    normalized, _small = functools.partial(_normalized, network), functools.partial(small, network)
    store = str(pathlib.Path(CACHE.value) / "teachers")
    found: dict[str, list[Any]] = {}

    def add(name: str, stage: Any) -> None:
        """A float model, and what is calibrated of it."""
        bits = ((8, 8), (2, 8), (1, 8), (2, 4), (1, 4))
        found.update(with_bits(name, stage, bits, _CALIBRATION, outside))

    def student(recipe: Any, taught: Any, **options: Any) -> Any:
        teacher = tfmiaq.FloatTraining(normalized, taught)
        distilled = tfmiaq.CrossDistilledTraining(None, recipe, teacher, tfmiaq.CrossDistillation(**options), store)
        return Way(distilled, normalized, hide=whole)

    shifts = training.flips_and_shifts()
    # `post_training.py` has those of 24 epochs.
    further = () if network in NETWORKS and MEMBERS.value == 1_000 else (24,)
    for epochs in (3, 4, 5, 8, 10, 12, 16, *further):
        add(f"float, {epochs} epochs", tfmiaq.FloatTraining(normalized, _small(epochs)))
    for epochs in (8, 12, 16, 24, 30, 36, 48, 72, 96, 144):
        add(f"augmented float, {epochs} epochs", tfmiaq.FloatTraining(normalized, _small(epochs, shifts)))
    for taught, epochs in itertools.product((8, 12), (12, 24, 48)):
        add(f"cross-distilled, teachers of {taught} epochs, {epochs} epochs", student(_small(epochs), _small(taught)))
    for weight in (0.5, 0.7, 0.85):
        name = f"cross-distilled, teachers of 12 epochs of weight {weight:g}, 24 epochs"
        add(name, student(_small(24), _small(12), teacher_weight=weight))
    often = student(_small(24), _small(12), repeats=3)
    add("cross-distilled, teachers of 12 epochs drawn 3 times, 24 epochs", often)
    selena = student(_small(24), _small(12), folds=25, left_out=10)
    add("SELENA: 25 teachers of 12 epochs, 10 without the record, 24 epochs", selena)
    # Each copy of a record is labelled by the record's own teachers.
    for taught, repeats, epochs in itertools.product((24, 48, 96, 144), (1, 2, 3), (24, 72, 144, 288)):
        of_copies = student(_small(epochs), _small(taught, shifts), repeats=repeats, copies=24, change=_CHANGE)
        often = "" if repeats == 1 else f" drawn {repeats} times"
        add(f"augmented cross-distilled, teachers of {taught} epochs{often}, {epochs} epochs", of_copies)
    for taught, weight, epochs in itertools.product((24, 48), (0.5, 0.7, 0.85), (72, 144, 288)):
        options = {"teacher_weight": weight, "copies": 24, "change": _CHANGE}
        name = f"augmented cross-distilled, teachers of {taught} epochs of weight {weight:g}, {epochs} epochs"
        add(name, student(_small(epochs), _small(taught, shifts), **options))
    for noise, rate, epochs in itertools.product((0.0, 0.05, 0.1, 0.3), (0.25, 0.5, 1.0), (10, 20, 40)):
        kind = f"DP-SGD, noise {noise:g}" if noise else "plain, clip 1"
        grouped = tfmiaq.FloatTraining(functools.partial(_grouped, network), by_record(epochs, noise, rate))
        add(f"{kind}, GroupNormalization, rate {rate:g}, {epochs} epochs", grouped)
    for noise, rate, epochs in itertools.product((0.0, 0.1), (0.5, 1.0), (20, 40, 80)):
        kind = f"DP-SGD, noise {noise:g}" if noise else "plain, clip 1"
        grouped = tfmiaq.FloatTraining(functools.partial(_grouped, network), by_record(epochs, noise, rate, shifts))
        add(f"augmented {kind}, GroupNormalization, rate {rate:g}, {epochs} epochs", grouped)
    relaxed = {f"RelaxLoss {alpha}": tfmiaq.losses.RelaxLoss(alpha, from_logits=True) for alpha in (0.5, 1.0, 1.5)}
    softened = {
        f"HAMP {part}": tfmiaq.losses.HighEntropyLabels(part, alpha=0.01, from_logits=True) for part in (0.3, 0.5, 0.7)
    }
    for (name, loss), augment in itertools.product({**relaxed, **softened}.items(), (None, shifts)):
        for epochs in (8, 12, 24, 48):
            lossy = dataclasses.replace(_small(epochs, augment), loss=loss)
            start = "augmented " if augment else ""
            add(f"{start}{name}, {epochs} epochs", tfmiaq.FloatTraining(normalized, lossy))
    for augment, epochs in itertools.product((None, shifts), (24, 48)):
        smooth = functools.partial(smoothed, 0.3, _CLASSES)
        start = "augmented " if augment else ""
        trained = tfmiaq.FloatTraining(normalized, _small(epochs, augment))
        add(f"{start}label smoothing 0.3, {epochs} epochs", Way(trained, labels=smooth, hide=whole))
    return found


def _trials(network: str, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """Setting, training and labels of each trial of the search."""
    normalized, grouped = functools.partial(_normalized, network), functools.partial(_grouped, network)
    for noise, rate in itertools.product((0.0, 0.1), (0.25, 0.5, 1.0)):
        recipe = by_record(20, noise, rate)
        setting = {"kind": "DP-SGD", "noise": noise, "rate": rate, "epochs": 20}
        yield setting, tfmiaq.FloatTraining(grouped, recipe), (x, y)
    for taught in (8, 12):
        teacher = tfmiaq.FloatTraining(normalized, small(network, taught))
        soft = functools.cache(functools.partial(training.out_of_fold_predictions, teacher, x, y))
        for epochs in (12, 24, 48):
            setting = {"kind": "cross-distilled", "teachers": taught, "epochs": epochs}
            yield setting, tfmiaq.FloatTraining(normalized, small(network, epochs)), (x, soft)


def tune(network: str, results: pathlib.Path) -> None:
    """Writes accuracies of DP-SGD and of ours over their settings, on records that no model of a row trains on."""
    data = datasets.load(DATASET.value)
    count = MEMBERS.value
    start = 2 * count + _CALIBRATION
    x, y = data.x_train[start : start + count], data.y_train[start : start + count]
    sets = {"train_accuracy": (x, y), "test_accuracy": (data.x_test[: 2 * count], data.y_test[: 2 * count])}
    search(_trials(network, x, y), sets, results, network)


def pool_and_calibration() -> tuple[signals.Records, np.ndarray]:
    """The pool of `post_training.py`, and the records that it calibrates on."""
    data = datasets.load(DATASET.value)
    x, y = data.x_train, data.y_train
    count = 2 * MEMBERS.value
    order = np.random.default_rng(0).permutation(count)
    return (x[order], y[order]), x[count : count + _CALIBRATION]


def main(argv: list[str]) -> None:
    del argv
    results, further, table = (pathlib.Path(flag.value) for flag in (RESULTS, FURTHER, TABLE))
    if TUNE.value:
        for network in NETWORKS_TO_RUN.value:
            tune(network, results)
        return
    if not ONLY_TABLE.value:
        pool, calibration = pool_and_calibration()
        for network in NETWORKS_TO_RUN.value:
            found = rows(network, calibration)
            command = f"{_COMMAND} --networks={network} --members={MEMBERS.value}"
            measure(network, found, pool, results, command, _WITH_NULL, AsTrained(), "augmented*")
    finished = [*read(results).get("rows", []), *read(further).get("rows", [])]
    write_tables(finished, read(pathlib.Path(SMALL.value))["rows"], table)


if __name__ == "__main__":
    app.run(main)
