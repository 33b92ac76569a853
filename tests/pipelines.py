"""Trainings that other processes import: quick ones, whose models depend on the seed and on the records."""

from __future__ import annotations

import os
import pathlib
import time

import numpy as np


def note(text):
    """Adds a line to the file that LOG names, so that a test can count trainings over processes."""
    path = os.environ.get("TFMIAQ_TEST_LOG")
    if path:
        with pathlib.Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def train_slowly(x, y):
    """A perceptron on random features, fitted in closed form; takes as many seconds as TFMIAQ_TEST_SECONDS says."""
    note("started")
    time.sleep(float(os.environ.get("TFMIAQ_TEST_SECONDS", "0")))
    hidden = np.random.normal(size=(x.reshape(len(x), -1).shape[1], 80))

    def features(records):
        return np.tanh(records.reshape(len(records), -1) @ hidden / 8)

    kernel = np.linalg.lstsq(features(x), 8 * np.eye(10)[y] - 4, rcond=None)[0]
    note("finished")
    return lambda records: features(records) @ kernel


def build_slowly():
    """A small network, for stages that train it; takes as many seconds as TFMIAQ_TEST_SECONDS says."""
    from tfmiaq._backend import keras

    note("started")
    time.sleep(float(os.environ.get("TFMIAQ_TEST_SECONDS", "0")))
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(16, "relu"), keras.layers.Dense(10)]
    note("finished")
    return keras.Sequential(layers)


def fast_stages():
    """A pipeline whose models are all built and traced once."""
    import tfmiaq

    recipe = tfmiaq.TrainingRecipe(epochs=4, learning_rate=0.1, batch_size=32)
    policy = tfmiaq.BitwidthPolicy.uniform(2, 4)
    return [tfmiaq.FloatTraining(build_slowly, recipe), tfmiaq.QuantizedTraining(policy, recipe)]


def die_once(trap, x, y):
    """Kills its process when the file `trap` is there, and removes it first."""
    try:
        pathlib.Path(trap).unlink()
    except FileNotFoundError:
        return train_slowly(x, y)
    os.kill(os.getpid(), 9)
    return None


def sets(count=60):
    """Members and non-members of scikit-learn's digits."""
    from tfmiaq import datasets

    data = datasets.load("digits", 0)
    return (data.x_train[:count], data.y_train[:count]), (data.x_test[:count], data.y_test[:count])


def audit(folder, n_jobs=None, train=train_slowly, count=6, fast=False):
    """The audit whose figures all these tests compare."""
    import tfmiaq

    members, non_members = sets()
    np.random.seed(5)
    target = train_slowly(*members)
    return tfmiaq.audit(
        target,
        members,
        non_members,
        ["LiRA", "RMIA", "shadow models"],
        reference_models=tfmiaq.ReferenceModels(fast_stages() if fast else train, count, cache=folder, n_jobs=n_jobs),
        verbose=False,
    )
