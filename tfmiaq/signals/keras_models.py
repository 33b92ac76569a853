"""Outputs of Keras models, traced once for each model: `predict` takes longer to begin than a small model to answer."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq.signals.inputs import Inputs, arrays, is_frame

# The traced functions of a model, by shape and type of its records. They must not keep the model.
_traced: weakref.WeakKeyDictionary[Any, dict[Any, Callable[[Any], Any]]] = weakref.WeakKeyDictionary()
_METHODS = ("make_predict_function", "predict", "predict_step")
_SQUASHING = ("softmax", "sigmoid")


class _KerasPredictor:
    """A function from records to a Keras model's outputs, or to the logits in front of its softmax or sigmoid.

    Attributes:
        activation: "softmax" or "sigmoid", of which it gives the logits; None where it gives the outputs themselves.
    """

    def __init__(self, model: Any, batch_size: int) -> None:
        self._batch_size = batch_size
        self._names = [getattr(part, "name", "").partition(":")[0] for part in getattr(model, "inputs", None) or ()]
        inputs: Any = getattr(model, "inputs", None) or ()
        self._shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else None
        front = _in_front_of_squashing(model)
        self.activation: Optional[str] = None if front is None else front[0]
        self._model: Any = model if front is None else front[1]
        self._dense: Any = None if front is None else front[2]
        self._predict = _traced_predictor(self._model, batch_size) if _is_plain(self._model) else None

    def __call__(self, x: Any) -> Any:
        x = self._inputs(x)
        self._check(x)
        # Keras 3 takes no tuple of inputs, and Keras 2 would take one for (x, y).
        x = list(x) if isinstance(x, tuple) else x
        if self._predict is not None:
            outputs = self._predict(x)
        else:
            outputs = self._model.predict(x, batch_size=self._batch_size, verbose=0)
        if self._dense is None:
            return outputs
        kernel, *bias = self._dense
        return np.asarray(outputs) @ kernel + (bias[0] if bias else 0)

    def _check(self, x: Any) -> None:
        """Raises ValueError for records of another shape than those of a model of one input."""
        wanted, found = self._shape, getattr(x, "shape", None)
        if wanted is None or found is None:
            return
        same = len(found) == len(wanted) + 1 and all(size in (None, own) for size, own in zip(wanted, found[1:]))
        # Keras gives records of numbers alone an axis of their own.
        if not same and (*found[1:], 1) != wanted:
            raise ValueError(
                f"The model takes records of shape {wanted}. Received records of shape {tuple(found[1:])}."
            )

    def _inputs(self, x: Any) -> Any:
        if not isinstance(x, Inputs) or not is_frame(x.given) or len(self._names) < 2:
            return arrays(x)
        columns = {str(name): part for name, part in x.parts.items()}
        if not set(self._names) <= set(columns):
            return arrays(x)
        return {name: columns[name] for name in self._names}


def keras_predictor(model: Any, batch_size: int) -> _KerasPredictor:
    """Returns a function from records to a Keras model's outputs: those of `predict`, or the logits behind them.

    A softmax in float32 gives probabilities of 1 long before its logits stop to differ. Where the model's last layer is
    a softmax or sigmoid, or a Dense layer with one, the function gives what that takes; its attribute `activation` has
    the name. Nothing else is passed: a rounding, or a quantized layer, stays.
    """
    return _KerasPredictor(model, batch_size)


def _traced_predictor(model: Any, batch_size: int) -> Callable[[Any], np.ndarray]:
    from tfmiaq._backend import keras, tf

    of_model: Any = weakref.ref(model)
    calls = _traced.setdefault(model, {})

    def typed(part: Any) -> np.ndarray:
        part = np.asarray(part)
        return part.astype(keras.backend.floatx(), copy=False) if part.dtype.kind == "f" else part

    def predict(x: Any) -> np.ndarray:
        x = tf.nest.map_structure(typed, x)
        parts = tf.nest.flatten(x)
        kind = tuple((part.shape[1:], part.dtype) for part in parts)
        if kind not in calls:
            call = tf.function(lambda batch: of_model()(batch, training=False))
            spec = tf.nest.map_structure(lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), x)
            calls[kind] = call.get_concrete_function(spec)
        outputs = []
        for start in range(0, len(parts[0]), batch_size):
            batch = tf.nest.map_structure(lambda part, i=start: tf.constant(part[i : i + batch_size]), x)
            outputs.append(calls[kind](batch).numpy())
        return np.concatenate(outputs)

    return predict


def _is_plain(model: Any) -> bool:
    """Returns whether `predict` does nothing but call the model on one batch after the other."""
    backend = sys.modules.get("tfmiaq._backend")
    # Of another Keras, whose import may cost more than it saves.
    if backend is None or not isinstance(model, backend.keras.Model):
        return False
    return (
        all(getattr(type(model), name) is getattr(backend.keras.Model, name) for name in _METHODS)
        and "predict" not in vars(model)
        and len(model.outputs or ()) == 1
        and all(part.shape[0] is None for part in model.inputs)
        and not isinstance(model.output, (dict, list, tuple))
        and not model.run_eagerly
        and not backend.tf.distribute.has_strategy()
    )


# For each model what `_in_front_of_squashing` found, so that the model of its logits is traced once.
_fronts: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _in_front_of_squashing(model: Any) -> Optional[tuple[str, Any, Any]]:
    """Returns the activation, a model that ends in front of it, and the weights of the Dense layer that has it.

    None where the last layer of a Sequential or Functional model is none such.
    """
    package = sys.modules.get(type(model).__module__.partition(".")[0])
    last = (getattr(model, "layers", None) or [None])[-1]
    if last is None or len(getattr(model, "outputs", None) or ()) != 1 or not _is_made_of_layers(model):
        return None
    kind = type(last).__name__
    name = "softmax" if kind == "Softmax" else getattr(getattr(last, "activation", None), "__name__", "")
    if kind not in ("Softmax", "Activation", "Dense") or name not in _SQUASHING or not _is_of_keras(last):
        return None
    if getattr(last, "axis", -1) != -1 or _shares_its_output(model, last):
        return None
    if model not in _fronts:
        base = next((base for base in type(model).__mro__ if base.__name__ == "Model" and _is_of_keras(base)), None)
        if base is None or package is None:
            return None
        _fronts[model] = base(model.inputs, last.input)
    # The weights of now: the model may train on.
    dense = [np.asarray(weight) for weight in last.get_weights()] if kind == "Dense" else None
    return name, _fronts[model], dense


def _is_made_of_layers(model: Any) -> bool:
    """Returns whether a model is Sequential or Functional itself, with no `call` or `predict` of its own."""
    return type(model).__name__ in ("Sequential", "Functional", "Model") and _is_of_keras(model)


def _is_of_keras(thing: Any) -> bool:
    kind = thing if isinstance(thing, type) else type(thing)
    return kind.__module__.partition(".")[0] in ("keras", "tf_keras")


def _shares_its_output(model: Any, last: Any) -> bool:
    """Returns whether the output of a model is another tensor than its last layer's one output."""
    try:
        return last.output is not model.outputs[0]
    except (AttributeError, ValueError):
        return True  # Called more than once, or never.
