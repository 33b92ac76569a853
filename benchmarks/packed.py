"""Packed files beside int8 files: size, processor time, and whether any output differs.

    python benchmarks/packed.py --dataset=cifar10.npz --location=location30.npz

Five networks, weights of 4, 3, 2 and 1 bits everywhere but at the two ends, which have 4; activations of 4. The
perceptron is trained on the first half of Location-30 (an .npz with x of shape (5010, 446) and y), ResNet-8 and the
small MobileNet on 1,000 CIFAR-10 images for an epoch, which is enough to compare files and says nothing about accuracy.
MobileNetV2 and ResNet50 (4 and 2 bits only) have random weights. Each bit-width trains on for an epoch from the float
model.

Times are processor times of one thread, of runs of both files in turns, so that other processes disturb them little.
The whole takes about 12 minutes of one processor. Rows are written as they come, and finished ones are not done again.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import pathlib
import time
import zipfile
from typing import Any

import numpy as np
from absl import app, flags
from networks import mlp, resnet8, small_mobilenet
from pages import write_part

import tfmiaq
from tfmiaq import datasets
from tfmiaq.tflite import bias_alignment
from tfmiaq.tflite.packing import pack_weights
from tfmiaq.tflite.runtimes import interpreter_type

keras = tfmiaq.keras
_BITS: dict[str, tuple[int, ...]] = dict.fromkeys(("mlp", "resnet8", "small_mobilenet", "mobilenet_v2"), (4, 3, 2, 1))
_BITS["resnet50"] = (4, 2)
_OF_RANDOM_WEIGHTS = {"mobilenet_v2": "MobileNetV2", "resnet50": "ResNet50"}
DATASET = flags.DEFINE_string("dataset", "cifar10", "Name of a data set of images, or the path of an .npz file.")
LOCATION = flags.DEFINE_string("location", None, "The .npz of Location-30.", required=True)
NETWORK = flags.DEFINE_multi_string("network", list(_BITS), "Networks.")
IMAGES = flags.DEFINE_integer("images", 1_000, "CIFAR-10 images that networks are trained on.", 32)
RECORDS = flags.DEFINE_integer("records", 2_000, "Records that both files classify.", 1)
RESULTS = flags.DEFINE_string("results", "benchmarks/packed.json", "Result file.")
DOC = flags.DEFINE_string("doc", "docs/packed.md", "Page whose table is replaced.")


def installed_runtimes() -> dict[str, str]:
    """Returns the versions of the runtimes that are installed, by the names that the Interpreter takes."""
    found = {"tensorflow": importlib.metadata.version("tensorflow-cpu")}
    try:
        found["litert"] = importlib.metadata.version("ai-edge-litert")
    except importlib.metadata.PackageNotFoundError:
        print("ai-edge-litert is not installed: rows have no figures of it.")
    return found


def zipped(buffer: bytes) -> int:
    """Returns the bytes of a file in a compressed archive, as in an APK."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.tflite", buffer)
    return len(archive.getvalue())


def _runner(file: bytes, runtime: str) -> Any:
    """Returns an interpreter of a file that has run one random record."""
    runner = interpreter_type(runtime)(model_content=file, num_threads=1)
    runner.allocate_tensors()
    details = runner.get_input_details()[0]
    x = np.random.default_rng(0).random(details["shape"]).astype(details["dtype"])
    runner.set_tensor(details["index"], x)
    runner.invoke()
    return runner


def times(files: list[bytes], runtime: str, seconds: float = 1.0, builds: int = 3) -> np.ndarray:
    """Returns the processor seconds of one record, shape (rounds, files), in runs of the files in turns.

    Where its memory lies makes an interpreter faster or slower by some percent. So each file is opened several times.
    """

    def once(runner: Any, count: int) -> float:
        started = time.thread_time()
        for _ in range(count):
            runner.invoke()
        return (time.thread_time() - started) / count

    found = []
    for build in range(builds):
        # Each has its place in memory before and behind the others.
        order = range(len(files))[:: 1 if build % 2 == 0 else -1]
        runners = {place: _runner(files[place], runtime) for place in order}
        last = runners[len(files) - 1]
        count = max(1, int(0.005 / once(last, 10)))
        rounds = max(9, int(seconds / builds / (0.005 if count > 1 else once(last, 1)) / 2))
        found += [[once(runners[place], count) for place in range(len(files))] for _ in range(rounds)]
    return np.array(found)


def _time_ratio(packed: bytes, plain: bytes, runtime: str) -> dict[str, float]:
    """Returns microseconds of one record in both files, and the median of the ratios of runs in turns."""
    found = times([packed, plain], runtime)
    return {
        "packed_microseconds": float(np.median(found[:, 0]) * 1e6),
        "int8_microseconds": float(np.median(found[:, 1]) * 1e6),
        "ratio": float(np.median(found[:, 0] / found[:, 1])),
    }


def fit(model: Any, x: Any, y: Any, epochs: int, rate: float) -> None:
    """Trains a model that ends in logits."""
    optimizer = keras.optimizers.SGD(rate, 0.9, True)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)


def records_of(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns records and labels to train on, and others."""
    if name == "mlp":
        with np.load(LOCATION.value) as file:
            x, y = file["x"].astype(np.float32), file["y"]
        half = len(x) // 2
        return x[:half], y[:half], x[half:][: RECORDS.value], y[half:][: RECORDS.value]
    if name in _OF_RANDOM_WEIGHTS:
        x = np.random.default_rng(0).random((16, 224, 224, 3)).astype(np.float32) * 2 - 1
        return x[:4], np.arange(4), x[4:], np.arange(12)
    data = datasets.load(DATASET.value)
    count = IMAGES.value
    return data.x_train[:count], data.y_train[:count], data.x_test[: RECORDS.value], data.y_test[: RECORDS.value]


def float_model(name: str, x: np.ndarray, y: np.ndarray, epochs: int = 1) -> Any:
    """Returns a network of random weights, or one trained on records; the perceptron takes 20 epochs."""
    keras.utils.set_random_seed(0)
    if name in _OF_RANDOM_WEIGHTS:
        return getattr(keras.applications, _OF_RANDOM_WEIGHTS[name])(weights=None, classifier_activation=None)
    if name == "mlp":
        model = mlp()
        fit(model, x, y, 20, 0.05)
        return model
    model = {"resnet8": resnet8, "small_mobilenet": small_mobilenet}[name]()
    fit(model, x, y, epochs, 0.05)
    return model


def _row(name: str, quantized: Any, data: tuple[np.ndarray, ...], bits: int) -> dict[str, Any]:
    x_train, y_train, x, y = data
    tfmiaq.set_policy(quantized, tfmiaq.BitwidthPolicy.uniform(bits, 4, first=4, last=4))
    row: dict[str, Any] = {"network": name, "weight_bits": bits}
    if name in _OF_RANDOM_WEIGHTS:
        quantized(x_train, training=True)
    else:
        fit(quantized, x_train, y_train, 1, 0.01)
        before = quantized.predict(x, verbose=0).argmax(1)
    # What convert(pack=True) does, with the int8 file kept: both files come from one conversion.
    bias_alignment.align(quantized, packed=True)
    plain = tfmiaq.convert(quantized, check=False)
    packed = pack_weights(plain)
    if name not in _OF_RANDOM_WEIGHTS:
        after = quantized.predict(x, verbose=0).argmax(1)
        result = tfmiaq.verify(quantized, packed, x)
        row["verify_exact"], row["labels_agree_with_keras"] = result.exact, result.agreement
        row["accuracy_before_alignment"] = float((before == y).mean())
        row["accuracy_after_alignment"] = float((after == y).mean())
        row["labels_kept_by_alignment"] = float((before == after).mean())
    stored = tfmiaq.tflite.stored_weights(packed)
    row["packed_layers"], row["layers"] = len(stored.packed), len(stored.layers)
    row["weight_bytes"], row["int8_weight_bytes"] = stored.stored_bytes, stored.int8_bytes
    for kind, buffer in (("packed", packed), ("int8", plain)):
        row[f"{kind}_file_bytes"], row[f"{kind}_zipped_bytes"] = len(buffer), zipped(buffer)
    row["records"] = len(x)
    for runtime in installed_runtimes():
        outputs = [tfmiaq.tflite.Interpreter(f, runtime=runtime, threads=1).predict(x, 64) for f in (packed, plain)]
        row[runtime] = {
            "identical_records": int((outputs[0] == outputs[1]).all(axis=1).sum()),
            **_time_ratio(packed, plain, runtime),
        }
    return row


def _grids(channels: int = 1_000) -> list[dict[str, Any]]:
    """Returns for two int8 grids how many channels have a sum that rounds to another code than with INT4 weights.

    A channel is a random scale from sums to output codes; the kernels are written out as XNNPACK's: float32 of the sum
    times a float32 scale, rounded to the nearest code. All sums are tried.
    """
    generator = np.random.default_rng(0)
    found = []
    for factor in (18, 21, 16):
        differing = sums = 0
        for scale in np.exp(generator.uniform(np.log(0.01), np.log(0.5), channels)):
            int4_scale = np.float32(scale)
            int8_scale = np.float32(np.float64(int4_scale) / factor)
            total = np.arange(-int(130 / scale), int(130 / scale) + 1)
            of_int4 = np.round(total.astype(np.float32) * int4_scale)
            of_int8 = np.round((total * factor).astype(np.float32) * int8_scale)
            differing += bool(np.any(of_int4 != of_int8))
            sums += int(np.sum(of_int4 != of_int8))
        found.append(
            {"int8_codes_in_one_int4_code": factor, "channels": channels, "differing": differing, "sums": sums}
        )
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as Markdown."""
    runtimes = [runtime for runtime in ("tensorflow", "litert") if runtime in rows[0]]
    names = {"tensorflow": "TensorFlow", "litert": "LiteRT"}
    head = ["network", "weights", "packed layers", "file", "of int8", "zipped", "of int8", "labels as Keras"]
    for runtime in runtimes:
        head += [f"identical, {names[runtime]}", f"time of int8, {names[runtime]}"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        cells = [row["network"], f"w{row['weight_bits']}", f"{row['packed_layers']} of {row['layers']}"]
        for kind in ("file", "zipped"):
            cells += [
                f"{row[f'packed_{kind}_bytes']:,} B",
                f"{row[f'packed_{kind}_bytes'] / row[f'int8_{kind}_bytes']:.2f}",
            ]
        agreement = row.get("labels_agree_with_keras")
        cells.append("" if agreement is None else f"{agreement:.2%}")
        for runtime in runtimes:
            cells += [f"{row[runtime]['identical_records']:,} of {row['records']:,}", f"{row[runtime]['ratio']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    results = pathlib.Path(RESULTS.value)
    known = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    rows, grids = known.get("rows", []), known.get("grids") or _grids()
    for name in NETWORK.value:
        done = {row["weight_bits"] for row in rows if row["network"] == name}
        if done.issuperset(_BITS[name]):
            continue
        data = records_of(name)
        model = float_model(name, data[0], data[1])
        quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(4, 4, first=4, last=4))
        start = quantized.get_weights()
        for bits in _BITS[name]:
            if bits in done:
                continue
            started = time.process_time()
            quantized.set_weights(start)
            rows.append(
                {**_row(name, quantized, data, bits), "processor_seconds": round(time.process_time() - started)}
            )
            print(rows[-1], flush=True)
            found = {
                "command": "python benchmarks/packed.py --dataset=cifar10.npz --location=location30.npz",
                "seed": 0,
                "runtimes": installed_runtimes(),
                "grids": grids,
                "rows": rows,
            }
            results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_part(pathlib.Path(DOC.value), "packed", table(rows).splitlines())
    print(table(rows))


if __name__ == "__main__":
    app.run(main)
