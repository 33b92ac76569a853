"""Leakage, epoch by epoch."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import tiny_model

import tfmiaq
from tfmiaq import metrics
from tfmiaq._backend import keras, tf

KEYS = ("leakage_auc", "leakage_advantage", "leakage_gap")


def _memorizer():
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(256, "relu"), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _noise(seed):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(100, 20)).astype(np.float32), generator.integers(0, 2, 100)


def test_a_model_that_memorizes_is_seen_to_leak_more_and_more():
    keras.utils.set_random_seed(0)
    members, non_members = _noise(0), _noise(1)
    monitor = tfmiaq.callbacks.LeakageMonitor(members, non_members)
    history = _memorizer().fit(*members, epochs=30, verbose=0, callbacks=[monitor]).history
    assert all(len(history[key]) == 30 for key in KEYS)
    assert history["leakage_auc"][-1] > 0.75 > history["leakage_auc"][0]
    assert history["leakage_advantage"][-1] > 0.4
    assert history["leakage_gap"][-1] > 0.3


def test_losses_that_fall_late_tell_who_is_exposed():
    """Of records whose label follows from them, those with the wrong one are learnt last, by heart."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    x, wrong = generator.normal(size=(200, 20)).astype(np.float32), np.arange(200) < 10
    members = x, ((x[:, 0] > 0) ^ wrong).astype(int)
    monitor = tfmiaq.callbacks.LeakageMonitor(members, _noise(1), sample=150)
    with pytest.raises(ValueError, match=r"needs two attacked epochs or more\. Received 0"):
        monitor.loss_trace_ranges  # noqa: B018
    _memorizer().fit(*members, epochs=10, verbose=0, callbacks=[monitor])
    ranges, is_wrong = monitor.loss_trace_ranges, wrong[monitor.member_indices]
    assert ranges.shape == (150,)
    assert metrics.auc_estimate(ranges[is_wrong], ranges[~is_wrong]).value > 0.8


def test_tensorboard_gets_it(tmp_path):
    pytest.importorskip("tensorboard")
    members, non_members = _noise(0), _noise(1)
    monitor = tfmiaq.callbacks.LeakageMonitor(members, non_members, sample=30, every=2)
    board = keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)
    history = _memorizer().fit(*members, epochs=4, verbose=0, callbacks=[monitor, board]).history
    assert len(history["leakage_auc"]) == 2
    written = {
        value.tag: step.step
        for path in tmp_path.rglob("events*")
        for step in tf.compat.v1.train.summary_iterator(str(path))
        for value in step.summary.value
    }
    assert written["epoch_leakage_auc"] == 3


def test_a_quantized_model_is_watched_and_its_training_left_alone(digits):
    x, y = digits.x_train[:64], digits.y_train[:64]
    losses = []
    for watched in (False, True):
        keras.utils.set_random_seed(0)
        quantized = tfmiaq.quantize_model(tiny_model())
        quantized.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        monitor = tfmiaq.callbacks.LeakageMonitor((x, y), (digits.x_test[:64], digits.y_test[:64]))
        losses.append(quantized.fit(x, y, epochs=2, verbose=0, callbacks=[monitor] * watched).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"members": 3}, TypeError, "Expected members as a pair"),
        ({"non_members": (np.zeros((5, 3)), np.zeros(5, int))}, ValueError, "records of shape"),
        ({"sample": 0}, ValueError, "Expected sample to be an integer of at least 1. Received 0"),
        ({"every": 1.5}, ValueError, "Expected every to be an integer of at least 1. Received 1.5"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        tfmiaq.callbacks.LeakageMonitor(**{"members": _noise(0), "non_members": _noise(1), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.1}, "LeakageEarlyStopping: Expected weight to be a finite number of at least 0. Received -0.1"),
        ({"weight": float("nan")}, "Expected weight"),
        ({"patience": 0}, "Expected patience to be an integer of at least 1. Received 0"),
        ({"batch_size": True}, "LeakageEarlyStopping: Expected batch_size to be an integer"),
    ],
)
def test_bad_arguments_of_early_stopping_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmiaq.callbacks.LeakageEarlyStopping(_noise(0), _noise(1), **arguments)


def test_numpy_integers_are_integers():
    stopping = tfmiaq.callbacks.LeakageEarlyStopping(
        _noise(0), _noise(1), patience=np.int64(2), sample=np.int32(9), every=np.uint8(2), seed=np.int64(3)
    )
    assert (stopping.patience, stopping.every, type(stopping.patience)) == (2, 2, int)
    uniform = tfmiaq.BitwidthPolicy.uniform
    schedule = tfmiaq.callbacks.BitwidthSchedule({np.int64(3): uniform(2, 4), np.int64(0): uniform(8, 8)})
    assert [(epoch, type(epoch)) for epoch in schedule.policies] == [(0, int), (3, int)]
    for error in (TypeError, ValueError):
        with pytest.raises(error, match="epochs from 0 on"):
            tfmiaq.callbacks.BitwidthSchedule({1.5: uniform(2, 4)})
