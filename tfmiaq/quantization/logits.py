"""The logits of a Keras model, in front of what rounds or squashes its output."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from tfmiaq._backend import QuantizeLayer, is_keras_3_model, keras
from tfmiaq.quantization.layer_graph import inner
from tfmiaq.quantization.transformations import functional, keras3
from tfmiaq.quantization.transformations.functional import activation_name

_layers = keras.layers
_SQUASHING = ("softmax", "log_softmax", "sigmoid")


class LogitsModel:
    """A Keras model whose holder reads its logits: in front of `policy.output`'s rounding, and of a softmax or sigmoid.

    The model itself stays as it is; both use the same variables. One of Keras 3 is rebuilt in Keras 2.

    Args:
        model: A Sequential or Functional model of one output, quantized or not.

    Raises:
        ValueError: A subclassed model, or one of several outputs; one of Keras 3 with layers that Keras 2 lacks.
    """

    def __init__(self, model: Any) -> None:
        if is_keras_3_model(model):
            model = keras3.rebuild(model)
        if not functional.is_functional(model):
            raise ValueError(f"the Keras model {model.name!r} is subclassed, or not built")
        if len(model.outputs) != 1:
            raise ValueError(f"the Keras model {model.name!r} has {len(model.outputs)} outputs")
        tensor, self._head = _before_squashing(model.outputs[0])
        self._both = keras.Model(model.inputs, [model.outputs[0], tensor])

    def predict(self, x: Any, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """Returns the outputs of the model, shape (n, classes), and the logits behind them.

        Args:
            x: As for `keras.Model.predict`.
            batch_size: Records in one call.
        """
        outputs, logits = self._both.predict(x, batch_size=batch_size, verbose=0)
        if isinstance(self._head, LogitsModel):
            logits = self._head.predict(logits, batch_size)[1]
        elif self._head is not None:
            logits = np.asarray(self._head(logits))
        return outputs, logits


def _before_squashing(tensor: Any) -> tuple[Any, Optional[Any]]:
    """Returns the tensor of logits; or one that a layer, or a model of its own, makes the logits of, and that one."""
    while True:
        layer = functional.layer_of(tensor)
        read = functional.tensors_read(tensor)
        if len(read) != 1:
            return tensor, None
        if functional.is_functional(layer):
            return read[0], LogitsModel(layer)
        if isinstance(layer, QuantizeLayer) or _only_squashes(inner(layer)):
            tensor = read[0]
        elif activation_name(layer) in _SQUASHING:
            return read[0], _without_activation(layer)
        else:
            return tensor, None


def _only_squashes(layer: Any) -> bool:
    is_activation = isinstance(layer, _layers.Activation) and activation_name(layer) in ("linear", *_SQUASHING)
    return is_activation or isinstance(layer, _layers.Softmax)


def _without_activation(layer: Any) -> Any:
    """Returns a copy of a layer, with its weights, that gives what its activation takes."""
    copy = type(layer).from_config({**layer.get_config(), "activation": "linear"})
    copy.build(layer.input_shape)
    copy.set_weights(layer.get_weights())
    return copy
