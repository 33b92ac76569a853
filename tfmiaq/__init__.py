"""Quantization of Keras models against membership inference.

A name is imported when it is first used, so that policies and command lines answer without loading TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfmiaq import callbacks, edgetpu, losses, tflite
    from tfmiaq.auditing import AuditReport, attacks, audit, compare
    from tfmiaq.defence import defend
    from tfmiaq.distillation import cross_distill, distill, out_of_fold_answers
    from tfmiaq.layer_summary import get_policy, summary
    from tfmiaq.policy import BitwidthPolicy, LayerBits, OutputBits
    from tfmiaq.quantize import load_model, quantize_model, quantize_scope, set_policy
    from tfmiaq.recipe import Recipe
    from tfmiaq.search import search_policy
    from tfmiaq.tflite import convert
    from tfmiaq.verification import verify

__version__ = "0.1.0"

_HOMES = {
    "AuditReport": "tfmiaq.auditing",
    "BitwidthPolicy": "tfmiaq.policy",
    "LayerBits": "tfmiaq.policy",
    "OutputBits": "tfmiaq.policy",
    "Recipe": "tfmiaq.recipe",
    "attacks": "tfmiaq.auditing",
    "audit": "tfmiaq.auditing",
    "compare": "tfmiaq.auditing",
    "convert": "tfmiaq.tflite",
    "cross_distill": "tfmiaq.distillation",
    "defend": "tfmiaq.defence",
    "distill": "tfmiaq.distillation",
    "get_policy": "tfmiaq.layer_summary",
    "load_model": "tfmiaq.quantize",
    "out_of_fold_answers": "tfmiaq.distillation",
    "quantize_model": "tfmiaq.quantize",
    "quantize_scope": "tfmiaq.quantize",
    "search_policy": "tfmiaq.search",
    "set_policy": "tfmiaq.quantize",
    "summary": "tfmiaq.layer_summary",
    "verify": "tfmiaq.verification",
}
_MODULES = ("callbacks", "edgetpu", "losses", "tflite")
__all__ = [
    "AuditReport",
    "BitwidthPolicy",
    "LayerBits",
    "OutputBits",
    "Recipe",
    "attacks",
    "audit",
    "callbacks",
    "compare",
    "convert",
    "cross_distill",
    "defend",
    "distill",
    "edgetpu",
    "get_policy",
    "load_model",
    "losses",
    "out_of_fold_answers",
    "quantize_model",
    "quantize_scope",
    "search_policy",
    "set_policy",
    "summary",
    "tflite",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"tfmiaq.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'tfmiaq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
