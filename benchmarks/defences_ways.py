"""The pipelines that the benchmarks of defences train, and what each gives to who can only ask."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

import tfmiaq
from tfmiaq import training
from tfmiaq.caching import own_python_state
from tfmiaq.quantization import quantizers
from tfmiaq.quantization.layers import QuantizedOutput

_SAMPLES, _SEED = 4_096, 5


def rounded(model: Any) -> Any:
    """A model with outputs of 1 bit; an attacker who holds it reads the logits in front of them."""
    outputs = QuantizedOutput(quantizers.OutputQuantizer(1, 0.2))(model.outputs[0])
    return tfmiaq.keras.Model(model.inputs, outputs)


def whole(model: Any) -> Any:
    """A model as it is: who can only ask gets its whole outputs."""
    return model


class _OfRandomRecords(QuantizedOutput):
    """Gives each record the outputs of a random one, in the order of the record's own classes.

    Attributes:
        sorted_logits: Shape (m, classes), the logits of random records, each sorted.
    """

    def __init__(self, sorted_logits: np.ndarray) -> None:
        super().__init__(None)
        self.sorted_logits = sorted_logits

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any, training: Any = None) -> Any:
        from tfmiaq._backend import tf

        ranks = tf.argsort(tf.argsort(inputs))
        drawn = tf.random.uniform([tf.shape(inputs)[0]], maxval=len(self.sorted_logits), dtype=tf.int32)
        return tf.gather(tf.gather(tf.constant(self.sorted_logits), drawn), ranks, batch_dims=1)


def order_only(model: Any) -> Any:
    """A model with HAMP's outputs: of a random record, with the record's own order of classes.

    Random records have features that are 0 or 1 by a coin (Chen and Pattabiraman 2024, HAMP, section IV-D). Who holds
    the model reads the logits in front.
    """
    x = np.random.default_rng(0).integers(0, 2, (_SAMPLES, *model.input_shape[1:])).astype(np.float32)
    logits = np.sort(np.asarray(model(x, training=False)), axis=1)
    return tfmiaq.keras.Model(model.inputs, _OfRandomRecords(logits)(model.outputs[0]))


def smoothed(part: float, classes: int, y: np.ndarray) -> np.ndarray:
    """Labels of which a part is spread over all classes."""
    return ((1 - part) * np.eye(classes) + part / classes)[y].astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Way:
    """A pipeline.

    Attributes:
        train: The last stage: a float training, or one that goes on from a fresh model.
        build: Makes the fresh model that `train` starts from, or None.
        labels: Makes soft labels of y, or None.
        hide: Function from the model to the one that who can only ask sees.
    """

    train: Any
    build: Optional[Callable[[], Any]] = None
    labels: Optional[Callable[[np.ndarray], np.ndarray]] = None
    hide: Callable[[Any], Any] = rounded

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        """The trained model."""
        return self.hide(self.train(*self._given(x, y)))

    def lend(self, x: np.ndarray, y: np.ndarray) -> Any:
        """The trained model, which the next training may change."""
        return self.hide(self.train.lend(*self._given(x, y)))

    def _given(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, ...]:
        fresh = () if self.build is None else (self.build(),)
        return (*fresh, x, y if self.labels is None else self.labels(y))


@dataclasses.dataclass(frozen=True)
class KnownSeed:
    """A pipeline whose attacker knows the seed: all reference models start from the target's own first weights.

    Attributes:
        way: The pipeline.
    """

    way: Way

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        """The trained model."""
        tfmiaq.keras.utils.set_random_seed(_SEED)
        return self.way(x, y)

    def lend(self, x: np.ndarray, y: np.ndarray) -> Any:
        """The trained model, which the next training may change."""
        with own_python_state(_SEED):
            return self.way.lend(x, y)


def low_bits(weights: int, activations: int = 8) -> tfmiaq.BitwidthPolicy:
    """All layers at some bits, both ends too."""
    layer = tfmiaq.LayerBits(weights, activations)
    return dataclasses.replace(tfmiaq.BitwidthPolicy.uniform(weights, activations), first=layer, last=layer)


def clipped(
    epochs: int, batch_size: int, clip: Optional[float] = 1.0, noise: float = 0.0, rate: float = 2.0, **more: Any
) -> tfmiaq.TrainingRecipe:
    """A training in large batches, each record's gradient clipped unless `clip` is None; `more` is of `DPSGD`."""
    dp = None if clip is None else training.DPSGD(clip, noise, **more)
    return tfmiaq.TrainingRecipe(epochs=epochs, learning_rate=rate, batch_size=batch_size, dp=dp)
