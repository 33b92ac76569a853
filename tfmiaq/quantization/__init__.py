"""Keras models with a bit-width for each layer."""

from tfmiaq.quantization.quantize import load_model, quantize_model, quantize_scope, set_policy
from tfmiaq.quantization.summary import LayerSummary, ModelSummary, get_policy, summary

__all__ = [
    "LayerSummary",
    "ModelSummary",
    "get_policy",
    "load_model",
    "quantize_model",
    "quantize_scope",
    "set_policy",
    "summary",
]
