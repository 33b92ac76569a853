"""Imports the Keras that tfmot uses. No other module imports tfmot's private paths."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import warnings
from typing import Any


def _has_keras_3() -> bool:
    try:
        return int(importlib.metadata.version("keras").split(".")[0]) >= 3
    except importlib.metadata.PackageNotFoundError:
        return False


_LEGACY = "TF_USE_LEGACY_KERAS"
_KERAS_2_IS_BUILT_IN = not _has_keras_3()

# tfmot runs on Keras 2. TensorFlow 2.16 and later hand out Keras 3 as tf.keras unless this is set before their import.
# TensorFlow 2.15 has Keras 2 built in. tfmot sets the variable there too when it is imported, and then tf.keras is
# tf_keras from its first use on.
if not _KERAS_2_IS_BUILT_IN:
    os.environ.setdefault(_LEGACY, "1")
elif "tensorflow_model_optimization" not in sys.modules:
    os.environ.pop(_LEGACY, None)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import tensorflow as tf

    # These namespaces choose their Keras when they are first used: all of them that of the first, which tfmot may have
    # used. No model of one Keras 2 can be cloned by the other.
    if _KERAS_2_IS_BUILT_IN and tf.keras.Model.__module__.startswith("tf_keras"):
        os.environ[_LEGACY] = "1"
    elif _KERAS_2_IS_BUILT_IN:
        os.environ.pop(_LEGACY, None)
    for namespace in (tf, tf.compat.v1, tf.compat.v2):
        namespace.keras.Model  # noqa: B018
    import tensorflow_model_optimization as tfmot
    from tensorflow.python.framework import op_def_registry
    from tensorflow_model_optimization.python.core.keras.compat import keras
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_aware_activation import (
        QuantizeAwareActivation,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_config import QuantizeConfig
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import QuantizeLayer
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapperV2
    from tensorflow_model_optimization.python.core.quantization.keras.quantizers import Quantizer

if _KERAS_2_IS_BUILT_IN:
    # Child processes would inherit the variable that tfmot has set.
    os.environ.pop(_LEGACY, None)

__all__ = [
    "QuantizeAwareActivation",
    "QuantizeConfig",
    "QuantizeLayer",
    "QuantizeWrapperV2",
    "Quantizer",
    "activation_quantizers",
    "internal_keras_class",
    "is_keras_3_model",
    "is_stateful",
    "keras",
    "number",
    "tf",
    "tfmot",
    "weight_quantizers",
]


def internal_keras_class(name: str) -> Any:
    """Returns a class that files of Keras 2 name and Keras does not export, such as "Functional"; None if unknown."""
    root = keras.Model.__module__.partition(".")[0]
    for part in ("engine.functional", "layers.core.tf_op_layer", "metrics.base_metric", "losses"):
        found = getattr(importlib.import_module(f"{root}.src.{part}"), name, None)
        if isinstance(found, type) and found.__module__.startswith(f"{root}."):
            return found
    return None


def is_keras_3_model(model: Any) -> bool:
    """Returns whether a model belongs to Keras 3, which tfmot cannot quantize."""
    for base in type(model).__mro__:
        root = base.__module__.partition(".")[0]
        if root == "keras" and base.__name__ == "Layer" and not isinstance(model, keras.layers.Layer):
            return True
    return False


def is_stateful(operation: str) -> bool:
    """Returns whether an operation of TensorFlow, by the name of its type, has a state; functions have none."""
    definition = op_def_registry.get(operation)
    return definition is not None and bool(definition.is_stateful)


def number(variable: Any) -> float:
    """Returns the value of a scalar variable, mirrored over devices or not."""
    return float(tf.convert_to_tensor(variable))


def weight_quantizers(wrapper: Any) -> list[tuple[Any, Any, dict[str, Any]]]:
    """Returns the (float kernel, quantizer, quantizer's variables) of each quantized weight of a wrapped layer."""
    return list(wrapper._weight_vars)


def activation_quantizers(layer: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Returns the (quantizer, its variables) of each quantized activation of a wrapped layer or a QuantizeLayer."""
    if isinstance(layer, QuantizeLayer):
        return [(layer.quantizer, layer.quantizer_vars)] if layer.quantizer else []
    found = []
    for activation in layer._quantize_activations:
        for attribute in ("_pre_activation_vars", "_post_activation_vars"):
            variables = getattr(activation, attribute, None)
            if variables is not None:
                found.append((activation.quantizer, variables))
    if layer._output_quantizers:
        found.append((layer._output_quantizers[0], layer._output_quantizer_vars))
    return found
