"""What a quantized model keeps of the user's: what is trained, what is lost, what is saved."""

from __future__ import annotations

import numpy as np
import pytest

import tfmiaq
from tfmiaq._backend import keras

layers = keras.layers
POLICY = tfmiaq.BitwidthPolicy.uniform(8, 8)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.utils.register_keras_serializable("test_meaning")
class OwnDense(layers.Dense):
    """A Dense layer with a scale that is made before its kernel, a loss and a metric."""

    def build(self, input_shape):
        self.gain = self.add_weight("gain", shape=(input_shape[-1], self.units), initializer="ones")
        super().build(input_shape)

    def call(self, inputs):
        self.add_loss(2.0)
        self.add_metric(inputs[0, 0], name="seen")
        return super().call(inputs)


tfmiaq.register_layer(OwnDense, tfmiaq.LayerSpec(kernel="kernel"))


@keras.utils.register_keras_serializable("test_meaning")
class RowSum(keras.constraints.Constraint):
    """Rows of a kernel of two axes that add up to one."""

    def __call__(self, w):
        assert len(w.shape) == 2
        return w / keras.backend.sum(keras.backend.abs(w), axis=0, keepdims=True)


def _names(variables):
    return sorted(variable.name.split(":")[0].split("/")[-1] + str(variable.shape) for variable in variables)


def _vector_model(*middle):
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((6,))
    for layer in middle:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


X = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 16)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras", "/checkpoint"])
@pytest.mark.parametrize("frozen_first", [True, False])
def test_weights_load_whatever_is_frozen(tmp_path, suffix, frozen_first):
    def model(frozen):
        middle = [OwnDense(6, name="own"), layers.Dense(6, name="hidden"), layers.BatchNormalization(name="norm")]
        model = _vector_model(*middle)
        for layer in middle if frozen else ():
            layer.trainable = False
        return tfmiaq.quantize_model(model, POLICY)

    saved = model(frozen_first)
    saved(X, training=True)
    saved.set_weights([w + np.float32(i) / 64 if w.ndim else w for i, w in enumerate(saved.get_weights())])
    path = str(tmp_path / "model") + suffix
    if suffix == ".keras":
        saved.save(path)
        loaded = tfmiaq.load_model(path)
        assert _names(loaded.trainable_variables) == _names(saved.trainable_variables)
    else:
        saved.save_weights(path)
        loaded = model(not frozen_first)
        loaded.load_weights(path)
    for one, other in zip(saved.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(other, one)
    np.testing.assert_array_equal(loaded(X, training=False), saved(X, training=False))


def test_a_registered_layer_loads_from_h5(tmp_path):
    quantized = tfmiaq.quantize_model(_vector_model(OwnDense(6, name="own")), POLICY)
    quantized(X, training=True)
    quantized.save(tmp_path / "model.h5")
    loaded = tfmiaq.load_model(str(tmp_path / "model.h5"))
    np.testing.assert_array_equal(loaded(X, training=False), quantized(X, training=False))


def test_losses_and_metrics_of_a_registered_layer_are_kept():
    model = _vector_model(OwnDense(6, name="own"))
    quantized = tfmiaq.quantize_model(model, POLICY)
    logs = []
    for one in (model, quantized):
        one.compile(keras.optimizers.SGD(0.0), LOSS, run_eagerly=True)
        one.fit(X, Y, verbose=0)
        logs.append(one.test_on_batch(X, Y, return_dict=True))
    assert set(logs[0]) == set(logs[1]) and "seen" in logs[1]
    for key in logs[0]:
        assert logs[1][key] == pytest.approx(logs[0][key], abs=0.02)


def test_trainable_is_set_back():
    quantized = tfmiaq.quantize_model(_vector_model(layers.Dense(6, activation="relu", name="hidden")), POLICY)
    everything = _names(quantized.trainable_variables)
    assert len(everything) == 4
    quantized.get_layer("quant_hidden").trainable = False
    assert _names(quantized.trainable_variables) == ["bias(3,)", "kernel(6, 3)"]
    assert len(quantized.get_layer("quant_hidden").trainable_weights) == 0
    quantized.trainable = False
    assert not quantized.trainable_variables
    quantized.trainable = True
    assert _names(quantized.trainable_variables) == everything


def test_a_frozen_half_of_a_layer_stays_frozen():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 3))
    both = layers.Bidirectional(layers.LSTM(3), name="both")
    model = keras.Model(inputs, layers.Dense(3)(both(inputs)))
    both.forward_layer.trainable = False
    with pytest.warns(UserWarning, match="both"):
        quantized = tfmiaq.quantize_model(model, POLICY)
    x = np.random.default_rng(0).normal(size=(16, 8, 3)).astype(np.float32)
    quantized(x, training=True)
    assert _names(quantized.get_layer("both").trainable_variables) == _names(both.trainable_variables)
    np.testing.assert_allclose(quantized(x), model(x), atol=0.1)


def test_constants_of_a_float_layer_do_not_train():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.AveragePooling2D(name="pool")(layers.Conv2D(4, 3, padding="same", name="conv")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    policy = tfmiaq.BitwidthPolicy.uniform(8, 8, layers={"pool": tfmiaq.LayerBits(weight=None, activation=None)})
    quantized = tfmiaq.quantize_model(model, policy)
    quantized.trainable = True
    assert not [v.name for v in quantized.trainable_variables if "pool" in v.name]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_constraint_sees_the_users_kernel_after_loading(tmp_path, suffix):
    dense = layers.Dense(6, use_bias=False, kernel_constraint=RowSum(), kernel_initializer="identity", name="hidden")
    model = _vector_model(dense, layers.BatchNormalization())
    quantized = tfmiaq.quantize_model(model, POLICY)
    quantized(X, training=True)
    quantized.save(str(tmp_path / "model") + suffix)
    loaded = tfmiaq.load_model(str(tmp_path / "model") + suffix)
    loaded.compile(keras.optimizers.SGD(0.1), LOSS, run_eagerly=True)
    loaded.fit(X, Y, verbose=0)
    kernel = next(v for v in loaded.trainable_variables if v.shape == (1, 1, 6, 6)).numpy()
    np.testing.assert_allclose(np.abs(kernel.reshape(6, 6)).sum(0), 1.0, rtol=1e-5)


def test_a_layer_that_needs_a_mask_is_told():
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Dense(4, name="dense")(layers.Embedding(20, 4, mask_zero=True)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D(name="gap")(x)))
    with pytest.warns(UserWarning, match=r"gap.*mask"):
        tfmiaq.quantize_model(model, POLICY)
    with pytest.raises(ValueError, match=r"gap.*mask"):
        tfmiaq.quantize_model(model, POLICY, strict=True)


def test_policies_of_shared_kernels_change_in_place():
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, padding="same", name="conv")
    x = conv(layers.ReLU(name="relu")(conv(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    quantized = tfmiaq.quantize_model(model, POLICY)
    assert [layer.name for layer in quantized.layers if layer.name.startswith("conv_range")] == ["conv_range"]
    tfmiaq.set_policy(quantized, tfmiaq.BitwidthPolicy.uniform(4, 8))
    assert tfmiaq.get_policy(quantized).rules
