"""What our quantization costs beside tfmot's own 8-bit one: training step, conversion, file size and latency.

    python benchmarks/cost.py

Both models come from the same ResNet-8 and run in turns in one process, a round of each after the other. Times are
processor seconds of one thread, in which what else the machine does counts little; the seconds that passed stand
beside them. Ratios are ours over tfmot's; of times, the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of actions, a value for each round.

    Attributes:
        processor: Processor seconds by the name of the action.
        passed: The seconds that passed meanwhile.
    """

    processor: dict[str, np.ndarray]
    passed: dict[str, np.ndarray]

    def seconds(self, count: int = 1) -> dict[str, float]:
        """The median processor seconds of each action, over a number of steps in it."""
        return {name: float(np.median(values)) / count for name, values in self.processor.items()}

    def ratios(self, name: str) -> dict[str, float]:
        """The median ratio of each action's processor seconds to those of one of them in the same round."""
        theirs = self.processor[name]
        return {other: float(np.median(values / theirs)) for other, values in self.processor.items()}


def _in_turns(actions: dict[str, Callable[[], Any]], rounds: int) -> Times:
    """The times of actions that run in turns; the first round is not counted."""
    clocks = time.process_time, time.perf_counter
    found: tuple[dict[str, list[float]], ...] = tuple({name: [] for name in actions} for _ in clocks)
    for _ in tqdm(range(rounds + 1), leave=False):
        for name, act in actions.items():
            started = [clock() for clock in clocks]
            act()
            for seconds, clock, start in zip(found, clocks, started):
                seconds[name].append(clock() - start)
    return Times(*({name: np.array(values[1:]) for name, values in seconds.items()} for seconds in found))


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

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
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
        "seconds": "of one processor, one thread",
        "training_step_seconds": step.seconds(STEPS.value),
        "training_step_seconds_passed": {n: float(np.median(v)) / STEPS.value for n, v in step.passed.items()},
        "training_step_ratio": step.ratios("tfmot w8 a8"),
        "file_bytes": {name: len(buffer) for name, buffer in files.items()},
        "file_ratio": {name: len(buffer) / len(files["tfmot w8 a8"]) for name, buffer in files.items()},
        "latency_ratio": latency.ratios("tfmot w8 a8"),
        "convert_seconds": convert.seconds(),
        "set_policy_seconds": switch.seconds(len(policies))["set_policy"],
    }
    path = pathlib.Path(RESULTS.value)
    rows = json.loads(path.read_text()) if path.is_file() else {}
    rows[NETWORK.value] = result
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    app.run(main)
