"""Keras models with a bit-width for each layer."""

# Registers the losses, so that `keras` loads every saved model that this package can write.
import tfmiaq.losses  # noqa: F401
from tfmiaq._backend import keras
from tfmiaq.quantization.calibration import calibrate
from tfmiaq.quantization.inspection import get_policy
from tfmiaq.quantization.layer_specs import LayerSpec, register_layer
from tfmiaq.quantization.quantize import load_model, quantize_model, set_policy
from tfmiaq.quantization.summary import LayerSummary, ModelSummary, summary

__all__ = [
    "LayerSpec",
    "LayerSummary",
    "ModelSummary",
    "calibrate",
    "get_policy",
    "keras",
    "load_model",
    "quantize_model",
    "register_layer",
    "set_policy",
    "summary",
]
