"""What an audit costs: ours beside tensorflow-privacy's, scoring Keras beside .tflite, and the monitor in training.

    python benchmarks/audit_cost.py
    python benchmarks/audit_cost.py --dataset=cifar10.npz

All on a ResNet-8 that was trained on --members images. Times are processor time of all threads and child processes.
The attacks, of which tensorflow-privacy's take a quarter of an hour, are not run again if the result file has them.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
from absl import app, flags
from networks import resnet8

import tfmiaq
from tfmiaq import auditing, datasets, signals
from tfmiaq.attacks import Evidence

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
    keras = tfmiaq.keras
    model.compile(
        keras.optimizers.SGD(0.05, 0.9, True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def _monitored_epochs(model: Any, members: Any, non_members: Any) -> list[tuple[float, float]]:
    """Seconds of each epoch after the first, and of the monitor in it."""
    spent: list[float] = []
    ends: list[float] = []

    class Timed(tfmiaq.callbacks.LeakageMonitor):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            started = time.perf_counter()
            super().on_epoch_end(epoch, logs)
            ends.append(time.perf_counter())
            spent.append(ends[-1] - started)

    model.fit(*members, batch_size=128, epochs=8, verbose=0, callbacks=[Timed(members, non_members)])
    return [(end - before, own) for before, end, own in zip(ends, ends[1:], spent[1:])]


def _attacks(found: signals.Signals, result: dict[str, Any], save: Callable[[], None]) -> None:
    half = len(found.labels) // 2
    evidence = Evidence(found, np.arange(2 * half) < half)
    ours = [attack for attack in tfmiaq.attacks.choose(None) if attack.needs <= evidence.available]
    for name, attacks in (("ours", ours), ("tensorflow-privacy", tfmiaq.attacks.choose(_PEERS))):
        total, rows = 0.0, {}
        for attack in attacks:
            report, processor, seconds = _timed(functools.partial(auditing.score, evidence, [attack]))
            total += processor
            rows[attack.name] = {
                "auc": float(report[attack.name].auc),
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
    data = datasets.load(DATASET.value)
    count = MEMBERS.value
    members = data.x_train[:count], data.y_train[:count]
    non_members = data.x_test[:count], data.y_test[:count]
    path = pathlib.Path(RESULTS.value)
    known = json.loads(path.read_text()) if path.is_file() else {}
    result: dict[str, Any] = {"command": f"python benchmarks/audit_cost.py --members={count}", "seed": 0}
    if known.get("command") == result["command"] and "tensorflow_privacy_over_ours" in known:
        result = known

    def save() -> None:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    tfmiaq.keras.utils.set_random_seed(0)
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
        few = (members[0][:256], members[1][:256])
        signals.extract(target, few, threads=threads)

        def extract(target: Any = target, threads: Optional[int] = threads) -> list[signals.Signals]:
            return [signals.extract(target, part, threads=threads) for part in (members, non_members)]

        found, _, seconds = _timed(extract)
        rates[name] = round(2 * count / seconds)
        if name == "keras, float":
            result["accuracy"] = [float(part.correct.mean()) for part in found]
            pooled = signals.Signals.concatenate(found)
    result["records_per_second"] = rates
    save()

    epochs = _monitored_epochs(model, members, non_members)
    result["monitor"] = {
        "sample": 500,
        "epoch_seconds": round(float(np.median([epoch for epoch, _ in epochs])), 2),
        "share_of_an_epoch": round(float(np.median([spent / (epoch - spent) for epoch, spent in epochs])), 4),
    }
    save()
    if "tensorflow_privacy_over_ours" not in result:
        _attacks(pooled, result, save)
        save()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    app.run(main)
