"""Defences on Location-30, each against the strongest of all attacks: what leaks at which test accuracy.

    python benchmarks/defences_location.py --location=location30.npz
    python benchmarks/defences_location.py --location=location30.npz --anew --reference_models=64 --rows='ours*'
    python benchmarks/defences_location.py --location=location30.npz --tune

Each target, and each reference model, trains on its own random half of a pool of 3,200 records
(`defences_measured.py`). Who can only ask gets outputs of 1 bit, or HAMP's. `--tune` searches rates and lengths of
DP-SGD and of the rows that are ours, and strength and length of HAMP and RelaxLoss, on records outside of the pool,
which no target trains on.

`--cache` keeps every finished model's signals and every teacher's outputs, so that a run that was stopped goes on; a
row is written when it is finished. With 16 reference models and two targets a row takes 1 to 3 minutes of one core.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any, Optional

import networks
import numpy as np
from absl import app, flags
from defences_measured import CACHE, Setting, measure
from defences_report import write_report
from defences_ways import KnownSeed, Way, clipped, low_bits, order_only, smoothed
from result_files import search

import tfmiaq
from tfmiaq import signals, training

LOCATION = flags.DEFINE_string("location", None, "Path of Location-30 as an .npz with x and y.", required=True)
RESULTS = flags.DEFINE_string("results", "benchmarks/defences_location.json", "Result file.")
TABLE = flags.DEFINE_string("table", "docs/frontier.md", "Markdown table.")
FIGURE = flags.DEFINE_string("figure", "docs/figures/frontier-location30.png", "Figure.")
TUNE = flags.DEFINE_bool("tune", False, "Search rates and lengths on records outside of the pool instead.")
_POOL, _QUERIES, _CLASSES = 3_200, 18, 30
_WITH_NULL = ("ours: on copies, clip 1, 30 epochs", "ours: cross-distilled, clip 1, 30 epochs")
_NORMALIZED, _PLAIN = (functools.partial(net, (446,), _CLASSES) for net in (networks.mlp, networks.plain_mlp))


def _small(epochs: int, **more: Any) -> tfmiaq.TrainingRecipe:
    """Batches of 64, as the network with BatchNormalization is trained."""
    return tfmiaq.TrainingRecipe(epochs=epochs, learning_rate=0.1, batch_size=64, weight_decay=5e-4, **more)


def whole(epochs: int, clip: Optional[float] = 1.0, noise: float = 0.0, rate: float = 2.0) -> tfmiaq.TrainingRecipe:
    """All members in each batch."""
    return clipped(epochs, _POOL // 2, clip, noise, rate)


def student(recipe: Any, build: Any = None, policy: Any = None, options: Any = None, taught: Any = None) -> Way:
    """The way of a student of cross-distillation, by 15 teachers of 3 epochs if nothing else is said."""
    store = str(pathlib.Path(CACHE.value) / "teachers")
    teacher = taught or tfmiaq.FloatTraining(_NORMALIZED, _small(3))
    options = options or tfmiaq.CrossDistillation(folds=5, repeats=3)
    return Way(tfmiaq.CrossDistilledTraining(policy, recipe, teacher, options, store), build or _PLAIN)


def copied(folds: int = 5, repeats: int = 3, copies: int = 3) -> tfmiaq.CrossDistillation:
    """Teachers as of the other rows; each copy of a record has lost three tenths of its features."""
    return tfmiaq.CrossDistillation(folds, repeats, copies=copies)


def rows() -> dict[str, Any]:
    """The pipelines of the rows, by name."""

    def large(*arguments: Any, **more: Any) -> Any:
        return Way(tfmiaq.FloatTraining(_PLAIN, whole(*arguments, **more)))

    def small(epochs: int, way: Optional[dict[str, Any]] = None, **more: Any) -> Any:
        return Way(tfmiaq.FloatTraining(_NORMALIZED, _small(epochs, **more)), **(way or {}))

    losses = tfmiaq.losses
    high_entropy = functools.partial(losses.HighEntropyLabels, alpha=0.01, from_logits=True)
    found: dict[str, Any] = {
        "ours: cross-distilled, clip 1, 40 epochs": student(whole(40)),
        "ours: cross-distilled, clip 1, 30 epochs": student(whole(30)),
        "ours: cross-distilled, clip 1, 20 epochs": student(whole(20)),
        "DP-SGD, noise 0.75, 50 epochs": large(50, 1.0, 0.75),
        "DP-SGD, noise 0.5, 40 epochs": large(40, 1.0, 0.5),
        "plain, clip 1, 25 epochs": large(25),
        "DP-SGD, noise 1.0, 30 epochs": large(30, 1.0, 1.0),
        "plain, clip 1, 15 epochs": large(15),
        "DP-SGD, noise 0.5, 20 epochs": large(20, 1.0, 0.5),
        "cross-distilled, BatchNormalization, batches of 64, 24 epochs": student(_small(24), _NORMALIZED),
        "ours: w2, cross-distilled, clip 1, 30 epochs": student(whole(30), policy=low_bits(2)),
        "ours as defend has it: teachers of 24 epochs drawn once, w2 a4, clip 1, 30 epochs": student(
            whole(30),
            policy=tfmiaq.BitwidthPolicy.mia_default(),
            options=tfmiaq.CrossDistillation(),
            taught=tfmiaq.FloatTraining(_NORMALIZED, _small(24)),
        ),
        "DP-SGD, noise 0.5, rate 4, 20 epochs": large(20, 1.0, 0.5, 4.0),
        "apart: no clip, rate 0.2, 30 epochs": student(whole(30, None, rate=0.2)),
        "DP-SGD, noise 0.5, rate 4, 30 epochs": large(30, 1.0, 0.5, 4.0),
        "apart: BatchNormalization, no clip, rate 0.2, 30 epochs": student(whole(30, None, rate=0.2), _NORMALIZED),
        "apart: batches of 64, no clip, 6 epochs": student(_small(6)),
        "ours: w2, cross-distilled, clip 1, 45 epochs": student(whole(45), policy=low_bits(2)),
        "apart: no clip, rate 0.2, 60 epochs": student(whole(60, None, rate=0.2)),
        "ours: 10 folds drawn twice, clip 1, 30 epochs": student(
            whole(30), options=tfmiaq.CrossDistillation(folds=10, repeats=2)
        ),
        "SELENA: 25 teachers, 10 without the record": student(
            _small(24), _NORMALIZED, options=tfmiaq.CrossDistillation(folds=25, left_out=10)
        ),
        "early stopping: BatchNormalization, batches of 64, 3 epochs": small(3),
        "HAMP 0.3, its outputs to who can only ask, 4 epochs": small(4, {"hide": order_only}, loss=high_entropy(0.3)),
        "HAMP 0.5, its outputs to who can only ask, 4 epochs": small(4, {"hide": order_only}, loss=high_entropy(0.5)),
        "HAMP 0.5, its outputs to who can only ask, plain, clip 1, 40 epochs": Way(
            tfmiaq.FloatTraining(_PLAIN, dataclasses.replace(whole(40), loss=high_entropy(0.5))), hide=order_only
        ),
        "RelaxLoss 1.0": small(24, loss=losses.RelaxLoss(1.0, from_logits=True)),
        "float, BatchNormalization, batches of 64, 24 epochs": small(24),
        "label smoothing 0.3": small(24, {"labels": functools.partial(smoothed, 0.3, _CLASSES)}),
        "DP-SGD, noise 1.0, 60 epochs": large(60, 1.0, 1.0),
        "apart: clip 1, 80 epochs": student(whole(80)),
        "early stopping: BatchNormalization, batches of 64, 2 epochs": small(2),
        "ours: on copies, clip 1, 30 epochs": student(whole(30), options=copied()),
        "ours: on copies, clip 1, 24 epochs": student(whole(24), options=copied()),
        "ours: on copies, clip 1, rate 3, 20 epochs": student(whole(20, rate=3.0), options=copied(copies=4)),
        "ours: on copies, 10 folds drawn twice, clip 1, 30 epochs": student(
            whole(30), options=copied(folds=10, repeats=2)
        ),
        "ours: on copies as defend has it: teachers of 24 epochs drawn once, w2 a4, clip 1, 30 epochs": student(
            whole(30),
            policy=tfmiaq.BitwidthPolicy.mia_default(),
            options=tfmiaq.CrossDistillation(copies=3),
            taught=tfmiaq.FloatTraining(_NORMALIZED, _small(24)),
        ),
        "ours: w2 a4 on copies, clip 1, 30 epochs": student(
            whole(30), policy=tfmiaq.BitwidthPolicy.mia_default(), options=copied()
        ),
    }
    for name in (
        "ours: on copies, clip 1, 30 epochs",
        "ours: cross-distilled, clip 1, 30 epochs",
        "DP-SGD, noise 0.5, 40 epochs",
        "plain, clip 1, 25 epochs",
    ):
        found[f"the attacker knows the seed: {name}"] = KnownSeed(found[name])
    return found


def pool_and_test() -> tuple[signals.Records, signals.Records]:
    """The pool, and the records outside of it."""
    with np.load(LOCATION.value) as file:
        x, y = file["x"].astype(np.float32), file["y"].astype(np.int64)
    y = y - y.min()
    order = np.random.default_rng(0).permutation(len(y))
    inside, outside = order[:_POOL], order[_POOL:]
    return (x[inside], y[inside]), (x[outside], y[outside])


def queries(pool: signals.Records) -> signals.AugmentedQueries:
    """Augmented queries: six of each exchange rate."""
    return dataclasses.replace(signals.AugmentedQueries.from_records(pool[0]), count=_QUERIES)


def _trials(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """Settings that are tried, with their stages and labels."""
    yield from (
        ({"kind": "DP-SGD", "noise": noise, "rate": rate, "epochs": epochs}, whole(epochs, 1.0, noise, rate), y)
        for noise, rate, epochs in itertools.product((0.5, 1.0), (1.0, 2.0, 4.0), (20, 30, 40, 50))
    )
    for name, loss, strengths in (
        ("RelaxLoss", tfmiaq.losses.RelaxLoss, (0.5, 1.0)),
        ("HAMP", functools.partial(tfmiaq.losses.HighEntropyLabels, alpha=0.01), (0.3, 0.5, 0.7)),
    ):
        for strength, epochs in itertools.product(strengths, (4, 8, 24)):
            setting = {"kind": name, "strength": strength, "epochs": epochs}
            yield setting, _small(epochs, loss=loss(strength, from_logits=True)), y
    teacher = tfmiaq.FloatTraining(_NORMALIZED, _small(3))
    soft = functools.cache(lambda: training.out_of_fold_predictions(teacher, x, y, repeats=3))
    for rate, epochs in itertools.product((1.0, 2.0, 4.0), (20, 30, 40, 50)):
        yield {"kind": "ours", "noise": 0.0, "rate": rate, "epochs": epochs}, whole(epochs, rate=rate), soft


def tune(outside: signals.Records, results: pathlib.Path) -> None:
    """Writes test accuracies of ours and of peers over their settings, on records that no target trains on."""
    x, y = outside
    known: np.ndarray = np.random.default_rng(1).permutation(len(y)) < 1_200
    trials = (
        (setting, tfmiaq.FloatTraining(_PLAIN if recipe.dp is not None else _NORMALIZED, recipe), (x[known], labels))
        for setting, recipe, labels in _trials(x[known], y[known])
    )
    search(trials, {"accuracy": (x[~known], y[~known])}, results)


def main(argv: list[str]) -> None:
    del argv
    results = pathlib.Path(RESULTS.value)
    pool, test = pool_and_test()
    if TUNE.value:
        tune(test, results)
        return
    command = "python benchmarks/defences_location.py --location=location30.npz"
    found = measure(rows(), Setting(pool, test, queries(pool)), results, command, _WITH_NULL)
    if found:
        write_report(found, pathlib.Path(TABLE.value), pathlib.Path(FIGURE.value))


if __name__ == "__main__":
    app.run(main)
