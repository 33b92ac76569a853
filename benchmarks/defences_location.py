"""Defences on Location-30, each against the strongest of all attacks: what leaks at which test accuracy.

    python benchmarks/defences_location.py --location=location30.npz
    python benchmarks/defences_location.py --location=location30.npz --tune

Each target, and each reference model, trains on its own random half of a pool of 3,200 records through the row's whole
pipeline. Every model is attacked twice: by its whole logits, which is what the holder of a file reads, and by outputs
of 1 bit in front of who can only ask. `--tune` searches rates and lengths of DP-SGD and of the rows that are ours, with
as many trainings each, on records outside of the pool, which no target trains on.

`--cache` keeps every finished model's signals and every teacher's outputs, so that a run that was stopped goes on; a
row is written when it is finished. With 16 reference models and two targets a row takes 1 to 3 minutes of one core.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Optional

import networks
import numpy as np
from absl import app, flags
from defences_report import NULL, table, write_report
from tqdm import tqdm

import tfmiaq
from tfmiaq import auditing, signals, training
from tfmiaq.attacks import ATTACKS, RECORDS, Evidence

LOCATION = flags.DEFINE_string("location", None, "Path of Location-30 as an .npz with x and y.", required=True)
ROWS = flags.DEFINE_multi_string("rows", ["*"], "Globs over rows to train.")
REFERENCES = flags.DEFINE_integer("reference_models", 64, "Reference models of each row.", 4)
TARGETS = flags.DEFINE_integer("targets", 3, "Targets of each row, seeds from 0.", 1)
CACHE = flags.DEFINE_string("cache", "out/defences", "Folder of finished models' signals.")
RESULTS = flags.DEFINE_string("results", "benchmarks/defences_location.json", "Result file.")
TABLE = flags.DEFINE_string("table", "docs/frontier.md", "Markdown table.")
FIGURE = flags.DEFINE_string("figure", "docs/figures/frontier-location30.png", "Figure.")
TUNE = flags.DEFINE_bool("tune", False, "Search rates and lengths on records outside of the pool instead.")
_POOL, _QUERIES = 3_200, 18
_SLOW = ("multi-layer perceptron", "random forest", "k nearest neighbours", "logistic regression")


def _rounded(model: Any) -> Any:
    """A model with outputs of 1 bit; an attacker who holds it reads the logits in front of them."""
    from tfmiaq.quantization import quantizers
    from tfmiaq.quantization.layers import QuantizedOutput

    outputs = QuantizedOutput(quantizers.OutputQuantizer(1, 0.2))(model.outputs[0])
    return tfmiaq.keras.Model(model.inputs, outputs)


@dataclasses.dataclass(frozen=True)
class Float:
    """The way of a float row, with outputs of 1 bit; `labels` makes soft labels of y."""

    train: training.FloatTraining
    labels: Optional[Callable[[np.ndarray], np.ndarray]] = None

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        return _rounded(self.train(x, y if self.labels is None else self.labels(y)))

    def lend(self, x: np.ndarray, y: np.ndarray) -> Any:
        return _rounded(self.train.lend(x, y if self.labels is None else self.labels(y)))


@dataclasses.dataclass(frozen=True)
class Student:
    """The way of a student: a fresh network, trained by cross-distillation, with outputs of 1 bit."""

    build: Callable[[], Any]
    train: training.CrossDistilledTraining

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        return _rounded(self.train(self.build(), x, y))

    def lend(self, x: np.ndarray, y: np.ndarray) -> Any:
        return _rounded(self.train.lend(self.build(), x, y))


@dataclasses.dataclass(frozen=True)
class Quantized:
    """The way of a quantized model that is trained from random weights, with outputs of 1 bit."""

    build: Callable[[], Any]
    train: training.QuantizedTraining

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        return _rounded(self.train(self.build(), x, y))

    def lend(self, x: np.ndarray, y: np.ndarray) -> Any:
        return _rounded(self.train.lend(self.build(), x, y))


def _smoothed(part: float, y: np.ndarray) -> np.ndarray:
    return ((1 - part) * np.eye(30) + part / 30)[y].astype(np.float32)


def _small(epochs: int, **more: Any) -> tfmiaq.TrainingRecipe:
    """Batches of 64, as the network with BatchNormalization is trained."""
    return tfmiaq.TrainingRecipe(epochs=epochs, learning_rate=0.1, batch_size=64, weight_decay=5e-4, **more)


def _large(epochs: int, clip: Optional[float] = 1.0, noise: float = 0.0, rate: float = 2.0) -> tfmiaq.TrainingRecipe:
    """All 1,600 members in each batch."""
    dp = None if clip is None else training.DPSGD(clip, noise)
    return tfmiaq.TrainingRecipe(epochs=epochs, learning_rate=rate, batch_size=1_600, dp=dp)


def _low_bits(bits: int) -> tfmiaq.BitwidthPolicy:
    """All weights at some bits, both ends too."""
    layer = tfmiaq.LayerBits(bits, 8)
    return dataclasses.replace(tfmiaq.BitwidthPolicy.uniform(bits, 8), first=layer, last=layer)


def rows() -> dict[str, Any]:
    """The pipelines of the rows, by name."""
    normalized, plain = (functools.partial(net, (446,), 30) for net in (networks.mlp, networks.plain_mlp))
    teacher = tfmiaq.FloatTraining(normalized, _small(3))
    folds = tfmiaq.CrossDistillation(folds=5, repeats=3)
    store = str(pathlib.Path(CACHE.value) / "teachers")

    def student(
        recipe: Any, build: Any = plain, policy: Any = None, options: Any = folds, taught: Any = teacher
    ) -> Any:
        return Student(build, tfmiaq.CrossDistilledTraining(policy, recipe, taught, options, store))

    def large(*arguments: Any, **more: Any) -> Any:
        return Float(tfmiaq.FloatTraining(plain, _large(*arguments, **more)))

    def small(epochs: int, labels: Any = None, **more: Any) -> Any:
        return Float(tfmiaq.FloatTraining(normalized, _small(epochs, **more)), labels)

    losses = tfmiaq.losses
    found: dict[str, Any] = {
        "ours: cross-distilled, clip 1, 40 epochs": student(_large(40)),
        "ours: cross-distilled, clip 1, 30 epochs": student(_large(30)),
        "ours: cross-distilled, clip 1, 20 epochs": student(_large(20)),
        "DP-SGD, noise 0.75, 50 epochs": large(50, 1.0, 0.75),
        "DP-SGD, noise 0.5, 40 epochs": large(40, 1.0, 0.5),
        "plain, clip 1, 25 epochs": large(25),
        "DP-SGD, noise 1.0, 30 epochs": large(30, 1.0, 1.0),
        "plain, clip 1, 15 epochs": large(15),
        "DP-SGD, noise 0.5, 20 epochs": large(20, 1.0, 0.5),
        "cross-distilled, BatchNormalization, batches of 64, 24 epochs": student(_small(24), normalized),
        "ours: w2, cross-distilled, clip 1, 30 epochs": student(_large(30), policy=_low_bits(2)),
        "ours as defend has it: teachers of 24 epochs drawn once, w2 a4, clip 1, 30 epochs": student(
            _large(30),
            policy=tfmiaq.BitwidthPolicy.mia_default(),
            options=tfmiaq.CrossDistillation(),
            taught=tfmiaq.FloatTraining(normalized, _small(24)),
        ),
        "DP-SGD, noise 0.5, rate 4, 20 epochs": large(20, 1.0, 0.5, 4.0),
        "apart: no clip, rate 0.2, 30 epochs": student(_large(30, None, rate=0.2)),
        "DP-SGD, noise 0.5, rate 4, 30 epochs": large(30, 1.0, 0.5, 4.0),
        "apart: BatchNormalization, no clip, rate 0.2, 30 epochs": student(_large(30, None, rate=0.2), normalized),
        "apart: batches of 64, no clip, 6 epochs": student(_small(6)),
        "ours: w2, cross-distilled, clip 1, 45 epochs": student(_large(45), policy=_low_bits(2)),
        "apart: no clip, rate 0.2, 60 epochs": student(_large(60, None, rate=0.2)),
        "ours: 10 folds drawn twice, clip 1, 30 epochs": student(
            _large(30), options=tfmiaq.CrossDistillation(folds=10, repeats=2)
        ),
        "SELENA: 25 teachers, 10 without the record": student(
            _small(24), normalized, options=tfmiaq.CrossDistillation(folds=25, left_out=10)
        ),
        "early stopping: BatchNormalization, batches of 64, 3 epochs": small(3),
        "HAMP 0.9 (training only)": small(24, loss=losses.HighEntropyLabels(0.9, 0.01, from_logits=True)),
        "RelaxLoss 1.0": small(24, loss=losses.RelaxLoss(1.0, from_logits=True)),
        "float, BatchNormalization, batches of 64, 24 epochs": small(24),
        "label smoothing 0.3": small(24, functools.partial(_smoothed, 0.3)),
        "DP-SGD, noise 1.0, 60 epochs": large(60, 1.0, 1.0),
        "apart: clip 1, 80 epochs": student(_large(80)),
        "early stopping: BatchNormalization, batches of 64, 2 epochs": small(2),
    }
    return found


def _pool() -> tuple[signals.Records, signals.Records]:
    with np.load(LOCATION.value) as file:
        x, y = file["x"].astype(np.float32), file["y"].astype(np.int64)
    y = y - y.min()
    order = np.random.default_rng(0).permutation(len(y))
    inside, outside = order[:_POOL], order[_POOL:]
    return (x[inside], y[inside]), (x[outside], y[outside])


def _queries(pool: signals.Records) -> Any:
    """Augmented queries: six of each exchange rate."""
    return dataclasses.replace(signals.AugmentedQueries.from_records(pool[0]), count=_QUERIES)


def _queried(model: Any, pool: signals.Records) -> dict[str, Any]:
    """Signals of both attackers."""
    held, queries = signals.HeldModel(model, 2_048), _queries(pool)
    views = {}
    for access in signals.ACCESS:
        view = getattr(held, access)
        found = signals.extract(view, pool, batch_size=2_048)
        more = signals.query_augmented(view, pool, queries, batch_size=2_048)
        views[access] = dataclasses.replace(found, **more)
    return views


def _target(
    stage: Any, pool: signals.Records, test: signals.Records, seed: int, null: bool
) -> tuple[dict[str, Any], np.ndarray, float, float]:
    """A target's signals, which records count as its members, and its accuracy on what it trained on and on others.

    A null target trains on records outside of the pool: its members and non-members are drawn, and are the same to it.
    """
    count = len(pool[1])
    inside: np.ndarray = np.random.default_rng(10_000 + seed).permutation(count) < count // 2
    x, y = pool[0][inside], pool[1][inside]
    if null:
        chosen = np.random.default_rng(30_000 + seed).permutation(len(test[1]))[: count // 2]
        x, y = test[0][chosen], test[1][chosen]
    tfmiaq.keras.utils.set_random_seed(7_000 + seed)
    model = stage(x, y)
    views = _queried(model, pool)
    others = (pool[0][~inside], pool[1][~inside]) if null else test
    accuracies = [float((signals.predict_logits(model, a).argmax(1) == b).mean()) for a, b in ((x, y), others)]
    return views, inside, accuracies[0], accuracies[1]


def _attacked(found: signals.Signals, inside: np.ndarray, references: Any, seed: int) -> dict[str, list[float]]:
    """AUC, TPR at 0.1 % and at 1 % FPR, and accuracy of every attack."""
    order = np.argsort(~inside, kind="stable")
    evidence = Evidence(
        target=found[order], is_member=inside[order], seed=seed, reference_signals=references.of_records(order)
    )
    chosen = [
        attack
        for attack in ATTACKS.values()
        if RECORDS not in attack.needs and attack.needs <= evidence.available and attack.name not in _SLOW
    ]
    figures = {}
    for attack in auditing.score(evidence, chosen).attacks:
        rates = [attack.tpr_at_fpr(fpr) for fpr in (0.001, 0.01)]
        values = [attack.auc, *(float("nan") if rate is None else rate for rate in rates), attack.confusion.accuracy]
        figures[attack.name] = [round(float(value), 4) for value in values]
    return figures


def _run(name: str, stage: Any, pool: signals.Records, test: signals.Records) -> Iterator[dict[str, Any]]:
    started = time.process_time()
    options = tfmiaq.ReferenceModels(stage, REFERENCES.value, cache=CACHE.value)
    queries = _queries(pool)
    with tqdm(total=REFERENCES.value, desc=name) as bar:
        references = signals.train_references(
            options, pool, batch_size=2_048, queries=queries, progress=bar.update, access="file"
        )
    trained = time.process_time() - started
    for seed in range(TARGETS.value):
        for null in (False, True) if name.startswith("ours: cross-distilled, clip 1, 40") else (False,):
            views, inside, on_members, on_others = _target(stage, pool, test, seed, null)
            for access in signals.ACCESS:
                seen = references if access == "file" else references.query
                yield {
                    "row": NULL + name if null else name,
                    "access": access,
                    "seed": seed,
                    "reference_models": REFERENCES.value,
                    "train_accuracy": round(on_members, 4),
                    "test_accuracy": round(on_others, 4),
                    "seconds": round(trained),
                    "attacks": _attacked(views[access], inside, seen, seed),
                }


def tune(outside: signals.Records) -> list[dict[str, Any]]:
    """Test accuracies of DP-SGD and of our student over rates and lengths, on records that no target trains on."""
    x, y = outside
    known: np.ndarray = np.random.default_rng(1).permutation(len(y)) < 1_200
    teacher = tfmiaq.FloatTraining(functools.partial(networks.mlp, (446,), 30), _small(3))
    soft = training.out_of_fold_predictions(teacher, x[known], y[known], repeats=3)
    found = []
    for name, labels, noise in (("DP-SGD", y[known], 0.5), ("DP-SGD", y[known], 1.0), ("ours", soft, 0.0)):
        for rate, epochs in itertools.product((1.0, 2.0, 4.0), (20, 30, 40, 50)):
            tfmiaq.keras.utils.set_random_seed(0)
            build = functools.partial(networks.plain_mlp, (446,), 30)
            model = tfmiaq.FloatTraining(build, _large(epochs, 1.0, noise, rate)).lend(x[known], labels)
            right = signals.predict_logits(model, x[~known]).argmax(1) == y[~known]
            found.append(
                {"kind": name, "noise": noise, "rate": rate, "epochs": epochs, "accuracy": float(right.mean())}
            )
            print(found[-1], flush=True)
    return found


def main(argv: list[str]) -> None:
    del argv
    results = pathlib.Path(RESULTS.value)
    kept: dict[str, Any] = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    pool, test = _pool()
    if TUNE.value:
        kept["tuning"] = tune(test)
        results.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return
    for name, stage in rows().items():
        done = {row["row"] for row in kept.get("rows", [])}
        if name in done or not any(fnmatch.fnmatch(name, pattern) for pattern in ROWS.value):
            continue
        found = list(_run(name, stage, pool, test))
        # What another run may have written meanwhile stays.
        kept = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
        kept["command"] = (
            "python benchmarks/defences_location.py --location=location30.npz "
            f"--reference_models={REFERENCES.value} --targets={TARGETS.value}"
        )
        kept["rows"] = [*kept.get("rows", []), *found]
        results.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(table(found), flush=True)
    if kept.get("rows"):
        write_report(kept["rows"], pathlib.Path(TABLE.value), pathlib.Path(FIGURE.value))
        print(table(kept["rows"]))


if __name__ == "__main__":
    app.run(main)
