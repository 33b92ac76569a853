"""How models are trained where nothing else is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import tfmiaq
from tfmiaq._backend import keras
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.training import recipe as recipes


def _dense():
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])


def _augmentation():
    return recipes.flips_and_shifts(0.1)


def test_a_recipe_is_known_again_when_its_layers_are_built(digits):
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
    x, y = (part.numpy() for part in recipes._mixed(labels[:, None, :], labels, 0.4))
    np.testing.assert_allclose(x[:, 0], y, atol=1e-6)
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(y.mean(0), labels.mean(0), atol=0.05)
    # The larger part is below 0.9 as often as in Beta(0.4, 0.4), but for the pairs of one class, one in ten.
    expected = 0.9 * np.diff(stats.beta(0.4, 0.4).cdf([0.1, 0.9]))[0]
    np.testing.assert_allclose(np.mean(y.max(1) < 0.9), expected, atol=0.08)
    # A small alpha leaves nearly each record whole, its own or its partner's.
    assert np.mean(recipes._mixed(labels, labels, 0.01)[1].numpy().max(1) > 0.999) > 0.9


@pytest.mark.parametrize("augment", [None, keras.layers.RandomFlip("horizontal")])
def test_a_recipe_trains_with_mixup(augment, digits):
    keras.utils.set_random_seed(0)
    recipe = tfmiaq.TrainingRecipe(epochs=8, learning_rate=0.1, mixup=0.4, augment=augment)
    model = recipe.fit(_dense(), digits.x_train, digits.y_train)
    assert (model.predict(digits.x_train, verbose=0).argmax(1) == digits.y_train).mean() > 0.8
    assert fingerprint(recipe) != fingerprint(tfmiaq.TrainingRecipe(epochs=8, learning_rate=0.1, augment=augment))


@pytest.mark.parametrize("mixup", [-0.1, 0.001, True, "a lot", float("nan")])
def test_mixup_out_of_range_is_refused(mixup):
    with pytest.raises(ValueError, match="Expected mixup of 0 for none"):
        tfmiaq.TrainingRecipe(mixup=mixup)
