"""Privacy-aware losses against what their formulas say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import outputs_of, tiny_model

import tfmiaq
from tfmiaq import losses
from tfmiaq._backend import keras, tf

LOSSES = [losses.RelaxLoss(0.5), losses.ConfidencePenalty(0.3), losses.HighEntropyLabels(0.7, 0.01)]


def _softmax(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return generator.integers(0, 4, 32), generator.normal(0, 2, (32, 4)).astype(np.float32)


def test_the_confidence_penalty_is_its_formula(batch):
    labels, logits = batch
    p = _softmax(logits)
    expected = -np.log(p[np.arange(32), labels]).mean() + 0.3 * (p * np.log(p)).sum(1).mean()
    assert float(losses.ConfidencePenalty(0.3, from_logits=True)(labels, logits)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("classes", [2, 10, 30])
def test_labels_of_high_entropy_have_that_entropy(classes, gamma):
    p = losses.high_entropy_label(classes, gamma)
    label = np.full(classes, (1 - p) / (classes - 1))
    label[0] = p
    entropy = -sum(share * np.log(share) for share in label if share > 0)
    assert entropy == pytest.approx(gamma * np.log(classes), abs=1e-6)
    assert p >= 1 / classes - 1e-12


def test_high_entropy_labels_are_their_own_best_prediction():
    loss = losses.HighEntropyLabels(0.7, alpha=0.0)
    own = losses.high_entropy_label(4, 0.7)
    best = np.full((1, 4), (1 - own) / 3, np.float32)
    best[0, 2] = own
    assert float(loss([2], best)) == pytest.approx(0, abs=1e-5)
    assert float(loss([2], np.eye(4, dtype=np.float32)[[2]])) > 0.5


def _gradients(loss, labels, logits, draws=40):
    logits = tf.Variable(logits)
    found = set()
    for _ in range(draws):
        with tf.GradientTape() as tape:
            value = loss(labels, logits)
        found.add(tuple(np.round(tape.gradient(value, logits).numpy().ravel(), 5)))
    return [np.reshape(gradient, logits.shape) for gradient in found]


def test_relax_loss_above_its_level_is_a_cross_entropy(batch):
    labels, logits = batch
    p = _softmax(logits)
    assert -np.log(p[np.arange(32), labels]).mean() > 0.5
    (gradient,) = _gradients(losses.RelaxLoss(0.5, from_logits=True), labels, logits)
    np.testing.assert_allclose(gradient, (p - np.eye(4)[labels]) / 32, atol=2e-5)


def test_relax_loss_below_its_level_climbs_or_flattens():
    labels = np.arange(4)
    logits = 6 * np.eye(4, dtype=np.float32)
    logits[0, 1] = 4
    p = _softmax(logits)
    found = _gradients(losses.RelaxLoss(2.0, from_logits=True), labels, logits)
    assert len(found) == 2
    climbing = -(p - np.eye(4)) / 4
    own = p[np.arange(4), labels][:, None]
    flattening = (p - np.where(np.eye(4) == 1, own, (1 - own) / 3)) / 4
    for expected in (climbing, flattening):
        assert min(np.abs(gradient - expected).max() for gradient in found) < 2e-5


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_labels_may_be_integers_or_one_hot(loss, batch):
    labels, logits = batch
    p = _softmax(logits)
    values = []
    for given in (labels, labels[:, None], np.eye(4)[labels].astype(np.float32)):
        tf.random.set_seed(0)
        values.append(float(loss(given, p)))
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_model_that_trained_with_it_is_saved_and_loaded(loss, tmp_path, digits):
    config = loss.get_config()
    assert type(loss).from_config(config).get_config() == config
    quantized = tfmiaq.quantize_model(tiny_model())
    quantized.compile("adam", type(loss)(**{**config, "from_logits": True}), run_eagerly=True)
    history = quantized.fit(digits.x_train[:64], digits.y_train[:64], verbose=0).history
    assert np.isfinite(history["loss"]).all()
    quantized.save(tmp_path / "model.keras")
    loaded = tfmiaq.load_model(str(tmp_path / "model.keras"))
    assert type(loaded.loss) is type(loss)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.RelaxLoss(-1), "Expected alpha to be a finite number of at least 0. Received -1"),
        (lambda: losses.ConfidencePenalty("much"), "Expected beta to be a finite number of at least 0. Received .much"),
        (lambda: losses.Distillation(0), "Expected temperature to be a finite number of at least 1e-06. Received 0"),
        (lambda: losses.HighEntropyLabels(2, -1), "Expected gamma to be .* Expected alpha to be"),
        (lambda: losses.high_entropy_label(1, 0.5), "Expected classes to be an integer of at least 2. Received 1"),
        (lambda: losses.HighEntropyLabels(1.5), "Expected gamma to be a finite number from 0 to 1. Received 1.5"),
        (lambda: losses.HighEntropyLabels(alpha=-1), "Expected alpha to be a finite number of at least 0. Received -1"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("loss", [*LOSSES, losses.Distillation(2.0)], ids=lambda loss: loss.name)
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("shape", [(32,), (32, 1)])
def test_one_unit_is_the_second_of_two_classes(loss, from_logits, shape):
    generator = np.random.default_rng(0)
    labels, logits = generator.integers(0, 2, 32), generator.normal(0, 2, (32, 1)).astype(np.float32)
    both = np.concatenate([0 * logits, logits], 1)
    one, two = (logits, both) if from_logits else (_softmax(both)[:, 1:], _softmax(both))
    loss = type(loss).from_config({**loss.get_config(), "from_logits": from_logits})
    tf.random.set_seed(1)
    found = float(loss(labels.reshape(shape), one))
    tf.random.set_seed(1)
    assert found == pytest.approx(float(loss(np.eye(2, dtype=np.float32)[labels], two)), rel=1e-4)
    assert found > 0.01 or isinstance(loss, losses.ConfidencePenalty)


def test_relax_loss_keeps_a_model_from_sure_outputs(digits):
    """Trained until it classifies all its records, it still holds the loss at its level."""
    x, y = digits.x_train[:60], digits.y_train[:60]
    found = {}
    for name, loss in (
        ("plain", keras.losses.SparseCategoricalCrossentropy(True)),
        ("relaxed", losses.RelaxLoss(0.5, True)),
    ):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
        model.compile(keras.optimizers.Adam(0.05), loss)
        model.fit(x, y, epochs=60, verbose=0)
        p = _softmax(outputs_of(model, x))
        found[name] = -np.log(p[np.arange(60), y]).mean(), (p.argmax(1) == y).mean()
    assert found["plain"][0] < 0.1
    assert 0.25 < found["relaxed"][0] < 1.0
    assert found["relaxed"][1] > 0.9


def test_a_fresh_process_loads_a_model_that_trained_with_a_loss_of_ours(tmp_path):
    """It imports nothing but tfmiaq, and passes no custom objects."""
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile("sgd", losses.RelaxLoss(0.5, True), run_eagerly=True)
    path = str(tmp_path / "model.h5")
    model.save(path)
    code = f"import tfmiaq; assert tfmiaq.keras.models.load_model({path!r}).loss.alpha == 0.5"
    subprocess.run([sys.executable, "-c", code], check=True)
