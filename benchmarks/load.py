"""Processor time and memory against size: layers of a network, records and classes of an audit, reference models.

    python benchmarks/load.py
    python benchmarks/load.py --write

Each size of each axis runs in a process of its own, which tells the processor time of its calls and the peak of its
memory, and what of it was there before the first call. Outputs are made up, batch by batch: what is measured is tfmiaq,
not the training of a network. Rows are written as they come, and a run that was stopped goes on where it was. The
growth exponent of an axis is the slope of log time over log size between its two largest sizes: 1 is linear. The whole
takes some 12 minutes of processor time. With --write the table goes into docs/reliability.md.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags
from pages import write_part

_SIZES = {
    "layers": ["30", "100", "300"],
    "records": ["10000", "100000", "1000000"],
    "records, 8 reference models": ["10000", "100000", "1000000"],
    "classes": ["10", "100", "1000"],
    "reference models": ["8", "16", "32", "64"],
}
AXES = flags.DEFINE_list("axes", None, "Axes, by the first letters of their names; all of them if not given.")
LAYERS = flags.DEFINE_list("layers", _SIZES["layers"], "Dense layers of the network.")
RECORDS = flags.DEFINE_list("records", _SIZES["records"], "Records of an audit, half of them members, of 10 classes.")
CLASSES = flags.DEFINE_list("classes", _SIZES["classes"], "Classes of an audit of 10,000 records.")
REFERENCES = flags.DEFINE_list("references", _SIZES["reference models"], "Reference models of 2,000 records.")
RESULTS = flags.DEFINE_string("results", "benchmarks/load.json", "Result file.")
WRITE = flags.DEFINE_bool("write", False, "Only write the table of the result file into docs/reliability.md.")
CHILD = flags.DEFINE_string("child", None, "For the children alone: axis and size.")

_PAGE = pathlib.Path("docs/reliability.md")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
_TABLE = 4096  # Rows of made-up outputs.


def peak_mb() -> int:
    """Returns the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Clock:
    """Processor time of named calls of this process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, call: Callable[[], Any]) -> Any:
        """Returns what a call returns."""
        started = time.process_time()
        found = call()
        self.seconds[name] = round(time.process_time() - started, 2)
        return found


def network(layers: int) -> Any:
    """Returns dense layers of 32 units, each with batch normalization and a ReLU."""
    import tfmiaq

    parts = tfmiaq.keras.layers
    inputs = x = tfmiaq.keras.Input((32,))
    for number in range(layers):
        x = parts.Dense(32, use_bias=False, name=f"dense{number}")(x)
        x = parts.BatchNormalization(name=f"norm{number}")(x)
        x = parts.ReLU(name=f"relu{number}")(x)
    return tfmiaq.keras.Model(inputs, parts.Dense(10, name="logits")(x))


def measure_layers(size: int, clock: Clock) -> None:
    """Quantizes, calibrates, converts and verifies a network."""
    import tfmiaq

    tfmiaq.keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    model = network(size)
    quantized = clock.time("quantize_model", lambda: tfmiaq.quantize_model(model))
    clock.time("calibrate", lambda: tfmiaq.calibrate(quantized, x))
    file = clock.time("convert", lambda: tfmiaq.convert(quantized))
    clock.time("verify", lambda: tfmiaq.verify(quantized, file, x))


class Target:
    """A function in the place of a model: outputs made up by record, a little surer of records it was trained on."""

    def __init__(self, classes: int, members: np.ndarray, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._outputs = generator.normal(0, 2, (_TABLE, classes)).astype(np.float32)
        self._members, self._classes = members, classes

    def __call__(self, x: np.ndarray) -> np.ndarray:
        number = x[:, 0]
        found = self._outputs[number % _TABLE].copy()
        found[np.arange(len(x)), number * 7 % self._classes] += 2 + self._members[number]
        return found


def records(count: int, classes: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns pairs (x, y) of as many members as non-members; a record is its own number."""
    x: np.ndarray = np.arange(count, dtype=np.int64)[:, None]
    y: np.ndarray = x[:, 0] * 7 % classes
    return (x[: count // 2], y[: count // 2]), (x[count // 2 :], y[count // 2 :])


def measure_audit(count: int, classes: int, references: int, clock: Clock) -> None:
    """Audits made-up outputs, with reference models or without."""
    import tfmiaq

    seeds = iter(range(1, 1000))

    def train(x: np.ndarray, y: np.ndarray) -> Target:
        members: np.ndarray = np.zeros(count, bool)
        members[x[:, 0]] = True
        return Target(classes, members, next(seeds))

    members, non_members = records(count, classes)
    target = Target(classes, np.arange(count) < count // 2, 0)
    models = tfmiaq.ReferenceModels(train, references) if references else None
    report = clock.time(
        "audit", lambda: tfmiaq.audit(target, members, non_members, reference_models=models, verbose=False)
    )
    clock.time("save", lambda: report.to_json())


MEASURE: dict[str, Callable[[int, Clock], None]] = {
    "layers": measure_layers,
    "records": lambda size, clock: measure_audit(size, 10, 0, clock),
    "records, 8 reference models": lambda size, clock: measure_audit(size, 10, 8, clock),
    "classes": lambda size, clock: measure_audit(10_000, size, 0, clock),
    "reference models": lambda size, clock: measure_audit(2_000, 10, size, clock),
}


def child(axis: str, size: int) -> None:
    """Measures one size, and prints it."""
    import tfmiaq

    clock = Clock()
    if axis == "layers":
        tfmiaq.quantize_model(network(1))  # Imports and first traces are no part of what grows.
    else:
        measure_audit(200, 2, 2, Clock())
    before = peak_mb()
    MEASURE[axis](size, clock)
    row = {"size": size, "cpu_seconds": clock.seconds, "peak_mb": peak_mb(), "before_mb": before}
    print(json.dumps(row))


def exponent(rows: list[dict[str, Any]], step: str) -> str:
    """Returns the slope of log time over log size between the two largest sizes, as a text."""
    two = sorted(rows, key=lambda row: row["size"])[-2:]
    if len(two) < 2 or min(row["cpu_seconds"][step] for row in two) < 0.05:
        return ""
    first, last = two
    slope = math.log(last["cpu_seconds"][step] / first["cpu_seconds"][step]) / math.log(last["size"] / first["size"])
    return f"{slope:.2f}"


def table(results: dict[str, Any]) -> list[str]:
    """Returns the table of docs/reliability.md."""
    lines = [
        "| grows | call | sizes | processor seconds | exponent | memory above the start, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for axis, rows in results["axes"].items():
        sizes = " / ".join(f"{row['size']:,}" for row in rows)
        memory = " / ".join(f"{row['peak_mb'] - row['before_mb']:,}" for row in rows)
        for step in rows[0]["cpu_seconds"]:
            if step == "save":
                continue
            seconds = " / ".join(f"{row['cpu_seconds'][step]:,.1f}" for row in rows)
            lines.append(f"| {axis} | `{step}` | {sizes} | {seconds} | {exponent(rows, step)} | {memory} |")
    return lines


def main(argv: list[str]) -> None:
    del argv
    if CHILD.value:
        axis, _, size = CHILD.value.partition("=")
        child(axis, int(size))
        return
    path = pathlib.Path(RESULTS.value)
    results: dict[str, Any] = {"command": "python benchmarks/load.py", "axes": {}}
    if path.exists():
        results = json.loads(path.read_text())
    if WRITE.value:
        write_part(_PAGE, "load", table(results))
        return
    wanted = {
        "layers": LAYERS.value,
        "records": RECORDS.value,
        "records, 8 reference models": RECORDS.value,
        "classes": CLASSES.value,
        "reference models": REFERENCES.value,
    }
    for axis, sizes in wanted.items():
        if AXES.value and not any(axis.startswith(name) for name in AXES.value):
            continue
        rows = results["axes"].setdefault(axis, [])
        for size in sorted(map(int, sizes)):
            if any(row["size"] == size for row in rows):
                continue
            command = [sys.executable, __file__, f"--child={axis}={size}"]
            run = subprocess.run(
                command, env={**os.environ, **_ONE_THREAD}, capture_output=True, text=True, check=False
            )
            if run.returncode:
                raise RuntimeError(f"{axis} of {size}: {run.stderr[-2000:]}")
            rows.append(json.loads(run.stdout.splitlines()[-1]))
            rows.sort(key=lambda row: row["size"])
            results["python"] = sys.version.split()[0]
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(axis, json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    app.run(main)
