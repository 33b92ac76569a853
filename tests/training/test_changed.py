"""Changed copies of records: what they are, who labels them, and what the student sees."""

from __future__ import annotations

import numpy as np
import pytest

import tfmiaq
from tfmiaq._backend import keras
from tfmiaq.caching import own_random_state
from tfmiaq.training import FeaturesDropped, FeaturesExchanged, ImagesShifted, out_of_fold_predictions, repeated
from tfmiaq.training.changed import change_for
from tfmiaq.training.distillation import labelled

layers = keras.layers


def _bits(count=400, features=50):
    return (np.random.default_rng(0).random((count, features)) < 0.5).astype(np.float32)


def test_dropped_features_are_0_and_all_others_stay():
    x = _bits()
    copies = FeaturesDropped(0.3)(x, 0)
    assert copies.dtype == x.dtype
    assert set(np.unique(copies - x)) == {-1.0, 0.0}
    assert copies.sum() / x.sum() == pytest.approx(0.7, abs=0.02)
    np.testing.assert_array_equal(copies, FeaturesDropped(0.3)(x, 0))
    assert (copies != FeaturesDropped(0.3)(x, 1)).any()


def test_exchanged_features_are_those_of_many_other_records():
    x = np.arange(400 * 50).reshape(400, 50)
    copies = FeaturesExchanged(0.2)(x, 3)
    assert copies.dtype == x.dtype
    assert (copies != x).mean() == pytest.approx(0.2, abs=0.02)
    assert (copies % 50 == x % 50).all()
    others = [len(set(copy[copy != record] // 50)) / (copy != record).sum() for record, copy in zip(x, copies)]
    assert np.mean(others) > 0.9


def test_images_are_mirrored_and_shifted():
    x = np.zeros((300, 16, 8, 1), np.float32)
    x[:, 8, 4] = 1.0
    for mirror, columns in ((False, {3, 4, 5}), (True, {2, 3, 4, 5})):
        copies = ImagesShifted(mirror=mirror)(x, 0)
        _, down, right, _ = np.nonzero(copies)
        assert len(down) == 300
        assert set(down) == {6, 7, 8, 9, 10}
        assert set(right) == columns
    np.testing.assert_array_equal(ImagesShifted(0.0)(x, 1), x)
    assert (ImagesShifted()(x[:, 6:11, 2:7], 0) != x[:, 6:11, 2:7]).any()
    one_side = np.concatenate([x, x[:, :, ::-1]])
    assert 200 < (ImagesShifted(0.0, True)(one_side, 1) != one_side).any((1, 2, 3)).sum() < 400


def test_changes_go_by_the_records():
    bits = _bits()
    assert change_for(bits) == FeaturesDropped()
    assert change_for(bits.astype(int)) == FeaturesDropped()
    assert change_for(bits * 2) == FeaturesExchanged()
    assert change_for(np.zeros((3, 8, 8, 1))) == ImagesShifted()


def _of_seen(x, y):
    """A teacher whose outputs say how many features a record has."""

    def outputs(records):
        ones = records.sum(1, keepdims=True)
        scores = np.concatenate([ones, np.zeros_like(ones)], 1) + 1e-3
        return scores / scores.sum(1, keepdims=True)

    return outputs


def test_each_copy_has_the_label_of_its_own():
    x = _bits(30)
    y = np.arange(30) % 2
    copies = np.stack([x, np.zeros_like(x), FeaturesDropped(0.9)(x, 0)])
    found = out_of_fold_predictions(_of_seen, x, y, copies=copies, repeats=2, verbose=False)
    assert found.shape == (3, 30, 2)
    np.testing.assert_allclose(found[0], out_of_fold_predictions(_of_seen, x, y, repeats=2, verbose=False))
    np.testing.assert_allclose(found[1], 0.5)
    # The teachers' outputs are softened logits, which grow with a record's number of features.
    assert (found[0][:, 0] > found[2][:, 0]).all()


def test_copies_are_of_all_records():
    x, y = _bits(30), np.arange(30) % 2
    with pytest.raises(ValueError, match=r"copies of shape \(k, 30, 50\)"):
        out_of_fold_predictions(_of_seen, x, y, copies=x, verbose=False)
    with pytest.raises(ValueError, match=r"copies of shape \(k, 30, 50\)"):
        out_of_fold_predictions(_of_seen, x, y, copies=np.zeros((0, 30, 50)), verbose=False)


def _in_place(x, number):
    x += 1
    return x


def _build():
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(8, activation="relu")(inputs)))


RECIPE = tfmiaq.TrainingRecipe(epochs=4, batch_size=12)
TEACHER = tfmiaq.FloatTraining(_build, tfmiaq.TrainingRecipe(epochs=1))


def _records():
    generator = np.random.default_rng(0)
    return generator.normal(size=(24, 6)).astype(np.float32), np.arange(24) % 3


def test_a_student_has_as_many_steps_on_copies_alone(monkeypatch):
    seen = []
    fit = keras.Model.fit

    def noted(self, x, y=None, **more):
        seen.append((np.asarray(x), np.asarray(y), more["epochs"]))
        return fit(self, x, y, **more)

    x, y = _records()
    options = tfmiaq.CrossDistillation(2, copies=2, change=lambda records, number: records + 1 + number)
    student = _build()
    teacher = lambda x, y: lambda records: np.full((len(records), 3), 1 / 3)  # noqa: E731
    monkeypatch.setattr(keras.Model, "fit", noted)
    tfmiaq.cross_distill(teacher, student, x, y, options, recipe=RECIPE, verbose=False)
    ((records, labels, epochs),) = seen
    assert records.shape == (48, 6)
    assert epochs == 2
    assert int(student.optimizer.iterations) == 4 * 2
    np.testing.assert_allclose(labels, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(records, np.concatenate([x + 1, x + 2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("records", "batch_size", "epochs"), [(24, 1600, 6), (24, 12, 6), (1700, 1600, 2), (25, 12, 4)]
)
def test_steps_stay_as_many_whatever_the_batch(records, batch_size, epochs):
    recipe = tfmiaq.TrainingRecipe(epochs=epochs, batch_size=batch_size)
    steps = epochs * -(-records // batch_size)
    found = tfmiaq.CrossDistillation(copies=2).student_recipe(recipe, records)
    assert abs(found.epochs * -(-2 * records // found.batch_size) - steps) <= epochs / 2


@pytest.mark.parametrize("units", [1, 3])
def test_copies_mix_with_the_true_labels(units):
    x, _ = _records()
    y = np.arange(24) % max(units, 2)
    classes = max(units, 2)
    uniform = lambda x, y: lambda records: np.full((len(records), classes), 1 / classes)  # noqa: E731
    options = tfmiaq.CrossDistillation(2, copies=3, teacher_weight=0.5)
    records, labels = labelled(uniform, x, y, units, options, verbose=False)
    assert records.shape == (72, 6)
    mixed = 0.5 / classes + 0.5 * np.eye(classes)[np.tile(y, 3)]
    np.testing.assert_allclose(labels, mixed[:, 1:] if units == 1 else mixed, rtol=1e-6)


def test_copies_go_with_groups_and_left_out():
    x = _bits(30)
    y, groups = np.arange(30) % 2, np.arange(30) // 2
    copies = np.stack([x, x])
    given = {"folds": 5, "left_out": 2, "repeats": 2, "groups": groups, "verbose": False}
    found = out_of_fold_predictions(_of_seen, x, y, copies=copies, **given)
    np.testing.assert_allclose(found[1], out_of_fold_predictions(_of_seen, x, y, **given), rtol=1e-6)


@pytest.mark.parametrize("policy", [None, tfmiaq.BitwidthPolicy.uniform(2, 4)])
def test_first_weights_are_shuffled_by_a_secret(policy):
    repeated.forget()
    x, y = _records()
    # A rate of next to nothing leaves the first weights.
    recipe = tfmiaq.TrainingRecipe(epochs=1, learning_rate=1e-12)
    stage = tfmiaq.CrossDistilledTraining(policy, recipe, TEACHER, tfmiaq.CrossDistillation(2))
    kernels = []
    for secret in (None, 2**100, 2**100, 2**100 + 1):
        with own_random_state(0):
            model = stage(_build(), x, y, secret=secret)
        kernels.append(next(np.array(weights) for weights in model.get_weights() if weights.shape == (6, 8)))
    plain, one, again, other = kernels
    np.testing.assert_array_equal(one, again)
    for first, second in ((plain, one), (one, other)):
        assert (first != second).mean() > 0.9
        np.testing.assert_allclose(np.sort(first, None), np.sort(second, None), atol=1e-6)
    repeated.forget()


@pytest.mark.parametrize("policy", [None, tfmiaq.BitwidthPolicy.uniform(2, 4)])
def test_a_stage_on_copies_gives_the_same_model_with_and_without_its_cache(policy, tmp_path):
    repeated.forget()
    x, y = _records()
    options = tfmiaq.CrossDistillation(2, copies=4)
    weights = []
    for cache in (None, str(tmp_path), str(tmp_path)):
        stage = tfmiaq.CrossDistilledTraining(policy, RECIPE, TEACHER, options, cache)
        if cache:
            stage.prepare(x, y, False)
        with own_random_state(0):
            weights.append(stage(_build(), x, y).get_weights())
    for other in weights[1:]:
        for one, two in zip(weights[0], other):
            np.testing.assert_allclose(one, two, atol=1e-6)
    repeated.forget()


def test_another_seed_gives_other_copies():
    x = _records()[0]
    options = tfmiaq.CrossDistillation(2, copies=3)
    one, two = options.changed(x, 0), options.changed(x, 1)
    assert not any(np.array_equal(a, b) for a in one for b in two)
    assert tfmiaq.CrossDistillation().changed(x, 0) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmiaq.CrossDistillation(copies=-1), "copies"),
        (lambda: tfmiaq.CrossDistillation(change=FeaturesDropped()), "beside copies of at least 1"),
        (lambda: tfmiaq.CrossDistillation(copies=2, change="noise"), "a function from records"),
        (lambda: FeaturesDropped(0.0), "part"),
        (lambda: FeaturesExchanged(0.6), "part"),
        (lambda: FeaturesExchanged()(_bits()[:, :1], 0), "two features or more"),
        (lambda: FeaturesExchanged()(np.array([["a", "b"]]), 0), "records of numbers"),
        (lambda: FeaturesDropped()(np.array(["a"]), 0), "records of numbers"),
        (lambda: ImagesShifted(mirror=None), "mirror to be True or False"),
        (lambda: tfmiaq.CrossDistillation(copies=2, change=_in_place).changed(_bits(), 0), "read-only"),
        (lambda: tfmiaq.CrossDistillation(copies=5).check_recipe(None), "24 or 30 epochs"),
        (
            lambda: out_of_fold_predictions(_of_seen, _bits(9), np.arange(9) % 2, copies=np.full((1, 9, 50), np.nan)),
            "copies of records hold NaN",
        ),
        (lambda: ImagesShifted(-1.0), "distance"),
        (lambda: ImagesShifted()(_bits(), 0), "images"),
        (lambda: tfmiaq.CrossDistillation(copies=2, change=lambda x, _: x[1:]).changed(_bits(), 0), r"\(399, 50\)"),
        (
            lambda: tfmiaq.CrossDistilledTraining(None, RECIPE, TEACHER, tfmiaq.CrossDistillation(copies=3)),
            "divide 4 epochs",
        ),
        (
            lambda: tfmiaq.cross_distill(
                lambda x, y: 1 / 0, _build(), *_records(), tfmiaq.CrossDistillation(copies=3), recipe=RECIPE
            ),
            "divide 4 epochs",
        ),
    ],
)
def test_wrong_copies_are_an_error_before_any_training(make, message):
    with pytest.raises(ValueError, match=message):
        make()
