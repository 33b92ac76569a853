"""What who holds the file finds behind 1-bit outputs, and who can only ask does not: Location-30.

    python benchmarks/file_access.py --location=location30.npz

An MLP of 2-bit weights and 4-bit activations with 1-bit outputs is trained from scratch on one half of the records, as
`benchmarks/frontier.py` trains it. Its .tflite is audited by both attackers, with reference models through the same
pipeline, and once more with memberships redrawn, where both must have an AUC of 0.5. Three minutes of processor time.
"""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

import networks
import numpy as np
from absl import app, flags

import tfmiaq

LOCATION = flags.DEFINE_string("location", None, "Path of Location-30 as an .npz with x and y.", required=True)
COUNT = flags.DEFINE_integer("reference_models", 8, "Reference models of each audit.", 2)
RECORDS = flags.DEFINE_integer("records", 3_200, "Records, half of them members.", 100)
EPOCHS = flags.DEFINE_integer("epochs", 24, "Epochs of each model.", 1)
CLIP = flags.DEFINE_float("clip", 0.2, "Distance to the largest logit at which outputs end.", 1e-3)
SEED = flags.DEFINE_integer("seed", 0, "Seed of records, trainings and audits.", 0)
RESULTS = flags.DEFINE_string("results", "benchmarks/file_access.json", "Result file.")


def train(x: np.ndarray, y: np.ndarray) -> Any:
    """Trains the quantized model from random weights."""
    policy = tfmiaq.BitwidthPolicy.uniform(2, 4, output=tfmiaq.OutputBits(1, CLIP.value))
    recipe = tfmiaq.TrainingRecipe(EPOCHS.value, 0.1, 64, weight_decay=5e-4)
    return recipe.fit(tfmiaq.quantize_model(networks.mlp(x.shape[1:]), policy), x, y)


def _figures(report: tfmiaq.AuditReport) -> dict[str, Any]:
    strongest = max(report.attacks, key=lambda attack: attack.auc)
    return {
        "auc": report.auc,
        "auc_interval": [report.auc.low, report.auc.high],
        "attack_accuracy": report.attack_accuracy,
        "tpr_at_1_percent_fpr": report.tpr_at_fpr(0.01),
        "strongest_attack": strongest.name,
        "strongest_auc": strongest.auc,
        "attacks": {attack.name: attack.auc for attack in report.attacks},
    }


def main(argv: list[str]) -> None:
    del argv
    with np.load(LOCATION.value) as file:
        x, y = file["x"].astype(np.float32), file["y"].astype(np.int64)
    generator = np.random.default_rng(SEED.value)
    chosen = generator.permutation(len(y))[: RECORDS.value]
    x, y = x[chosen], y[chosen] - y.min()
    half = len(y) // 2
    splits = {"members": np.arange(len(y)), "memberships redrawn": generator.permutation(len(y))}
    tfmiaq.keras.utils.set_random_seed(SEED.value)
    started = time.process_time()
    buffer = tfmiaq.convert(train(x[:half], y[:half]))
    rows = []
    for name, order in splits.items():
        inside, outside = order[:half], order[half:]
        report = tfmiaq.audit(
            buffer,
            (x[inside], y[inside]),
            (x[outside], y[outside]),
            reference_models=tfmiaq.ReferenceModels(train, COUNT.value),
            augmented_queries=True,
            seed=SEED.value,
        )
        assert report.query is not None
        for view in (report.query, report):
            accuracy = {"train_accuracy": report.member_accuracy, "test_accuracy": report.non_member_accuracy}
            rows.append({"split": name, "access": view.access, **accuracy, **_figures(view)})
        print(report)
    result = {
        "command": f"python benchmarks/file_access.py --location=location30.npz --reference_models={COUNT.value} "
        f"--records={RECORDS.value} --epochs={EPOCHS.value} --clip={CLIP.value} --seed={SEED.value}",
        "processor_seconds": round(time.process_time() - started),
        "rows": rows,
    }
    pathlib.Path(RESULTS.value).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
