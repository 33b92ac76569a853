"""Where should few-bit activations be clipped? Four estimators of a ReLU's range at 2, 3 and 4 bits.

    python benchmarks/ranges.py
    python benchmarks/ranges.py --dataset=cifar10.npz

For each seed one float ResNet-8, and from it, for each row, a quantized model (weights of 4 bits) that trains on with
the estimator. Rows are written as they come, and finished ones are not done again.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any
from unittest import mock

import numpy as np
from absl import app, flags
from networks import resnet8
from short_training import DATASET, FLOAT_EPOCHS, MEMBERS, fit
from tqdm import tqdm

import tfmiaq
from tfmiaq import datasets
from tfmiaq.quantization import quantizers

keras = tfmiaq.keras
import tensorflow as tf  # noqa: E402

SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds, from 0.", 1)
EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs of quantization-aware training.", 1)
RESULTS = flags.DEFINE_string("results", "benchmarks/ranges.json", "Result file.")
_BITS = (4, 3, 2)


class Maximum(quantizers.ReluQuantizer):
    """Moving average of the batch's maximum."""

    def _clip(self, inputs: Any) -> Any:
        return tf.reduce_max(inputs)

    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **kwargs: Any) -> Any:
        top = weights["max"]
        if training:
            clip = self._clip(tf.stop_gradient(inputs))
            top = top.assign(tf.where(weights["seen"] > 0.5, 0.9 * top + 0.1 * clip, clip))
            with tf.control_dependencies([top]):
                top = tf.identity(top)
                weights["seen"].assign(1.0)
        levels = tf.pow(2.0, tf.convert_to_tensor(weights["bits"]))
        step = tf.maximum(top, 1e-3) / (levels - 1.0)
        return tf.quantization.fake_quant_with_min_max_vars(
            inputs, -(256.0 - levels) * step, (levels - 1.0) * step, num_bits=8
        )


class Percentile(Maximum):
    """Moving average of the 99.9th percentile of the batch, taken over one value in seven of large tensors."""

    def _clip(self, inputs: Any) -> Any:
        values = tf.reshape(inputs, [-1])
        values = values[:: 7 if values.shape[0] is None else 1]
        count = tf.cast(tf.cast(tf.size(values), tf.float32) * 0.001, tf.int32) + 1
        return tf.math.top_k(values, count).values[-1]


class LearnedStep(quantizers.ReluQuantizer):
    """LSQ (Esser et al. 2020): the step is trained, with the gradient of equation 3 and the scale of section 2.2."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        variables = super().build(tensor_shape, name, layer)
        variables["step"] = layer.add_weight(
            f"{name}_step", shape=(), initializer=keras.initializers.Constant(1.0), trainable=True, dtype=tf.float32
        )
        return variables

    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **kwargs: Any) -> Any:
        levels = tf.pow(2.0, tf.convert_to_tensor(weights["bits"]))
        top = levels - 1.0
        step = tf.convert_to_tensor(weights["step"])
        if not training:
            return tf.quantization.fake_quant_with_min_max_vars(
                inputs, -(256.0 - levels) * step, top * step, num_bits=8
            )
        first = 2.0 * tf.reduce_mean(tf.stop_gradient(inputs)) / tf.sqrt(top)
        is_seen = tf.convert_to_tensor(weights["seen"])
        with tf.control_dependencies([weights["step"].assign(is_seen * step + (1.0 - is_seen) * first)]):
            # The value just assigned, with the variable's gradient.
            step = step + tf.stop_gradient(weights["step"].read_value() - step)
            step = step + tf.stop_gradient(tf.maximum(step, 1e-3) - step)
        with tf.control_dependencies([step]):
            weights["seen"].assign(1.0)
        features = tf.cast(tf.size(inputs) // tf.shape(inputs)[0], tf.float32)
        scaled = step / tf.sqrt(features * top)
        step = scaled + tf.stop_gradient(step - scaled)
        codes = tf.clip_by_value(inputs / step, 0.0, top)
        return (codes + tf.stop_gradient(tf.round(codes) - codes)) * step

    def scale(self, variables: dict[str, Any]) -> Any:
        return variables["step"]


ESTIMATORS = {
    "root mean square": quantizers.ReluQuantizer,
    "maximum": Maximum,
    "99.9th percentile": Percentile,
    "learned step": LearnedStep,
}


def _row(model: Any, data: datasets.Dataset, estimator: str, bits: int, seed: int) -> dict[str, Any]:
    keras.utils.set_random_seed(seed)
    x, y = data.x_train[: MEMBERS.value], data.y_train[: MEMBERS.value]
    with mock.patch.object(quantizers, "ReluQuantizer", ESTIMATORS[estimator]):
        quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(4, bits))
        fit(quantized, x, y, EPOCHS.value, 0.02)
    accuracies = {
        name: float((quantized.predict(records, verbose=0, batch_size=500).argmax(1) == truth).mean())
        for name, records, truth in (("train", x, y), ("test", data.x_test, data.y_test))
    }
    return {"estimator": estimator, "activation_bits": bits, "seed": seed, **accuracies}


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    means = []
    for bits in _BITS:
        for estimator in ESTIMATORS:
            found = [row for row in rows if (row["estimator"], row["activation_bits"]) == (estimator, bits)]
            if found:
                means.append(
                    {
                        "estimator": estimator,
                        "activation_bits": bits,
                        "seeds": len(found),
                        "train": round(float(np.mean([row["train"] for row in found])), 4),
                        "test": round(float(np.mean([row["test"] for row in found])), 4),
                        "test_spread": round(float(np.std([row["test"] for row in found])), 4),
                    }
                )
    return means


def main(argv: list[str]) -> None:
    del argv
    results = pathlib.Path(RESULTS.value)
    rows = json.loads(results.read_text())["rows"] if results.is_file() else []
    data = datasets.load(DATASET.value)
    for seed in range(SEEDS.value):
        done = {(row["estimator"], row["activation_bits"]) for row in rows if row["seed"] == seed}
        todo = [(estimator, bits) for bits in _BITS for estimator in ESTIMATORS if (estimator, bits) not in done]
        if not todo:
            continue
        keras.utils.set_random_seed(seed)
        model = resnet8(data.x_train.shape[1:], data.classes)
        fit(model, data.x_train[: MEMBERS.value], data.y_train[: MEMBERS.value], FLOAT_EPOCHS.value, 0.1)
        for estimator, bits in tqdm(todo, desc=f"seed {seed}"):
            rows.append(_row(model, data, estimator, bits, seed))
            result = {"command": "python benchmarks/ranges.py", "summary": _summary(rows), "rows": rows}
            results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in _summary(rows):
        print(row)


if __name__ == "__main__":
    app.run(main)
