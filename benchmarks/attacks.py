"""Which attack finds most, at which cost? Every attack on float and quantized ResNet-8, with 2 to 16 reference models.

    python benchmarks/attacks.py --cache=out/attacks
    python benchmarks/attacks.py --cache=out/attacks --dataset=cifar10.npz

Reference models go through the target's own pipeline (adaptive), or stop at the float model (not adaptive). `--cache`
keeps the signals of every finished model, so that a run that was stopped goes on; rows are written as they come.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from typing import Any, Optional

import numpy as np
from absl import app, flags
from networks import resnet8
from seeds import grouped, mean
from tqdm import tqdm

import tfmiaq
from tfmiaq import auditing, datasets, signals
from tfmiaq.attacks import Evidence

DATASET = flags.DEFINE_string("dataset", "cifar10", "Name of a data set, or the path of an .npz file.")
MEMBERS = flags.DEFINE_integer("members", 5_000, "Members, and as many non-members.", 100)
SEEDS = flags.DEFINE_integer("seeds", 1, "Number of targets of each kind, seeds from 0.", 1)
CACHE = flags.DEFINE_string("cache", "out/attacks", "Folder of finished reference models' signals.")
N_JOBS = flags.DEFINE_integer("n_jobs", None, "Processes that train reference models.", 1)
RESULTS = flags.DEFINE_string("results", "benchmarks/attacks.json", "Result file.")
TABLE = flags.DEFINE_string("table", "docs/attacks_measured.md", "Markdown table, written at the end.")
_MINUTES = "minutes_of_reference_models"
_COUNTS = (2, 4, 8, 16)
_EPOCHS, _TUNING = 20, 6
_SLOW = ("multi-layer perceptron", "random forest", "k nearest neighbours", "logistic regression")
_HEAD = """Written by `python benchmarks/attacks.py`: CIFAR-10, ResNet-8, 5,000 members and as many non-members, one
target of each kind. See in the tables that RMIA has nearly always the largest AUC for a number of reference models, and
that more reference models raise it. "adaptive" reference models went through the target's own pipeline; the others are
float models. Attacks without a number of reference models use none. Accuracy is balanced, at a threshold that was
chosen on the other half of the records, or at the attack's own. Seconds are processor time of the attack alone."""


def _fit(model: Any, x: Any, y: Any, epochs: int, rate: float) -> Any:
    keras = tfmiaq.keras
    steps = epochs * -(-len(x) // 64)
    model.compile(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(rate, steps), 0.9, True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def train_float(x: np.ndarray, y: np.ndarray) -> Any:
    """The float model."""
    return _fit(resnet8(x.shape[1:], 10), x, y, _EPOCHS, 0.1)


class Quantize:
    """Quantizes and trains on.

    Args:
        weight: Bits of weights.
        activation: Bits of activations.
    """

    def __init__(self, weight: int, activation: int) -> None:
        self.weight = weight
        self.activation = activation

    def __call__(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        policy = tfmiaq.BitwidthPolicy.uniform(self.weight, self.activation, first=8, last=8)
        return _fit(tfmiaq.quantize_model(model, policy), x, y, _TUNING, 0.02)


MODELS: dict[str, list[Any]] = {
    "float": [train_float],
    "w8 a8": [train_float, Quantize(8, 8)],
    "w2 a4": [train_float, Quantize(2, 4)],
    "w1 a4": [train_float, Quantize(1, 4)],
}


def _target(pipeline: list[Any], data: datasets.Dataset, seed: int, folder: pathlib.Path, name: str) -> Any:
    """The target's signals, members first."""
    count = MEMBERS.value
    path = folder / f"target-{name.replace(' ', '-')}-{count}-{seed}.npz"
    if path.is_file():
        with np.load(path) as file:
            return signals.Signals(**dict(file))
    members = data.x_train[:count], data.y_train[:count]
    non_members = data.x_test[:count], data.y_test[:count]
    tfmiaq.keras.utils.set_random_seed(7_000 + seed)
    model = pipeline[0](*members)
    for step in pipeline[1:]:
        model = step(model, *members)
    found = signals.Signals.concatenate([signals.extract(model, part) for part in (members, non_members)])
    label_agreement = [
        signals.query_augmented(model, part, signals.AugmentedQueries.from_records(part[0]))["label_agreement"]
        for part in (members, non_members)
    ]
    found = dataclasses.replace(found, label_agreement=np.concatenate(label_agreement))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found.to_arrays())  # type: ignore[arg-type, unused-ignore]
    return found


def _rate(attack: auditing.AttackResult, fpr: float) -> Optional[float]:
    rate = attack.tpr_at_fpr(fpr)
    return None if rate is None else float(rate)


def _rows(
    name: str, found: Any, seed: int, refs: Optional[Any], adaptive: Optional[bool], records: np.ndarray, other: Any
) -> list[dict[str, Any]]:
    half = len(found.labels) // 2
    evidence = Evidence(
        target=found,
        is_member=np.arange(2 * half) < half,
        seed=seed,
        reference_signals=refs,
        other=None if name == "float" else other,
        records=lambda: records,
    )
    with_references = refs is not None
    chosen = [
        attack
        for attack in tfmiaq.attacks.ATTACKS.values()
        if (tfmiaq.attacks.REFERENCE_MODELS in attack.needs) == with_references
        and attack.needs <= evidence.available
        and attack.name not in _SLOW
    ]
    report = auditing.score(evidence, chosen)
    return [
        {
            "model": name,
            "seed": seed,
            "attack": attack.name,
            "reference_models": len(refs.features) if refs is not None else 0,
            "adaptive": adaptive,
            "auc": float(attack.auc),
            "accuracy": attack.confusion.accuracy,
            "tpr_at_0.1_percent_fpr": _rate(attack, 0.001),
            "tpr_at_1_percent_fpr": _rate(attack, 0.01),
            "tpr": attack.confusion.tpr,
            "f1_members": attack.confusion.f1_members,
            "f1_non_members": attack.confusion.f1_non_members,
            "seconds": round(attack.seconds, 2),
            "train_accuracy": report.member_accuracy,
            "test_accuracy": report.non_member_accuracy,
        }
        for attack in report.attacks
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, means over seeds."""
    groups = grouped(rows, "model", "attack", "reference_models", "adaptive")
    lines = []
    for model in MODELS:
        of_model = {key: found for key, found in groups.items() if key[0] == model}
        if not of_model:
            continue
        first = next(iter(of_model.values()))
        lines += [
            f"## {model}: accuracy {mean(first, 'train_accuracy'):.3f} on members, "
            f"{mean(first, 'test_accuracy'):.3f} on non-members",
            "",
            "| attack | reference models | AUC | accuracy | TPR at 0.1 % FPR | TPR at 1 % FPR | seconds |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for (_, attack, count, adaptive), found in of_model.items():
            kind = f"{count} {'adaptive' if adaptive else 'float'}" if count else "none"
            lines.append(
                f"| {attack} | {kind} | {mean(found, 'auc'):.3f} | {mean(found, 'accuracy'):.3f} | "
                f"{mean(found, 'tpr_at_0.1_percent_fpr'):.4f} | {mean(found, 'tpr_at_1_percent_fpr'):.4f} | "
                f"{mean(found, 'seconds'):.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    data = datasets.load(DATASET.value)
    count, folder = MEMBERS.value, pathlib.Path(CACHE.value)
    pool = (
        np.concatenate([data.x_train[:count], data.x_test[:count]]),
        np.concatenate([data.y_train[:count], data.y_test[:count]]).astype(np.int64),
    )
    rows: list[dict[str, Any]] = []
    results = pathlib.Path(RESULTS.value)
    minutes: dict[str, float] = json.loads(results.read_text())[_MINUTES] if results.is_file() else {}
    for seed in range(SEEDS.value):
        floats = None
        for name, pipeline in MODELS.items():
            found = _target(pipeline, data, seed, folder, name)
            other = _target(MODELS["float"], data, seed, folder, "float")
            started = time.perf_counter()
            with tqdm(total=max(_COUNTS), desc=name) as bar:
                reference_models = tfmiaq.ReferenceModels(pipeline, max(_COUNTS), cache=folder, n_jobs=N_JOBS.value)
                refs = signals.train_references(reference_models, pool, seed=seed, progress=bar.update)
            took = round((time.perf_counter() - started) / 60, 1)
            # A run that finds all of them in the cache says nothing of what they cost.
            minutes[f"{name}, seed {seed}"] = max(took, minutes.get(f"{name}, seed {seed}", 0.0))
            rows += _rows(name, found, seed, None, None, pool[0], other)
            for models in _COUNTS:
                if floats is not None:
                    rows += _rows(name, found, seed, floats.first(models), False, pool[0], other)
                rows += _rows(name, found, seed, refs.first(models), True, pool[0], other)
            floats = floats or refs
            result = {
                "command": f"python benchmarks/attacks.py --members={count} --seeds={SEEDS.value}",
                _MINUTES: minutes,
                "rows": rows,
            }
            results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = f"# Attacks, measured\n\n{_HEAD}\n\n{table(rows)}"
    pathlib.Path(TABLE.value).write_text(text, encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    app.run(main)
