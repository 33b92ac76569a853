"""Trains a model until it leaks, quantizes it against membership inference, and ships a .tflite.

    python examples/defend_digits.py
    python examples/defend_digits.py --dataset=cifar10 --members=5000 --width=32 --epochs=30

Prints one table and writes models, policy, reports and their comparison to --folder.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import common
from absl import app, flags
from small_classifier import build_model, fit

import tfmiaq

_ALL = "all"

WIDTH = flags.DEFINE_integer("width", 8, "Filters of the first layer; the others have multiples of it.", 1)
EPOCHS = flags.DEFINE_integer("epochs", 60, "Epochs of float training.", 1)
QUANTIZED_EPOCHS = flags.DEFINE_integer("quantized_epochs", 40, "Epochs of quantization-aware training.", 1)
ATTACKS = flags.DEFINE_list(
    "attacks",
    None,
    f"Attacks of the audit by name, those that are strongest for their cost if not given, or '{_ALL}', which adds "
    "tensorflow-privacy's grid searches: a minute and more for each model.",
)
REFERENCE_MODELS = flags.DEFINE_integer(
    "reference_models", 0, "Reference models that the attacker trains through each model's own pipeline; 0 for none.", 0
)
N_JOBS = flags.DEFINE_integer("n_jobs", None, "Processes that train reference models.", 1)
POLICY = flags.DEFINE_string("policy", None, "JSON file of a bit-width policy; the default policy if not given.")
OUTPUT_BITS = flags.DEFINE_integer(
    "output_bits",
    None,
    "Bits of the quantized model's outputs, which hide from who can only ask; not rounded if not given.",
    1,
    8,
)
TARGET = flags.DEFINE_enum("target", "edgetpu", ["mobile", "edgetpu"], "What the .tflite is for.")
FOLDER = flags.DEFINE_string("folder", "out", "Folder for all that is written.")
flags.adopt_module_key_flags(common)

flags.register_validator("reference_models", lambda count: count != 1, message="expected 0, or at least 2")
flags.register_validator(
    "policy", lambda path: path is None or pathlib.Path(path).is_file(), message="no such policy file"
)


def main(argv: list[str]) -> None:
    common.start(argv)
    policy = tfmiaq.BitwidthPolicy.mia_default()
    if POLICY.value:
        policy = tfmiaq.BitwidthPolicy.from_json(pathlib.Path(POLICY.value).read_text(encoding="utf-8"))
    if OUTPUT_BITS.value:
        policy = dataclasses.replace(policy, output=tfmiaq.OutputBits(OUTPUT_BITS.value, 0.2))
    data, members, non_members = common.load_sets()
    attacks = _ALL if ATTACKS.value == [_ALL] else ATTACKS.value
    folder = pathlib.Path(FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    rows, reports = [], {}

    # Values, not flags: reference models may be trained in other processes, which have not parsed any.
    shape, classes, width = data.x_train.shape[1:], data.classes, WIDTH.value
    epochs, quantized_epochs = EPOCHS.value, QUANTIZED_EPOCHS.value

    def train_float(x: Any, y: Any, label: str = "") -> Any:
        model = build_model(shape, classes, width)
        fit(model, x, y, epochs, 3e-3, label)
        return model

    def quantize(model: Any, x: Any, y: Any, label: str = "") -> Any:
        quantized = tfmiaq.quantize_model(model, policy)
        fit(quantized, x, y, quantized_epochs, 3e-3, label)
        return quantized

    def score(name: str, target: Any, pipeline: list[Any], predictor: Any, size: str) -> None:
        """Audits a model, saves the report and adds a row to the table."""
        reference_models = None
        if REFERENCE_MODELS.value:
            reference_models = tfmiaq.ReferenceModels(
                pipeline, REFERENCE_MODELS.value, cache=folder / "reference_models", n_jobs=N_JOBS.value
            )
        report = tfmiaq.audit(
            target,
            members,
            non_members,
            attacks,
            reference_models=reference_models,
            # Quantized outputs tell little by themselves, and augmented queries may tell more.
            augmented_queries=name != "float" and policy.output is not None,
            seed=common.SEED.value,
        )
        report.save(folder / "reports" / name.lstrip("."))
        reports[name] = report
        rows.append(
            (
                name,
                f"{common.accuracy(predictor, data.x_test, data.y_test):.3f}",
                f"{float(report.attack_accuracy):.3f}",
                f"{report.gap_attack_accuracy:.3f}",
                f"{float(report.auc):.3f}",
                tfmiaq.metrics.format_figure(report.tpr_at_fpr(0.01)),
                size,
            )
        )

    tfmiaq.keras.utils.set_random_seed(common.SEED.value)
    model = train_float(*members, "float training")
    model.save(folder / "float.h5")
    weights = f"{4 * model.count_params():,} B of weights"
    score("float", model, [train_float], model, weights)

    quantized = quantize(model, *members, "quantized training")
    quantized.save(folder / "quantized.h5")
    (folder / "policy.json").write_text(policy.to_json() + "\n", encoding="utf-8")
    summary = tfmiaq.summary(quantized)
    pipeline = [train_float, quantize]
    score("quantized", quantized, pipeline, quantized, f"{summary.packed_bytes:,} B packed")

    buffer = tfmiaq.convert(quantized, TARGET.value, audit=reports["quantized"])
    (folder / "model.tflite").write_bytes(buffer)
    verification = tfmiaq.verify(quantized, buffer, data.x_test)
    (folder / "verification.txt").write_text(f"{verification}\n", encoding="utf-8")
    score(".tflite", buffer, pipeline, tfmiaq.tflite.Interpreter(buffer), f"{len(buffer):,} B file")
    tfmiaq.compare(reports).save(folder)

    head = ("model", "test accuracy", "attack accuracy", "gap attack", "AUC", "TPR at 1 % FPR", "size")
    table = common.table(head, rows)
    (folder / "table.txt").write_text(table + "\n", encoding="utf-8")
    print(f"\n{summary}\n\n{verification}\n\n{table}\n\nWritten to {folder}/")


if __name__ == "__main__":
    app.run(main)
