"""Stages of pipelines: what calibrates a float model, and what gives a model as its function from records to logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Optional

import numpy as np

import tfmiaq

Logits = Callable[[np.ndarray], np.ndarray]


def policy(weight: int, activation: int) -> Any:
    """Bits of all layers but the first and the last, which have 8."""
    return tfmiaq.BitwidthPolicy.uniform(weight, activation, first=8, last=8)


# The quantized model of `Calibrate.lend`, and its logits; and the model of `Traced.lend`, and its logits.
_lent: dict[Any, tuple[Any, Logits]] = {}


def traced(model: Any) -> Logits:
    """Returns a model as a function from records to logits, traced once."""
    import tensorflow as tf

    signature = [tf.TensorSpec([None, *model.inputs[0].shape[1:]], tf.float32)]
    call = tf.function(lambda x: model(x, training=False), input_signature=signature)

    def logits(x: np.ndarray) -> np.ndarray:
        parts = [call(tf.constant(x[start : start + 250], tf.float32)) for start in range(0, len(x), 250)]
        return np.concatenate(parts)

    return logits


@dataclasses.dataclass(frozen=True)
class Traced:
    """The last stage of a pipeline whose models are lent: all of them are traced once."""

    def __call__(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the model."""
        return model

    def lend(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the model's function from records to logits."""
        if _lent.get("float", (None,))[0] is not model:
            _lent["float"] = model, traced(model)
        return _lent["float"][1]


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrate:
    """Quantizes and calibrates.

    Attributes:
        weight: Bits of weights.
        activation: Bits of activations.
        count: Records to calibrate on.
        iterations: Steps of Adam for each layer.
        batch_size: Records in each.
        outside: Records to calibrate on; None for the model's own training records.
    """

    weight: int
    activation: int
    count: int
    iterations: int
    batch_size: int
    outside: Optional[np.ndarray]

    def __call__(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the calibrated quantized model."""
        return self._calibrated(tfmiaq.quantize_model(model, policy(self.weight, self.activation)), None, x)

    def lend(self, model: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the calibrated model's function from records to logits, which the next call may change.

        All models of a row are quantized and traced once.
        """
        # A network with another normalization has the same name.
        key = model.name, tuple(type(layer).__name__ for layer in model.layers), self.weight, self.activation
        if key not in _lent:
            quantized = tfmiaq.quantize_model(model, policy(self.weight, self.activation))
            _lent.clear()
            _lent[key] = quantized, traced(quantized)
        quantized, logits = _lent[key]
        self._calibrated(quantized, model, x)
        return logits

    def _calibrated(self, quantized: Any, float_model: Any, x: np.ndarray) -> Any:
        return tfmiaq.calibrate(
            quantized,
            (x if self.outside is None else self.outside)[: self.count],
            float_model=float_model,
            iterations=self.iterations,
            batch_size=self.batch_size,
            verbose=False,
        )


def with_bits(
    name: str, stage: Any, bits: Iterable[tuple[int, int]], count: int, outside: Optional[np.ndarray]
) -> dict[str, list[Any]]:
    """The pipelines of a float model and of what is calibrated of it, by name.

    Args:
        name: Name of the float model's row.
        stage: Trains it.
        bits: Bits of weights and of activations of each further row.
        count: Records to calibrate on.
        outside: Those records; None for the model's own training records.
    """
    found: dict[str, list[Any]] = {name: [stage, Traced()]}
    for weight, activation in bits:
        calibrate = Calibrate(weight, activation, count, 100, 32, outside)
        found[f"{name}, calibrated w{weight} a{activation}"] = [stage, calibrate]
    return found
