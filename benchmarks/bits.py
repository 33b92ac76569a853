"""Agreement of the .tflite with the trained Keras model over bit-widths, on scikit-learn's digits.

    python benchmarks/bits.py

Weights b bits with activations of 4, and weights of 4 bits with activations of b, for b from 1 to 8.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

from absl import app, flags
from tqdm import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
from small_classifier import fit

import tfmiaq
from tfmiaq import datasets

RESULTS = flags.DEFINE_string("results", "benchmarks/bits.json", "Result file.")
EPOCHS = flags.DEFINE_integer("training_epochs", 25, "Epochs of quantization-aware training.", 1)


def build_model() -> Any:
    """Conv2D, DepthwiseConv2D and Dense, with BatchNormalization, a sum and ReLUs of each kind."""
    keras = tfmiaq.keras
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv1")(inputs)
    x = stem = layers.ReLU(name="relu1")(layers.BatchNormalization(momentum=0.9, name="norm1")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU(name="relu2")(layers.BatchNormalization(momentum=0.9, name="norm2")(x))
    x = layers.Conv2D(16, 1, use_bias=False, name="pointwise")(x)
    x = layers.BatchNormalization(momentum=0.9, name="norm3")(x)
    x = layers.Activation("relu", name="relu3")(layers.Add(name="sum")([x, stem]))
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(32, 3, activation="relu", name="conv2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(64, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def main(argv: list[str]) -> None:
    del argv
    keras = tfmiaq.keras
    data = datasets.load("digits", 0)
    x, y = data.x_train, data.y_train
    keras.utils.set_random_seed(0)
    model = build_model()
    fit(model, x, y, 20, 3e-3)
    rows = []
    for weight, activation in tqdm([(b, 4) for b in range(1, 9)] + [(4, b) for b in range(1, 9) if b != 4]):
        keras.utils.set_random_seed(0)
        quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(weight, activation))
        fit(quantized, x, y, EPOCHS.value, 3e-3)
        result = tfmiaq.verify(quantized, tfmiaq.convert(quantized, "edgetpu"), data.x_test[:500])
        accuracy = float((quantized.predict(data.x_test, verbose=0).argmax(1) == data.y_test).mean())
        rows.append(
            {
                "weight": weight,
                "activation": activation,
                "test_accuracy": accuracy,
                "agreement": result.agreement,
                "largest_difference": result.largest_difference,
                "exact_levels": result.exact,
            }
        )
        text = json.dumps({"command": "python benchmarks/bits.py", "seed": 0, "rows": rows}, indent=1)
        pathlib.Path(RESULTS.value).write_text(text + "\n", encoding="utf-8")
    print("| weights | activations | test accuracy | labels agree | levels exact |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        exact = "yes" if row["exact_levels"] else "no"
        print(
            f"| {row['weight']} | {row['activation']} | {row['test_accuracy']:.3f} | {row['agreement']:.3f} | {exact} |"
        )


if __name__ == "__main__":
    app.run(main)
