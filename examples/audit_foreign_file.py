"""Audits a .tflite that another tool made, without the model that it comes from.

    python examples/audit_foreign_file.py --file=model.tflite --dataset=own.npz
    python examples/audit_foreign_file.py  # makes a file of a network of digits with TensorFlow's own converter first

Prints what the file takes and gives, and what two attackers learn from it: who can only ask, and who holds the file.
With --fail_if it is a gate: the exit status is 1 if any attack may find more.
"""

from __future__ import annotations

import pathlib
from typing import Any

import common
from absl import app, flags
from small_classifier import build_model, fit

import tfmiaq

FILE = flags.DEFINE_string("file", None, "The .tflite; one is made of a small network if not given.")
EPOCHS = flags.DEFINE_integer("epochs", 60, "Epochs of the small network, without --file.", 1)
FAIL_IF = flags.DEFINE_multi_string("fail_if", [], "A limit on all attacks, such as auc>0.6; may be given again.")
FOLDER = flags.DEFINE_string("folder", "out/foreign", "Folder for the report.")
flags.adopt_module_key_flags(common)

flags.register_validator("file", lambda path: path is None or pathlib.Path(path).is_file(), message="no such .tflite")


def _made_elsewhere(data: Any, members: common.Records) -> bytes:
    """Returns a .tflite that this project has no part in."""
    import tensorflow as tf

    model = build_model(data.x_train.shape[1:], data.classes, 8)
    fit(model, *members, EPOCHS.value, 3e-3, "float training")
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


def main(argv: list[str]) -> None:
    common.start(argv)
    data, members, non_members = common.load_sets()
    tfmiaq.keras.utils.set_random_seed(common.SEED.value)
    path = pathlib.Path(FILE.value) if FILE.value else None
    if path is None:
        path = common.write(FOLDER.value, "foreign.tflite", _made_elsewhere(data, members))
    # The file is checked, and runs in a process of its own: it may be damaged, or made to harm.
    interpreter = tfmiaq.tflite.Interpreter(path)
    right = common.accuracy(interpreter, data.x_test, data.y_test)
    print(f"{path}: {path.stat().st_size:,} bytes, outputs {', '.join(interpreter.output_names)}")
    print(f"It takes records of shape {data.x_train.shape[1:]}, and is right on {right:.1%} of the test records.")
    if tfmiaq.tflite.read_metadata(path) is None:
        print("It says nothing of bits or labels: another tool has written it.")

    report = tfmiaq.audit(path.read_bytes(), members, non_members, seed=common.SEED.value)
    report.save(FOLDER.value)
    print(f"\n{report.verdict}\n")
    rows = [
        (who, f"{float(view.attack_accuracy):.3f}", f"{float(view.auc):.3f}", " and ".join(dict.fromkeys(view.chosen)))
        for who, view in (("who holds the file", report), ("who can only ask", report.query))
        if view is not None
    ]
    print(common.table(("attacker", "attack accuracy", "AUC", "attack"), rows))
    print(f"\nWritten to {FOLDER.value}/report.html")
    if FAIL_IF.value:
        gate = report.gate(FAIL_IF.value)
        print(f"\nThe release gate {'passes' if gate.passed else 'FAILS'}.\n{gate}")
        raise SystemExit(0 if gate.passed else 1)


if __name__ == "__main__":
    app.run(main)
