"""Does the search find better bits than uniform policies do? scikit-learn's digits, the demo's network of width 8.

    python benchmarks/search.py

For each seed: 300 members, 300 records that the search may see, 300 others for the audit, the rest for test accuracy.
Each policy is fine-tuned alike from one float model: uniform ones; those that the shared model ranks best, for three
samplers at the same number of trials; and the best of the retrained candidates. Rows are written as they come.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Any

import numpy as np
from absl import app, flags
from seeds import grouped, mean
from tqdm import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
from small_classifier import build_model, fit

import tfmiaq
from tfmiaq import datasets

SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds, from 0.", 1)
N_TRIALS = flags.DEFINE_integer("n_trials", 60, "Trials of each search.", 1)
RESULTS = flags.DEFINE_string("results", "benchmarks/search.json", "Result file.")
_RECORDS, _EPOCHS, _TUNING = 300, 60, 40
_SAMPLERS = ("tpe", "nsga2", "random")


class DemoTraining(tfmiaq.TrainingRecipe):
    """Trains as the demo does, with Adam."""

    def fit(self, model: Any, x: Any, y: Any, callbacks: Any = ()) -> Any:
        """Trains a model and returns it."""
        fit(model, x, y, self.epochs, self.learning_rate, callbacks=callbacks)
        return model


def _policies(model: Any, members: Any, seen: Any, seed: int) -> Any:
    """Each policy's name, the policy, seconds of its search, and its leakage there."""
    uniform = tfmiaq.BitwidthPolicy.uniform
    for name, policy in (
        ("w8 a8", uniform(8, 8, None, None)),
        ("w4 a4", uniform(4, 4, None, None)),
        ("w2 a4", uniform(2, 4, None, None)),
        ("w1 a4", uniform(1, 4, None, None)),
        ("w1 a2", uniform(1, 2, None, None)),
        ("default (w2 a4, ends at 8)", uniform(2, 4)),
    ):
        yield name, policy, 0.0, None

    for sampler, retrained in (*((sampler, 0) for sampler in _SAMPLERS), ("tpe", 4)):
        started = time.perf_counter()
        found = tfmiaq.search_policy(
            model,
            members,
            seen,
            tfmiaq.PolicySearch(n_trials=N_TRIALS.value, max_accuracy_drop=0.02, retrained=retrained, sampler=sampler),
            recipe=DemoTraining(epochs=_TUNING, learning_rate=3e-3),
            seed=seed,
            verbose=False,
        )
        name = f"searched, {sampler}" + (f", {retrained} retrained candidates" if retrained else "")
        yield name, found.best.policy, time.perf_counter() - started, found.best.leakage


def main(argv: list[str]) -> None:
    del argv
    rows: list[dict[str, Any]] = []
    for seed in tqdm(range(SEEDS.value), desc="seeds"):
        data = datasets.load("digits", seed)
        x = np.concatenate([data.x_train, data.x_test])
        y = np.concatenate([data.y_train, data.y_test])
        members, seen, audited = (
            (x[start : start + _RECORDS], y[start : start + _RECORDS]) for start in (0, _RECORDS, 2 * _RECORDS)
        )
        rest = x[3 * _RECORDS :], y[3 * _RECORDS :]
        tfmiaq.keras.utils.set_random_seed(seed)
        model = build_model(x.shape[1:], data.classes, 8)
        started = time.perf_counter()
        fit(model, *members, _EPOCHS, 3e-3)
        float_seconds = time.perf_counter() - started
        for name, policy, seconds, leakage in _policies(model, members, seen, seed):
            tfmiaq.keras.utils.set_random_seed(seed)
            quantized = tfmiaq.quantize_model(model, policy)
            fit(quantized, *members, _TUNING, 3e-3)
            report = tfmiaq.audit(quantized, members, audited, seed=seed, verbose=False)
            rows.append(
                {
                    "policy": name,
                    "seed": seed,
                    "test_accuracy": float((quantized.predict(rest[0], verbose=0).argmax(1) == rest[1]).mean()),
                    "attack_accuracy": report.attack_accuracy,
                    "confidence_auc": report["confidence"].auc,
                    "packed_bytes": tfmiaq.summary(quantized).packed_bytes,
                    "search_over_float_training": round(seconds / float_seconds, 2),
                    "leakage_in_search": leakage,
                    "bits": json.loads(policy.to_json()),
                }
            )
            result = {"command": f"python benchmarks/search.py --seeds={SEEDS.value}", "rows": rows}
            pathlib.Path(RESULTS.value).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds as Markdown."""
    lines = [
        "| policy | test accuracy | AUC of the confidence attack | attack accuracy | packed | search / float |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (name,), found in grouped(rows, "policy").items():
        spread = float(np.std([row["confidence_auc"] for row in found]))
        lines.append(
            f"| {name} | {mean(found, 'test_accuracy'):.3f} | {mean(found, 'confidence_auc'):.3f} ± {spread:.3f} | "
            f"{mean(found, 'attack_accuracy'):.3f} | {mean(found, 'packed_bytes'):,.0f} B | "
            f"{mean(found, 'search_over_float_training'):.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
