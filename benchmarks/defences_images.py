"""Defences of image networks, each against the strongest of all attacks: what leaks at which test accuracy (CIFAR-10).

    python benchmarks/defences_images.py --dataset=cifar10.npz
    python benchmarks/defences_images.py --dataset=cifar10.npz --networks=resnet8 --side=32 --members=2000
    python benchmarks/defences_images.py --dataset=cifar10.npz --tune

Each target, and each reference model, trains on its own random half of a pool (`defences_measured.py`). Images are
means over squares of pixels where `--side` is below 32, which is what makes the whole affordable: a step costs a
quarter. Who can only ask gets outputs of 1 bit. Rows that clip by record have no normalization; the others have
BatchNormalization. `--tune` searches batches, rates and lengths of clipped training with and without noise, with as
many trainings each, on records outside of the pool.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import numpy as np
from absl import app, flags
from defences_measured import CACHE, Setting, measure, read, write
from defences_report import write_tables
from defences_ways import Way, clipped
from networks import NETWORKS

import tfmiaq
from tfmiaq import datasets, signals, training

DATASET = flags.DEFINE_string("dataset", "cifar10", "CIFAR-10: its name, or the path of an .npz file.")
NETWORKS_TO_RUN = flags.DEFINE_multi_enum("networks", ["small_mobilenet"], list(NETWORKS), "Networks.")
SIDE = flags.DEFINE_integer("side", 16, "Pixels of a side: 32, or a divisor of it.", 8, 32)
MEMBERS = flags.DEFINE_integer("members", 1_000, "Members of each model.", 100)
RESULTS = flags.DEFINE_string("results", "benchmarks/defences_images.json", "Result file.")
TABLE = flags.DEFINE_string("table", "docs/frontier_images.md", "Markdown table.")
TUNE = flags.DEFINE_bool("tune", False, "Search clipped trainings on records outside of the pool instead.")
_CLASSES, _QUERIES = 10, 4
_WITH_NULL = ("float, 24 epochs",)


def _plain(network: str) -> Any:
    return training.without_batch_normalization(_normalized(network))


def _normalized(network: str) -> Any:
    return NETWORKS[network]((SIDE.value, SIDE.value, 3), _CLASSES)


def _small(epochs: int) -> tfmiaq.TrainingRecipe:
    """Batches of 64, as networks with BatchNormalization are trained."""
    return tfmiaq.TrainingRecipe(epochs=epochs, learning_rate=0.1, batch_size=64)


def rows(network: str) -> dict[str, Any]:
    """The pipelines of the rows, by name."""
    normalized, plain = (functools.partial(build, network) for build in (_normalized, _plain))
    store = str(pathlib.Path(CACHE.value) / "teachers")
    quarter, tenth = MEMBERS.value // 4, MEMBERS.value // 10

    def small(epochs: int) -> Any:
        return Way(tfmiaq.FloatTraining(normalized, _small(epochs)))

    def large(*arguments: Any, **more: Any) -> Any:
        return Way(tfmiaq.FloatTraining(plain, clipped(*arguments, **more)))

    def quantized(weights: int) -> Any:
        policy = tfmiaq.BitwidthPolicy.uniform(weights, 4)
        return Way(tfmiaq.QuantizedTraining(policy, _small(24)), normalized)

    def student(recipe: Any, build: Any, weights: int = 0) -> Any:
        policy = tfmiaq.BitwidthPolicy.uniform(weights, 4) if weights else None
        teacher = tfmiaq.FloatTraining(normalized, _small(4))
        options = tfmiaq.CrossDistillation(folds=5)
        return Way(tfmiaq.CrossDistilledTraining(policy, recipe, teacher, options, store), build)

    return {
        "early stopping: float, 4 epochs": small(4),
        "plain, clip 1, 20 epochs": large(20, tenth, rate=0.3),
        "float, 24 epochs": small(24),
        "ours: cross-distilled, clip 1, 20 epochs": student(clipped(20, tenth, rate=0.3), plain),
        "w1 a4, 24 epochs": quantized(1),
        "DP-SGD, noise 0.3, 20 epochs": large(20, tenth, 1.0, 0.3, 0.3),
        "ours: w1 a4, cross-distilled, 24 epochs": student(_small(24), normalized, 1),
        "early stopping: float, 6 epochs": small(6),
        "early stopping: float, 3 epochs": small(3),
        "w2 a4, 24 epochs": quantized(2),
        "ours: w1 a4, cross-distilled, clip 1, 20 epochs": student(clipped(20, tenth, rate=0.3), plain, 1),
        "plain, clip 1, batches of a quarter, 40 epochs": large(40, quarter, rate=0.5),
        "ours: cross-distilled, clip 1, batches of a quarter, 40 epochs": student(
            clipped(40, quarter, rate=0.5), plain
        ),
        "DP-SGD, noise 0.5, batches of a quarter, 40 epochs": large(40, quarter, 1.0, 0.5, 0.5),
    }


def _pool() -> tuple[signals.Records, signals.Records]:
    """The pool, and twice as many other records."""
    data = datasets.load(DATASET.value)
    x, y = data.x_train, data.y_train
    order = np.random.default_rng(0).permutation(len(y))[: 4 * MEMBERS.value + MEMBERS.value]
    step = 32 // SIDE.value
    x = x[order].reshape(len(order), SIDE.value, step, SIDE.value, step, 3).mean((2, 4), dtype=np.float32)
    y, inside = y[order], 2 * MEMBERS.value
    return (x[:inside], y[:inside]), (x[inside:], y[inside:])


def tune(network: str, outside: signals.Records) -> list[dict[str, Any]]:
    """Test accuracies of clipped training with and without noise, on records that no target trains on."""
    x, y = outside
    known = MEMBERS.value
    found = []
    for noise, part, (rate, epochs) in itertools.product((0.0, 0.3), (10, 4), ((0.1, 20), (0.3, 20), (0.5, 40))):
        tfmiaq.keras.utils.set_random_seed(0)
        recipe = clipped(epochs, known // part, 1.0, noise, rate)
        model = tfmiaq.FloatTraining(functools.partial(_plain, network), recipe).lend(x[:known], y[:known])
        right = signals.predict_logits(model, x[known:]).argmax(1) == y[known:]
        found.append({"network": network, "noise": noise, "batches": part, "rate": rate, "epochs": epochs})
        found[-1]["accuracy"] = round(float(right.mean()), 4)
        print(found[-1], flush=True)
    return found


def main(argv: list[str]) -> None:
    del argv
    if 32 % SIDE.value:
        raise app.UsageError(f"--side: Expected a divisor of 32. Received {SIDE.value}.")
    results = pathlib.Path(RESULTS.value)
    pool, test = _pool()
    command = (
        f"python benchmarks/defences_images.py --dataset=cifar10.npz --side={SIDE.value} --members={MEMBERS.value}"
    )
    queries = dataclasses.replace(signals.AugmentedQueries.from_records(pool[0]), count=_QUERIES)
    found: list[dict[str, Any]] = []
    for network in NETWORKS_TO_RUN.value:
        if TUNE.value:
            kept = read(results)
            others = [row for row in kept.get("tuning", []) if row["network"] != network]
            write(results, {**kept, "tuning": [*others, *tune(network, test)]})
            continue
        found = measure(rows(network), Setting(pool, test, queries, network), results, command, _WITH_NULL)
    if found:
        write_tables(found, pathlib.Path(TABLE.value), MEMBERS.value, SIDE.value)


if __name__ == "__main__":
    app.run(main)
