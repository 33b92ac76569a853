"""How models are trained where nothing else is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import keras, tf
from tfmiaq.wiring import answers_probabilities


def cosine_sgd(learning_rate: float, epochs: int, records: int, batch_size: int) -> Any:
    """SGD with Nesterov momentum 0.9, whose rate falls from its peak to 0 along a cosine over a whole training."""
    steps = epochs * -(-records // batch_size)
    return keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(learning_rate, steps), 0.9, True)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the quantized model is trained.

    Attributes:
        epochs: Epochs.
        learning_rate: Peak of a cosine schedule, for SGD with Nesterov momentum 0.9.
        batch_size: Records in a batch.
        loss: A Keras loss, such as those of `tfmiaq.losses`; a cross-entropy if None.
        augment: Keras preprocessing layers (a layer or a Sequential) through which training batches go, or None.
    """

    epochs: int = 10
    learning_rate: float = 0.02
    batch_size: int = 64
    loss: Optional[Any] = None
    augment: Optional[Any] = None

    def fit(self, model: Any, x: np.ndarray, y: np.ndarray, callbacks: Sequence[Any] = ()) -> Any:
        """Trains a model in place and returns it."""
        loss = self.loss or keras.losses.SparseCategoricalCrossentropy(from_logits=not answers_probabilities(model))
        model.compile(cosine_sgd(self.learning_rate, self.epochs, len(x), self.batch_size), loss)
        batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(self.batch_size)
        if self.augment is not None:
            batches = batches.map(lambda records, labels: (self.augment(records, training=True), labels))
        model.fit(batches.prefetch(2), epochs=self.epochs, verbose=0, callbacks=list(callbacks))
        return model
