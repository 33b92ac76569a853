"""What the default policy does on scikit-learn's digits: test accuracy and attack accuracy, mean over seeds.

    python benchmarks/digits.py --seeds=5

Rows are written as they come. All models have the same 300 members; the architecture is the demo's, in two widths.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags
from tqdm import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
from small_classifier import build_model, fit

import tfmiaq
from tfmiaq import datasets

SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds, from 0 on.", 1)
RECORDS = flags.DEFINE_integer("records", 300, "Members, and as many non-members.", 24)
RESULTS = flags.DEFINE_string("results", "benchmarks/digits.json", "Result file.")
_ATTACKS = ["threshold", "logistic regression", "k nearest neighbours"]
_EPOCHS, _FINE_TUNING = 60, 40
_WIDTHS = (8, 32)


def _models(data: datasets.Dataset, x: Any, y: Any, width: int, seed: int) -> Any:
    """Each row's name and its trained model."""

    def fresh() -> Any:
        tfmiaq.keras.utils.set_random_seed(seed)
        return build_model(x.shape[1:], data.classes, width)

    def train(model: Any, epochs: int) -> Any:
        fit(model, x, y, epochs, 3e-3)
        return model

    uniform = tfmiaq.BitwidthPolicy.uniform
    base = train(fresh(), _EPOCHS)
    yield "float", base
    yield "float, 10 epochs", train(fresh(), 10)
    yield "float, 20 epochs", train(fresh(), 20)
    for name, policy in (
        ("w8 a8", uniform(8, 8)),
        ("default (w2 a4)", None),
        ("w1 a4", uniform(1, 4)),
        ("w1 a2", uniform(1, 2)),
        ("w2 a4, both ends too", uniform(2, 4, first=None, last=None)),
    ):
        yield f"{name}, fine-tuned", train(tfmiaq.quantize_model(base, policy), _FINE_TUNING)
    yield "default (w2 a4), from scratch", train(tfmiaq.quantize_model(fresh()), _EPOCHS)


def main(argv: list[str]) -> None:
    del argv
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in tqdm(range(SEEDS.value), desc="seeds"):
        data = datasets.load("digits", seed)
        count = RECORDS.value
        members = data.x_train[:count], data.y_train[:count]
        non_members = data.x_test[:count], data.y_test[:count]
        # The test accuracy is measured on records that the audit does not use.
        rest = np.concatenate([data.x_train[count:], data.x_test[count:]])
        rest_labels = np.concatenate([data.y_train[count:], data.y_test[count:]])
        models = (
            (f"width {width}: {name}", model)
            for width in _WIDTHS
            for name, model in _models(data, *members, width, seed)
        )
        for name, model in models:
            report = tfmiaq.audit(model, members, non_members, attacks=_ATTACKS, seed=seed, verbose=False)
            row = {
                "test_accuracy": float((model.predict(rest, verbose=0).argmax(1) == rest_labels).mean()),
                "attack_accuracy": report.attack_accuracy,
                "gap_attack_accuracy": report.gap_attack_accuracy,
                "auc": report.auc,
                "tpr_at_1_percent_fpr": report.tpr_at_fpr(0.01),
            }
            rows.setdefault(name, []).append(row)
            _write(rows)
    print(_table(rows))


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def _table(rows: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| model | test accuracy | attack accuracy | gap attack | AUC |", "| --- | --- | --- | --- | --- |"]
    for name, runs in rows.items():
        spread = float(np.std([run["attack_accuracy"] for run in runs]))
        lines.append(
            f"| {name} | {_mean(runs, 'test_accuracy'):.3f} | {_mean(runs, 'attack_accuracy'):.3f} ± {spread:.3f} | "
            f"{_mean(runs, 'gap_attack_accuracy'):.3f} | {_mean(runs, 'auc'):.3f} |"
        )
    return "\n".join(lines)


def _write(rows: dict[str, list[dict[str, Any]]]) -> None:
    command = f"python benchmarks/digits.py --seeds={SEEDS.value} --records={RECORDS.value}"
    result = {"command": command, "seeds": list(range(SEEDS.value)), "rows": rows}
    pathlib.Path(RESULTS.value).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
