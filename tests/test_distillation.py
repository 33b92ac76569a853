"""Distillation, and stopping where leakage outgrows accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import tiny_model

import tfmiaq
from tfmiaq import losses
from tfmiaq._backend import keras
from tfmiaq.wiring import answers_probabilities


def _dense(softmax=False):
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential([*layers, keras.layers.Softmax()] if softmax else layers)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_student_learns_its_teachers_answers(trained, digits, softmax, quantized):
    keras.utils.set_random_seed(0)
    student = _dense(softmax)
    student = tfmiaq.quantize_model(student, tfmiaq.BitwidthPolicy.uniform(4, 8)) if quantized else student
    reference = digits.x_test[:400]
    history = tfmiaq.distill(trained, student, reference, temperature=2.0, epochs=15)
    assert history.history["loss"][-1] < history.history["loss"][0]
    agreed = student.predict(reference, verbose=0).argmax(1) == trained.predict(reference, verbose=0).argmax(1)
    assert agreed.mean() > 0.9


def test_the_surest_records_are_kept(trained, digits):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(batch)

    tfmiaq.distill(trained, _dense(), digits.x_test[:200], keep=0.32, epochs=1, batch_size=16, callbacks=[Watch()])
    assert len(seen) == 4


def test_a_loss_of_soft_labels_is_least_at_the_teachers_answer():
    loss = losses.Distillation(temperature=3.0, from_logits=True)
    logits = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    soft = np.exp(logits / 3) / np.exp(logits / 3).sum(1, keepdims=True)
    other = logits + np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    assert float(loss(soft, logits)) < float(loss(soft, other))
    assert float(loss(soft, logits)) == pytest.approx(float(loss(soft, logits + 7)), rel=1e-5)


@pytest.mark.parametrize("ending", [{"activation": "softmax"}, {}])
def test_a_softmax_is_seen_through_a_quantized_end(ending):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, **ending)])
    assert answers_probabilities(model) == bool(ending)
    assert answers_probabilities(tfmiaq.quantize_model(model)) == bool(ending)


@pytest.mark.parametrize(
    ("teacher", "arguments", "error", "message"),
    [
        (None, {"student": 3}, TypeError, "Expected a keras.Model as student. Received int"),
        (None, {"keep": 0}, ValueError, "Expected keep above 0 and up to 1. Received 0"),
        (None, {"temperature": 0}, ValueError, "Expected temperature from"),
        (lambda x: np.zeros((len(x), 3)), {}, ValueError, "The teacher has 3 classes, the student 10"),
        (lambda x: np.zeros(len(x), int), {}, ValueError, "Received one that answers labels"),
        (None, {"x": np.full((5, 8, 8, 1), np.nan)}, ValueError, "NaN or infinity in 5 records"),
        (None, {"x": np.zeros((0, 8, 8, 1))}, ValueError, "holds no records"),
    ],
)
def test_what_cannot_be_distilled_is_refused(teacher, arguments, error, message, digits):
    given = {"student": _dense(), "x": digits.x_test[:20], **arguments}
    with pytest.raises(error, match=message):
        tfmiaq.distill(teacher or (lambda x: np.zeros((len(x), 10))), **given)


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
    accuracy = (model.predict(sets[1][0], verbose=0).argmax(1) == sets[1][1]).mean()
    assert accuracy == pytest.approx(history["leakage_accuracy"][stopping.best_epoch], abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"weight": -1}, "weight of at least 0. Received -1"), ({"patience": 0}, "patience of at least 1. Received 0")],
)
def test_stopping_refuses_bad_arguments(arguments, message, digits):
    records = digits.x_train[:20], digits.y_train[:20]
    with pytest.raises(ValueError, match=message):
        tfmiaq.callbacks.LeakageEarlyStopping(records, records, **arguments)
