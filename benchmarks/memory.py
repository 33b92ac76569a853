"""Signals of 1,000,000 records and 1,000 classes: how much memory do they take?

    python benchmarks/memory.py

The target is a function that makes up its outputs batch by batch, so that the memory of the signals is what grows.
Measured is the peak of the whole process (resident memory) before and after.
"""

from __future__ import annotations

import json
import pathlib
import resource
import time

import numpy as np
from absl import app, flags

from tfmiaq import signals

RECORDS = flags.DEFINE_integer("records", 1_000_000, "Records, half of them members.", 1_000)
CLASSES = flags.DEFINE_integer("classes", 1_000, "Classes.", 2)
RESULTS = flags.DEFINE_string("results", "benchmarks/memory.json", "Result file.")


def main(argv: list[str]) -> None:
    del argv
    half, classes = RECORDS.value // 2, CLASSES.value
    generator = np.random.default_rng(0)
    outputs = generator.normal(0, 2, (4096, classes)).astype(np.float32)

    def target(x: np.ndarray) -> np.ndarray:
        return outputs[x[:, 0] % len(outputs)]

    x: np.ndarray = np.arange(half, dtype=np.int64)[:, None]
    y = generator.integers(0, classes, half)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = [signals.extract(target, (x, y)) for _ in range(2)]
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = sum(part.nbytes for half_of_them in found for part in half_of_them.to_arrays().values())
    result = {
        "command": f"python benchmarks/memory.py --records={RECORDS.value} --classes={classes}",
        "all_outputs_as_float32_mb": round(4 * RECORDS.value * classes / 2**20),
        "peak_of_the_process_mb": round(after / 1024),
        "of_it_before_the_first_record_mb": round(before / 1024),
        "kept_signals_mb": round(kept / 2**20),
        "records_per_second": round(RECORDS.value / seconds),
    }
    pathlib.Path(RESULTS.value).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    app.run(main)
