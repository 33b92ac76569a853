"""Which batch and sizes a file has, and that it is run on no others."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import tfmiaq
from tfmiaq import BitwidthPolicy
from tfmiaq._backend import keras, tf

layers = keras.layers
IMAGE = (8, 8, 3)
_CHILD = """
import sys
import numpy as np
import tfmiaq
layers, keras = tfmiaq.keras.layers, tfmiaq.keras


def held(kind, target):
    shape = (8, 3) if kind == "Conv1D" else (8, 8, 3)
    inputs = keras.Input(shape, batch_size=1)
    x = layers.Conv1D(4, 3)(inputs) if kind == "Conv1D" else layers.Conv2D(4, 3, activation="relu")(inputs)
    if kind == "Conv2DTranspose":
        x = layers.Conv2DTranspose(4, 3, strides=2)(x)
    if kind == "GroupNormalization":
        x = layers.GroupNormalization(2)(x)
    model = tfmiaq.quantize_model(keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x))))
    records = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    for record in records:
        model(record[None], training=True)
    buffer = tfmiaq.convert(model, target, check=False)
    result = tfmiaq.verify(model, buffer, records)
    assert result.exact, str(result)
    interpreter = tfmiaq.tflite.Interpreter(buffer)
    together = interpreter.predict(records)
    assert together.shape == (5, 4)
    np.testing.assert_array_equal(together, np.concatenate([interpreter.predict(r[None]) for r in records]))
    print(kind, "held", flush=True)


for pair in sys.argv[1:]:
    held(*pair.split(","))
"""
_FIXED = {"Conv1D": "edgetpu", "Conv2DTranspose": "edgetpu", "GroupNormalization": "mobile"}


def test_a_fixed_batch_is_run_record_by_record():
    """In a process of its own: an interpreter that was resized has ended it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pairs = [f"{kind},{target}" for kind, target in _FIXED.items()]
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, *pairs]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-3:] == [f"{kind} held" for kind in _FIXED]


def _quantized(body, shape=IMAGE, head=True):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, name="image")
    x = body(layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs))
    x = layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x)) if head else x
    model = tfmiaq.quantize_model(keras.Model(inputs, x), BitwidthPolicy.uniform(8, 8))
    model(_records(), training=True)
    return model


def _records(*shape):
    return np.random.default_rng(0).normal(size=(16, *(shape or IMAGE))).astype(np.float32)


def _batch(buffer):
    return int(tf.lite.Interpreter(model_content=buffer).get_input_details()[0]["shape_signature"][0])


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv2D(4, 3, dilation_rate=2, padding="same", activation="relu", name="dilated"),
        lambda: layers.Conv2DTranspose(
            4, 3, strides=2, padding="same", activation="relu", bias_initializer="ones", name="up"
        ),
    ],
)
def test_what_a_free_batch_spoils_is_one_operation(layer):
    model = _quantized(layer())
    edge = tfmiaq.convert(model, "edgetpu")
    assert tfmiaq.edgetpu.check(edge).mapped, str(tfmiaq.edgetpu.check(edge))
    mobile = tfmiaq.convert(model)
    names = [operation.operation for operation in tfmiaq.edgetpu.check(mobile).operations]
    assert not {"SHAPE", "PACK", "SPACE_TO_BATCH_ND"} & set(names), names
    for buffer in (edge, mobile):
        assert _batch(buffer) == 1
        assert tfmiaq.verify(model, buffer, _records()).exact


def test_edge_tpu_files_take_one_record_and_mobile_files_any_number():
    model = _quantized(layers.Conv2D(4, 3, activation="relu", name="conv"))
    edge, mobile = tfmiaq.convert(model, "edgetpu"), tfmiaq.convert(model)
    assert (_batch(edge), _batch(mobile)) == (1, -1)
    one, other = (tfmiaq.tflite.Interpreter(buffer).predict(_records()) for buffer in (edge, mobile))
    assert one.shape == other.shape == (16, 4)


def test_a_dilated_sequence_is_mapped():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 3))
    x = layers.Conv1D(4, 3, dilation_rate=2, padding="causal", activation="relu")(inputs)
    model = tfmiaq.quantize_model(keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling1D()(x))))
    model(_records(8, 3), training=True)
    result = tfmiaq.edgetpu.check(tfmiaq.convert(model, "edgetpu"))
    assert result.mapped, str(result)


def test_open_sizes_stay_open_in_a_mobile_file():
    model = _quantized(layers.Conv2D(2, 1, name="map"), (None, None, 3), head=False)
    buffer = tfmiaq.convert(model)
    for sizes in ((8, 8), (5, 12)):
        assert tfmiaq.tflite.Interpreter(buffer).predict(_records(*sizes, 3)).shape == (16, *sizes, 2)
        assert tfmiaq.verify(model, buffer, _records(*sizes, 3)).exact


def test_open_sizes_take_an_input_shape_for_the_edge_tpu():
    model = _quantized(layers.Conv2D(2, 1, name="map"), (None, None, 3), head=False)
    with pytest.raises(ValueError, match=r"constant sizes, and input 'image' takes .*None.*Pass input_shape"):
        tfmiaq.convert(model, "edgetpu")
    with pytest.raises(ValueError, match=r"takes records of shape \(None, None, 3\). Received input_shape \(8, 8, 1\)"):
        tfmiaq.convert(model, "edgetpu", input_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"Expected input_shape by the names of inputs, image"):
        tfmiaq.convert(model, "edgetpu", input_shape={"picture": IMAGE})
    buffer = tfmiaq.convert(model, "edgetpu", input_shape=IMAGE)
    assert tfmiaq.edgetpu.check(buffer).operations
    assert tfmiaq.verify(model, buffer, _records()).exact
    with pytest.raises(ValueError, match=r"takes records of shape \(8, 8, 3\)"):
        tfmiaq.tflite.Interpreter(buffer).predict(_records(5, 12, 3))


def test_open_sequences_of_recurrent_layers_take_an_input_shape():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, 3), name="sequence")
    model = keras.Model(inputs, layers.Dense(4, name="logits")(layers.LSTM(4, name="lstm")(inputs)))
    with pytest.warns(UserWarning, match="lstm"):
        model = tfmiaq.quantize_model(model)
    model(_records(8, 3), training=True)
    with pytest.raises(ValueError, match=r"'lstm' reads sequences of any length.*Pass input_shape"):
        tfmiaq.convert(model)
    buffer = tfmiaq.convert(model, input_shape=(8, 3))
    assert tfmiaq.verify(model, buffer, _records(8, 3)).exact


def test_raw_bytes_are_normalized_for_the_edge_tpu():
    keras.utils.set_random_seed(0)
    inputs = keras.Input(IMAGE, dtype="uint8", name="image")
    x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 127.5, offset=-1.0)(inputs))
    model = tfmiaq.quantize_model(keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))))
    records = np.random.default_rng(0).integers(0, 256, (16, *IMAGE)).astype(np.uint8)
    model(records, training=True)
    for io_type in ("int8", "uint8"):
        buffer = tfmiaq.convert(model, "edgetpu", io_type=io_type)
        assert tfmiaq.verify(model, buffer, records).exact
        assert tfmiaq.edgetpu.check(buffer).mapped
