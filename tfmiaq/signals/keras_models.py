"""Outputs of Keras models, traced once for each model: `predict` takes longer to begin than a small model to answer."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

# The traced functions of a model, by shape and type of its records. They must not keep the model.
_traced: weakref.WeakKeyDictionary[Any, dict[Any, Callable[[Any], Any]]] = weakref.WeakKeyDictionary()
_METHODS = ("make_predict_function", "predict", "predict_step")


def keras_predictor(model: Any, batch_size: int) -> Callable[[np.ndarray], Any]:
    """Returns a function from records to a Keras model's outputs: those of `predict`."""
    if not _is_plain(model):
        return lambda x: model.predict(x, batch_size=batch_size, verbose=0)
    from tfmiaq._backend import keras, tf

    of_model: Any = weakref.ref(model)
    calls = _traced.setdefault(model, {})

    def predict(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        x = x.astype(keras.backend.floatx(), copy=False) if x.dtype.kind == "f" else x
        kind = x.shape[1:], x.dtype
        if kind not in calls:
            call = tf.function(lambda batch: of_model()(batch, training=False))
            calls[kind] = call.get_concrete_function(tf.TensorSpec([None, *x.shape[1:]], x.dtype))
        starts = range(0, len(x), batch_size)
        return np.concatenate([calls[kind](tf.constant(x[start : start + batch_size])).numpy() for start in starts])

    return predict


def _is_plain(model: Any) -> bool:
    """Returns whether `predict` does nothing but call the model on one array after the other."""
    backend = sys.modules.get("tfmiaq._backend")
    # Of another Keras, whose import may cost more than it saves.
    if backend is None or not isinstance(model, backend.keras.Model):
        return False
    return (
        all(getattr(type(model), name) is getattr(backend.keras.Model, name) for name in _METHODS)
        and "predict" not in vars(model)
        and len(model.inputs or ()) == len(model.outputs or ()) == 1
        and model.inputs[0].shape[0] is None
        and not isinstance(model.input, (dict, list, tuple))
        and not isinstance(model.output, (dict, list, tuple))
        and not model.run_eagerly
        and not backend.tf.distribute.has_strategy()
    )
