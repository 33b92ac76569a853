"""The small classifier that the examples and some benchmarks train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

import tfmiaq


def build_model(input_shape: tuple[int, ...], classes: int, width: int) -> Any:
    """A small convolutional network for images, a perceptron for vectors; it ends in logits."""
    keras = tfmiaq.keras
    layers = keras.layers
    inputs = keras.Input(input_shape, name="records")
    x = inputs
    if len(input_shape) == 3:
        for block, filters in enumerate((width, 2 * width), start=1):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{block}")(x)
            x = layers.BatchNormalization(momentum=0.9, name=f"norm{block}")(x)
            x = layers.ReLU(name=f"relu{block}")(x)
            x = layers.MaxPooling2D(name=f"pool{block}")(x)
    if len(input_shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(4 * width, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="classifier")


def fit(
    model: Any, x: Any, y: Any, epochs: int, learning_rate: float, label: str = "", callbacks: Sequence[Any] = ()
) -> None:
    """Trains with Adam and a cosine schedule, with one progress bar over the epochs."""
    keras = tfmiaq.keras
    batch_size = 32
    steps = epochs * -(-len(x) // batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # So few steps take less time than to trace one.
        run_eagerly=steps <= 10,
    )
    with tqdm(total=epochs, desc=label, disable=None if label else True) as bar:
        tick = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: (bar.set_postfix(accuracy=f"{logs['accuracy']:.3f}"), bar.update())
        )
        model.fit(x, y, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=[tick, *callbacks])
    model.run_eagerly = False


def train(x: Any, y: Any) -> Any:
    """A float model as the demo trains it: what `tfmiaq defend` and `tfmiaq audit --train` take as a pipeline."""
    model = build_model(x.shape[1:], int(y.max()) + 1, width=8)
    fit(model, x, y, epochs=60, learning_rate=3e-3)
    return model
