"""What TFLite's 16 x 8 scheme (16-bit activations, 8-bit weights) makes of trained few-bit networks.

    python benchmarks/int16x8.py

It takes calibration, not FakeQuant. So the trained kernels are put, as they are quantized, into a float network, which
is calibrated on the training records: on scikit-learn's digits, for weights of 1 to 8 bits and activations of 4.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import app, flags
from tqdm import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
from small_classifier import fit

import tfmiaq
from tfmiaq import datasets
from tfmiaq._backend import weight_quantizers

keras = tfmiaq.keras
import tensorflow as tf  # noqa: E402

RESULTS = flags.DEFINE_string("results", "benchmarks/int16x8.json", "Result file.")
EPOCHS = flags.DEFINE_integer("training_epochs", 10, "Epochs of quantization-aware training.", 1)


def build_model() -> Any:
    """A convolution and two dense layers, without BatchNormalization: their kernels stay what they are."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="logits"),
        ]
    )


def _with_quantized_kernels(quantized: Any) -> Any:
    model = build_model()
    for wrapper in quantized.layers:
        for kernel, quantizer, variables in getattr(wrapper, "_weight_vars", []) and weight_quantizers(wrapper):
            layer = model.get_layer(wrapper.layer.name)
            layer.kernel.assign(quantizer(kernel, False, variables))
            layer.bias.assign(wrapper.layer.bias)
    return model


def _convert(model: Any, x: np.ndarray) -> bytes:
    def records() -> Iterator[list[np.ndarray]]:
        for record in x[:200]:
            yield [record[None].astype(np.float32)]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = records
    converter.target_spec.supported_ops = [tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
    return converter.convert()


def _hidden(buffer: bytes, model: Any, x: np.ndarray) -> tuple[float, int]:
    """Largest error of a stored weight as a fraction of the largest weight, and the values that hidden units take."""
    interpreter = tf.lite.Interpreter(
        model_content=buffer,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    kernel = model.get_layer("hidden").kernel.numpy().T
    error = 1.0
    outputs = set()
    details = interpreter.get_tensor_details()
    for tensor in details:
        if tensor["dtype"] == np.int8 and tuple(tensor["shape"]) == kernel.shape:
            scales = tensor["quantization_parameters"]["scales"].reshape(-1, 1)
            error = min(error, float(np.abs(interpreter.get_tensor(tensor["index"]) * scales - kernel).max()))
    for record in x[:100]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], record[None].astype(np.float32))
        interpreter.invoke()
        for tensor in details:
            if tensor["dtype"] == np.int16 and tuple(tensor["shape"]) == (1, len(kernel)):
                outputs.update(interpreter.get_tensor(tensor["index"]).ravel().tolist())
    return error / float(np.abs(kernel).max()), len(outputs)


def main(argv: list[str]) -> None:
    del argv
    data = datasets.load("digits", 0)
    keras.utils.set_random_seed(0)
    model = build_model()
    fit(model, data.x_train, data.y_train, 20, 3e-3)
    rows = []
    for bits in tqdm(range(1, 9)):
        quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(bits, 4))
        fit(quantized, data.x_train, data.y_train, EPOCHS.value, 3e-3)
        frozen = _with_quantized_kernels(quantized)
        buffer = _convert(frozen, data.x_train)
        error, values = _hidden(buffer, frozen, data.x_test)
        predicted = tfmiaq.tflite.Interpreter(buffer).predict(data.x_test[:500]).argmax(1)
        trained = quantized.predict(data.x_test[:500], verbose=0).argmax(1)
        rows.append(
            {
                "weight_bits": bits,
                "largest_weight_error": error,
                "trained_values_of_hidden_units": 16,
                "stored_values_of_hidden_units": values,
                "agreement": float(np.mean(predicted == trained)),
            }
        )
        text = json.dumps({"command": "python benchmarks/int16x8.py", "seed": 0, "rows": rows}, indent=1)
        pathlib.Path(RESULTS.value).write_text(text + "\n", encoding="utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    app.run(main)
