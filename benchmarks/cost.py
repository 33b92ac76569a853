"""What our quantization costs beside tfmot's own 8-bit one: build, training step, conversion, file size and latency.

    python benchmarks/cost.py
    python benchmarks/cost.py --network=mobilenet_v2 --measure=build,convert --rounds=3
    python benchmarks/cost.py --network=resnet50 --measure=memory --rounds=3

All models come from the same float model of random weights and run in turns in one process, a round of each after the
other. Times are processor seconds of one thread, in which what else the machine does counts little; of training steps
the seconds that passed stand beside them. Ratios are ours over tfmot's; of times, the median over the rounds of the
ratio within a round. Memory is the largest resident size of a process of its own for each conversion, in which
nothing else happens: the model is built, called once, and converted.

ResNet-8 takes about 6 minutes of one processor, MobileNetV2 12, and the memory of ResNet50 15.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags
from networks import NETWORKS
from tqdm import tqdm

import tfmiaq

_APPLICATIONS = {"mobilenet_v2": "MobileNetV2", "resnet50": "ResNet50"}
_MEASURES = ("build", "step", "latency", "convert", "memory")
NETWORK = flags.DEFINE_enum("network", "resnet8", [*NETWORKS, *_APPLICATIONS], "Which network.")
MEASURE = flags.DEFINE_list("measure", ["build", "step", "latency", "convert"], f"Any of {', '.join(_MEASURES)}.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds of each measurement.", 1)
STEPS = flags.DEFINE_integer("steps", 10, "Training steps in a round.", 1)
RESULTS = flags.DEFINE_string("results", "benchmarks/cost.json", "Result file.")
CONVERTED = flags.DEFINE_string("converted", None, "Build and convert one of the models, and print its memory.")
_BATCH = 64
_TFMOT = "tfmot w8 a8"
_OURS = {"tfmiaq w8 a8": (8, 8), "tfmiaq w2 a4": (2, 4)}
flags.register_validator("measure", lambda names: set(names) <= set(_MEASURES), f"Expected {', '.join(_MEASURES)}.")


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


def _float_model() -> Any:
    name = NETWORK.value
    tfmiaq.keras.utils.set_random_seed(0)
    if name in NETWORKS:
        return NETWORKS[name]()
    return getattr(tfmiaq.keras.applications, _APPLICATIONS[name])(weights=None, classifier_activation=None)


def _quantized(model: Any, name: str) -> Any:
    if name == _TFMOT:
        import tensorflow_model_optimization as tfmot

        return tfmot.quantization.keras.quantize_model(model)
    return tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(*_OURS[name]))


def _converted(model: Any, name: str) -> bytes:
    """Returns the file of a quantized model, made in the documented way of whose it is."""
    if name != _TFMOT:
        return tfmiaq.convert(model)
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


def _latency(buffer: bytes, shape: tuple[int, ...]) -> Callable[[], None]:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=buffer, num_threads=1)
    interpreter.allocate_tensors()
    index = interpreter.get_input_details()[0]["index"]
    records = np.random.default_rng(1).normal(size=(50, *shape)).astype(np.float32)

    def run() -> None:
        for record in records:
            interpreter.set_tensor(index, record[None])
            interpreter.invoke()

    return run


def _see_data(model: Any) -> None:
    """Gives the ranges of a quantized model a batch of random records."""
    shape = model.inputs[0].shape[1:]
    model(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32), training=True)


def _print_memory(name: str) -> None:
    """Prints the largest resident size of this process, before and after it has converted a model, in MB."""
    model = _quantized(_float_model(), name)
    _see_data(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = len(_converted(model, name))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"before": before, "after": after, "file_bytes": size}))


def _memory() -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (_TFMOT, *_OURS)}
    for _ in range(ROUNDS.value):
        for name, values in found.items():
            command = [sys.executable, __file__, f"--network={NETWORK.value}", f"--converted={name}"]
            run = subprocess.run(command, capture_output=True, check=True, text=True)
            values.append(json.loads(run.stdout.splitlines()[-1]))
    peaks = {name: float(np.median([value["after"] for value in values])) for name, values in found.items()}
    return {
        "convert_peak_mb": peaks,
        "convert_peak_mb_of_rounds": {name: [value["after"] for value in values] for name, values in found.items()},
        "peak_before_convert_mb": {n: float(np.median([v["before"] for v in values])) for n, values in found.items()},
        "convert_peak_ratio": {name: peak / peaks[_TFMOT] for name, peak in peaks.items()},
    }


def _build(model: Any) -> dict[str, Any]:
    build = _in_turns({name: functools.partial(_quantized, model, name) for name in (_TFMOT, *_OURS)}, ROUNDS.value)
    return {"build_seconds": build.seconds(), "build_ratio": build.ratios(_TFMOT)}


def _steps(models: dict[str, Any]) -> dict[str, Any]:
    import tensorflow as tf

    keras, shape = tfmiaq.keras, models["float"].inputs[0].shape[1:]
    x = tf.constant(np.random.default_rng(0).normal(size=(_BATCH, *shape)), tf.float32)
    y = tf.constant(np.arange(_BATCH) % 10)
    steps: dict[str, Callable[[], Any]] = {}
    for name, each in models.items():
        each.compile(keras.optimizers.SGD(1e-3, 0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        data = tf.data.Dataset.from_tensors((x, y)).repeat(STEPS.value)
        steps[name] = functools.partial(each.fit, data, verbose=0)
    step = _in_turns(steps, ROUNDS.value)
    return {
        "training_step_seconds": step.seconds(STEPS.value),
        "training_step_seconds_passed": {n: float(np.median(v)) / STEPS.value for n, v in step.passed.items()},
        "training_step_ratio": step.ratios(_TFMOT),
    }


def _latencies(models: dict[str, Any]) -> dict[str, Any]:
    shape = models[_TFMOT].inputs[0].shape[1:]
    files = {name: _converted(models[name], name) for name in (_TFMOT, *_OURS)}
    latency = _in_turns({name: _latency(buffer, shape) for name, buffer in files.items()}, ROUNDS.value)
    return {
        "file_bytes": {name: len(buffer) for name, buffer in files.items()},
        "file_ratio": {name: len(buffer) / len(files[_TFMOT]) for name, buffer in files.items()},
        "latency_ratio": latency.ratios(_TFMOT),
    }


def _conversions(models: dict[str, Any]) -> dict[str, Any]:
    ours = models["tfmiaq w2 a4"]
    actions: dict[str, Callable[[], Any]] = {
        name: functools.partial(_converted, models[name], name) for name in (_TFMOT, *_OURS)
    }
    actions["tfmiaq w2 a4, without check"] = functools.partial(tfmiaq.convert, ours, check=False)
    convert = _in_turns(actions, min(3, ROUNDS.value))
    policies = [tfmiaq.BitwidthPolicy.uniform(bits, bits) for bits in (2, 4)]

    def switch_policies() -> None:
        for policy in policies:
            tfmiaq.set_policy(ours, policy)

    switch = _in_turns({"set_policy": switch_policies}, 5)
    return {
        "convert_seconds": convert.seconds(),
        "convert_ratio": convert.ratios(_TFMOT),
        "set_policy_seconds": switch.seconds(len(policies))["set_policy"],
    }


def _write(found: dict[str, Any]) -> None:
    path = pathlib.Path(RESULTS.value)
    rows = json.loads(path.read_text()) if path.is_file() else {}
    known = rows.setdefault(NETWORK.value, {})
    known.update({"network": NETWORK.value, "seed": 0, "seconds": "of one processor, one thread"})
    measured = ",".join(MEASURE.value)
    known.setdefault("commands", {})[measured] = (
        f"python benchmarks/cost.py --network={NETWORK.value} --measure={measured} --rounds={ROUNDS.value} "
        f"--steps={STEPS.value}"
    )
    known.update(found)
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1), flush=True)


def main(argv: list[str]) -> None:
    del argv
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if CONVERTED.value:
        _print_memory(CONVERTED.value)
        return
    if "memory" in MEASURE.value:
        _write(_memory())
    model = _float_model()
    if "build" in MEASURE.value:
        _write(_build(model))
    if not {"step", "latency", "convert"} & set(MEASURE.value):
        return
    models = {"float": model, **{name: _quantized(model, name) for name in (_TFMOT, *_OURS)}}
    for name in (_TFMOT, *_OURS):
        _see_data(models[name])
    measures = {"step": _steps, "latency": _latencies, "convert": _conversions}
    for name, measure in measures.items():
        if name in MEASURE.value:
            _write(measure(models))


if __name__ == "__main__":
    app.run(main)
