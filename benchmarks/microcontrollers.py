"""Files for TFLite Micro with lookup tables: sizes, and whether any output differs.

    python benchmarks/microcontrollers.py --dataset=cifar10.npz --location=location30.npz

The networks of benchmarks/packed.py are trained on for an epoch with weights of 4, 3, 2 and 1 bits (4 at both ends) and
activations of 4, and converted for integer ends. Both files run on TFLite Micro's interpreter of a PC, whose kernels
are the portable ones. "labels as the model" compares the int8 file there with the Keras model. Times are processor
times of a record, both files in turns. It needs the package tflite-micro, which exists for Python 3.11, and takes 4
minutes of one processor.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import time
from typing import Any

import numpy as np
from absl import app, flags
from packed import fit, float_model, records_of, zipped
from pages import write_part

import tfmiaq
from tfmiaq.tflite import micro
from tfmiaq.tflite.flatbuffer import unpack

NETWORK = flags.DEFINE_multi_string("micro_network", ["mlp", "small_mobilenet", "resnet8"], "Networks.")
RUNS = flags.DEFINE_integer("runs", 200, "Records that both files classify.", 1)
MICRO_RESULTS = flags.DEFINE_string("micro_results", "benchmarks/microcontrollers.json", "Result file.")
MICRO_DOC = flags.DEFINE_string("micro_doc", "docs/microcontrollers.md", "Page whose table is replaced.")


def _codes(file: bytes, x: np.ndarray) -> np.ndarray:
    """Returns records as the codes of a file's input."""
    details = next(t for t in tfmiaq.tflite.Interpreter(file).tensor_details() if t["index"] == _input(file))
    scale, zero_point = details["quantization"]
    return np.clip(np.round(x / scale) + zero_point, -128, 127).astype(np.int8)


def _input(file: bytes) -> int:
    return int(unpack(file).subgraphs[0].inputs[0])


def _row(name: str, quantized: Any, data: tuple[np.ndarray, ...], bits: int) -> dict[str, Any]:
    x_train, y_train, x, _ = data
    x = x[: RUNS.value]
    tfmiaq.set_policy(quantized, tfmiaq.BitwidthPolicy.uniform(bits, 4, first=4, last=4))
    fit(quantized, x_train, y_train, 1, 0.01)
    plain = tfmiaq.convert(quantized, target="edgetpu")
    compressed = tfmiaq.tflite.compress_for_micro(plain)
    codes = _codes(plain, x)
    outputs = {}
    seconds: dict[str, list[float]] = {"int8": [], "compressed": []}
    for kind, file in (("int8", plain), ("compressed", compressed)):
        outputs[kind] = micro.run_on_micro(file, codes)
    for _ in range(5):
        for kind, file in (("int8", plain), ("compressed", compressed)):
            started = time.process_time()
            micro.run_on_micro(file, codes[:20])
            seconds[kind].append((time.process_time() - started) / 20)
    tables = micro.tables_of(plain)
    stored = tfmiaq.tflite.stored_weights(plain)
    return {
        "network": name,
        "weight_bits": bits,
        "compressed_tensors": len(tables),
        "tensors": len(stored.layers),
        "weight_bytes": stored.int8_bytes - sum(table.int8_bytes - table.stored_bytes for table in tables),
        "int8_weight_bytes": stored.int8_bytes,
        "file_bytes": len(compressed),
        "int8_file_bytes": len(plain),
        "zipped_bytes": zipped(compressed),
        "int8_zipped_bytes": zipped(plain),
        "records": len(x),
        "identical_records": int((outputs["int8"] == outputs["compressed"]).all(axis=1).sum()),
        "labels_as_the_model": float((outputs["int8"].argmax(1) == quantized.predict(x, verbose=0).argmax(1)).mean()),
        "time_ratio": float(np.median(np.array(seconds["compressed"]) / np.array(seconds["int8"]))),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as Markdown."""
    head = ["network", "weights", "tensors", "bytes of weights", "of int8", "file", "of int8", "identical", "time"]
    head.append("labels as the model")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        cells = [row["network"], f"w{row['weight_bits']}", f"{row['compressed_tensors']} of {row['tensors']}"]
        for kind in ("weight", "file"):
            cells.append(f"{row[f'{kind}_bytes']:,} B")
            cells.append(f"{row[f'{kind}_bytes'] / row[f'int8_{kind}_bytes']:.2f}")
        cells += [f"{row['identical_records']} of {row['records']}", f"{row['time_ratio']:.2f}"]
        cells.append(f"{row['labels_as_the_model']:.1%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    results = pathlib.Path(MICRO_RESULTS.value)
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"] if results.is_file() else []
    for name in NETWORK.value:
        todo = [b for b in (4, 3, 2, 1) if not any((r["network"], r["weight_bits"]) == (name, b) for r in rows)]
        if not todo:
            continue
        data = records_of(name)
        model = float_model(name, data[0], data[1])
        quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(4, 4, first=4, last=4))
        start = quantized.get_weights()
        for bits in todo:
            quantized.set_weights(start)
            rows.append(_row(name, quantized, data, bits))
            print(rows[-1], flush=True)
            found = {
                "command": "python benchmarks/microcontrollers.py --dataset=cifar10.npz --location=location30.npz",
                "seed": 0,
                "tflite_micro": importlib.metadata.version("tflite_micro"),
                "rows": rows,
            }
            results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_part(pathlib.Path(MICRO_DOC.value), "micro", table(rows).splitlines())
    print(table(rows))


if __name__ == "__main__":
    app.run(main)
