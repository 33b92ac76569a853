"""`verify` tells a file of the model from a file of another one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

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


def _variables(model, layer):
    """Kernel and bias of a layer, by the user's name."""
    kernel, bias = (
        next(v for v in model.variables if v.name.split(":")[0] in (f"{layer}/{kind}", f"quant_{layer}/{kind}"))
        for kind in ("kernel", "bias")
    )
    return kernel, bias


@pytest.fixture(scope="module")
def classifier():
    y = (X[:, 0] > 0).astype(int) + 2 * (X[:, 1] > 0)
    return _quantized({"logits": 4}, keras.losses.SparseCategoricalCrossentropy(from_logits=True), y)


def _file_of_changed(model, change):
    """The file of the same model with other values, which are put back."""
    kept = model.get_weights()
    try:
        change()
        return tfmiaq.convert(model, check=False)
    finally:
        model.set_weights(kept)


def test_a_file_of_the_model_is_exact(classifier):
    result = tfmiaq.verify(classifier, tfmiaq.convert(classifier, check=False), X)
    assert result.exact, str(result)
    assert result.agreement == 1.0, str(result)


def _negate(model):
    for variable in _variables(model, "logits"):
        variable.assign(-variable)


def _double(model):
    # The codes of a kernel do not tell its scale.
    kernel, _ = _variables(model, "hidden")
    kernel.assign(2 * kernel)


def _rebias(model):
    _, bias = _variables(model, "logits")
    bias.assign_add([3.0, -3.0, 3.0, -3.0])


@pytest.mark.parametrize("change", [_negate, _double, _rebias])
def test_a_file_of_another_model_with_the_same_levels_is_not_exact(classifier, change):
    result = tfmiaq.verify(classifier, _file_of_changed(classifier, lambda: change(classifier)), X)
    assert not result.exact, str(result)


def test_a_file_with_swapped_outputs_is_not_exact():
    y = [(X[:, 0] > 0).astype(int), (X[:, 1] > 0).astype(int)]
    model = _quantized(
        {"one": 2, "two": 2}, [keras.losses.SparseCategoricalCrossentropy(from_logits=True) for _ in y], y
    )
    assert tfmiaq.verify(model, tfmiaq.convert(model, check=False), X).exact

    def swap():
        for one, two in zip(_variables(model, "one"), _variables(model, "two")):
            first, second = one.numpy(), two.numpy()
            one.assign(second)
            two.assign(first)

    # The ranges of the outputs go with them: a file of swapped outputs saturates no more than its own.
    result = tfmiaq.verify(model, _file_of_changed(model, swap), X)
    assert not result.exact, str(result)
    assert result.agreement < 0.9, str(result)


def test_one_unit_of_the_opposite_labels_does_not_agree():
    y = (X[:, 0] > 0).astype(np.float32)[:, None]
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model = _quantized({"score": 1}, loss, y)
    assert tfmiaq.verify(model, tfmiaq.convert(model, check=False), X).agreement >= 0.98

    opposite = _file_of_changed(model, lambda: _train(model, loss, 1 - y))
    result = tfmiaq.verify(model, opposite, X)
    assert result.agreement < 0.5, str(result)
    assert not result.exact, str(result)


def test_one_sigmoid_of_the_opposite_labels_does_not_agree():
    keras.utils.set_random_seed(0)
    y = (X[:, 0] > 0).astype(np.float32)[:, None]
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(1, "sigmoid")])
    model = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(8, 8))
    _train(model, "binary_crossentropy", y)
    opposite = _file_of_changed(model, lambda: _train(model, "binary_crossentropy", 1 - y))
    result = tfmiaq.verify(model, opposite, X)
    assert result.agreement < 0.5, str(result)


def test_a_regression_that_is_off_is_told():
    y = X[:, :1]
    model = _quantized({"value": 1}, "mse", y)
    own = tfmiaq.verify(model, tfmiaq.convert(model, check=False), X)
    assert own.exact, str(own)

    def shift():
        _, bias = _variables(model, "value")
        bias.assign(bias + 0.5)

    result = tfmiaq.verify(model, _file_of_changed(model, shift), X)
    assert not result.exact, str(result)
