"""The short trainings of the benchmarks that compare a model with its file, and the flags that they share."""

from __future__ import annotations

from typing import Any

from absl import flags

import tfmiaq

DATASET = flags.DEFINE_string("dataset", "cifar10", "Name of a data set, or the path of an .npz file.")
MEMBERS = flags.DEFINE_integer("members", 10_000, "Training records.", 32)
FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 6, "Epochs of float training.", 1)


BATCH_SIZE = 128


def compile_(model: Any, count: int, epochs: int, rate: float) -> None:
    """Compiles for SGD with a cosine schedule over some epochs of `count` records."""
    keras = tfmiaq.keras
    model.compile(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(rate, epochs * -(-count // BATCH_SIZE)), 0.9, True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def fit(model: Any, x: Any, y: Any, epochs: int, rate: float) -> None:
    """Trains with SGD and a cosine schedule."""
    compile_(model, len(x), epochs, rate)
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
