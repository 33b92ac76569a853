"""Properties of single rows: ways of training, and what is done to a model before it."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import tfmiaq
from tfmiaq._backend import keras as keras2
from tfmiaq._backend import tf


def freeze_model(model: Any, find: Callable[[str], Any]) -> None:
    model.trainable = False


def thaw_model(model: Any, find: Callable[[str], Any]) -> None:
    model.trainable = True


def max_norm(*axes: int) -> Callable[[Any], Any]:
    """The maker of a MaxNorm small enough that every kernel meets it."""
    return lambda k: k.constraints.MaxNorm(0.3, axis=list(axes))


def non_negative(k: Any) -> Any:
    return k.constraints.NonNeg()


def _same_loss(found: Any, expected: Any, key: str = "loss") -> None:
    np.testing.assert_allclose(found.history[key], expected.history[key], rtol=0.05, atol=0.01, err_msg=key)


def class_weights(case: Any) -> None:
    """Class weights count as for the float model."""
    with case.undone():
        runs = []
        for model in (case.quantized, case.float):
            case.compile(model)
            runs.append(model.fit(case.x, case.y, class_weight={0: 5.0, 1: 0.1, 2: 1.0, 3: 0.0}, verbose=0))
        _same_loss(*runs)


def other_inputs(case: Any) -> None:
    """`fit` takes a tf.data.Dataset, a generator and validation data."""
    dataset = tf.data.Dataset.from_tensor_slices((case.x, case.y)).batch(16)
    runs = []
    with case.undone():
        for model in (case.quantized, case.float):
            case.compile(model)
            first = model.fit(dataset, validation_data=(case.x, case.y), verbose=0)
            second = model.fit((pair for pair in [(case.x, case.y)] * 2), steps_per_epoch=2, verbose=0)
            runs.append((first, second))
        for found, expected in zip(*runs):
            _same_loss(found, expected)
        _same_loss(runs[0][0], runs[1][0], "val_loss")


def callbacks(case: Any) -> None:
    """EarlyStopping, ModelCheckpoint and TensorBoard work."""
    quantized, k = case.quantized, keras2
    with case.undone(), tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "best.keras")
        uses = [
            k.callbacks.EarlyStopping("val_accuracy", patience=0, min_delta=2.0, restore_best_weights=True),
            k.callbacks.ModelCheckpoint(path, monitor="loss", save_best_only=True),
        ]
        # It takes the package of its name, which the modern stack does without.
        if importlib.util.find_spec("tensorboard"):
            uses.append(k.callbacks.TensorBoard(os.path.join(folder, "logs"), write_graph=False))
        case.compile(quantized)
        history = quantized.fit(
            case.x, case.y, validation_data=(case.x, case.y), epochs=3, callbacks=uses, verbose=0, shuffle=False
        )
        assert len(history.epoch) == 2
        assert len(uses) == 2 or os.listdir(os.path.join(folder, "logs"))
        for one, other in zip(case.outputs(quantized), case.outputs(tfmiaq.load_model(path))):
            np.testing.assert_allclose(other, one, atol=1e-2)


def train_on_batch(case: Any) -> None:
    """`train_on_batch` gives the float model's loss, and lowers it."""
    with case.undone():
        logs = []
        for model in (case.quantized, case.float):
            case.compile(model, rate=0.05)
            logs.append([float(model.train_on_batch(case.x, case.y, return_dict=True)["loss"]) for _ in range(6)])
        np.testing.assert_allclose(*logs, rtol=0.05)
        assert logs[0][-1] < logs[0][0]


def custom_loop(case: Any) -> None:
    """A GradientTape finds the gradients of the float model."""
    found = []
    with case.undone():
        for model in (case.quantized, case.float):
            k = keras2 if isinstance(model, keras2.Model) else case.k
            loss_of = k.losses.SparseCategoricalCrossentropy(from_logits=True)
            with tf.GradientTape() as tape:
                loss = loss_of(tf.constant(case.y), model(tf.constant(case.x), training=True)) + sum(model.losses)
            # Those of Keras 3 hold the variable of TensorFlow.
            variables = list(model.trainable_variables)
            gradients = tape.gradient(loss, [v if isinstance(v, tf.Variable) else v.value for v in variables])
            found.append({id(v): g for v, g in zip(variables, gradients)})
            k.optimizers.SGD(0.1).apply_gradients([(g, v) for g, v in zip(gradients, variables) if g is not None])
    quantized, floats = found
    assert not [g for g in quantized.values() if g is None]
    for variable, twin in case.twins:
        if id(variable) in floats:
            one, other = (np.asarray(g).ravel() for g in (floats[id(variable)], quantized[id(twin)]))
            size = np.linalg.norm(one) * np.linalg.norm(other)
            # A bias in front of a BatchNormalization has a gradient of rounding errors only.
            assert np.linalg.norm(one) < 1e-5 or one @ other > 0.9 * size, variable.name


def _resumed(case: Any, suffix: str) -> None:
    quantized = case.quantized
    k = keras2
    settings = {"epochs": 1, "batch_size": 16, "shuffle": False, "verbose": 0}
    with case.undone(), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = os.path.join(folder, f"model{suffix}")
        quantized.compile(optimizer=k.optimizers.Adam(0.01), run_eagerly=True, **case.row.compile(k))
        quantized.fit(case.x, case.y, **settings)
        if suffix == ".weights.h5":
            quantized.save_weights(path)
            loaded = case.quantize()
            loaded.load_weights(path)
            # Weights alone: both go on with a new optimizer.
            for model in (quantized, loaded):
                model.compile(optimizer=k.optimizers.Adam(0.01), run_eagerly=True, **case.row.compile(k))
        else:
            quantized.save(path)
            loaded = tfmiaq.load_model(path)
            loaded.run_eagerly = True
        quantized.fit(case.x, case.y, **settings)
        loaded.fit(case.x, case.y, **settings)
        for one, other in zip(quantized.get_weights(), loaded.get_weights()):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def resumed_keras(case: Any) -> None:
    """Training goes on from a .keras file as if it had never stopped."""
    _resumed(case, ".keras")


def resumed_h5(case: Any) -> None:
    """Training goes on from a .h5 file as if it had never stopped."""
    _resumed(case, ".h5")


def resumed_weights(case: Any) -> None:
    """Weights load into a new quantized copy of the same float model."""
    _resumed(case, ".weights.h5")


def own_step(case: Any) -> None:
    """The model's own `train_step` is kept, or a warning says that it is not."""
    with case.undone():
        logs = case.fit(case.quantized, 0.0).history
    assert "doubled" in logs or any("train_step" in text for text in case.told), f"{logs}, told: {case.told}"


def reproducible(case: Any) -> None:
    """Two copies, trained alike, are the same model."""
    weights = []
    for _ in range(2):
        keras2.utils.set_random_seed(1)
        model = case.quantize()
        case.fit(model, 0.05)
        weights.append(model.get_weights())
    for one, other in zip(*weights):
        np.testing.assert_array_equal(one, other)
