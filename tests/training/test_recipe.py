"""Training recipes."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
from conftest import outputs_of
from scipy import stats

import tfmiaq
from tfmiaq._backend import keras, tf
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.quantization import layer_graph
from tfmiaq.training import recipe as recipes


def _dense():
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])


def _augmentation():
    return recipes.flips_and_shifts(0.1)


def test_a_recipe_has_the_same_fingerprint_when_its_layers_are_built(digits):
    recipe = tfmiaq.TrainingRecipe(epochs=1, augment=_augmentation())
    before = fingerprint(recipe)
    recipe.fit(_dense(), digits.x_train[:32], digits.y_train[:32])
    assert fingerprint(recipe) == before == fingerprint(tfmiaq.TrainingRecipe(epochs=1, augment=_augmentation()))
    assert fingerprint(tfmiaq.TrainingRecipe(epochs=1, augment=keras.layers.RandomTranslation(0.1, 0.1))) != before
    assert fingerprint(tfmiaq.TrainingRecipe(epochs=2, augment=_augmentation())) != before
    # Layers that stand alone in a train_fn, too.
    assert fingerprint(_augmentation())


def test_mixup_mixes_records_and_labels_alike():
    keras.utils.set_random_seed(0)
    labels = np.eye(10, dtype=np.float32)[np.arange(400) % 10]
    x, y = (part.numpy() for part in recipes._mixed(labels[:, None, :], labels, 0.4, [0, 1]))
    np.testing.assert_allclose(x[:, 0], y, atol=1e-6)
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(y.mean(0), labels.mean(0), atol=0.05)
    # The larger part is below 0.9 as often as in Beta(0.4, 0.4), but for the pairs of one class, one in ten.
    expected = 0.9 * np.diff(stats.beta(0.4, 0.4).cdf([0.1, 0.9]))[0]
    np.testing.assert_allclose(np.mean(y.max(1) < 0.9), expected, atol=0.08)
    # A small alpha leaves nearly each record whole, its own or its partner's.
    assert np.mean(recipes._mixed(labels, labels, 0.01, [0, 1])[1].numpy().max(1) > 0.999) > 0.9


@pytest.mark.parametrize("augment", [None, keras.layers.RandomFlip("horizontal")])
def test_a_recipe_trains_with_mixup(augment, digits):
    keras.utils.set_random_seed(0)
    recipe = tfmiaq.TrainingRecipe(epochs=8, learning_rate=0.1, mixup=0.4, augment=augment)
    model = recipe.fit(_dense(), digits.x_train, digits.y_train)
    assert (outputs_of(model, digits.x_train).argmax(1) == digits.y_train).mean() > 0.8
    assert fingerprint(recipe) != fingerprint(tfmiaq.TrainingRecipe(epochs=8, learning_rate=0.1, augment=augment))


@pytest.mark.parametrize("fields", [{}, {"dp": tfmiaq.DPSGD(1.0)}], ids=["plain", "clipped"])
def test_large_records_are_trained_on_without_a_tensor_of_them_all(fields, digits, monkeypatch):
    """With all records in a batch their order changes nothing."""
    x, y = digits.x_train[:40], digits.y_train[:40]
    recipe = tfmiaq.TrainingRecipe(epochs=3, learning_rate=0.1, batch_size=40, **fields)
    model = _dense()
    start = model.get_weights()
    whole = recipe.fit(model, x, y).get_weights()
    model.set_weights(start)
    monkeypatch.setattr(recipes, "LARGE_BYTES", 1)
    made = []
    monkeypatch.setattr(tf, "constant", lambda value, *more, f=tf.constant: (made.append(np.shape(value)), f(value))[1])
    for one, other in zip(whole, recipe.fit(model, x, y).get_weights()):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert x.shape not in made and y.shape in made
    recipe = tfmiaq.TrainingRecipe(epochs=8, learning_rate=0.1, **fields)
    model = recipe.fit(_dense(), digits.x_train, digits.y_train)
    assert int(model.optimizer.iterations) == 8 * -(-len(digits.y_train) // recipe.batch_size)
    assert (outputs_of(model, digits.x_train).argmax(1) == digits.y_train).mean() > 0.7


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8", ">i4"])
def test_large_records_may_have_bytes_in_any_order(dtype, digits, monkeypatch):
    monkeypatch.setattr(recipes, "LARGE_BYTES", 1)
    x = np.round(digits.x_train[:64] * 16)
    recipe = tfmiaq.TrainingRecipe(epochs=1, mixup=0.4)
    start = _dense().get_weights()
    found = []
    for given in (x.astype(np.dtype(dtype).newbyteorder("=")), x.astype(dtype)):
        model = _dense()
        model.set_weights(start)
        keras.utils.set_random_seed(0)
        found.append(recipe.fit(model, given, digits.y_train[:64]).get_weights())
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)
    assert any(np.abs(one - other).max() > 1e-4 for one, other in zip(start, found[0]))


@pytest.mark.parametrize("limit", [1, 2**28], ids=["large", "small"])
@pytest.mark.parametrize("fields", [{}, {"mixup": 0.4}], ids=["plain", "changed"])
def test_records_are_not_kept_after_a_training(fields, limit, digits, monkeypatch):
    """TensorFlow keeps the Python functions of data sets for as long as the process lives."""
    monkeypatch.setattr(recipes, "LARGE_BYTES", limit)
    x = digits.x_train[:64].copy()
    at = weakref.ref(x)
    model = tfmiaq.TrainingRecipe(epochs=1, **fields).fit(_dense(), x, digits.y_train[:64])
    del x
    gc.collect()
    assert at() is None and model.optimizer is not None


@pytest.mark.parametrize("mixup", [-0.1, 0.001, True, "a lot", float("nan")])
def test_a_mixup_out_of_range_raises(mixup):
    with pytest.raises(ValueError, match=r"Expected mixup to be a finite number of at least 0.01, or 0. Received"):
        tfmiaq.TrainingRecipe(mixup=mixup)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "TrainingRecipe: Expected epochs to be an integer of at least 1. Received 0"),
        ({"learning_rate": 0}, "Expected learning_rate to be a finite number above 0. Received 0"),
        ({"batch_size": 1.5}, "Expected batch_size to be an integer of at least 1. Received 1.5"),
        (
            {"weight_decay": -1},
            "Expected weight_decay to be a finite number of at least 0, or None. Received -1",
        ),
        ({"augment": "flip"}, "Expected augment to be a Keras layer or None. Received 'flip'"),
        ({"epochs": "many", "batch_size": 0, "mixup": 2j}, "Expected epochs .* Expected batch_size .* Expected mixup"),
    ],
)
def test_fields_are_checked_when_a_recipe_is_made(fields, message):
    with pytest.raises(ValueError, match=message):
        tfmiaq.TrainingRecipe(**fields)


def test_numpy_numbers_are_plain_fields():
    recipe = tfmiaq.TrainingRecipe(np.int64(3), np.float64(0.1), np.int32(8), weight_decay=np.float64(0.5))
    assert recipe == tfmiaq.TrainingRecipe(3, 0.1, 8, weight_decay=0.5)
    assert type(recipe.epochs) is int
    assert fingerprint(recipe) == fingerprint(tfmiaq.TrainingRecipe(3, 0.1, 8, weight_decay=0.5))


_SUBCLASS = """
import dataclasses
import tfmiaq

RATE = {rate}

@dataclasses.dataclass(frozen=True)
class Own(tfmiaq.TrainingRecipe):
    patience: int = 3

    def fit(self, model, x, y, callbacks=()):
        return self.prepare(super().fit(model, x * RATE, y, callbacks))

    def prepare(self, model):
        return model{suffix}
"""


def _own(rate=1, suffix="", **fields):
    names = {"__name__": __name__}
    exec(_SUBCLASS.format(rate=rate, suffix=suffix), names)
    return names["Own"](**fields)


def test_a_subclass_counts_by_the_code_of_its_methods():
    known = fingerprint(_own())
    assert known == fingerprint(_own())
    others = [_own(rate=2), _own(suffix=" or None"), _own(patience=4), _own(epochs=3), tfmiaq.TrainingRecipe()]
    assert len({known, *map(fingerprint, others)}) == 6


def test_recipes_do_without_tensorflow():
    code = (
        "import sys; from tfmiaq.training import CrossDistillation, TrainingRecipe; TrainingRecipe(); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize(
    "options", [{}, {"mixup": 0.4}, {"dp": tfmiaq.DPSGD(clip=1.0)}], ids=["plain", "mixup", "clipped"]
)
def test_a_model_of_one_output_is_trained_on_zeros_and_ones(activation, options):
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)

    def build():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation=activation)])

    recipe = tfmiaq.TrainingRecipe(epochs=20, learning_rate=0.5, **options)
    keras.utils.set_random_seed(0)
    for model in (recipe.fit(build(), x, y), tfmiaq.FloatTraining(build, recipe)(x, y)):
        outputs = outputs_of(model, x)[:, 0]
        assert np.mean((outputs > (0.5 if activation else 0)) == y) > 0.9
    with pytest.raises(ValueError, match=r"The model has one output, .* Received labels from 0 to 2"):
        recipe.fit(build(), x, y * 2)
    quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(8, 8))
    assert layer_graph.ends_in_sigmoid(quantized) == (activation == "sigmoid")
