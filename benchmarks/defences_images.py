"""Defences of image networks, each against the strongest of all attacks: what leaks at which test accuracy (CIFAR-10).

    python benchmarks/defences_images.py --dataset=cifar10.npz
    python benchmarks/defences_images.py --dataset=cifar10.npz --networks=resnet8 --rows='float*' --models=16
    python benchmarks/defences_images.py --only_table

Each of `--models` models trains on its own random half of a pool, which is that of `post_training.py`, and is attacked
with the others as its reference models (`in_turn.py`). Rows of floats of 24 epochs, and of what is quantized after
them, are those of `post_training.py --in_turn=8`. Calibration has 256 records outside of the pool. Rows that clip by
record have GroupNormalization; the others have BatchNormalization. Rows "augmented" train on flips and shifts, and
their attackers query augmented copies too.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import itertools
import json
import pathlib
import time
from typing import Any

import numpy as np
from absl import app, flags
from calibrated import Calibrate, Traced
from defences_ways import Way, clipped
from images_report import write_tables
from in_turn import in_turn
from networks import NETWORKS, group_normalized
from tqdm import tqdm

import tfmiaq
from tfmiaq import datasets, signals, training

DATASET = flags.DEFINE_string("dataset", "cifar10", "CIFAR-10: its name, or the path of an .npz file.")
NETWORKS_TO_RUN = flags.DEFINE_multi_enum("networks", list(NETWORKS), list(NETWORKS), "Networks.")
ROWS = flags.DEFINE_multi_string("rows", ["*"], "Globs over rows to train, in this order.")
MEMBERS = flags.DEFINE_integer("members", 1_000, "Members of each model.", 100)
MODELS = flags.DEFINE_integer("models", 12, "Models of each row; two less are references of each.", 4)
TARGETS = flags.DEFINE_integer("targets", 8, "Models of each row that are attacked.", 2)
CACHE = flags.DEFINE_string("cache", "out/defences_images", "Folder of finished models' signals.")
RESULTS = flags.DEFINE_string("results", "benchmarks/defences_images.json", "Result file.")
FURTHER = flags.DEFINE_string("further", "benchmarks/post_training_in_turn.json", "Result file of `post_training.py`.")
SMALL = flags.DEFINE_string("small", "benchmarks/defences_images_16.json", "Result file at 16 x 16 pixels.")
TABLE = flags.DEFINE_string("table", "docs/frontier_images.md", "Page whose tables are written anew with each row.")
ONLY_TABLE = flags.DEFINE_bool("only_table", False, "Write the tables from the result files, and measure nothing.")
_CLASSES, _QUERIES, _CALIBRATION = 10, 4, 256
_SHAPE = (32, 32, 3)
# One of each way to train.
_WITH_NULL = (
    "float, 8 epochs",
    "augmented float, 24 epochs",
    "cross-distilled, teachers of 12 epochs, 24 epochs",
    "cross-distilled, teachers of 8 epochs, 24 epochs",
)


def _normalized(network: str) -> Any:
    return NETWORKS[network](_SHAPE, _CLASSES)


def _grouped(network: str) -> Any:
    """The network with GroupNormalization, which can be trained by record."""
    return group_normalized(_normalized(network))


def _same(model: Any) -> Any:
    return model


def _small(epochs: int, augment: Any = None) -> tfmiaq.TrainingRecipe:
    """Batches of 64, as networks with BatchNormalization are trained."""
    return tfmiaq.TrainingRecipe(epochs=epochs, learning_rate=0.1, batch_size=64, augment=augment)


def rows(network: str, outside: np.ndarray) -> dict[str, list[Any]]:
    """The pipelines of the rows, by name.

    Args:
        network: Name of the network.
        outside: Records to calibrate on.
    """
    normalized = functools.partial(_normalized, network)
    store = str(pathlib.Path(CACHE.value) / "teachers")
    found: dict[str, list[Any]] = {}

    def add(name: str, stage: Any) -> None:
        """A float model, and what is calibrated of it."""
        found[name] = [stage, Traced()]
        for weight, activation in ((8, 8), (2, 8), (1, 8), (2, 4), (1, 4)):
            calibrate = Calibrate(weight, activation, _CALIBRATION, 100, 32, outside)
            found[f"{name}, calibrated w{weight} a{activation}"] = [stage, calibrate]

    def student(recipe: Any, taught: Any, **options: Any) -> Any:
        teacher = tfmiaq.FloatTraining(normalized, taught)
        distilled = tfmiaq.CrossDistilledTraining(None, recipe, teacher, tfmiaq.CrossDistillation(**options), store)
        return Way(distilled, normalized, hide=_same)

    for epochs in (3, 5, 8, 10, 12, 16):
        add(f"float, {epochs} epochs", tfmiaq.FloatTraining(normalized, _small(epochs)))
    for epochs in (8, 12, 16, 24, 48):
        augmented = _small(epochs, training.flips_and_shifts())
        add(f"augmented float, {epochs} epochs", tfmiaq.FloatTraining(normalized, augmented))
    for taught, epochs in itertools.product((8, 12), (12, 24, 48)):
        add(f"cross-distilled, teachers of {taught} epochs, {epochs} epochs", student(_small(epochs), _small(taught)))
    often = student(_small(24), _small(12), repeats=3)
    add("cross-distilled, teachers of 12 epochs drawn 3 times, 24 epochs", often)
    # As many copies of each record as a training of 24 epochs sees, each labelled by the record's teachers.
    augmented = _small(24, training.flips_and_shifts())
    change = training.ImagesShifted(mirror=True)
    for epochs in (24, 48):
        of_copies = student(_small(epochs), augmented, copies=24, change=change)
        add(f"augmented cross-distilled, {epochs} epochs", of_copies)
    for noise, rate, epochs in itertools.product((0.0, 0.1, 0.3), (0.25, 0.5), (10, 20)):
        recipe = clipped(epochs, MEMBERS.value // 10, 1.0, noise, rate)
        kind = f"DP-SGD, noise {noise:g}" if noise else "plain, clip 1"
        grouped = tfmiaq.FloatTraining(functools.partial(_grouped, network), recipe)
        add(f"{kind}, GroupNormalization, rate {rate:g}, {epochs} epochs", grouped)
    for name, loss in (
        ("RelaxLoss 1.0", tfmiaq.losses.RelaxLoss(1.0, from_logits=True)),
        ("HAMP 0.3", tfmiaq.losses.HighEntropyLabels(0.3, alpha=0.01, from_logits=True)),
    ):
        for epochs in (8, 12, 24):
            lossy = dataclasses.replace(_small(epochs), loss=loss)
            add(f"{name}, {epochs} epochs", tfmiaq.FloatTraining(normalized, lossy))
    return found


def _pool() -> tuple[signals.Records, np.ndarray]:
    """The pool of `post_training.py`, and the records that it calibrates on."""
    data = datasets.load(DATASET.value)
    x, y = data.x_train, data.y_train
    count = 2 * MEMBERS.value
    order = np.random.default_rng(0).permutation(count)
    return (x[order], y[order]), x[count : count + _CALIBRATION]


def read(path: pathlib.Path) -> dict[str, Any]:
    """A result file, empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _row(network: str, name: str, stages: list[Any], pool: signals.Records) -> dict[str, Any]:
    started = time.process_time()
    options = tfmiaq.ReferenceModels(stages, MODELS.value, cache=CACHE.value)
    queries = None
    if name.startswith("augmented"):
        queries = dataclasses.replace(signals.AugmentedQueries.from_records(pool[0]), count=_QUERIES)
    with tqdm(total=MODELS.value, desc=name) as bar:
        references = signals.train_references(options, pool, batch_size=1_000, queries=queries, progress=bar.update)
    seconds = round(time.process_time() - started)
    found = in_turn(references, pool[1], min(TARGETS.value, MODELS.value), with_null=name in _WITH_NULL)
    return {"network": network, "row": name, "members": MEMBERS.value, **found, "seconds": seconds}


def main(argv: list[str]) -> None:
    del argv
    results, further, table = (pathlib.Path(flag.value) for flag in (RESULTS, FURTHER, TABLE))

    def write(kept: dict[str, Any]) -> None:
        kept["command"] = "python benchmarks/defences_images.py --dataset=cifar10.npz"
        results.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    if not ONLY_TABLE.value:
        pool, calibration = _pool()
        for network in NETWORKS_TO_RUN.value:
            all_rows = rows(network, calibration)
            names = [name for pattern in ROWS.value for name in all_rows if fnmatch.fnmatchcase(name, pattern)]
            for name in dict.fromkeys(names):
                known = [
                    row for row in read(results).get("rows", []) if (row["network"], row["row"]) == (network, name)
                ]
                if any(row["reference_models"] >= MODELS.value - 2 for row in known):
                    continue
                found = _row(network, name, all_rows[name], pool)
                # What another run may have written meanwhile stays.
                kept = read(results)
                kept["rows"] = [row for row in kept.get("rows", []) if row not in known] + [found]
                write(kept)
                best = max(found["logits"].items(), key=lambda item: item[1][0])
                print(
                    network, name, found["test_accuracy"], found["train_accuracy"], best, found["seconds"], flush=True
                )
    finished = [*read(results).get("rows", []), *read(further).get("rows", [])]
    write_tables(finished, read(pathlib.Path(SMALL.value))["rows"], table)


if __name__ == "__main__":
    app.run(main)
