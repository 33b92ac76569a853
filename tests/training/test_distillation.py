"""Distillation, and stopping where leakage outgrows accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import outputs_of, tiny_model
from scipy import special

import tfmiaq
from tfmiaq import losses
from tfmiaq._backend import keras
from tfmiaq.quantization.layer_graph import ends_in_softmax


def _dense(softmax=False):
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential([*layers, keras.layers.Softmax()] if softmax else layers)


@pytest.mark.parametrize(("softmax", "quantized"), [(False, True), (True, False)])
def test_a_student_learns_its_teachers_outputs(trained, digits, softmax, quantized):
    keras.utils.set_random_seed(0)
    student = _dense(softmax)
    student = tfmiaq.quantize_model(student, tfmiaq.BitwidthPolicy.uniform(4, 8)) if quantized else student
    reference = digits.x_test[:400]
    recipe = tfmiaq.TrainingRecipe(epochs=15, learning_rate=0.05)
    assert tfmiaq.distill(trained, student, reference, recipe=recipe, temperature=2.0) is student
    losses_of_epochs = student.history.history["loss"]
    assert losses_of_epochs[-1] < losses_of_epochs[0]
    agreed = outputs_of(student, reference).argmax(1) == outputs_of(trained, reference).argmax(1)
    assert agreed.mean() > 0.9


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_student_of_one_unit_learns_the_probability_of_class_1(activation):
    x = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    probability = special.expit(2 * x[:, :1] - x[:, 1:2])
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation=activation)])
    recipe = tfmiaq.TrainingRecipe(epochs=60, learning_rate=0.3)
    tfmiaq.distill(lambda _: np.concatenate([1 - probability, probability], 1), student, x, recipe=recipe)
    found = outputs_of(student, x)
    assert np.abs((found if activation else special.expit(found)) - probability).max() < 0.05


def test_the_records_of_lowest_entropy_are_kept(trained, digits):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(batch)

    recipe = tfmiaq.TrainingRecipe(epochs=1, batch_size=16)
    tfmiaq.distill(trained, _dense(), digits.x_test[:200], recipe=recipe, keep=0.32, callbacks=[Watch()])
    assert len(seen) == 4


def test_a_loss_of_soft_labels_is_least_at_the_teachers_output():
    loss = losses.Distillation(temperature=3.0, from_logits=True)
    logits = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    soft = np.exp(logits / 3) / np.exp(logits / 3).sum(1, keepdims=True)
    other = logits + np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    assert float(loss(soft, logits)) < float(loss(soft, other))
    assert float(loss(soft, logits)) == pytest.approx(float(loss(soft, logits + 7)), rel=1e-5)


@pytest.mark.parametrize("ending", [{"activation": "softmax"}, {}])
def test_a_softmax_is_seen_through_a_quantized_end(ending):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, **ending)])
    assert ends_in_softmax(model) == bool(ending)
    assert ends_in_softmax(tfmiaq.quantize_model(model)) == bool(ending)


@pytest.mark.parametrize(
    ("teacher", "arguments", "error", "message"),
    [
        (None, {"student": 3}, TypeError, "Expected a keras.Model as student. Received int"),
        (None, {"keep": 0}, ValueError, "Expected keep to be a finite number above 0 and up to 1. Received 0"),
        (
            None,
            {"temperature": 0},
            ValueError,
            r"Expected temperature to be .* at least 1e-06. Received 0",
        ),
        (None, {"temperature": "warm", "keep": 2}, ValueError, "Expected temperature .* Expected keep"),
        (None, {"recipe": 3}, TypeError, "distill: Expected a TrainingRecipe or None as recipe. Received 3"),
        (lambda x: np.zeros((len(x), 3)), {}, ValueError, "The teacher has 3 classes, the student 10"),
        (lambda x: np.zeros(len(x), int), {}, ValueError, "Received one that gives labels"),
        (None, {"x": np.full((5, 8, 8, 1), np.nan)}, ValueError, "distill: records has NaN or infinity in 5 records"),
        (None, {"x": np.zeros((0, 8, 8, 1))}, ValueError, "holds no records"),
    ],
)
def test_what_cannot_be_distilled_raises(teacher, arguments, error, message, digits):
    given = {"student": _dense(), "x": digits.x_test[:20], **arguments}
    with pytest.raises(error, match=message):
        tfmiaq.distill(teacher or (lambda x: np.zeros((len(x), 10))), **given)


class _Remembers:
    """A model that is certain of the labels of records that it was trained on, and uniform on all others."""

    made = 0

    def __call__(self, x, y):
        type(self).made += 1
        seen = {record.tobytes(): label for record, label in zip(x, y)}

        def predict(records):
            found = np.full((len(records), 10), 0.1)
            for row, record in zip(found, records):
                if record.tobytes() in seen:
                    row[:] = np.eye(10)[seen[record.tobytes()]]
            return found

        return predict


@pytest.mark.parametrize(("folds", "repeats"), [(2, 1), (5, 3)])
def test_no_teacher_was_trained_on_the_records_that_it_labels(digits, folds, repeats):
    predictions = tfmiaq.out_of_fold_predictions(
        _Remembers(), digits.x_train[:83], digits.y_train[:83], folds=folds, repeats=repeats
    )
    assert predictions.shape == (83, 10)
    np.testing.assert_allclose(predictions, 0.1, atol=1e-6)


def test_predictions_belong_to_their_records_and_finished_teachers_are_kept(digits, tmp_path):
    x, y = digits.x_train[:60], digits.y_train[:60]
    table = {record.tobytes(): row for record, row in zip(x, np.random.default_rng(0).dirichlet(np.ones(10), 60))}

    class Knows:
        def __call__(self, x, y):
            if (tmp_path / "stop").exists() and len(list(tmp_path.glob("*.npz"))) >= 2:
                raise KeyboardInterrupt
            assert not (tmp_path / "done").exists(), "trained again"
            return lambda records: np.array([table[record.tobytes()] for record in records])

    (tmp_path / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        tfmiaq.out_of_fold_predictions(Knows(), x, y, folds=4, cache=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    (tmp_path / "stop").unlink()
    for _ in range(2):
        predictions = tfmiaq.out_of_fold_predictions(Knows(), x, y, folds=4, cache=tmp_path)
        np.testing.assert_allclose(predictions, [table[record.tobytes()] for record in x], atol=1e-6)
        (tmp_path / "done").touch()


def test_a_student_is_the_same_whether_its_teachers_are_trained_or_read(digits, tmp_path):
    def train(x, y):
        return lambda records: np.eye(10)[np.arange(len(records)) % 10]

    def distilled():
        keras.utils.set_random_seed(0)
        student, options = _dense(), tfmiaq.CrossDistillation(2)
        x, y = digits.x_train[:40], digits.y_train[:40]
        recipe = tfmiaq.TrainingRecipe(epochs=1, batch_size=16, learning_rate=0.1)
        return tfmiaq.cross_distill(train, student, x, y, options, recipe=recipe, cache=tmp_path).get_weights()

    for trained, read in zip(distilled(), distilled()):
        np.testing.assert_array_equal(trained, read)


def _fit(x, y):
    return tfmiaq.TrainingRecipe(epochs=15, learning_rate=0.1, batch_size=16).fit(tiny_model(), x, y)


def test_a_cross_distilled_model_is_no_more_confident_on_its_members(digits):
    members, non_members = (digits.x_train[:200], digits.y_train[:200]), (digits.x_test[:200], digits.y_test[:200])
    keras.utils.set_random_seed(0)
    plain = _fit(*members)
    recipe = tfmiaq.TrainingRecipe(epochs=40, learning_rate=0.1, batch_size=16)
    student = tfmiaq.cross_distill(
        _fit, tfmiaq.quantize_model(tiny_model()), *members, tfmiaq.CrossDistillation(4, 2), recipe=recipe
    )
    reports = [
        tfmiaq.audit(model, members, non_members, ["confidence", "gap"], verbose=False) for model in (plain, student)
    ]
    assert reports[1].member_accuracy - reports[1].non_member_accuracy < 0.06
    assert reports[1]["confidence"].auc < reports[0]["confidence"].auc + 0.02
    assert reports[1].non_member_accuracy > reports[0].non_member_accuracy - 0.05


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"student": 3}, TypeError, "Expected a keras.Model as student. Received int"),
        ({"options": tfmiaq.CrossDistillation(21)}, ValueError, "Expected folds to be an integer from 2 to 20. .* 21"),
        ({"options": 5}, TypeError, "cross_distill: Expected a CrossDistillation or None as options. Received 5"),
        ({"recipe": 5}, TypeError, "cross_distill: Expected a TrainingRecipe or None as recipe. Received 5"),
        ({"seed": -1}, ValueError, "Expected seed to be an integer from 0 to"),
        ({"train_fn": 3}, TypeError, "Expected a function from .x, y. to a model. Received 3"),
        ({"train_fn": lambda x, y: lambda x: np.zeros((len(x), 4))}, ValueError, "each of 10 classes. Received 4"),
        ({"train_fn": lambda x, y: lambda x: np.zeros((len(x), 12))}, ValueError, "have 12 classes, the student 10"),
        ({"train_fn": lambda x, y: lambda x: np.zeros(len(x), int)}, ValueError, "Received one that gives labels"),
        ({"y": np.zeros(5, int)}, ValueError, "cross_distill: train has 20 records and 5 labels"),
        ({"y": np.arange(20)}, ValueError, "labels go up to 19, and the student has 10 classes"),
    ],
)
def test_what_cannot_be_cross_distilled_raises(arguments, error, message, digits):
    given = {"train_fn": _Remembers(), "student": _dense(), "x": digits.x_train[:20], "y": np.arange(20) % 10}
    given |= arguments
    with pytest.raises(error, match=message):
        tfmiaq.cross_distill(**given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"teacher_weight": 1.5},
            "CrossDistillation: Expected teacher_weight to be .* from 0 to 1. Received 1.5",
        ),
        ({"folds": 1}, "Expected folds to be an integer of at least 2. Received 1"),
        ({"repeats": 0}, "Expected repeats to be an integer from 1 to 1000. Received 0"),
        ({"folds": 2.0, "repeats": True}, "Expected folds .* Expected repeats"),
    ],
)
def test_options_of_cross_distillation_are_checked_when_they_are_made(fields, message):
    with pytest.raises(ValueError, match=message):
        tfmiaq.CrossDistillation(**fields)


def test_numpy_numbers_are_options():
    options = tfmiaq.CrossDistillation(np.int64(5), teacher_weight=np.float32(0.5))
    assert options == tfmiaq.CrossDistillation(5, teacher_weight=0.5)
    expected = "folds=5, repeats=1, teacher_weight=0.5, left_out=1, copies=0, change=None"
    assert repr(options) == f"CrossDistillation({expected})"


def test_training_stops_where_leakage_outgrows_accuracy(digits):
    """On labels of chance every gain is leakage: the best epoch is the first, or near it."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    sets = [
        (digits.x_train[:150], generator.integers(0, 10, 150)),
        (digits.x_test[:150], generator.integers(0, 10, 150)),
    ]
    stopping = tfmiaq.callbacks.LeakageEarlyStopping(*sets, weight=2.0, patience=4)
    model = tiny_model()
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(*sets[0], epochs=60, verbose=0, callbacks=[stopping]).history
    scores = history["leakage_score"]
    assert len(scores) < 60
    assert stopping.best_epoch == int(np.argmax(scores))
    assert len(scores) == stopping.best_epoch + 5
    accuracy = (outputs_of(model, sets[1][0]).argmax(1) == sets[1][1]).mean()
    assert accuracy == pytest.approx(history["leakage_accuracy"][stopping.best_epoch], abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1}, "weight to be a finite number of at least 0. Received -1"),
        ({"patience": 0}, "patience to be an integer of at least 1. Received 0"),
    ],
)
def test_bad_arguments_of_stopping_raise(arguments, message, digits):
    records = digits.x_train[:20], digits.y_train[:20]
    with pytest.raises(ValueError, match=message):
        tfmiaq.callbacks.LeakageEarlyStopping(records, records, **arguments)


def test_no_teacher_has_seen_another_record_of_the_group():
    groups = np.repeat(np.arange(20), 3)[np.random.default_rng(0).permutation(60)]
    x, y = np.arange(60.0)[:, None], np.arange(60) % 2

    def train(x, y):
        known = groups[x[:, 0].astype(int)]
        return lambda records: np.eye(2)[np.isin(groups[records[:, 0].astype(int)], known).astype(int)] * 20

    for repeats in (1, 2):
        found = tfmiaq.out_of_fold_predictions(train, x, y, folds=4, repeats=repeats, groups=groups, verbose=False)
        assert (found.argmax(1) == 0).all()
    # Without groups nearly every teacher has.
    assert tfmiaq.out_of_fold_predictions(train, x, y, folds=4, verbose=False).argmax(1).mean() > 0.8
    with pytest.raises(ValueError, match="at least 5 groups, so that none is split over 5 folds"):
        tfmiaq.out_of_fold_predictions(train, x, y, groups=np.arange(60) % 2, verbose=False)
    with pytest.raises(ValueError, match="Expected groups to be one value for each of 60 records"):
        tfmiaq.out_of_fold_predictions(train, x, y, groups=np.arange(9), verbose=False)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_a_student_of_one_output_learns_what_its_teachers_say_of_class_1(activation):
    x = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)

    def build():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation=activation)])

    recipe = tfmiaq.TrainingRecipe(epochs=10, learning_rate=0.5)
    keras.utils.set_random_seed(0)
    teacher = tfmiaq.FloatTraining(build, recipe)
    options = tfmiaq.CrossDistillation(folds=3)
    predictions = tfmiaq.out_of_fold_predictions(teacher, x, y, folds=3, verbose=False)
    assert predictions.shape == (120, 2)
    np.testing.assert_allclose(predictions.sum(1), 1, atol=1e-6)
    assert (predictions.argmax(1) == y).mean() > 0.9
    student = tfmiaq.cross_distill(teacher, build(), x, y, options, recipe=recipe, verbose=False)
    logits = tfmiaq.signals.predict_logits(student, x)
    np.testing.assert_array_equal(logits[:, 0], 0)
    assert np.abs(special.expit(logits[:, 1]) - predictions[:, 1]).mean() < 0.1
    with pytest.raises(ValueError, match="The labels go up to 2, and the student has 2 classes"):
        tfmiaq.cross_distill(teacher, build(), x, y * 2, options, recipe=recipe)
    # A function of probabilities is the same target.
    found = tfmiaq.signals.predict_logits(lambda x: special.expit(logits[:, 1]), x)
    # Beyond 15 a probability is rounded to the nearest step of 1e-7.
    np.testing.assert_allclose(found.clip(-15, 15), logits.clip(-15, 15), atol=1e-4)
