"""The tasks of the frontier, and the ways to train of its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Optional

import networks

import tfmiaq


@dataclasses.dataclass(frozen=True)
class Task:
    """A network on a set of records.

    Attributes:
        network: Function from input shape and classes to a fresh float model.
        records: Records of the pool; half of them are members.
        epochs: Epochs of the float model.
        early: Epochs at which the float model's trajectory is scored.
        short: Shorter float trainings, in epochs, each with a schedule of its own.
        tuning: Epochs of fine-tuning a quantized copy of the float model.
        batch_size: Records in a batch.
        learning_rate: Peak.
        teachers: Folds of the teachers of cross-distillation, how often they are drawn anew, and their epochs.
        student: Epochs of what they teach; as many as the float model's if 0.
        augment: Whether batches are flipped and shifted.
        source: "cifar10", "digits" or "location30".
    """

    network: Callable[..., Any]
    records: int
    epochs: int
    early: tuple[int, ...]
    short: tuple[int, ...]
    teachers: tuple[int, int, int]
    tuning: int = 8
    batch_size: int = 128
    learning_rate: float = 0.1
    student: int = 0
    augment: bool = False
    source: str = "cifar10"


_IMAGES: dict[str, Any] = {
    "records": 20_000,
    "epochs": 24,
    "early": (2, 4, 6, 8, 12, 16),
    "short": (4, 6, 8, 12),
    "teachers": (3, 3, 8),
    "student": 12,
}
# A fifth of ResNet-8's members, or what is dear in these networks would not be run at all.
_FEW: dict[str, Any] = {**_IMAGES, "records": 4_000}
_MIXED_TEACHERS = (3, 2, 16)
_BETTER_TEACHERS = (5, 1, 24)
_LONG: dict[str, Any] = {
    "records": 20_000,
    "epochs": 24,
    "early": (12, 18),
    "short": (16, 48),
    "teachers": (3, 1, 16),
    "augment": True,
}
TASKS_KNOWN = {
    "digits": Task(networks.lenet, 600, 40, (2, 4, 8, 16), (4, 8, 16), (5, 3, 20), 20, 32, 0.05, source="digits"),
    "location30": Task(
        networks.mlp, 3_200, 24, (1, 2, 3, 4, 6, 12), (2, 3, 4, 6), (5, 3, 3), 8, 64, source="location30"
    ),
    "resnet8": Task(networks.resnet8, **_IMAGES),
    "resnet8, augmented": Task(networks.resnet8, **_LONG),
    "resnet20": Task(networks.resnet20, **_FEW),
    "resnet20, augmented": Task(networks.resnet20, **_LONG),
    # At 0.1 and 0.05 float models of it learn next to nothing, and at 0.02 not all of their members.
    "small VGG": Task(networks.small_vgg, learning_rate=0.005, **_FEW),
    "small MobileNet": Task(networks.small_mobilenet, **_FEW),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A way to train.

    Attributes:
        bits: Bits of weights and activations between both ends, which have 8; None for float.
        output: Bits and clip of the outputs; the model then gets augmented queries of each record too.
        tuned: Whether training goes on from the float model; else from scratch.
        length: Epochs as a fraction of the task's float training, from scratch.
        loss: Makes a Keras loss.
        smoothing: Part of each label that is spread over all classes.
        teacher_weight: Weight of the out-of-fold teachers' probabilities in the labels, or None for the labels alone.
        teachers: Folds of the teachers, how often they are drawn anew, and their epochs; as the task has it if None.
        mixup: alpha of mixup, or 0. Teachers are then trained with mixup of 0.4.
        noise: Noise multiplier of DP-SGD, or None.
        trajectory: Whether the model is scored on its way too.
        outside: What records outside of the pool are for: "distilled", the only ones that the model sees, as a float
            model of the members labels them; "stopped", what the members are compared with when training stops.
        falling: Whether bits fall from 8 over 4 to the row's, each for a quarter of the training.
        tfmot: Whether tfmot's own 8-bit quantization is what is trained.
    """

    bits: Optional[tuple[int, int]] = None
    output: Optional[tuple[int, float]] = None
    tuned: bool = False
    length: float = 1.0
    loss: Optional[Callable[[], Any]] = None
    smoothing: float = 0.0
    teacher_weight: Optional[float] = None
    teachers: Optional[tuple[int, int, int]] = None
    mixup: float = 0.0
    noise: Optional[float] = None
    trajectory: bool = False
    outside: str = ""
    falling: bool = False
    tfmot: bool = False


def _relaxed(alpha: float) -> Callable[[], Any]:
    return lambda: tfmiaq.losses.RelaxLoss(alpha, from_logits=True)


def _entropic(gamma: float) -> Callable[[], Any]:
    return lambda: tfmiaq.losses.HighEntropyLabels(gamma, 0.01, from_logits=True)


def _penalized(beta: float) -> Callable[[], Any]:
    return lambda: tfmiaq.losses.ConfidencePenalty(beta, from_logits=True)


def rows(task: Task) -> dict[str, Row]:
    """The rows of a task, by name."""
    found = {"float": Row(trajectory=True)}
    found |= {f"float, {epochs} epochs": Row(length=epochs / task.epochs) for epochs in task.short}
    found |= {f"w{w} a{a}, fine-tuned": Row((w, a), tuned=True) for w, a in ((8, 8), (4, 4), (2, 4), (1, 4))}
    found |= {f"w{w} a{a}": Row((w, a)) for w, a in ((8, 8), (4, 4), (2, 4), (1, 4))}
    found["tfmot's w8 a8"] = Row(tfmot=True)
    for name, bits in (("float", None), ("w8 a8", (8, 8)), ("w2 a4", (2, 4)), ("w1 a4", (1, 4))):
        found[f"{name}, cross-distilled"] = Row(bits, teacher_weight=1.0)
        found[f"{name}, cross-distilled by 0.7"] = Row(bits, teacher_weight=0.7)
    found["float, cross-distilled, teachers drawn once"] = Row(
        teacher_weight=1.0, teachers=(task.teachers[0], 1, task.teachers[2])
    )
    found["float, cross-distilled, a quarter as long"] = Row(teacher_weight=1.0, length=0.25)
    found["w4 a4, outputs of 1 bit, 0.2"] = Row((4, 4), output=(1, 0.2))
    found["w1 a4, outputs of 1 bit, 0.2"] = Row((1, 4), output=(1, 0.2))
    for clip in (0.2, 1.0):
        found[f"w2 a4, outputs of 1 bit, {clip}"] = Row((2, 4), output=(1, clip))
        found[f"w2 a4, cross-distilled, outputs of 1 bit, {clip}"] = Row((2, 4), teacher_weight=1.0, output=(1, clip))
    for name, bits in (("float", None), ("w1 a4", (1, 4))):
        found[f"{name}, mixup 1.0"] = Row(bits, mixup=1.0)
        found[f"{name}, mixup 1.0, cross-distilled by 0.5"] = Row(
            bits, mixup=1.0, teacher_weight=0.5, teachers=_MIXED_TEACHERS
        )
    found["float, mixup 1.0, half as long"] = Row(mixup=1.0, length=0.5)
    found["w8 a8, mixup 1.0, half as long"] = Row((8, 8), mixup=1.0, length=0.5)
    found["w8 a8, mixup 1.0, half as long, outputs of 1 bit, 0.2"] = Row((8, 8), mixup=1.0, length=0.5, output=(1, 0.2))
    found["w1 a4, mixup 1.0, outputs of 1 bit, 0.2"] = Row((1, 4), mixup=1.0, output=(1, 0.2))
    for name, mixup, length in (
        ("w4 a4, twice as long", 0.0, 2.0),
        ("w4 a4, mixup 0.2", 0.2, 1.0),
        ("w4 a4, mixup 0.2, half as long again", 0.2, 1.5),
        ("w4 a4, mixup 0.2, twice as long", 0.2, 2.0),
    ):
        found[name] = Row((4, 4), mixup=mixup, length=length)
        found[f"{name}, outputs of 1 bit, 0.2"] = dataclasses.replace(found[name], output=(1, 0.2))
    found["w1 a4, mixup 1.0, cross-distilled by 0.5, outputs of 1 bit, 0.2"] = Row(
        (1, 4), mixup=1.0, teacher_weight=0.5, teachers=_MIXED_TEACHERS, output=(1, 0.2)
    )
    found["float, mixup 0.4"] = Row(mixup=0.4)
    for name, bits, mixup in (
        ("float, mixup 0.4", None, 0.4),
        ("w4 a4, mixup 0.4", (4, 4), 0.4),
        ("w2 a4, mixup 0.4", (2, 4), 0.4),
        ("w4 a4", (4, 4), 0.0),
    ):
        by_five = Row(bits, mixup=mixup, teacher_weight=1.0, teachers=_BETTER_TEACHERS)
        found[f"{name}, cross-distilled by five"] = by_five
        if bits is not None:
            quantized = dataclasses.replace(by_five, output=(1, 0.2))
            found[f"{name}, cross-distilled by five, outputs of 1 bit, 0.2"] = quantized
    for name, bits in (("float", None), ("w2 a4", (2, 4)), ("w1 a4", (1, 4))):
        found |= {f"{name}, RelaxLoss {alpha}": Row(bits, loss=_relaxed(alpha)) for alpha in (0.5, 1.0)}
        found[f"{name}, label smoothing 0.3"] = Row(bits, smoothing=0.3)
        found |= {f"{name}, HAMP {gamma}": Row(bits, loss=_entropic(gamma)) for gamma in (0.6, 0.9)}
        found |= {f"{name}, confidence penalty {beta}": Row(bits, loss=_penalized(beta)) for beta in (0.3, 1.0)}
        found[f"{name}, distilled on records outside"] = Row(bits, outside="distilled")
        found[f"{name}, stopped on leakage"] = Row(bits, outside="stopped")
    quantized = Row((2, 4), outside="distilled", output=(1, 0.2))
    found["w2 a4, distilled on records outside, outputs of 1 bit, 0.2"] = quantized
    found["w2 a4, bits falling"] = Row((2, 4), falling=True)
    found |= {f"float, DP-SGD {noise}": Row(noise=noise) for noise in (0.3, 1.0)}
    return found


def labels(task: Task) -> Iterator[str]:
    for name, row in rows(task).items():
        if row.trajectory:
            yield from (f"{name}, epoch {epoch}" for epoch in task.early)
        yield name
