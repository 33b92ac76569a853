"""What our quantization costs beside tfmot's own 8-bit one: training step, conversion, file size and latency.

    python benchmarks/cost.py

Both models come from the same ResNet-8 and run in turns in one process, a round of each after the other, so that what
else the machine does weighs on both. Ratios are ours over tfmot's; of times, the median over the rounds.
"""

from __future__ import annotations

import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags
from networks import NETWORKS
from tqdm import tqdm

import tfmiaq

NETWORK = flags.DEFINE_enum("network", "resnet8", list(NETWORKS), "Which network.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds of each measurement.", 3)
STEPS = flags.DEFINE_integer("steps", 10, "Training steps in a round.", 1)
RESULTS = flags.DEFINE_string("results", "benchmarks/cost.json", "Result file.")
_BATCH = 64


def _in_turns(actions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each action, which run in turns; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in tqdm(range(rounds + 1), leave=False):
        for name, act in actions.items():
            started = time.perf_counter()
            act()
            seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}


def _latency(buffer: bytes, records: np.ndarray) -> Callable[[], None]:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=buffer, num_threads=1)
    interpreter.allocate_tensors()
    index = interpreter.get_input_details()[0]["index"]

    def run() -> None:
        for record in records:
            interpreter.set_tensor(index, record[None])
            interpreter.invoke()

    return run


def _tfmot_file(model: Any) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


def main(argv: list[str]) -> None:
    del argv
    # The Keras that tfmot uses is chosen by tfmiaq, before TensorFlow is loaded.
    keras = tfmiaq.keras
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot

    keras.utils.set_random_seed(0)
    model = NETWORKS[NETWORK.value]()
    models = {
        "float": model,
        "tfmot w8 a8": tfmot.quantization.keras.quantize_model(model),
        "tfmiaq w8 a8": tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(8, 8)),
        "tfmiaq w2 a4": tfmiaq.quantize_model(model),
    }
    x = tf.constant(np.random.default_rng(0).normal(size=(_BATCH, 32, 32, 3)), tf.float32)
    y = tf.constant(np.arange(_BATCH) % 10)
    steps: dict[str, Callable[[], Any]] = {}
    for name, each in models.items():
        each.compile(keras.optimizers.SGD(1e-3, 0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        data = tf.data.Dataset.from_tensors((x, y)).repeat(STEPS.value)
        steps[name] = functools.partial(each.fit, data, verbose=0)
    print("training steps")
    step = _in_turns(steps, ROUNDS.value)

    ours, theirs = models["tfmiaq w2 a4"], models["tfmot w8 a8"]
    files = {"tfmot w8 a8": _tfmot_file(theirs)}
    for name in ("tfmiaq w8 a8", "tfmiaq w2 a4"):
        files[name] = tfmiaq.convert(models[name], "mobile")
    print("latency")
    records = np.random.default_rng(1).normal(size=(50, 32, 32, 3)).astype(np.float32)
    latency = _in_turns({name: _latency(buffer, records) for name, buffer in files.items()}, ROUNDS.value)
    print("conversion")
    convert = _in_turns(
        {
            "tfmot w8 a8, from_keras_model": lambda: _tfmot_file(theirs),
            "tfmiaq w2 a4, without check": lambda: tfmiaq.convert(ours, check=False),
            "tfmiaq w2 a4": lambda: tfmiaq.convert(ours),
        },
        3,
    )
    policies = [tfmiaq.BitwidthPolicy.uniform(bits, bits) for bits in (2, 4)]

    def switch_policies() -> None:
        for policy in policies:
            tfmiaq.set_policy(ours, policy)

    switch = _in_turns({"set_policy": switch_policies}, 5)
    result = {
        "command": f"python benchmarks/cost.py --network={NETWORK.value} --rounds={ROUNDS.value} --steps={STEPS.value}",
        "seed": 0,
        "network": NETWORK.value,
        "training_step_seconds": {name: value / STEPS.value for name, value in step.items()},
        "training_step_ratio": {name: step[name] / step["tfmot w8 a8"] for name in step},
        "file_bytes": {name: len(buffer) for name, buffer in files.items()},
        "file_ratio": {name: len(buffer) / len(files["tfmot w8 a8"]) for name, buffer in files.items()},
        "latency_ratio": {name: latency[name] / latency["tfmot w8 a8"] for name in latency},
        "convert_seconds": convert,
        "set_policy_seconds": switch["set_policy"] / len(policies),
    }
    path = pathlib.Path(RESULTS.value)
    rows = json.loads(path.read_text()) if path.is_file() else {}
    rows[NETWORK.value] = result
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    app.run(main)
