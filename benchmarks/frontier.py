"""The frontier of test accuracy and membership leakage: float models, peers' defences and ours, on several tasks.

    python benchmarks/frontier.py --dataset=cifar10.npz --location=location30.npz
    python benchmarks/frontier.py --tasks=digits --rows='float*' --rows='w2 a4*'

Of each row, `--models` models are trained, each on a random half of a pool of records. Each in turn is the target, its
half the members and the other half the non-members; the others are the attacker's reference models, so that they went
through the same defence. The outputs of every model on the pool stay in `--folder`, so that a run that was stopped goes
on. Whenever a row is finished, all finished rows are scored and written. The whole of it takes days on two cores; what
is in the result file was made task by task, with --models=4 for CIFAR-10 (10,000 training images and the test set in
one .npz). DP-SGD takes tensorflow-privacy's optimizers, which import more than the attack suite does:

    pip install --no-deps dp-accounting==0.6.0 mpmath==1.4.1 tensorflow-probability==0.23.0 decorator==5.3.1
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import json
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Optional

import networks
import numpy as np
from absl import app, flags
from scipy import stats
from tqdm import tqdm

import tfmiaq
from tfmiaq import auditing, datasets, signals, training
from tfmiaq.attacks import Evidence
from tfmiaq.caching import ARRAYS, Store

DATASET = flags.DEFINE_string("dataset", "cifar10", "CIFAR-10: its name, or the path of an .npz file.")
LOCATION = flags.DEFINE_string("location", None, "Path of Location-30 as an .npz with x and y.")
TASKS = flags.DEFINE_multi_string("tasks", None, "Globs over tasks; all that there are data for if not given.")
ROWS = flags.DEFINE_multi_string(
    "rows", ["*"], "Globs over rows to train; what is there already is scored in any case."
)
# Of three, complementary halves tell members apart even for a target that saw none of them (tests/test_attacks.py).
MODELS = flags.DEFINE_integer("models", 5, "Models of each row: targets, and each other's references.", 4)
RECORDS = flags.DEFINE_integer("records", None, "Records of the pool; the task's own number if not given.", 100)
FOLDER = flags.DEFINE_string("folder", "out/frontier", "Folder of every model's outputs.")
RESULTS = flags.DEFINE_string("results", "benchmarks/frontier.json", "Result file.")
TABLE = flags.DEFINE_string("table", "docs/frontier.md", "Markdown tables of all that is there.")
FIGURES = flags.DEFINE_string("figures", "docs/figures", "Folder of the figures.")
# Written by hand, and part of the document until the tables hold what stronger attackers find.
_READ_FIRST = pathlib.Path(__file__).with_name("frontier_read_first.md")
_HEAD = """Written by `python benchmarks/frontier.py`; results in `benchmarks/frontier.json`. Seeds are 1,000 plus the
number of the target, and 0 for the order of the pool and its halves. Tasks and rows that are not here were not run.

Each row is the mean over its targets: models trained alike on random halves of one pool of records, each attacked
with the others as reference models, which so went through the same defence. Members and non-members are the two
halves. In the first table of a task look for rows whose strongest AUC is below that of the float models of the same
test accuracy; the second has the paper's figures. *confidence* is the accuracy of a threshold on the logit-scaled
confidence, chosen on the other half of the records; *shadow* that of an attack classifier trained on the reference
models (the paper's attack). *strongest AUC* is the largest mean, with the standard deviation over targets, among
confidence, shadow models, LiRA and RMIA. For rows whose models got augmented queries (all rows of quantized outputs)
it is also among label-only, and LiRA and RMIA on augmented queries and on label agreement. *TPR* is the same at 1 %
false positives.

"epoch n" is the float model during its training, without augmented queries; "n epochs" is one with a schedule of that
length. Quantized rows have 8 bits at both ends and are trained from scratch if they are not called fine-tuned.
"Cross-distilled" is knowledge cross-distillation (Chourasia et al. 2022; SELENA, Tang et al. 2022, is alike), with a
teacher weight of 1, or of the number behind "by". "By five": one teacher of each record, of five folds and 24 epochs,
with mixup of 0.4 if the row has mixup; other teachers are as the task has them, or with mixup three folds drawn twice,
of 16 epochs. "On records outside": a student of the members' float model that sees only records of neither half;
"stopped on leakage": by LeakageEarlyStopping, with such records as its non-members. Minutes are wall time of one model
on two cores, while other rows were trained beside it; its teachers are counted where another row had not trained them
already."""


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


def _recipe(
    task: Task, epochs: int, rate: float, loss: Optional[Any] = None, mixup: float = 0.0
) -> tfmiaq.TrainingRecipe:
    return tfmiaq.TrainingRecipe(
        epochs=epochs,
        learning_rate=rate,
        batch_size=task.batch_size,
        loss=loss,
        augment=training.flips_and_shifts() if task.augment else None,
        weight_decay=5e-4,
        mixup=mixup,
    )


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Trains a float model."""

    network: Callable[..., Any]
    classes: int
    recipe: tfmiaq.TrainingRecipe

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        return self.recipe.fit(self.network(x.shape[1:], self.classes), x, y)


@dataclasses.dataclass(frozen=True)
class Job:
    """The training of one model."""

    task: Task
    row: Row
    x: np.ndarray
    y: np.ndarray
    outside: signals.Records
    classes: int
    folder: pathlib.Path
    index: int

    def recipe(self, epochs: int, rate: float) -> tfmiaq.TrainingRecipe:
        return _recipe(self.task, epochs, rate, self.row.loss() if self.row.loss else None, self.row.mixup)

    def fresh(self) -> Any:
        return self.task.network(self.x.shape[1:], self.classes)

    def quantized(self, model: Any) -> Any:
        if self.row.tfmot:
            import tensorflow_model_optimization as tfmot

            return tfmot.quantization.keras.quantize_model(model)
        if self.row.bits is None:
            return model
        policy = tfmiaq.BitwidthPolicy.uniform(*self.row.bits)
        if self.row.output is not None:
            policy = dataclasses.replace(policy, output=tfmiaq.OutputBits(*self.row.output))
        return tfmiaq.quantize_model(model, policy)


def train(job: Job, score: Callable[[Any, int], None]) -> Any:
    """Trains a row's model; `score` is called with it and the epoch on the trajectory, and not at the end."""
    task, row = job.task, job.row
    weights = job.folder / f"weights-{job.index}.npz"
    if row.tuned:
        model = job.fresh()
        if weights.is_file():
            with np.load(weights) as file:
                model.set_weights([file[name] for name in file.files])
        else:
            _recipe(task, task.epochs, task.learning_rate).fit(model, job.x, job.y)
            np.savez(weights, *model.get_weights())
        return job.recipe(task.tuning, task.learning_rate / 5).fit(job.quantized(model), job.x, job.y)
    epochs = max(1, round(row.length * task.epochs))
    if row.teacher_weight is not None and task.student and not row.mixup:
        epochs = max(1, round(row.length * task.student))
    recipe = job.recipe(epochs, task.learning_rate)
    model = job.quantized(job.fresh())
    if row.noise is not None:
        return _private(job, model, epochs)
    if row.teacher_weight is not None:
        folds, repeats, epochs = row.teachers or task.teachers
        taught = _recipe(task, epochs, task.learning_rate, mixup=0.4 if row.mixup else 0.0)
        return tfmiaq.cross_distill(
            Teacher(task.network, job.classes, taught),
            model,
            job.x,
            job.y,
            tfmiaq.CrossDistillation(folds, repeats, row.teacher_weight),
            recipe=recipe,
            cache=job.folder / "teachers",
            seed=1_000 * job.index,
        )
    if row.outside == "distilled":
        teacher = _recipe(task, task.epochs, task.learning_rate).fit(job.fresh(), job.x, job.y)
        x = job.outside[0]
        plain = dataclasses.replace(_recipe(task, epochs, task.learning_rate), augment=None)
        tfmiaq.distill(teacher, model, x, recipe=plain)
        return model
    callbacks: list[Any] = []
    if row.outside == "stopped":
        callbacks = [tfmiaq.callbacks.LeakageEarlyStopping((job.x, job.y), job.outside)]
    if row.falling:
        uniform = tfmiaq.BitwidthPolicy.uniform
        policies = {0: uniform(8, 8), epochs // 4: uniform(4, 4), epochs // 2: uniform(*row.bits or (8, 8))}
        callbacks = [tfmiaq.callbacks.BitwidthSchedule(policies)]
    if row.trajectory:
        wanted = {epoch - 1: epoch for epoch in task.early}
        scored = lambda epoch, logs: score(model, wanted[epoch]) if epoch in wanted else None  # noqa: E731
        callbacks = [tfmiaq.keras.callbacks.LambdaCallback(on_epoch_end=scored)]
    labels = job.y
    if row.smoothing:
        labels = (1 - row.smoothing) * np.eye(job.classes)[job.y] + row.smoothing / job.classes
    recipe.fit(model, job.x, labels, callbacks)
    if row.trajectory:
        np.savez(weights, *model.get_weights())
    return model


def _private(job: Job, model: Any, epochs: int) -> Any:
    """DP-SGD of tensorflow-privacy, on a network without batch normalization, whose records are not independent."""
    from tensorflow_privacy.privacy.optimizers import dp_optimizer_keras_vectorized

    keras = tfmiaq.keras

    def plain(layer: Any) -> Any:
        if isinstance(layer, keras.layers.BatchNormalization):
            return keras.layers.GroupNormalization(8, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    model = keras.models.clone_model(model, clone_function=plain)
    optimizer = dp_optimizer_keras_vectorized.VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=1.0, noise_multiplier=job.row.noise, num_microbatches=job.task.batch_size, learning_rate=0.25
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    model.compile(optimizer, loss)
    whole = len(job.x) // job.task.batch_size * job.task.batch_size
    model.fit(job.x[:whole], job.y[:whole], batch_size=job.task.batch_size, epochs=epochs, verbose=0)
    return model


def _outputs(model: Any, pool: signals.Records, augmented: bool = False) -> dict[str, np.ndarray]:
    found = signals.extract(model, pool, batch_size=500).to_arrays()
    if augmented:
        queries = signals.AugmentedQueries.from_records(pool[0])
        found.update(signals.query_augmented(model, pool, queries, batch_size=500))
    return found


class _QueriedOnce:
    """A model of quantized outputs, as two targets that get the same queries in the same order, one after the other;
    the network runs for the first of them only."""

    def __init__(self, model: Any) -> None:
        self._rounding = model.get_layer("logits_output")
        self._network = tfmiaq.keras.Model(model.inputs, self._rounding.input)
        self._waiting: collections.deque[np.ndarray] = collections.deque()

    def before_rounding(self, x: np.ndarray) -> np.ndarray:
        outputs = self._network.predict_on_batch(x)
        self._waiting.append(outputs)
        return outputs

    def rounded(self, x: np.ndarray) -> np.ndarray:
        outputs = self._waiting.popleft()
        if len(outputs) != len(x):
            raise ValueError(
                f"Expected the queries of before. Received {len(x)} records where there were {len(outputs)}."
            )
        return self._rounding(outputs, training=False).numpy()


def _pool(task: Task) -> Optional[tuple[signals.Records, signals.Records]]:
    """The records of a task, and those of its source that are left over, as many at most."""
    if task.source == "location30":
        if LOCATION.value is None:
            return None
        with np.load(LOCATION.value) as file:
            x, y = file["x"].astype(np.float32), file["y"].astype(np.int64)
    else:
        data = datasets.load("digits" if task.source == "digits" else DATASET.value)
        x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    count = min(RECORDS.value or task.records, len(y))
    order = np.random.default_rng(0).permutation(len(y))
    y = y - y.min()
    inside, outside = order[:count], order[count : 2 * count]
    return (x[inside], y[inside]), (x[outside], y[outside])


def _make(
    task: Task,
    name: str,
    row: Row,
    pool: signals.Records,
    outside: signals.Records,
    folder: pathlib.Path,
    bar: Any,
) -> None:
    """Trains what is missing of a row's models, and stores their outputs."""
    store = Store(folder)
    for index, chosen in enumerate(signals.half_splits(len(pool[1]), MODELS.value, 0)):
        key = f"{name}-{index}"
        if store.get(key, ARRAYS) is None:
            classes = int(pool[1].max()) + 1
            job = Job(task, row, pool[0][chosen], pool[1][chosen], outside, classes, folder, index)
            tfmiaq.keras.utils.set_random_seed(1_000 + index)
            started = time.perf_counter(), time.process_time()

            def on_the_way(model: Any, epoch: int, index: int = index) -> None:
                store.put(f"{name}, epoch {epoch}-{index}", _outputs(model, pool), ARRAYS)

            model = train(job, on_the_way)
            took = [time.perf_counter() - started[0], time.process_time() - started[1]]
            target: Any = model
            plain = name.partition(", outputs of")[0]
            if row.output is not None and plain in rows(task) and store.get(f"{plain}-{index}", ARRAYS) is None:
                # Training does not see the rounding: the network's outputs before it are those of the row without.
                once = _QueriedOnce(model)
                store.put(f"{plain}-{index}", _outputs(once.before_rounding, pool, True), ARRAYS)
                target = once.rounded
            store.put(key, {**_outputs(target, pool, True), "seconds": np.array(took)}, ARRAYS)
            tfmiaq.keras.backend.clear_session()
        bar.update()


def scored(name: str, count: int, folder: pathlib.Path) -> Optional[dict[str, Any]]:
    """A row's figures, means over its targets, or None while models are missing."""
    found = [Store(folder).get(f"{name}-{index}", ARRAYS) for index in range(MODELS.value)]
    if any(arrays is None for arrays in found):
        return None
    seconds = [arrays.pop("seconds", None) for arrays in found if arrays is not None]
    models = [signals.Signals(**arrays) for arrays in found if arrays is not None]
    halves = signals.half_splits(count, MODELS.value, 0)
    features = np.stack([model.features for model in models])
    of_models = [model.augmented for model in models]
    augmented = None if any(part is None for part in of_models) else np.stack([*of_models])
    values: dict[str, list[float]] = {}
    for index, (model, chosen) in enumerate(zip(models, halves)):
        order = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(~chosen)])
        # Not the model that trained on just the records that this one did not: their numbers of models would tell.
        others = [other for other in range(len(models)) if other not in (index, index ^ 1)]
        evidence = Evidence(
            target=model[order],
            is_member=np.arange(count) < chosen.sum(),
            seed=index,
            reference_signals=signals.ReferenceSignals(
                features[others][:, order],
                halves[others][:, order],
                None if augmented is None else augmented[others][:, order],
            ),
        )
        attacks = [attack for name, attack in tfmiaq.attacks.ATTACKS.items() if name in ("gap", *_SIGNALS)]
        attacks = [attack for attack in attacks if attack.needs <= evidence.available]
        report = auditing.score(evidence, attacks)
        values.setdefault("train_accuracy", []).append(report.member_accuracy)
        values.setdefault("test_accuracy", []).append(report.non_member_accuracy)
        for attack in report.attacks:
            for key, value in (
                ("auc", attack.auc),
                ("accuracy", attack.confusion.accuracy),
                ("tpr", attack.confusion.tpr),
                ("f1_members", attack.confusion.f1_members),
                ("f1_non_members", attack.confusion.f1_non_members),
            ):
                values.setdefault(f"{attack.name}: {key}", []).append(float(value))
            for key, fpr in (("tpr_at_0.1_percent_fpr", 0.001), ("tpr_at_1_percent_fpr", 0.01)):
                rate = attack.tpr_at_fpr(fpr)
                if rate is not None:
                    values.setdefault(f"{attack.name}: {key}", []).append(float(rate))
    return {
        "targets": len(models),
        "seconds": None if seconds[0] is None else [round(float(value)) for value in np.mean(seconds, axis=0)],
        "mean": {key: round(float(np.mean(found)), 5) for key, found in values.items()},
        "deviation": {key: round(float(np.std(found, ddof=1)), 5) for key, found in values.items()},
    }


def _labels(task: Task) -> Iterator[str]:
    for name, row in rows(task).items():
        if row.trajectory:
            yield from (f"{name}, epoch {epoch}" for epoch in task.early)
        yield name


_SIGNALS = (
    "confidence",
    "shadow models",
    "LiRA",
    "RMIA",
    "label-only",
    "LiRA on augmented queries",
    "RMIA on augmented queries",
    "LiRA on label agreement",
    "RMIA on label agreement",
)


def strongest(row: dict[str, Any], key: str) -> tuple[str, float, float]:
    """The attack with the largest mean of a figure, that mean, and its deviation."""
    there = [attack for attack in _SIGNALS if f"{attack}: {key}" in row["mean"]]
    if not there:
        return "", float("nan"), float("nan")
    name = max(there, key=lambda attack: row["mean"][f"{attack}: {key}"])
    return name, row["mean"][f"{name}: {key}"], row["deviation"][f"{name}: {key}"]


def table(of_task: dict[str, Any]) -> str:
    """A task's rows as Markdown."""
    lines = [
        "| row | train | test | gap | confidence | shadow | strongest AUC | TPR at 1 % FPR | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for label, row in of_task["rows"].items():
        mean, test_spread = row["mean"], row["deviation"]["test_accuracy"]
        attack, auc, spread = strongest(row, "auc")
        tpr = strongest(row, "tpr_at_1_percent_fpr")[1]
        minutes = "" if row["seconds"] is None else f"{row['seconds'][0] / 60:.1f}"
        lines.append(
            f"| {label} | {mean['train_accuracy']:.3f} | {mean['test_accuracy']:.3f} ± "
            f"{test_spread:.3f} | {mean['gap: accuracy']:.3f} | {mean['confidence: accuracy']:.3f} | "
            f"{mean['shadow models: accuracy']:.3f} | {auc:.3f} ± {spread:.3f} ({attack}) | "
            f"{'unresolved' if np.isnan(tpr) else f'{tpr:.3f}'} | {minutes} |"
        )
    return "\n".join(lines)


def papers_table(of_task: dict[str, Any]) -> str:
    """The figures of Famili and Lao (2023), of the attack classifier trained on shadow models, against float's."""
    keys = ("accuracy", "tpr", "f1_members", "f1_non_members")
    lines = [
        "| row | test accuracy | attack accuracy | TPR | F1 of members | F1 of non-members |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    base = of_task["rows"].get("float")
    if base is None:
        return ""
    for label, row in of_task["rows"].items():
        cells = []
        for key in keys:
            value, full = (r["mean"][f"shadow models: {key}"] for r in (row, base))
            cells.append(f"{value:.3f}" if row is base else f"{value:.3f} ({100 * (value / full - 1):+.0f} %)")
        if not label.startswith("float, epoch"):
            lines.append(f"| {label} | {row['mean']['test_accuracy']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _family(label: str) -> tuple[str, str, str]:
    """Legend, colour and marker of a row."""
    kind = "float" if label.startswith("float") else "quantized"
    if "outputs of" in label:
        if "cross-distilled" in label:
            return "cross-distilled, quantized outputs", "tab:green", "P"
        return "quantized outputs", "tab:olive", "X"
    if "cross-distilled" in label:
        return f"cross-distilled, {kind}", *(("tab:purple", "D") if kind == "float" else ("tab:red", "*"))
    if label.startswith("float, epoch"):
        return "float on its way", "black", "."
    if label == "float" or label.endswith("epochs"):
        return "float, own schedule", "black", "o"
    if kind == "float":
        return "float, mixup, other losses and DP-SGD", "tab:gray", "s"
    plain = label.endswith("fine-tuned") or "," not in label
    return ("quantized", "tab:blue", "^") if plain else ("quantized, mixup and other losses", "tab:orange", "v")


def figure(name: str, of_task: dict[str, Any], path: pathlib.Path) -> None:
    """Test accuracy against the strongest attack's AUC, and against the confidence attack's accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    axes: Any
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    drawn: set[str] = set()
    named: list[tuple[float, float, str]] = []
    labelled: list[tuple[float, float]] = []
    points = [(strongest(row, "auc")[1], row["mean"]["test_accuracy"]) for row in of_task["rows"].values()]
    curves: dict[str, list[tuple[float, float, float]]] = {"float on its way": [], "float, own schedule": []}
    width, height = np.ptp(points, axis=0)
    right = np.min(points, axis=0)[0] + 0.8 * width
    for label, row in of_task["rows"].items():
        legend, colour, marker = _family(label)
        accuracy = row["mean"]["test_accuracy"]
        values = strongest(row, "auc")[1], row["mean"]["confidence: accuracy"]
        for axis, value in zip(axes, values):
            entry = legend if axis is axes[0] and legend not in drawn else None
            axis.scatter(value, accuracy, color=colour, marker=marker, label=entry)
        drawn.add(legend)
        if legend in curves:
            curves[legend].append((*values, accuracy))
        if marker != ".":
            named.append((values[0], accuracy, label))
    for curve in filter(None, curves.values()):
        *leakages, accuracies = zip(*sorted(curve))
        for axis, leakage in zip(axes, leakages):
            axis.plot(leakage, accuracies, color="black", linewidth=0.5, zorder=0)
    # Of points that lie on top of each other the one that leaks least is named.
    for auc, accuracy, label in sorted(named):
        if all(abs(auc - x) > 0.3 * width or abs(accuracy - y) > 0.05 * height for x, y in labelled):
            # The legend tells the rest of it.
            text = (
                re.sub(", cross-distilled( by [0-9a-z.]+)?|outputs of ", "", label) if "outputs of" in label else label
            )
            axes[0].annotate(
                text,
                (auc, accuracy),
                fontsize=6,
                xytext=(-4 if auc > right else 4, 4),
                textcoords="offset points",
                horizontalalignment="right" if auc > right else "left",
            )
            labelled.append((auc, accuracy))
    axes[0].set_xlabel("AUC of the strongest attack, reference models alike")
    axes[1].set_xlabel("accuracy of a threshold on confidence")
    axes[0].set_ylabel("test accuracy")
    fig.legend(loc="lower center", ncol=5, fontsize=7)
    fig.suptitle(f"{name}: {of_task['members']:,} members")
    fig.tight_layout(rect=(0, 0.08, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def agreement(of_task: dict[str, Any]) -> tuple[int, float]:
    """Rows without quantized outputs, and Spearman's rank correlation over them of the confidence attack's AUC, which
    costs no reference models, and the strongest one."""
    plain = [row for label, row in of_task["rows"].items() if "outputs of" not in label]
    pairs = [(row["mean"]["confidence: auc"], strongest(row, "auc")[1]) for row in plain]
    return len(pairs), float(stats.spearmanr(pairs)[0]) if len(pairs) > 2 else float("nan")


def _file_name(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def write_report(results: pathlib.Path) -> None:
    """Tables and figures of all that is there."""
    tasks = json.loads(results.read_text(encoding="utf-8"))["tasks"]
    parts = [f"# The frontier, measured\n\n{_HEAD}\n", _READ_FIRST.read_text(encoding="utf-8")]
    for name in TASKS_KNOWN:
        if name not in tasks or not tasks[name]["rows"]:
            continue
        file = pathlib.Path(FIGURES.value) / f"frontier-{_file_name(name)}.png"
        figure(name, tasks[name], file)
        print(f"{name}\n{table(tasks[name])}\n")
        link = f"{file.parent.name}/{file.name}"
        count, correlation = agreement(tasks[name])
        parts.append(
            f"## {name}: {tasks[name]['members']:,} members\n\n{table(tasks[name])}\n\n![{name}]({link})\n\n"
            "The AUC of the confidence attack, which takes no reference models, and that of the strongest one have a "
            f"rank correlation of {correlation:.3f} over the {count} rows without quantized outputs (Spearman).\n\n"
            f"The paper's figures, and how they change against float:\n\n{papers_table(tasks[name])}\n"
        )
    pathlib.Path(TABLE.value).write_text("\n".join(parts), encoding="utf-8")


def _write(results: pathlib.Path, name: str, task: Task, count: int, folder: pathlib.Path) -> None:
    """Scores what has not been scored, and adds it to what others may have written meanwhile."""

    def read() -> dict[str, Any]:
        return json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {"tasks": {}}

    known = read()["tasks"].get(name, {"rows": {}})["rows"]
    order = list(_labels(task))
    found = {label: scored(label, count, folder) for label in order if label not in known}
    result = read()
    rows_of_task = result["tasks"].setdefault(name, {"members": count // 2, "rows": {}})["rows"]
    rows_of_task.update({label: row for label, row in found.items() if row is not None})
    result["tasks"][name]["rows"] = dict(sorted(rows_of_task.items(), key=lambda item: order.index(item[0])))
    result["command"] = "python benchmarks/frontier.py --dataset=cifar10.npz --location=location30.npz"
    scratch = results.with_suffix(".part")
    scratch.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    scratch.replace(results)


def main(argv: list[str]) -> None:
    del argv
    results = pathlib.Path(RESULTS.value)
    for name, task in TASKS_KNOWN.items():
        if not any(fnmatch.fnmatch(name, pattern) for pattern in TASKS.value or ["*"]):
            continue
        records = _pool(task)
        if records is None:
            print(f"{name}: no --location, left out.")
            continue
        pool, outside = records
        count = len(pool[1])
        folder = pathlib.Path(FOLDER.value) / f"{_file_name(name)}-{count}"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {
            label: row
            for label, row in rows(task).items()
            if any(fnmatch.fnmatch(label, pattern) for pattern in ROWS.value)
            if not row.outside or len(outside[1])
        }
        with tqdm(total=len(wanted) * MODELS.value, desc=name) as bar:
            for label, row in wanted.items():
                bar.set_postfix_str(label)
                _make(task, label, row, pool, outside, folder, bar)
                _write(results, name, task, count, folder)
        _write(results, name, task, count, folder)
    write_report(results)


if __name__ == "__main__":
    app.run(main)
