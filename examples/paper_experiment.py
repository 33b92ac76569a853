"""The experiment of Famili and Lao (Sensors 2023): shadow models attack a float, a quantized and a converted model.

    python examples/paper_experiment.py
    python examples/paper_experiment.py --dataset=cifar10 --members=5000 --width=32 --epochs=30 --shadow_models=8
    python examples/paper_experiment.py --dataset=own.npz --weight_bits=1 --activation_bits=3

The attacker trains shadow models through each model's own pipeline, on random halves of the audited records, and an
attack classifier on what they give for records that they have and have not seen (Shokri et al. 2017, whose attacker has
other records of the same kind; this one is no weaker). Prints the paper's figures, of members and of non-members, and
writes them to --folder as table.md and table.json. `tfmiaq.audit` has attacks that find far more: --strongest adds a
column with the AUC of the strongest of them.
"""

from __future__ import annotations

import json
from typing import Any

import common
from absl import app, flags
from small_classifier import build_model, fit

import tfmiaq

WIDTH = flags.DEFINE_integer("width", 8, "Filters of the first layer; the others have multiples of it.", 1)
EPOCHS = flags.DEFINE_integer("epochs", 60, "Epochs of float training.", 1)
QUANTIZED_EPOCHS = flags.DEFINE_integer("quantized_epochs", 40, "Epochs of quantization-aware training.", 1)
WEIGHTS = flags.DEFINE_integer("weight_bits", 2, "Bits of weights between both ends, which have 8.", 1, 8)
ACTIVATIONS = flags.DEFINE_integer("activation_bits", 4, "Bits of activations between both ends.", 1, 8)
SHADOW_MODELS = flags.DEFINE_integer("shadow_models", 4, "Shadow models of each pipeline.", 2)
N_JOBS = flags.DEFINE_integer("n_jobs", None, "Processes that train shadow models.", 1)
STRONGEST = flags.DEFINE_boolean("strongest", False, "Run all other attacks too, and name the strongest.")
FOLDER = flags.DEFINE_string("folder", "out/paper", "Folder for tables and for finished shadow models.")
flags.adopt_module_key_flags(common)

_ATTACK = "shadow models"
_HEAD = ("model", "test accuracy", "attack accuracy", "TPR", "FPR")
_OF_EACH = ("precision", "recall", "F1")


def _figures(report: Any, test_accuracy: float) -> dict[str, Any]:
    """Returns the paper's figures of one model: members are the positives, then non-members."""
    attack = report[_ATTACK]
    found = attack.confusion
    called_non_members = 2 - found.tpr - found.fpr
    precision = (1 - found.fpr) / called_non_members if called_non_members else 0.0
    figures = {
        "test accuracy": test_accuracy,
        "attack accuracy": float(attack.attack_accuracy),
        "TPR": found.tpr,
        "FPR": found.fpr,
        "members": dict(zip(_OF_EACH, (found.precision, found.recall, found.f1_members))),
        "non-members": dict(zip(_OF_EACH, (precision, 1 - found.fpr, found.f1_non_members))),
    }
    if STRONGEST.value:
        strongest = max(report.attacks, key=lambda attack: float(attack.auc))
        figures["strongest attack"] = {"name": strongest.name, "AUC": float(strongest.auc)}
    return figures


def _row(name: str, figures: dict[str, Any]) -> list[str]:
    shown = [f"{figures[key]:.3f}" for key in _HEAD[1:]]
    shown += [f"{figures[who][key]:.3f}" for who in ("members", "non-members") for key in _OF_EACH]
    if STRONGEST.value:
        shown.append("{AUC:.3f} ({name})".format(**figures["strongest attack"]))
    return [name, *shown]


def main(argv: list[str]) -> None:
    common.start(argv)
    data, members, non_members = common.load_sets()
    # Values, not flags: shadow models may be trained in other processes, which have not parsed any.
    shape, classes, width = data.x_train.shape[1:], data.classes, WIDTH.value
    epochs, quantized_epochs = EPOCHS.value, QUANTIZED_EPOCHS.value
    policy = tfmiaq.BitwidthPolicy.uniform(WEIGHTS.value, ACTIVATIONS.value)

    def train_float(x: Any, y: Any, label: str = "") -> Any:
        model = build_model(shape, classes, width)
        fit(model, x, y, epochs, 3e-3, label)
        return model

    def quantize(model: Any, x: Any, y: Any, label: str = "") -> Any:
        quantized = tfmiaq.quantize_model(model, policy)
        fit(quantized, x, y, quantized_epochs, 3e-3, label)
        return quantized

    tfmiaq.keras.utils.set_random_seed(common.SEED.value)
    model = train_float(*members, "float training")
    quantized = quantize(model, *members, "quantized training")
    buffer = tfmiaq.convert(quantized)
    common.write(FOLDER.value, "model.tflite", buffer)
    found = {}
    targets = {"float": (model, model), "quantized": (quantized, quantized)}
    targets[".tflite"] = (buffer, tfmiaq.tflite.Interpreter(buffer))
    for name, (target, predictor) in targets.items():
        shadow_models = tfmiaq.ReferenceModels(
            [train_float] if name == "float" else [train_float, quantize],
            SHADOW_MODELS.value,
            cache=f"{FOLDER.value}/shadow_models",
            n_jobs=N_JOBS.value,
        )
        attacks = None if STRONGEST.value else [_ATTACK]
        options = {"reference_models": shadow_models, "access": "query", "seed": common.SEED.value}
        report = tfmiaq.audit(target, members, non_members, attacks, **options)
        found[name] = _figures(report, common.accuracy(predictor, data.x_test, data.y_test))
    head = [*_HEAD, *(f"{key}, {who}" for who in ("members", "non-members") for key in _OF_EACH)]
    head += ["AUC of the strongest attack"] * STRONGEST.value
    text = common.markdown(head, [_row(name, figures) for name, figures in found.items()])
    about = {"flags": {flag.name: flag.value for flag in flags.FLAGS.get_key_flags_for_module(argv[0])}}
    common.write(FOLDER.value, "table.md", text)
    common.write(FOLDER.value, "table.json", json.dumps({**about, "models": found}, indent=2))
    print(f"\n{text}\n\nWritten to {FOLDER.value}/")


if __name__ == "__main__":
    app.run(main)
