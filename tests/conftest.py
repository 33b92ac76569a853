"""Small models and records that the tests share."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One process of the tests for each core: more threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import numpy as np
import pytest

from tfmiaq._backend import keras, tf

# What is imported stays; the converter collects garbage each time, through all of it.
gc.collect()
gc.freeze()

# Failures of the modules beside the conformance tests say what was compared, as those of a test do.
pytest.register_assert_rewrite("checks", "properties", "rows")


# The files that take longest begin, the longest first: one at the end would leave a core idle.
_LONG_FIRST = (
    "conformance/test_conformance.py",
    "quantization/test_layers.py",
    "test_defence.py",
    "signals/test_reference_models.py",
    "conformance/test_training.py",
    "tflite/test_conversion.py",
    "quantization/test_calibration.py",
    "test_cli.py",
    "training/test_repeated.py",
    "training/test_distillation.py",
    "quantization/test_runtime_bits.py",
)


def pytest_collection_modifyitems(items):
    ranks = {f"tests/{name}": rank for rank, name in enumerate(_LONG_FIRST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


@pytest.fixture(scope="session")
def digits():
    from tfmiaq import datasets

    return datasets.load("digits")


def tiny_model():
    """Conv2D, DepthwiseConv2D and Dense, BatchNormalization, a sum, ReLU layers and a fused ReLU."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = stem = layers.ReLU(name="conv_relu")(layers.BatchNormalization(momentum=0.9, name="conv_norm")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU(name="depthwise_relu")(layers.BatchNormalization(momentum=0.9, name="depthwise_norm")(x))
    x = layers.Conv2D(8, 1, name="pointwise")(x)
    x = layers.Activation("relu", name="sum_relu")(layers.Add(name="sum")([x, stem]))
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(32, activation="relu", name="hidden")(layers.Dropout(0.1, name="dropout")(x))
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="tiny")


def train(model, x, y, epochs=1, rate=3e-3, eagerly=None):
    """Trains a model as classifier; up to ten steps without a trace, which would take longer than they do."""
    steps = epochs * -(-len(x) // 32)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=steps <= 10 if eagerly is None else eagerly,
    )
    model.fit(x, y, epochs=epochs, verbose=0)
    # What comes after may trace.
    model.run_eagerly = False
    return model


def outputs_of(model, x):
    """The outputs of a model for a few records, layer by layer: `predict` would trace them first, which takes longer.

    Returns an array, or arrays in the structure of the outputs.
    """
    return tf.nest.map_structure(np.asarray, model(x, training=False))


@pytest.fixture(scope="session")
def trained(digits):
    keras.utils.set_random_seed(0)
    return train(tiny_model(), digits.x_train, digits.y_train, epochs=15)


@pytest.fixture
def linear_scores():
    """A target that returns its one-column records as logits of class 0, against a constant 0 of class 1."""
    return lambda x: np.concatenate([x, np.zeros_like(x)], axis=1)


@pytest.fixture
def run(capsys):
    """Runs a command line: its exit status, and what it printed."""

    from tfmiaq import cli

    def one(line):
        with pytest.raises(SystemExit) as left:
            cli.main(line.split())
        return left.value.code, capsys.readouterr()

    return one
