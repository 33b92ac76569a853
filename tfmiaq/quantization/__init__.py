"""Keras models with a bit-width for each layer."""

# With everything that a saved model may hold registered.
import tfmiaq.losses  # noqa: F401
from tfmiaq._backend import keras
from tfmiaq.quantization.inspection import get_policy
from tfmiaq.quantization.layer_specs import LayerSpec, register_layer
from tfmiaq.quantization.quantize import load_model, quantize_model, set_policy
from tfmiaq.quantization.summary import LayerSummary, ModelSummary, summary

__all__ = [
    "LayerSpec",
    "LayerSummary",
    "ModelSummary",
    "get_policy",
    "keras",
    "load_model",
    "quantize_model",
    "register_layer",
    "set_policy",
    "summary",
]
