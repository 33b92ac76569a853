"""What an attacker sees: the signals of each record, of the target and of reference models."""

from tfmiaq.signals.reference_models import ReferenceSignals, half_splits, train_references
from tfmiaq.signals.signals import (
    Records,
    Signals,
    Target,
    augmented_queries,
    check_records,
    extract,
    from_scores,
    pair,
    predict_logits,
    query_augmented,
    sample,
)

__all__ = [
    "Records",
    "ReferenceSignals",
    "Signals",
    "Target",
    "augmented_queries",
    "check_records",
    "extract",
    "from_scores",
    "half_splits",
    "pair",
    "predict_logits",
    "query_augmented",
    "sample",
    "train_references",
]
