"""Quantizes a trained model without training it again, ships a .tflite, and audits what is left of its leak.

    python examples/post_training_quantization.py
    python examples/post_training_quantization.py --weight_bits=2 --activation_bits=8 --calibration=200
    python examples/post_training_quantization.py --dataset=cifar10 --members=5000 --width=32 --epochs=30

Calibration takes unlabelled records that are neither members nor non-members. docs/post_training.md has what low bits
took of the leak of two networks: part of it.
"""

from __future__ import annotations

from typing import Any

import common
from absl import app, flags
from small_classifier import build_model, fit

import tfmiaq

WIDTH = flags.DEFINE_integer("width", 8, "Filters of the first layer; the others have multiples of it.", 1)
EPOCHS = flags.DEFINE_integer("epochs", 60, "Epochs of float training.", 1)
WEIGHTS = flags.DEFINE_integer("weight_bits", 4, "Bits of weights between both ends, which have 8.", 1, 8)
ACTIVATIONS = flags.DEFINE_integer("activation_bits", 8, "Bits of activations between both ends.", 1, 8)
CALIBRATION = flags.DEFINE_integer("calibration", 200, "Unlabelled records to calibrate on.", 16)
ITERATIONS = flags.DEFINE_integer("iterations", 500, "Steps of learned rounding for each layer.", 1)
TARGET = flags.DEFINE_enum("target", "mobile", ["mobile", "edgetpu"], "What the .tflite is for.")
FOLDER = flags.DEFINE_string("folder", "out/post_training", "Folder for all that is written.")
flags.adopt_module_key_flags(common)


def main(argv: list[str]) -> None:
    common.start(argv)
    data, members, non_members = common.load_sets()
    unlabelled = data.x_test[len(non_members[1]) :][: CALIBRATION.value]
    if len(unlabelled) < 16:
        raise app.UsageError(
            f"--members={len(members[1])} leaves {len(unlabelled)} records to calibrate on. Give fewer."
        )
    tfmiaq.keras.utils.set_random_seed(common.SEED.value)
    model = build_model(data.x_train.shape[1:], data.classes, WIDTH.value)
    fit(model, *members, EPOCHS.value, 3e-3, "float training")

    policy = tfmiaq.BitwidthPolicy.uniform(WEIGHTS.value, ACTIVATIONS.value)
    quantized = tfmiaq.quantize_model(model, policy)
    tfmiaq.calibrate(quantized, unlabelled, iterations=ITERATIONS.value, seed=common.SEED.value)
    buffer = tfmiaq.convert(quantized, TARGET.value)
    path = common.write(FOLDER.value, "model.tflite", buffer)
    verification = tfmiaq.verify(quantized, buffer, unlabelled)
    if not verification.exact:
        raise SystemExit(f"The file is not the calibrated model:\n{verification}")

    rows, reports = [], {}
    targets: dict[str, tuple[Any, Any, str]] = {
        "float": (model, model, f"{4 * model.count_params():,} B of weights"),
        ".tflite": (buffer, tfmiaq.tflite.Interpreter(buffer), f"{len(buffer):,} B file"),
    }
    for name, (target, predictor, size) in targets.items():
        reports[name] = report = tfmiaq.audit(target, members, non_members, seed=common.SEED.value)
        accuracy = common.accuracy(predictor, data.x_test, data.y_test)
        rows.append((name, f"{accuracy:.3f}", f"{float(report.attack_accuracy):.3f}", f"{float(report.auc):.3f}", size))
        report.save(f"{FOLDER.value}/{name.lstrip('.')}")
    tfmiaq.compare(reports).save(FOLDER.value)
    text = common.table(("model", "test accuracy", "attack accuracy", "AUC", "size"), rows)
    print(f"\n{tfmiaq.summary(quantized)}\n\n{verification}\n\n{text}\n\nWritten to {path.parent}/")


if __name__ == "__main__":
    app.run(main)
