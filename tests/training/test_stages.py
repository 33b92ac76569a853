"""Later stages of a pipeline."""

from __future__ import annotations

import dataclasses

import numpy as np

import tfmiaq
from tfmiaq._backend import keras
from tfmiaq.caching import fingerprint, own_random_state
from tfmiaq.training.stages import CrossDistilledTraining, QuantizedTraining

RECIPE = tfmiaq.TrainingRecipe(epochs=2, batch_size=8)


def _perceptron(x, y):
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Dense(8, activation="relu")(keras.layers.Flatten()(inputs))
    return RECIPE.fit(keras.Model(inputs, keras.layers.Dense(10)(hidden)), x, y)


def _stage(folder, **given):
    options = tfmiaq.CrossDistillation(2)
    given = {"policy": tfmiaq.BitwidthPolicy(), "recipe": RECIPE, "options": options, "cache": str(folder), **given}
    return CrossDistilledTraining(train_fn=_perceptron, **given)


def test_a_student_is_the_same_whether_its_teachers_are_trained_or_found(digits, tmp_path):
    x, y = digits.x_train[:40], digits.y_train[:40]
    model = _perceptron(x, y)
    weights = []
    for _ in range(2):
        with own_random_state(3):
            weights.append(_stage(tmp_path)(model, x, y).get_weights())
    assert len(list(tmp_path.glob("*.npz"))) == 2
    for trained, found in zip(*weights):
        np.testing.assert_array_equal(trained, found)


def test_a_stage_counts_by_everything_but_its_cache(tmp_path):
    known = fingerprint(_stage(tmp_path))
    assert fingerprint(_stage(tmp_path / "moved")) == known
    others = [
        _stage(tmp_path, policy=tfmiaq.BitwidthPolicy.uniform(2, 4)),
        _stage(tmp_path, recipe=tfmiaq.TrainingRecipe()),
        _stage(tmp_path, options=tfmiaq.CrossDistillation(3)),
        QuantizedTraining(tfmiaq.BitwidthPolicy(), RECIPE),
    ]
    assert len({known, *map(fingerprint, others)}) == 5


def test_a_stage_hands_groups_to_its_folds(digits, tmp_path):
    x, y = digits.x_train[:40], digits.y_train[:40]
    groups, seen = np.arange(40) // 4, []
    index = {record.tobytes(): group for record, group in zip(x, groups)}

    def teach(x, y):
        seen.append(np.unique([index[record.tobytes()] for record in x], return_counts=True)[1])
        return lambda records: np.zeros((len(records), 10))

    stage = _stage(tmp_path)
    stage = dataclasses.replace(stage, train_fn=teach)
    stage(_perceptron(x, y), x, y, groups=groups)
    assert len(seen) == 2
    assert all(set(counts) == {4} for counts in seen)
