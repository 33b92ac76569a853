"""`verify` tells a file of the model from a file of another one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from twins import file_of_changed, negate, swap, variable

import tfmiaq
from tfmiaq._backend import keras

layers = keras.layers
RECORDS = 64
X = np.random.default_rng(0).normal(size=(RECORDS, 6)).astype(np.float32)


def _quantized(outputs, loss, y):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="vector")
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, [layers.Dense(units, name=name)(x) for name, units in outputs.items()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(8, 8))
    _train(model, loss, y)
    return model


def _train(model, loss, y):
    model.compile(keras.optimizers.Adam(0.02), loss, run_eagerly=True)
    model.fit(X, y, epochs=10, verbose=0)


@pytest.fixture(scope="module")
def classifier():
    y = (X[:, 0] > 0).astype(int) + 2 * (X[:, 1] > 0)
    return _quantized({"logits": 4}, keras.losses.SparseCategoricalCrossentropy(from_logits=True), y)


def test_a_file_of_the_model_is_exact(classifier):
    result = tfmiaq.verify(classifier, tfmiaq.convert(classifier, check=False), X)
    assert result.exact, str(result)
    assert result.agreement == 1.0, str(result)


def _negate(model):
    negate(model, "logits")


def _double(model):
    # The codes of a kernel do not tell its scale.
    kernel = variable(model, "hidden/kernel")
    kernel.assign(2 * kernel)


def _rebias(model):
    variable(model, "logits/bias").assign_add([3.0, -3.0, 3.0, -3.0])


@pytest.mark.parametrize("change", [_negate, _double, _rebias])
def test_a_file_of_another_model_with_the_same_levels_is_not_exact(classifier, change):
    result = tfmiaq.verify(classifier, file_of_changed(classifier, lambda: change(classifier)), X)
    assert not result.exact, str(result)


def test_a_file_with_swapped_outputs_is_not_exact():
    y = [(X[:, 0] > 0).astype(int), (X[:, 1] > 0).astype(int)]
    model = _quantized(
        {"one": 2, "two": 2}, [keras.losses.SparseCategoricalCrossentropy(from_logits=True) for _ in y], y
    )
    assert tfmiaq.verify(model, tfmiaq.convert(model, check=False), X).exact

    # The ranges of the outputs go with them: a file of swapped outputs saturates no more than its own.
    result = tfmiaq.verify(model, file_of_changed(model, lambda: swap(model, "one", "two")), X)
    assert not result.exact, str(result)
    assert result.agreement < 0.9, str(result)


def test_one_unit_of_the_opposite_labels_does_not_agree():
    y = (X[:, 0] > 0).astype(np.float32)[:, None]
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model = _quantized({"score": 1}, loss, y)
    assert tfmiaq.verify(model, tfmiaq.convert(model, check=False), X).agreement >= 0.98

    opposite = file_of_changed(model, lambda: _train(model, loss, 1 - y))
    result = tfmiaq.verify(model, opposite, X)
    assert result.agreement < 0.5, str(result)
    assert not result.exact, str(result)


def test_one_sigmoid_of_the_opposite_labels_does_not_agree():
    keras.utils.set_random_seed(0)
    y = (X[:, 0] > 0).astype(np.float32)[:, None]
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(1, "sigmoid")])
    model = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(8, 8))
    _train(model, "binary_crossentropy", y)
    opposite = file_of_changed(model, lambda: _train(model, "binary_crossentropy", 1 - y))
    result = tfmiaq.verify(model, opposite, X)
    assert result.agreement < 0.5, str(result)


def test_a_regression_that_is_off_is_told():
    y = X[:, :1]
    model = _quantized({"value": 1}, "mse", y)
    own = tfmiaq.verify(model, tfmiaq.convert(model, check=False), X)
    assert own.exact, str(own)

    def shift():
        bias = variable(model, "value/bias")
        bias.assign(bias + 0.5)

    result = tfmiaq.verify(model, file_of_changed(model, shift), X)
    assert not result.exact, str(result)
