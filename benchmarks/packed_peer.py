"""Packed files beside the 4-bit files of litert-quantizer, from the same float models.

    python benchmarks/packed_peer.py --dataset=cifar10.npz --location=location30.npz --images=5000

The peer quantizes a float .tflite after training: once with static ranges (weights of 4 bits in CONV_2D and
FULLY_CONNECTED, of 8 elsewhere, activations of 8 bits, calibrated on 256 records), once with ranges that the runtime
takes for each record (`dynamic_wi4_afp32`, as the package has it). Ours have weights of 4 bits everywhere and
activations of 8 too: calibrated on the same records and rounded to the nearest level, and trained on for an epoch.
"int8" is the file of our calibrated model without packing, the same network.

The networks are those of benchmarks/packed.py, with 5,000 CIFAR-10 images and 8 epochs. Outputs and times are
LiteRT's, one thread. "labels of its model" compares a file with the network that it was made from: ours with the
Keras model that is converted, the peer's with the float model, as there is no other. The whole takes about 4 minutes
of one processor, and needs litert-quantizer 0.11 with ai-edge-litert 2.3 beside what tfmiaq needs.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import time
from typing import Any

import numpy as np
from absl import app, flags
from packed import fit, float_model, records_of, times, zipped
from pages import write_part

import tfmiaq
from tfmiaq._backend import tf

NETWORK = flags.DEFINE_multi_string(
    "peer_network", ["mlp", "small_mobilenet", "resnet8"], "Networks that are compared."
)
EPOCHS = flags.DEFINE_integer("epochs", 8, "Epochs of the networks of images.", 1)
PEER_RESULTS = flags.DEFINE_string("peer_results", "benchmarks/packed_peer.json", "Result file.")
PEER_DOC = flags.DEFINE_string("peer_doc", "docs/packed.md", "Page whose table is replaced.")
_NAMES = {
    "float": "float",
    "int8": "int8, calibrated",
    "ours calibrated": "**packed, calibrated**",
    "ours trained": "**packed, trained on**",
    "peer static": "litert-quantizer, static wi4_ai8",
    "peer dynamic": "litert-quantizer, dynamic wi4_afp32",
}


def _float_file(model: Any) -> bytes:
    return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def _peer_file(float_file: bytes, recipe: Any, x: np.ndarray) -> bytes:
    """Returns the file that litert-quantizer makes; static ranges take records."""
    from litert_quantizer import quantizer

    made = quantizer.Quantizer(float_file, recipe)
    found = None
    if made.need_calibration:
        interpreter = tf.lite.Interpreter(model_content=float_file)
        (name, signature), *_ = interpreter.get_signature_list().items()
        found = made.calibrate({name: [{signature["inputs"][0]: record[None]} for record in x]}, num_threads=1)
    return bytes(made.quantize(found, enable_progress_report=False).quantized_model)


def _static_recipe() -> Any:
    from litert_quantizer import qtyping, recipe_manager

    manager, names = recipe_manager.RecipeManager(), qtyping.TFLOperationName
    manager.add_static_config(".*", names.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    for name in (names.FULLY_CONNECTED, names.CONV_2D):
        manager.add_static_config(".*", name, activation_num_bits=8, weight_num_bits=4)
    return manager.get_quantization_recipe()


def _files(name: str, data: tuple[np.ndarray, ...]) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """Returns each file by its name, and the outputs of the Keras models by the names of their files."""
    from litert_quantizer import recipe

    x_train, y_train, x, _ = data
    model = float_model(name, x_train, y_train, EPOCHS.value)
    some = x_train[:256]
    files = {"float": _float_file(model)}
    outputs = {"float": model.predict(x, verbose=0)}
    files["peer static"] = _peer_file(files["float"], _static_recipe(), some)
    files["peer dynamic"] = _peer_file(files["float"], recipe.dynamic_wi4_afp32(), some)
    quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(4, 8, first=4, last=4))
    start = quantized.get_weights()
    tfmiaq.calibrate(quantized, some, rounding="nearest", verbose=False)
    files["ours calibrated"] = tfmiaq.convert(quantized, pack=True)
    files["int8"] = tfmiaq.convert(quantized)
    outputs["ours calibrated"] = outputs["int8"] = quantized.predict(x, verbose=0)
    quantized.set_weights(start)
    fit(quantized, x_train, y_train, 1, 0.01)
    files["ours trained"] = tfmiaq.convert(quantized, pack=True)
    outputs["ours trained"] = quantized.predict(x, verbose=0)
    return files, outputs


def _rows(name: str) -> list[dict[str, Any]]:
    data = records_of(name)
    files, outputs = _files(name, data)
    x, y = data[2], data[3]
    order = [kind for kind in _NAMES if kind != "int8"] + ["int8"]
    seconds = times([files[kind] for kind in order], "litert", seconds=4.0)
    rows = []
    for kind in _NAMES:
        place = order.index(kind)
        labels = tfmiaq.tflite.Interpreter(files[kind], runtime="litert", threads=1).predict(x, 64).argmax(1)
        of_model = outputs.get(kind, outputs["float"]).argmax(1)
        row = {
            "network": name,
            "file": kind,
            "bytes": len(files[kind]),
            "zipped_bytes": zipped(files[kind]),
            "microseconds": float(np.median(seconds[:, place]) * 1e6),
            "time_of_int8": float(np.median(seconds[:, place] / seconds[:, -1])),
            "labels_of_its_model": float((labels == of_model).mean()),
            "labels_of_float": float((labels == outputs["float"].argmax(1)).mean()),
            "accuracy": float((labels == y).mean()),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as Markdown."""
    head = ["network", "file", "size", "zipped", "time of int8", "labels of its model", "of float", "accuracy"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        cells = [row["network"], _NAMES[row["file"]], f"{row['bytes']:,} B", f"{row['zipped_bytes']:,} B"]
        cells.append(f"{row['time_of_int8']:.2f}")
        for key, kind in (("labels_of_its_model", ".2%"), ("labels_of_float", ".2%"), ("accuracy", ".3f")):
            cells.append(format(row[key], kind))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    results = pathlib.Path(PEER_RESULTS.value)
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"] if results.is_file() else []
    for name in NETWORK.value:
        if any(row["network"] == name for row in rows):
            continue
        started = time.process_time()
        rows += _rows(name)
        print(f"{name}: {time.process_time() - started:.0f} s of one processor", flush=True)
        found = {
            "command": "python benchmarks/packed_peer.py --dataset=cifar10.npz --location=location30.npz --images=5000",
            "seed": 0,
            "versions": {n: importlib.metadata.version(n) for n in ("litert-quantizer", "ai-edge-litert")},
            "rows": rows,
        }
        results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_part(pathlib.Path(PEER_DOC.value), "packed peer", table(rows).splitlines())
    print(table(rows))


if __name__ == "__main__":
    app.run(main)
