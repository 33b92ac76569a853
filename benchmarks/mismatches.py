"""Where a .tflite and its model differ: for each ReLU output of a network, the fraction of codes that differ.

    python benchmarks/mismatches.py --network=small_mobilenet --weight=1 --activation=4

The network is that of a row of benchmarks/exactness.py. Of the first layer in which more than one code in 100,000
differs, the channel with most of them is looked at: which values before rounding do the differing codes come from?
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
from absl import app, flags
from networks import NETWORKS
from short_training import DATASET, FLOAT_EPOCHS, MEMBERS, fit
from tqdm import tqdm

import tfmiaq
from tfmiaq import datasets
from tfmiaq.tflite import bias_alignment as biases

NETWORK = flags.DEFINE_enum("network", "small_mobilenet", list(NETWORKS), "Network.")
WEIGHT = flags.DEFINE_integer("weight", 1, "Bits of weights.", 1, 8)
ACTIVATION = flags.DEFINE_integer("activation", 4, "Bits of activations.", 1, 8)
COUNT = flags.DEFINE_integer("count", 400, "Test records.", 1)
RESULTS = flags.DEFINE_string("results", "benchmarks/mismatches.json", "Result file.")
_MANY = 1e-5


def _codes(model: Any, layer: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A layer's output in the file and in the model, and the model's value before rounding, in codes."""
    keras = tfmiaq.keras
    scale = biases.output_scale(layer)
    part = keras.Model(model.inputs, [layer.output, layer.input])
    trained, before = part.predict(x, verbose=0)
    buffer = tfmiaq.convert(keras.Model(model.inputs, layer.output), "edgetpu", check=False)
    return tfmiaq.tflite.Interpreter(buffer).predict(x) / scale, trained / scale, before / scale


def main(argv: list[str]) -> None:
    del argv
    data = datasets.load(DATASET.value)
    x, y = data.x_train[: MEMBERS.value], data.y_train[: MEMBERS.value]
    tfmiaq.keras.utils.set_random_seed(0)
    model = NETWORKS[NETWORK.value](x.shape[1:], data.classes)
    fit(model, x, y, FLOAT_EPOCHS.value, 0.1)
    quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(WEIGHT.value, ACTIVATION.value))
    fit(quantized, x, y, 1, 0.02)
    records = data.x_test[: COUNT.value]
    buffer = tfmiaq.convert(quantized, "edgetpu", check=False)
    result: dict[str, Any] = {
        "command": f"python benchmarks/mismatches.py --network={NETWORK.value} --weight={WEIGHT.value} "
        f"--activation={ACTIVATION.value}",
        "seed": 0,
        "agreement": tfmiaq.verify(quantized, buffer, records).agreement,
        "differing_codes": {},
    }
    for layer in tqdm([layer for layer in quantized.layers if layer.name.endswith("_relu")]):
        stored, trained, before = _codes(quantized, layer, records)
        differ = np.abs(stored - trained) > 0.5
        result["differing_codes"][layer.name] = float(differ.mean())
        if differ.mean() > _MANY and "first" not in result:
            channel = int(differ.mean((0, 1, 2)).argmax())
            values, counts = np.unique(before[..., channel][differ[..., channel]].round(5), return_counts=True)
            most = np.argsort(counts)[::-1][:5]
            result["first"] = {
                "layer": layer.name,
                "channel": channel,
                "share_of_all_differing": float(differ[..., channel].sum() / differ.sum()),
                "values_in_codes": {f"{values[i]:.5f}": int(counts[i]) for i in most},
            }
    pathlib.Path(RESULTS.value).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    app.run(main)
