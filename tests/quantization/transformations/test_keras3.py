"""Keras 3 models: rebuilt in Keras 2, the same outputs, then as any other."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import outputs_of

import tfmiaq
from tfmiaq._backend import keras as keras2
from tfmiaq._backend import tf
from tfmiaq.quantization.transformations import keras3 as translation

keras = pytest.importorskip("keras", minversion="3.0", reason="TensorFlow 2.15 has no Keras 3")
layers = keras.layers
IMAGE = (8, 8, 3)


def _image(body):
    inputs = keras.Input(IMAGE)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="stem")(inputs)
    return keras.Model(inputs, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(body(x))))


def _sequence(body):
    inputs = keras.Input((12, 3))
    return keras.Model(inputs, layers.Dense(4, name="logits")(layers.GlobalAveragePooling1D()(body(inputs))))


def _nested():
    inner = keras.Sequential([keras.Input((8, 8, 6)), layers.Conv2D(6, 3), layers.BatchNormalization(), layers.ReLU()])
    return _image(inner)


def _shared():
    conv = layers.Conv2D(6, 3, padding="same", activation="relu")
    return _image(lambda x: conv(conv(x)))


def _two_ends():
    image, vector = keras.Input(IMAGE, name="image"), keras.Input((5,), name="vector")
    x = layers.Concatenate()([layers.Flatten()(image), layers.Dense(6, activation="relu")(vector)])
    return keras.Model({"image": image, "vector": vector}, [layers.Dense(4)(x), layers.Dense(2)(x)])


def _attention(x):
    return layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(x, x))


MODELS = {
    "sequential": lambda: keras.Sequential([keras.Input((5,)), layers.Dense(8, activation="relu"), layers.Dense(2)]),
    "norms": lambda: _image(lambda x: layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3)(x)))),
    "separable": lambda: _image(layers.SeparableConv2D(6, 3, activation="silu")),
    "leaky": lambda: _image(layers.LeakyReLU(0.3)),
    "hard_sigmoid": lambda: _image(layers.Conv2D(6, 3, activation="hard_sigmoid")),
    "hard_silu": lambda: _image(layers.Activation("hard_silu")),
    "gelu": lambda: _image(layers.Conv2D(6, 3, activation="gelu")),
    "operations": lambda: _image(lambda x: keras.ops.relu(x * 2.0 - x[:, ::-1]) + keras.ops.sigmoid(x)),
    "preprocessing": lambda: keras.Sequential(
        [
            keras.Input(IMAGE),
            layers.Rescaling(1 / 255, offset=-0.5),
            layers.Conv2D(3, 3),
            layers.Flatten(),
            layers.Dense(2),
        ]
    ),
    "nested": _nested,
    "shared": _shared,
    "two ends": _two_ends,
    "attention": lambda: _sequence(_attention),
    "recurrent": lambda: _sequence(layers.Bidirectional(layers.LSTM(3, return_sequences=True))),
    "gru": lambda: _sequence(layers.GRU(3, return_sequences=True)),
    "embedding": lambda: keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(9, 4),
            layers.Conv1D(4, 3),
            layers.Flatten(),
            layers.Dense(2),
        ]
    ),
    "mobilenet": lambda: keras.applications.MobileNetV3Small(
        weights=None, input_shape=(32, 32, 3), alpha=0.75, classes=3
    ),
}


def _randomized(model):
    generator = np.random.default_rng(0)
    model.set_weights(
        [
            generator.uniform(0.1, 0.6, w.shape) * np.sign(generator.normal(size=w.shape))
            if w.ndim > 1
            else generator.uniform(0.5, 1.0, w.shape)
            for w in model.get_weights()
        ]
    )
    return model


@pytest.mark.parametrize("name", MODELS)
def test_the_twin_answers_alike(name):
    model = MODELS[name]()
    if name not in ("mobilenet",):
        _randomized(model)
    twin = translation.rebuild(model)
    assert isinstance(twin, keras2.Model)
    generator = np.random.default_rng(1)
    records = [
        generator.integers(0, 9, (5, *t.shape[1:]))
        if "int" in str(t.dtype)
        else generator.normal(size=(5, *t.shape[1:]))
        for t in model.inputs
    ]
    records = dict(zip(("image", "vector"), records)) if len(records) > 1 else records[0]
    for one, other in zip(*(tf.nest.flatten(outputs_of(m, records)) for m in (model, twin))):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["sequential", "norms", "nested", "hard_silu"])
def test_a_keras_3_model_goes_the_whole_way(name):
    model = MODELS[name]()
    quantized = tfmiaq.quantize_model(model, strict=True)
    x = np.random.default_rng(0).normal(size=(64, *model.inputs[0].shape[1:])).astype(np.float32)
    quantized.compile(keras2.optimizers.Adam(1e-3), "mse", run_eagerly=True)
    quantized.fit(x, outputs_of(model, x), epochs=2, verbose=0)
    buffer = tfmiaq.convert(quantized, "edgetpu")
    result = tfmiaq.verify(quantized, buffer, x)
    assert result.exact
    assert result.agreement > 0.95
    names = {row.name for row in tfmiaq.summary(quantized).layers}
    assert {layer.name for layer in model.layers if isinstance(layer, layers.Dense)} <= names


def test_layers_without_a_twin_are_all_named():
    class Own(layers.Layer):
        def call(self, x):
            return x + 1.0

    model = _image(lambda x: keras.ops.erf(Own(name="mine")(x)))
    with pytest.raises(ValueError, match=r"(?s)no twin.*mine \(Own\).*erf.*Rebuild the model"):
        tfmiaq.quantize_model(model)


def test_unbuilt_and_subclassed_models_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="is not built"):
        tfmiaq.quantize_model(keras.Sequential([layers.Dense(2)]))
    model = Own()
    model(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="subclassed"):
        tfmiaq.quantize_model(model)


def test_a_twin_that_answers_otherwise_is_refused(monkeypatch):
    monkeypatch.setitem(translation._ACTIVATIONS, "silu", lambda x, name: x)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="gives other outputs, by up to"):
        tfmiaq.quantize_model(_randomized(MODELS["separable"]()))
