"""Training on several devices and in mixed precision."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import outputs_of, tiny_model, train

import tfmiaq
from tfmiaq._backend import keras

_DISTRIBUTED = """
import numpy as np
import tfmiaq
from tfmiaq._backend import keras, tf

cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
layers = keras.layers
x = np.random.default_rng(0).random((64, 8, 8, 1)).astype(np.float32)
y = np.arange(64) % 10


def losses(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        inputs = keras.Input((8, 8, 1))
        z = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
        z = layers.Conv2D(8, 3, activation="relu", name="conv2")(z)
        model = keras.Model(inputs, layers.Dense(10, name="logits")(layers.Flatten()(z)))
        quantized = tfmiaq.quantize_model(model)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        quantized.compile(keras.optimizers.SGD(0.05), loss)
    # Records in pairs, so that both devices see the same and take the ranges of one.
    pairs = np.concatenate([x[:32].reshape(4, 8, 8, 8, 1)] * 2, axis=1).reshape(64, 8, 8, 1)
    labels = np.concatenate([y[:32].reshape(4, 8)] * 2, axis=1).reshape(64)
    history = quantized.fit(pairs, labels, batch_size=16, epochs=3, shuffle=False, verbose=0)
    return quantized, history.history["loss"]


one, alone = losses(tf.distribute.get_strategy())
two, together = losses(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
np.testing.assert_allclose(together, alone, rtol=2e-3)
assert alone[-1] < alone[0]
buffer = tfmiaq.convert(two, "edgetpu")
assert tfmiaq.verify(two, buffer, x).agreement == 1.0
tfmiaq.set_policy(two, tfmiaq.BitwidthPolicy.uniform(1, 2))
print(tfmiaq.summary(two))
"""


def test_two_devices_train_as_one_does():
    result = subprocess.run([sys.executable, "-c", _DISTRIBUTED], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "conv2" in result.stdout


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_saves_and_converts(digits, tmp_path, policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = tiny_model()
        assert model.get_layer("conv").compute_dtype == policy[len("mixed_") :]
        quantized = train(tfmiaq.quantize_model(model), digits.x_train[:64], digits.y_train[:64])
        quantized.save(tmp_path / "model.keras")
        loaded = tfmiaq.load_model(str(tmp_path / "model.keras"))
        assert keras.mixed_precision.global_policy().name == policy
    finally:
        keras.mixed_precision.set_global_policy("float32")
    x = digits.x_test[:40]
    np.testing.assert_array_equal(outputs_of(loaded, x), outputs_of(quantized, x))
    result = tfmiaq.verify(quantized, tfmiaq.convert(quantized, "edgetpu"), x)
    assert result.exact
    assert result.agreement == 1.0
