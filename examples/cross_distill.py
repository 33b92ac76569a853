"""Defends a model by cross-distillation and low bits; float, quantized and .tflite are audited alike.

    python examples/cross_distill.py
    python examples/cross_distill.py --dataset=own.npz --folds=5 --repeats=3 --output_bits=1 --output_clip=0.2
    python examples/cross_distill.py --dataset=cifar10 --members=1000 --width=16 --augment --epochs=48 --folds=5 \\
        --repeats=1 --copies=24 --student_epochs=144
    python examples/cross_distill.py --dataset=cifar10 --members=10000 --width=32 --epochs=24 --folds=5 --repeats=1 \\
        --mixup=0.4 --weight_bits=4 --output_bits=1 --output_clip=0.2

The quantized model starts afresh and learns its own training records from teachers that were not trained on them. What
was stopped goes on in the same --folder.

The audits here have few reference models. Stronger attackers find far more in cross-distilled models; a second record
of the same person voids the defence; and --output_bits hides from who can only ask, not from who holds the .tflite:
see docs/defence.md.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from absl import app, flags
from small_classifier import build_model

import tfmiaq
from tfmiaq import datasets, training

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

DATASET = flags.DEFINE_string("dataset", "digits", f"One of {', '.join(datasets.NAMES)}, or the path of an .npz file.")
MEMBERS = flags.DEFINE_integer("members", 300, "Records to train on.", 24)
WIDTH = flags.DEFINE_integer("width", 8, "Filters of the first layer; the others have multiples of it.", 1)
EPOCHS = flags.DEFINE_integer("epochs", 40, "Epochs of the float model and of each teacher.", 1)
FOLDS = flags.DEFINE_integer(
    "folds", 4, "Folds of the teachers; 0 fine-tunes the float model on the labels instead.", 0
)
TEACHER_WEIGHT = flags.DEFINE_float(
    "teacher_weight", 1.0, "Weight of the teachers' probabilities in the labels; the rest is the label.", 0.0, 1.0
)
REPEATS = flags.DEFINE_integer("repeats", 2, "How often the records are split into folds anew.", 1)
COPIES = flags.DEFINE_integer(
    "copies",
    0,
    "Changed copies of each record that the quantized model is trained on in its place; 0 for none.",
    0,
    1000,
)
STUDENT_EPOCHS = flags.DEFINE_integer(
    "student_epochs", None, "Epochs of the quantized model, if not --epochs; with --copies a multiple of them.", 1
)
WEIGHTS = flags.DEFINE_integer("weight_bits", 2, "Bits of weights between both ends, which have 8.", 1, 8)
ACTIVATIONS = flags.DEFINE_integer("activation_bits", 4, "Bits of activations.", 1, 8)
OUTPUT = flags.DEFINE_integer(
    "output_bits",
    None,
    "Bits of the outputs, which hide from who can only ask; as the last layer gives them if not given.",
    1,
    8,
)
CLIP = flags.DEFINE_float(
    "output_clip", None, "Distance to the largest logit at which quantized outputs end; with --output_bits.", 1e-3
)
AUGMENT = flags.DEFINE_boolean("augment", False, "Flip and shift the images of every batch.")
MIXUP = flags.DEFINE_float("mixup", 0.0, "alpha of mixup in every training; 0 for none.", 0.0)
REFERENCE_MODELS = flags.DEFINE_integer("reference_models", 4, "Reference models of each audit; 0 for none.", 0)
SEED = flags.DEFINE_integer(
    "seed", None, "Seed of splits, trainings and audits; none for 0, and in trainings for one that nobody knows.", 0
)
FOLDER = flags.DEFINE_string("folder", "out/cross_distilled", "Folder for all that is made.")

flags.register_validator(
    "dataset",
    datasets.check_name,
    message=f"expected one of {', '.join(datasets.NAMES)}, or the path of an .npz file that exists",
)
flags.register_validator("reference_models", lambda count: count != 1, message="expected 0, or at least 2")
flags.register_multi_flags_validator(
    ["output_bits", "output_clip"],
    lambda given: (given["output_bits"] is None) == (given["output_clip"] is None),
    message="expected both or neither",
)
flags.register_validator("mixup", lambda alpha: alpha == 0 or alpha >= 0.01, message="expected 0, or at least 0.01")
flags.register_multi_flags_validator(
    ["folds", "copies", "student_epochs"],
    lambda given: given["folds"] or not (given["copies"] or given["student_epochs"]),
    message="expected folds beside copies or student_epochs",
)
flags.register_multi_flags_validator(
    ["copies", "student_epochs", "epochs"],
    lambda given: not given["copies"] or (given["student_epochs"] or given["epochs"]) % given["copies"] == 0,
    message="expected copies that divide the quantized model's epochs",
)
flags.register_validator("folds", lambda count: count != 1, message="expected 0, or at least 2")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    data = datasets.load(DATASET.value, SEED.value or 0)
    if len(data.x_train) < MEMBERS.value:
        raise app.UsageError(f"--members={MEMBERS.value}, but {data.name} has {len(data.x_train)} training records.")
    shape, classes, width = data.x_train.shape[1:], data.classes, WIDTH.value
    augment = None
    if AUGMENT.value:
        if len(shape) != 3:
            raise app.UsageError(f"--augment flips and shifts images. The records have shape {shape}.")
        augment = training.flips_and_shifts()
    whole = tfmiaq.TrainingRecipe(EPOCHS.value, 0.1, 32, augment=augment, weight_decay=5e-4, mixup=MIXUP.value)
    tuning = dataclasses.replace(whole, epochs=max(1, EPOCHS.value // 3), learning_rate=0.02)

    def train_float(x: Any, y: Any) -> Any:
        return whole.fit(build_model(shape, classes, width), x, y)

    output = None if OUTPUT.value is None else tfmiaq.OutputBits(OUTPUT.value, CLIP.value)
    end = tfmiaq.LayerBits(8, 8)
    policy = tfmiaq.BitwidthPolicy(
        tfmiaq.LayerBits(WEIGHTS.value, ACTIVATIONS.value), first=end, last=end, output=output
    )
    # Copies are changed already, and each has labels of its own.
    recipe = dataclasses.replace(
        whole, epochs=STUDENT_EPOCHS.value or EPOCHS.value, augment=None if COPIES.value else augment
    )
    change = training.ImagesShifted(mirror=True) if COPIES.value and AUGMENT.value else None
    options = FOLDS.value and tfmiaq.CrossDistillation(
        FOLDS.value, REPEATS.value, TEACHER_WEIGHT.value, copies=COPIES.value, change=change
    )
    defence = tfmiaq.defend(
        train_float,
        (data.x_train[: MEMBERS.value], data.y_train[: MEMBERS.value]),
        (data.x_test[: 2 * MEMBERS.value], data.y_test[: 2 * MEMBERS.value]),
        policy=policy,
        recipe=recipe if FOLDS.value else tuning,
        cross_distillation=options or False,
        reference_models=REFERENCE_MODELS.value,
        seed=SEED.value,
        folder=pathlib.Path(FOLDER.value),
    )
    print(defence)


if __name__ == "__main__":
    app.run(main)
