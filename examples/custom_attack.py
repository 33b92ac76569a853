"""An attack of your own and a policy of your own, in one audit beside the attacks that are there.

    python examples/custom_attack.py
    python examples/custom_attack.py --dataset=cifar10 --members=5000 --width=32 --reference_models=8

The attack compares how far the two largest logits lie apart with how far they do in models that did not train on the
record: a class with a name and scores is all that it takes. The policy gives each layer its bits by name.
"""

from __future__ import annotations

from typing import Any

import common
import numpy as np
from absl import app, flags
from small_classifier import build_model, fit

import tfmiaq

WIDTH = flags.DEFINE_integer("width", 8, "Filters of the first layer; the others have multiples of it.", 1)
EPOCHS = flags.DEFINE_integer("epochs", 60, "Epochs of float training.", 1)
QUANTIZED_EPOCHS = flags.DEFINE_integer("quantized_epochs", 40, "Epochs of quantization-aware training.", 1)
REFERENCE_MODELS = flags.DEFINE_integer("reference_models", 4, "Models that the attacker trains.", 2)
FOLDER = flags.DEFINE_string("folder", "out/custom", "Folder for report, policy and finished reference models.")
flags.adopt_module_key_flags(common)


class CalibratedMargin(tfmiaq.attacks.Attack):
    """The margin of the two largest logits, minus its mean over reference models that were not trained on the record.

    Needs no label: it is for an attacker who has a person's picture, and does not know what the model should say.
    """

    name = "calibrated margin"
    # Scores do not depend on who is a member; attacks that learn from known members are tested more strictly.
    learns = False
    # Without one of these the attack is skipped, and the report says so.
    needs = frozenset({tfmiaq.attacks.REFERENCE_MODELS, tfmiaq.attacks.WHOLE_OUTPUTS})
    note = "the two largest outputs, of the target and of reference models; no label"

    def scores(self, evidence: Any) -> np.ndarray:
        references = evidence.reference_signals
        others = self._margins(np.asarray(references.outputs))  # (models, records)
        away = ~references.trained_on  # (models, records)
        calibration = (others * away).sum(0) / np.maximum(away.sum(0), 1)
        return self._margins(evidence.target.logits) - calibration

    def _margins(self, logits: np.ndarray) -> np.ndarray:
        largest = np.sort(logits, axis=-1)[..., -2:]
        return largest[..., 1] - largest[..., 0]


def main(argv: list[str]) -> None:
    common.start(argv)
    data, members, non_members = common.load_sets()
    tfmiaq.attacks.register(CalibratedMargin())
    shape, classes, width = data.x_train.shape[1:], data.classes, WIDTH.value
    epochs, quantized_epochs = EPOCHS.value, QUANTIZED_EPOCHS.value
    # Names or globs, and the last that matches a layer wins; a pattern that matches none is an error.
    bits = tfmiaq.LayerBits
    rules = {"hidden": bits(1, 3), "logits": bits(8, 8), **({"conv*": bits(4, 6)} if len(shape) == 3 else {})}
    policy = tfmiaq.BitwidthPolicy(default=bits(2, 4), layers=rules)

    def train(x: Any, y: Any, label: str = "") -> Any:
        model = build_model(shape, classes, width)
        fit(model, x, y, epochs, 3e-3, label)
        quantized = tfmiaq.quantize_model(model, policy)
        fit(quantized, x, y, quantized_epochs, 3e-3, label and "quantized training")
        return quantized

    tfmiaq.keras.utils.set_random_seed(common.SEED.value)
    model = train(*members, "float training")
    print(tfmiaq.summary(model))
    report = tfmiaq.audit(
        model,
        members,
        non_members,
        attacks=[CalibratedMargin.name, "confidence", "LiRA", "RMIA"],
        reference_models=tfmiaq.ReferenceModels(
            train, REFERENCE_MODELS.value, cache=f"{FOLDER.value}/reference_models"
        ),
        seed=common.SEED.value,
    )
    report.save(FOLDER.value)
    common.write(FOLDER.value, "policy.json", policy.to_json())
    rows = [(attack.name, f"{attack.auc}", attack.note) for attack in report.attacks]
    print(f"\n{common.table(('attack', 'AUC', 'what it takes'), rows)}\n\nWritten to {FOLDER.value}/")


if __name__ == "__main__":
    app.run(main)
