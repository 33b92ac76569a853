"""How models are trained where nothing else is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import keras, tf
from tfmiaq.quantization.layer_graph import ends_in_softmax


def cosine_sgd(
    learning_rate: float, epochs: int, records: int, batch_size: int, weight_decay: Optional[float] = None
) -> Any:
    """SGD with Nesterov momentum 0.9, whose rate falls from its peak to 0 along a cosine over a whole training."""
    steps = epochs * -(-records // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return keras.optimizers.SGD(schedule, 0.9, True, weight_decay=weight_decay)


def flips_and_shifts(share: float = 0.125) -> Any:
    """Preprocessing layers that mirror images at random and shift them by up to a share of their height and width."""
    shift = keras.layers.RandomTranslation(share, share, fill_mode="constant", interpolation="nearest")
    return keras.Sequential([keras.layers.RandomFlip("horizontal"), shift])


def _description(layer: Any) -> Any:
    """A preprocessing layer, or several, without names and shapes."""
    if hasattr(layer, "layers"):
        return [_description(inner) for inner in layer.layers]
    if not isinstance(layer, keras.layers.Layer):
        return layer
    config = {key: value for key, value in layer.get_config().items() if key not in ("name", "batch_input_shape")}
    return [type(layer).__name__, config]


def _mixed(x: Any, y: Any, alpha: float) -> tuple[Any, Any]:
    """Each record, and its soft label, mixed with another one of the batch."""
    count = tf.shape(x)[0]
    # Two gammas as shares of their sum are a beta. Of small alphas nearly all are too small for 32 bits.
    one, two = (tf.random.gamma([count], alpha, dtype=tf.float64) for _ in range(2))
    part = tf.cast(one / (one + two), tf.float32)
    other = tf.random.shuffle(tf.range(count))

    def mix(values: Any) -> Any:
        values = tf.cast(values, tf.float32)
        share = tf.reshape(part, [-1] + [1] * (values.shape.rank - 1))
        return share * values + (1.0 - share) * tf.gather(values, other)

    return mix(x), mix(y)


@dataclasses.dataclass(frozen=True)
class TrainingRecipe:
    """How the quantized model is trained. The defaults are those of fine-tuning a trained model.

    Attributes:
        epochs: Epochs.
        learning_rate: Peak of a cosine schedule, for SGD with Nesterov momentum 0.9.
        batch_size: Records in a batch.
        loss: A Keras loss, such as those of `tfmiaq.losses`; a cross-entropy if None.
        augment: Keras preprocessing layers (a layer or a Sequential) through which training batches go, or None.
        weight_decay: Share of every weight, times the learning rate, that a step takes off it; None for none.
        mixup: alpha of mixup (Zhang et al. 2018, section 2): each record of a batch is mixed with another one, and
            their labels alike, in parts drawn from Beta(alpha, alpha); 0 for none, or at least 0.01. For records whose
            values can be mixed, not codes.

    Raises:
        ValueError: mixup out of its range.
    """

    epochs: int = 10
    learning_rate: float = 0.02
    batch_size: int = 64
    loss: Optional[Any] = None
    augment: Optional[Any] = None
    weight_decay: Optional[float] = None
    mixup: float = 0.0

    def __post_init__(self) -> None:
        is_number = isinstance(self.mixup, (int, float)) and not isinstance(self.mixup, bool)
        if not is_number or not (self.mixup == 0 or 0.01 <= self.mixup < np.inf):
            raise ValueError(
                f"TrainingRecipe: Expected mixup of 0 for none, or of at least 0.01. Received {self.mixup!r}."
            )

    def get_config(self) -> dict[str, Any]:
        """What makes the recipe what it is, for its fingerprint, which must not change when its layers are built."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "augment": _description(self.augment)}

    def fit(self, model: Any, x: np.ndarray, y: np.ndarray, callbacks: Sequence[Any] = ()) -> Any:
        """Trains a model in place and returns it.

        Args:
            model: A Keras model of one output.
            x: Records, shape (n, ...).
            y: Integer classes (n,), or soft labels (n, classes): then the loss is their cross-entropy.
            callbacks: Keras callbacks.
        """
        from_logits = not ends_in_softmax(model)
        if self.mixup and np.ndim(y) == 1:
            y = np.eye(model.outputs[0].shape[-1], dtype=np.float32)[y]
        if self.loss is not None:
            loss = self.loss
        elif np.ndim(y) == 2:
            loss = keras.losses.CategoricalCrossentropy(from_logits=from_logits)
        else:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        model.compile(cosine_sgd(self.learning_rate, self.epochs, len(x), self.batch_size, self.weight_decay), loss)
        augment = self.augment
        if augment is None and not self.mixup:
            model.fit(x, y, batch_size=self.batch_size, epochs=self.epochs, verbose=0, callbacks=list(callbacks))
            return model
        records, labels = tf.constant(x), tf.constant(y)

        def batch(chosen: Any) -> tuple[Any, Any]:
            x, y = tf.gather(records, chosen), tf.gather(labels, chosen)
            if augment is not None:
                x = augment(x, training=True)
            return _mixed(x, y, self.mixup) if self.mixup else (x, y)

        chosen = tf.data.Dataset.range(len(x)).shuffle(len(x)).batch(self.batch_size)
        model.fit(chosen.map(batch).prefetch(2), epochs=self.epochs, verbose=0, callbacks=list(callbacks))
        return model


# A whole training, of a model that starts afresh: what docs/frontier.md trained its MLP and its ResNets with.
FROM_SCRATCH = TrainingRecipe(epochs=24, learning_rate=0.1, weight_decay=5e-4)
