"""Signals: what an attacker sees of each record, of the target and of reference models."""

from tfmiaq.signals.access import ACCESS, HeldModel
from tfmiaq.signals.queries import AugmentedQueries, Queries, query_augmented
from tfmiaq.signals.records import Records, check_records, pair, sample
from tfmiaq.signals.reference_models import ReferenceModels, train_references
from tfmiaq.signals.reference_signals import ReferenceSignals, half_splits
from tfmiaq.signals.signals import AUGMENTED, FEATURES, KEPT_CLASSES, Signals, extract, extract_sets, from_scores
from tfmiaq.signals.targets import SavedOutputs, Target, predict_logits, targets_of_sets

__all__ = [
    "ACCESS",
    "AUGMENTED",
    "FEATURES",
    "KEPT_CLASSES",
    "AugmentedQueries",
    "HeldModel",
    "Queries",
    "Records",
    "ReferenceModels",
    "ReferenceSignals",
    "SavedOutputs",
    "Signals",
    "Target",
    "check_records",
    "extract",
    "extract_sets",
    "from_scores",
    "half_splits",
    "pair",
    "predict_logits",
    "query_augmented",
    "sample",
    "targets_of_sets",
    "train_references",
]
