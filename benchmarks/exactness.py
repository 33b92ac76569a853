"""Is the .tflite the trained network? Agreement on 2,000 CIFAR-10 test images over weight and activation bits.

    python benchmarks/exactness.py --members=2000
    python benchmarks/exactness.py --members=2000 --dataset=cifar10.npz

One float model of each network, and from it, for each row, a quantized model that trains on for an epoch at its bits.
Rows are written as they come, and finished ones are not done again.
"""

from __future__ import annotations

import io
import json
import pathlib
import time
import zipfile
from typing import Any

import numpy as np
from absl import app, flags
from networks import NETWORKS
from short_training import BATCH_SIZE, DATASET, FLOAT_EPOCHS, MEMBERS, compile_, fit
from tqdm import tqdm

import tfmiaq
from tfmiaq import datasets

RECORDS = flags.DEFINE_integer("records", 2_000, "Test records that both models classify.", 1)
ACTIVATIONS = flags.DEFINE_multi_integer("activations", [], "Bits of activations, those first; none for all.", 1, 8)
RESULTS = flags.DEFINE_string("results", "benchmarks/exactness.json", "Result file.")
TABLE = flags.DEFINE_string("table", "docs/exactness.md", "Markdown table, written at the end.")
_HEAD = """Written by `{command}`: {epochs} epochs in all on {members:,} records,
so the accuracies are not what the networks can reach. See in the tables that every file is exact, and that labels agree
on at least 99.5 % of the records. "zipped" is the file in a compressed archive, as in an APK.

Where labels differ, it is by rounding alone: every level in the file is a trained one. Sums of few-bit weights and
activations take few values. When one of them lies within a float32's precision of the middle between two codes, the
Keras model and the int8 kernel may round it to different codes, for every record that has it. So outside of training
the model rounds by itself before FakeQuant, whose offset of up to 254 codes costs it digits
(`tfmiaq/quantization/quantizers.py`). `python benchmarks/mismatches.py` counts what is left, layer by layer
(`benchmarks/mismatches.json`)."""
_WEIGHTS, _ACTIVATIONS = (8, 4, 3, 2, 1), (8, 4, 3, 2)


def _zipped(buffer: bytes) -> int:
    """Bytes of the file in a compressed archive, as in an APK."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.tflite", buffer)
    return len(archive.getvalue())


def _members(data: datasets.Dataset) -> tuple[Any, Any]:
    return data.x_train[: MEMBERS.value], data.y_train[: MEMBERS.value]


def _started(name: str, data: datasets.Dataset) -> tuple[Any, list[Any]]:
    """A quantized copy of the trained float model of a network, compiled, and its weights."""
    tfmiaq.keras.utils.set_random_seed(0)
    model = NETWORKS[name](data.x_train.shape[1:], data.classes)
    fit(model, *_members(data), FLOAT_EPOCHS.value, 0.1)
    quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(8, 8))
    compile_(quantized, len(_members(data)[1]), 1, 0.02)
    quantized.optimizer.build(quantized.trainable_variables)
    return quantized, quantized.get_weights()


def _row(quantized: Any, start: list[Any], data: datasets.Dataset, weight: int, activation: int) -> dict[str, Any]:
    x, y = data.x_test[: RECORDS.value], data.y_test[: RECORDS.value]
    # Each row starts from the float model; nothing is traced anew.
    quantized.set_weights(start)
    for variable in quantized.optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    tfmiaq.set_policy(quantized, tfmiaq.BitwidthPolicy.uniform(weight, activation))
    quantized.fit(*_members(data), batch_size=BATCH_SIZE, epochs=1, verbose=0)
    started = time.perf_counter()
    buffer = tfmiaq.convert(quantized, "edgetpu", check=False)
    seconds = time.perf_counter() - started
    result = tfmiaq.verify(quantized, buffer, x)
    return {
        "weight": weight,
        "activation": activation,
        "test_accuracy": float((quantized.predict(x, verbose=0).argmax(1) == y).mean()),
        "agreement": result.agreement,
        "largest_difference": result.largest_difference,
        "exact_levels": result.exact,
        "bytes": len(buffer),
        "zipped_bytes": _zipped(buffer),
        "convert_seconds": round(seconds, 2),
    }


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """The rows as Markdown."""
    lines = []
    for name, found in rows.items():
        lines += [
            f"## {name}",
            "",
            "| weights | activations | test accuracy | labels agree | largest difference | exact | file | zipped |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in found:
            lines.append(
                f"| {row['weight']} | {row['activation']} | {row['test_accuracy']:.3f} | {row['agreement']:.2%} | "
                f"{row['largest_difference']:.2g} | {'yes' if row['exact_levels'] else 'no'} | {row['bytes']:,} B | "
                f"{row['zipped_bytes']:,} B |"
            )
        lines.append("")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    command = f"python benchmarks/exactness.py --members={MEMBERS.value}"
    results = pathlib.Path(RESULTS.value)
    rows = json.loads(results.read_text())["rows"] if results.is_file() else {}
    data = datasets.load(DATASET.value)
    started: dict[str, Any] = {}
    todo = [(a, name, w) for a in ACTIVATIONS.value or _ACTIVATIONS for name in NETWORKS for w in _WEIGHTS]
    for activation, name, weight in tqdm(todo, desc="rows"):
        if any((row["weight"], row["activation"]) == (weight, activation) for row in rows.get(name, [])):
            continue
        if name not in started:
            started[name] = _started(name, data)
        quantized, start = started[name]
        rows.setdefault(name, []).append(_row(quantized, start, data, weight, activation))
        text = json.dumps({"command": command, "seed": 0, "rows": rows}, indent=1)
        results.write_text(text + "\n", encoding="utf-8")
    path = pathlib.Path(TABLE.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = _HEAD.format(command=command, epochs=FLOAT_EPOCHS.value + 1, members=MEMBERS.value)
    path.write_text(f"# Exactness\n\n{head}\n\n{table(rows)}", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    app.run(main)
