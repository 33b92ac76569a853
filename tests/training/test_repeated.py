"""Models of one architecture that are traced once: the same as one by one, and as those of Keras."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import weakref

import numpy as np
import pytest

import tfmiaq
from tfmiaq._backend import keras, tf
from tfmiaq.caching import fingerprint, own_random_state
from tfmiaq.training import recipe as recipes
from tfmiaq.training import repeated

layers = keras.layers
RECIPE = tfmiaq.TrainingRecipe(epochs=2, learning_rate=0.1, batch_size=16, weight_decay=1e-3)
ONE_BIT = tfmiaq.BitwidthPolicy.uniform(2, 4, output=tfmiaq.OutputBits(1, 1.0))


def perceptron():
    return keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(12, "relu"), layers.Dropout(0.2), layers.Dense(10)]
    )


def convolutions():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            # Behind a layer that it does not fold into.
            layers.BatchNormalization(name="late"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(10, kernel_regularizer="l2", name="logits"),
        ]
    )


def _records(digits, count=48):
    return digits.x_train[:count], digits.y_train[:count]


@pytest.fixture
def fresh():
    repeated.forget()
    yield
    repeated.forget()


def _traced():
    return [training is not None for training in repeated._kept.trainings.values()]


def _weights(seed, train, *arguments):
    with own_random_state(seed):
        return train(*arguments).get_weights()


def _assert_alike(one, other):
    for a, b in zip(one, other):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def _are_alike(one, other):
    return all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(one, other))


@pytest.mark.parametrize("build", [perceptron, convolutions])
def test_models_are_those_of_one_by_one(build, digits, fresh):
    x, y = _records(digits)
    # 47 and 48 records make the same number of steps, and go through one trace.
    sets = [(x[:47], y[:47]), (x, y)]
    train_float = tfmiaq.FloatTraining(build, RECIPE)
    quantize = tfmiaq.QuantizedTraining(ONE_BIT, RECIPE)
    floats = [_weights(seed, train_float.lend, *part) for seed, part in enumerate(sets)]
    assert _traced() == [True]
    given = build()
    quantized = []
    for seed, weights in enumerate(floats):
        given.set_weights(weights)
        quantized.append(_weights(seed, quantize.lend, given, *sets[seed]))
    assert _traced() == [True, True]
    assert not _are_alike(*floats) and not _are_alike(*quantized)
    repeated.forget()
    _assert_alike(floats[1], _weights(1, train_float, *sets[1]))
    _assert_alike(quantized[1], _weights(1, quantize, given, *sets[1]))


def test_cross_distilled_models_are_those_of_one_by_one(digits, fresh):
    x, y = _records(digits)
    train_float = tfmiaq.FloatTraining(perceptron, RECIPE)
    distil = tfmiaq.CrossDistilledTraining(tfmiaq.BitwidthPolicy(), RECIPE, train_float, tfmiaq.CrossDistillation(2, 2))
    found = [_weights(seed, lambda: distil.lend(train_float.lend(x, y), x, y)) for seed in (0, 1)]
    # The float model's trace, that of its teachers on half of the records, and the student's.
    assert _traced() == [True, True, True]
    assert not _are_alike(*found)
    repeated.forget()
    _assert_alike(found[1], _weights(1, lambda: distil(train_float(x, y), x, y)))


def test_a_training_is_that_of_keras(digits, fresh):
    """With all records in a batch their order changes nothing."""
    x, y = _records(digits)
    soft = np.random.default_rng(0).dirichlet(np.ones(10), len(y)).astype(np.float32)
    recipe = dataclasses.replace(RECIPE, epochs=3, batch_size=48)
    model = convolutions()
    start = model.get_weights()
    trained = repeated.train(model, recipe, x, y, 0).get_weights()
    model.set_weights(start)
    _assert_alike(trained, recipe.fit(model, x, y).get_weights())
    model.set_weights(start)
    quantized = repeated.train_quantized(model, start, ONE_BIT, recipe, x, soft, 0).get_weights()
    _assert_alike(quantized, recipe.fit(tfmiaq.quantize_model(model, ONE_BIT), x, soft).get_weights())


@pytest.mark.parametrize("augment", [None, recipes.flips_and_shifts()], ids=["plain", "augmented"])
def test_large_records_go_in_by_parts(augment, digits, monkeypatch, fresh):
    x, y = _records(digits, 300)
    assert len(x) == 300
    train_float = tfmiaq.FloatTraining(perceptron, dataclasses.replace(RECIPE, augment=augment))
    whole = _weights(1, train_float.lend, x, y)
    # A tensor of all records, of which three batches go in at once; two that are taken from the array; and one.
    for batches in (24, 16, 1):
        most = batches * x[:16].nbytes
        monkeypatch.setattr(recipes, "LARGE_BYTES", most)
        _assert_alike(_weights(1, train_float.lend, x, y), whole)


def test_a_kept_training_keeps_a_batch_of_the_records_alone(digits, fresh):
    x, y = (part.copy() for part in _records(digits))
    at = weakref.ref(x)
    tfmiaq.FloatTraining(perceptron, RECIPE).lend(x, y)
    del x
    gc.collect()
    assert at() is None


def test_a_compiled_step_is_that_of_keras(digits, fresh):
    x, y = _records(digits)
    recipe = dataclasses.replace(RECIPE, epochs=1, batch_size=48)
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(12, "relu"), layers.Dense(10)])
    found = repeated.train_quantized(model, model.get_weights(), ONE_BIT, recipe, x, y, 0).get_weights()
    assert [training._compiles for training in repeated._kept.trainings.values()] == [True]
    _assert_alike(found, recipe.fit(tfmiaq.quantize_model(model, ONE_BIT), x, y).get_weights())


def test_augmentation_and_mixup_start_from_the_seed(digits, fresh):
    x, y = _records(digits)
    recipe = dataclasses.replace(RECIPE, augment=recipes.flips_and_shifts(), mixup=0.3)
    train_float = tfmiaq.FloatTraining(perceptron, recipe)
    found = [_weights(seed, train_float.lend, x, y) for seed in (3, 4, 3)]
    assert _traced() == [True]
    _assert_alike(found[0], found[2])
    assert not _are_alike(*found[:2])


class _Longer(tfmiaq.TrainingRecipe):
    def fit(self, model, x, y, callbacks=()):
        return dataclasses.replace(RECIPE, epochs=3).fit(model, x, y, callbacks)


class _OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def _own_step():
    inputs = keras.Input((8, 8, 1))
    return _OwnStep(inputs, layers.Dense(10)(layers.Flatten()(inputs)))


def _normalized():
    normalization = layers.Normalization(axis=None)
    normalization.adapt(np.arange(6.0))
    return keras.Sequential([keras.Input((8, 8, 1)), normalization, layers.Flatten(), layers.Dense(10)])


def _python_state():
    def passed(values):
        return tf.ensure_shape(tf.py_function(lambda v: v, [values], tf.float32), values.shape)

    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Lambda(passed), layers.Dense(10)])


@pytest.mark.parametrize(
    ("build", "recipe"),
    [
        (perceptron, _Longer()),
        # Draws at random by an operation whose state is in no variable.
        (perceptron, dataclasses.replace(RECIPE, loss=tfmiaq.losses.RelaxLoss(0.2, True))),
        (_own_step, RECIPE),
        (_normalized, RECIPE),
        (_python_state, RECIPE),
    ],
    ids=["recipe", "loss", "train_step", "normalization", "python"],
)
def test_what_cannot_be_repeated_is_trained_by_the_recipe(build, recipe, digits, fresh):
    x, y = _records(digits, 32)
    start = build()
    before = start.get_weights()
    assert repeated.train(start, recipe, x, y, 0) is None
    _assert_alike(before, start.get_weights())
    model = tfmiaq.FloatTraining(build, recipe).lend(x, y)
    assert model.optimizer.iterations.numpy() == (3 if isinstance(recipe, _Longer) else recipe.epochs) * 2


def test_a_model_is_the_callers_own_unless_it_is_lent(digits, fresh):
    x, y = _records(digits)
    train_float = tfmiaq.FloatTraining(perceptron, RECIPE)
    own, lent = train_float(x, y), train_float.lend(x, y)
    kept, other = own.get_weights(), lent.get_weights()
    assert train_float.lend(x, y) is lent
    _assert_alike(kept, own.get_weights())
    assert not _are_alike(other, lent.get_weights())
    # It is compiled, as one of Keras.
    assert own.evaluate(x, y, verbose=0) < 3


def test_bits_by_name_are_those_of_the_layers_named_so(digits, fresh):
    x, y = _records(digits)
    policy = tfmiaq.BitwidthPolicy(layers={"conv": tfmiaq.LayerBits(3, 5)})
    quantized = tfmiaq.QuantizedTraining(policy, RECIPE).lend(convolutions(), x, y)
    bits = dict(tfmiaq.get_policy(quantized).layers)
    assert bits["conv"].weight == 3 and bits["logits"].weight == 8


def test_diverged_weights_are_told(digits, fresh):
    x, y = _records(digits)
    model = convolutions()
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(ValueError, match="NaN or infinite weights"):
        tfmiaq.QuantizedTraining(ONE_BIT, RECIPE).lend(model, x, y)


def test_a_stage_goes_into_other_processes_and_counts_by_its_code():
    stage = tfmiaq.FloatTraining(perceptron, RECIPE)
    assert fingerprint(pickle.loads(pickle.dumps(stage))) == fingerprint(stage)
    assert fingerprint(stage) != fingerprint(tfmiaq.FloatTraining(convolutions, RECIPE))
    assert fingerprint(stage) != fingerprint(tfmiaq.FloatTraining(perceptron, tfmiaq.TrainingRecipe()))
    with pytest.raises(TypeError, match="build_fn"):
        tfmiaq.FloatTraining(3, RECIPE)
    with pytest.raises(TypeError, match="TrainingRecipe"):
        tfmiaq.FloatTraining(perceptron, {"epochs": 3})


def test_only_so_many_traces_are_kept(digits, fresh, monkeypatch):
    monkeypatch.setattr(repeated, "_KEPT", 2)
    x, y = _records(digits, 16)
    for epochs in (1, 2, 3):
        tfmiaq.FloatTraining(perceptron, tfmiaq.TrainingRecipe(epochs)).lend(x, y)
    assert len(_traced()) == 2
