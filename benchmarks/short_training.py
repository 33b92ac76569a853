"""The short trainings of the benchmarks that compare a model with its file, and the flags that they share."""

from __future__ import annotations

from typing import Any

from absl import flags

import tfmiaq

DATASET = flags.DEFINE_string("dataset", "cifar10", "Name of a data set, or the path of an .npz file.")
MEMBERS = flags.DEFINE_integer("members", 10_000, "Training records.", 32)
FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 6, "Epochs of float training.", 1)


def fit(model: Any, x: Any, y: Any, epochs: int, rate: float) -> None:
    """Trains with SGD and a cosine schedule."""
    keras = tfmiaq.keras
    model.compile(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // 128)), 0.9, True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
