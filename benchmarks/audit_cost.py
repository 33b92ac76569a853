"""What an audit costs: ours beside tensorflow-privacy's, scoring Keras beside .tflite, and the monitor in training.

    python benchmarks/audit_cost.py
    python benchmarks/audit_cost.py --dataset=cifar10.npz

All on a ResNet-8 that was trained on --members images. Processor time counts, of all threads and child processes.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from typing import Any, Callable

import numpy as np
from absl import app, flags
from networks import resnet8

import tfmiaq
from tfmiaq import auditing, datasets
from tfmiaq.auditing import signals

DATASET = flags.DEFINE_string("dataset", "cifar10", "Name of a data set, or the path of an .npz file.")
MEMBERS = flags.DEFINE_integer("members", 10_000, "Members, and as many non-members.", 100)
EPOCHS = flags.DEFINE_integer("training_epochs", 12, "Epochs of training.", 1)
RESULTS = flags.DEFINE_string("results", "benchmarks/audit_cost.json", "Result file.")
_PEERS = ("threshold", "logistic regression", "multi-layer perceptron", "random forest", "k nearest neighbours")


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _timed(act: Callable[[], Any]) -> tuple[Any, float, float]:
    """What an action gives, its processor seconds and its seconds."""
    began, started = _processor_seconds(), time.perf_counter()
    result = act()
    return result, _processor_seconds() - began, time.perf_counter() - started


def _compile(model: Any) -> Any:
    from tfmiaq._backend import keras

    model.compile(
        keras.optimizers.SGD(0.05, 0.9, True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def _attacks(found: signals.Signals, result: dict[str, Any], save: Callable[[], None]) -> None:
    half = len(found.labels) // 2
    evidence = auditing.Evidence(found, np.arange(2 * half) < half)
    ours = [attack for attack in tfmiaq.attacks.choose(None) if attack.needs <= evidence.available]
    for name, attacks in (("ours", ours), ("tensorflow-privacy", tfmiaq.attacks.choose(_PEERS))):
        total, rows = 0.0, {}
        for attack in attacks:
            report, processor, seconds = _timed(lambda attack=attack: auditing.score(evidence, [attack]))
            total += processor
            rows[attack.name] = {
                "auc": report[attack.name].auc,
                "attack_accuracy": report[attack.name].confusion.accuracy,
                "processor_seconds": round(processor, 2),
                "seconds": round(seconds, 2),
            }
            best = max(row["auc"] for row in rows.values())
            result[name] = {"processor_seconds": round(total, 2), "best_auc": best, "attacks": rows}
            save()
    ratio = result["tensorflow-privacy"]["processor_seconds"] / result["ours"]["processor_seconds"]
    result["tensorflow_privacy_over_ours"] = round(ratio, 1)


def main(argv: list[str]) -> None:
    del argv
    from tfmiaq._backend import keras

    data = datasets.load(DATASET.value)
    count = MEMBERS.value
    members = data.x_train[:count], data.y_train[:count]
    non_members = data.x_test[:count], data.y_test[:count]
    result: dict[str, Any] = {"command": f"python benchmarks/audit_cost.py --members={count}", "seed": 0}

    def save() -> None:
        pathlib.Path(RESULTS.value).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    keras.utils.set_random_seed(0)
    model = _compile(resnet8(data.x_train.shape[1:], data.classes))
    model.fit(*members, batch_size=128, epochs=EPOCHS.value, verbose=0)
    quantized = _compile(tfmiaq.quantize_model(model))
    quantized.fit(*members, batch_size=128, epochs=1, verbose=0)
    buffer = tfmiaq.convert(quantized)

    rates = {}
    for name, target, threads in (
        ("keras, float", model, None),
        ("keras, quantized", quantized, None),
        (".tflite, 1 thread", buffer, 1),
        (".tflite, 2 threads", buffer, 2),
    ):
        few = tuple(part[:256] for part in members)
        signals.extract(target, few, few, threads=threads)
        found, _, seconds = _timed(lambda t=target, n=threads: signals.extract(t, members, non_members, threads=n))
        rates[name] = round(2 * count / seconds)
        if name == "keras, float":
            result["accuracy"] = [float(part.correct.mean()) for part in found]
            pooled = signals.Signals.concatenate(found)
    result["records_per_second"] = rates
    save()

    seconds: dict[str, list[float]] = {"without": [], "with": []}
    monitor = tfmiaq.callbacks.LeakageMonitor(members, non_members)
    for _ in range(4):
        for name, callbacks in (("without", []), ("with", [monitor])):
            _, _, took = _timed(
                lambda c=callbacks: model.fit(*members, batch_size=128, epochs=1, verbose=0, callbacks=c)
            )
            seconds[name].append(took)
    medians = {name: float(np.median(values[1:])) for name, values in seconds.items()}
    result["monitor"] = {
        "sample": 500,
        "epoch_seconds": {name: round(value, 2) for name, value in medians.items()},
        "share_of_an_epoch": round(medians["with"] / medians["without"] - 1, 4),
    }
    save()
    _attacks(pooled, result, save)
    save()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    app.run(main)
