"""The logits of a Keras model, in front of what rounds or squashes its output."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from tfmiaq._backend import QuantizeLayer, is_keras_3_model, keras, tf
from tfmiaq.quantization.layer_graph import inner
from tfmiaq.quantization.transformations import functional, keras3
from tfmiaq.quantization.transformations.functional import activation_name

_layers = keras.layers
# By the name of an activation, the one whose logits it takes.
_SQUASHING = {"softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid"}


class LogitsModel:
    """A Keras model whose holder reads its logits: in front of `policy.output`'s rounding, and of a softmax or sigmoid.

    The model itself stays as it is; both use the same variables. One of Keras 3 is rebuilt in Keras 2.

    Args:
        model: A Sequential or Functional model of one output, quantized or not.

    Attributes:
        activation: "softmax" or "sigmoid" where the model takes that of the logits, else None.

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
        tensor, self._head, self.activation = _before_squashing(model.outputs[0])
        self._both = keras.Model(model.inputs, [model.outputs[0], tensor])
        # `predict` costs more than a small model's outputs, and is called for each augmented query.
        self._traced = tf.function(lambda batch: self._both(batch, training=False), reduce_retracing=True)
        # Neither a dict of inputs nor a fixed number of records.
        self._is_traced = hasattr(self._both.input, "shape") and self._both.input.shape[0] is None

    def predict(self, x: Any, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """Returns the outputs of the model, shape (n, classes), and the logits behind them.

        Args:
            x: As for `keras.Model.predict`.
            batch_size: Records in one call.
        """
        if self._is_traced:
            x = np.asarray(x)
            x = x.astype(keras.backend.floatx(), copy=False) if x.dtype.kind == "f" else x
            parts = [self._traced(tf.constant(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
            outputs, logits = (np.concatenate([np.asarray(part[view]) for part in parts]) for view in range(2))
        else:
            outputs, logits = self._both.predict(x, batch_size=batch_size, verbose=0)
        if isinstance(self._head, LogitsModel):
            logits = self._head.predict(logits, batch_size)[1]
        elif self._head is not None:
            logits = np.asarray(self._head(logits))
        return outputs, logits

    def hidden(self, x: Any, batch_size: int = 256) -> Optional[np.ndarray]:
        """Returns the values of the last hidden layer, shape (n, width): what the last Dense layer reads.

        Args:
            x: As for `predict`.
            batch_size: As for `predict`.

        Returns:
            The values; None where no Dense layer makes the logits, or one that reads the records.
        """
        tensor = self._both.outputs[1]
        if isinstance(self._head, LogitsModel):
            return self._head.hidden(self._values(tensor, x, batch_size), batch_size)
        if self._head is None:
            tensor = _before_dense(tensor)
        elif not isinstance(self._head, _layers.Dense):
            return None
        if tensor is None or any(tensor is given for given in self._both.inputs):
            return None
        return self._values(tensor, x, batch_size)

    def _values(self, tensor: Any, x: Any, batch_size: int) -> np.ndarray:
        model = keras.Model(self._both.inputs, tensor)
        if not self._is_traced:
            return np.asarray(model.predict(x, batch_size=batch_size, verbose=0))
        x = np.asarray(x)
        x = x.astype(keras.backend.floatx(), copy=False) if x.dtype.kind == "f" else x
        # Once for each model: tracing `predict` costs more than it saves.
        parts = [model(tf.constant(x[i : i + batch_size]), training=False) for i in range(0, len(x), batch_size)]
        return np.concatenate([np.asarray(part) for part in parts])


def _before_dense(tensor: Any) -> Optional[Any]:
    """Returns the tensor that the Dense layer reads which makes a tensor, or None if another layer makes it."""
    while True:
        read = functional.tensors_read(tensor)
        if len(read) != 1:
            return None
        layer = functional.layer_of(tensor)
        made = inner(layer)
        if isinstance(made, _layers.Dense):
            return read[0] if len(read[0].shape) == 2 else None
        if not (isinstance(layer, QuantizeLayer) or _only_squashes(made)):
            return None
        tensor = read[0]


def _before_squashing(tensor: Any) -> tuple[Any, Optional[Any], Optional[str]]:
    """Returns the tensor of logits; or one that a layer, or a model of its own, makes the logits of, and that one.

    The third is the activation that is taken of the logits, or None.
    """
    activation: Optional[str] = None
    while True:
        layer = functional.layer_of(tensor)
        read = functional.tensors_read(tensor)
        if len(read) != 1:
            return tensor, None, activation
        if functional.is_functional(layer):
            head = LogitsModel(layer)
            return read[0], head, head.activation or activation
        if isinstance(layer, QuantizeLayer) or _only_squashes(inner(layer)):
            activation = _squashes_by(inner(layer)) or activation
            tensor = read[0]
        elif activation_name(layer) in _SQUASHING:
            return read[0], _without_activation(layer), _SQUASHING[activation_name(layer)]
        else:
            return tensor, None, activation


def _squashes_by(layer: Any) -> Optional[str]:
    return "softmax" if isinstance(layer, _layers.Softmax) else _SQUASHING.get(activation_name(layer))


def _only_squashes(layer: Any) -> bool:
    is_activation = isinstance(layer, _layers.Activation) and activation_name(layer) in ("linear", *_SQUASHING)
    return is_activation or isinstance(layer, _layers.Softmax)


def _without_activation(layer: Any) -> Any:
    """Returns a copy of a layer, with its weights, that gives what its activation takes."""
    copy = type(layer).from_config({**layer.get_config(), "activation": "linear"})
    copy.build(layer.input_shape)
    copy.set_weights(layer.get_weights())
    return copy
