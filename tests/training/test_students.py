"""The student of cross-distillation: which recipe it has, and which layers."""

from __future__ import annotations

import numpy as np
import pytest

import tfmiaq
from tfmiaq._backend import keras
from tfmiaq.caching import own_random_state
from tfmiaq.training import (
    CLIPPED,
    DPSGD,
    FINE_TUNING,
    FROM_SCRATCH,
    default_recipe,
    repeated,
    without_batch_normalization,
)

layers = keras.layers


def normalized():
    inputs = keras.Input((6,))
    x = layers.Dense(8, use_bias=False, name="hidden")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def plain():
    return without_batch_normalization(normalized())


def convolution():
    return keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)])


def _records(count=24):
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, 6)).astype(np.float32), np.arange(count) % 3


@pytest.mark.parametrize(
    ("model", "expected"), [(normalized, CLIPPED), (plain, CLIPPED), (convolution, FROM_SCRATCH), (None, FROM_SCRATCH)]
)
def test_dense_networks_have_a_recipe_of_their_own(model, expected):
    model = None if model is None else model()
    assert default_recipe(True, model) is expected
    assert default_recipe(False, model) is FINE_TUNING
    if expected is CLIPPED:
        assert default_recipe(True, tfmiaq.quantize_model(model)) is CLIPPED


@pytest.mark.parametrize(("build", "expected"), [(normalized, FROM_SCRATCH), (plain, CLIPPED)])
def test_a_student_that_is_given_keeps_its_layers(build, expected, monkeypatch):
    used = []
    monkeypatch.setattr(tfmiaq.TrainingRecipe, "fit", lambda recipe, model, x, y: used.append((recipe, x)) or model)
    uniform = lambda x, y: lambda records: np.full((len(records), 3), 1 / 3)  # noqa: E731
    x, y = _records()
    tfmiaq.cross_distill(uniform, build(), x, y, verbose=False)
    ((recipe, records),) = used
    assert recipe is expected
    assert records is x


def test_without_batch_normalization_a_bias_is_left():
    model = plain()
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in model.layers)
    assert [layer.name for layer in model.layers][1:] == ["hidden", "norm", "relu", "logits"]
    assert model.get_layer("hidden").use_bias
    x = _records()[0]
    kernel, bias, last, end = model.get_weights()
    np.testing.assert_allclose(model(x), np.maximum(x @ kernel + bias, 0) @ last + end, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", [None, tfmiaq.BitwidthPolicy.uniform(2, 4)])
@pytest.mark.parametrize("dp", [None, DPSGD(1.0)])
def test_a_clipped_student_has_no_batch_normalization(policy, dp):
    repeated.forget()
    recipe = tfmiaq.TrainingRecipe(epochs=2, learning_rate=0.1, batch_size=24, dp=dp)
    teacher = tfmiaq.FloatTraining(normalized, tfmiaq.TrainingRecipe(epochs=1))
    stage = tfmiaq.CrossDistilledTraining(policy, recipe, teacher, tfmiaq.CrossDistillation(2))
    x, y = _records()
    with own_random_state(0):
        model = stage(normalized(), x, y)
    own = model.get_weights()
    with own_random_state(0):
        lent = stage.lend(normalized(), x, y).get_weights()
    for one, other in zip(own, lent):
        np.testing.assert_allclose(one, other, atol=1e-6)
    kinds = {type(getattr(layer, "layer", layer)).__name__ for layer in model.layers}
    assert ("BatchNormalization" in kinds) == (dp is None)
    assert any(layer.name.startswith("quant_") for layer in model.layers) == (policy is not None)
    repeated.forget()


def test_without_batch_normalization_signals_go_through_deep_convolutions():
    inputs = x = keras.Input((8, 8, 3))
    for _ in range(8):
        for layer in (layers.DepthwiseConv2D(3, padding="same", use_bias=False), layers.Conv2D(32, 1, use_bias=False)):
            x = layers.ReLU()(layers.BatchNormalization()(layer(x)))
    keras.utils.set_random_seed(0)
    model = without_batch_normalization(keras.Model(inputs, x))
    given = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32)
    # With Keras' own weights it is 4e-8.
    assert 0.1 < np.sqrt((model(given).numpy() ** 2).mean()) < 10
