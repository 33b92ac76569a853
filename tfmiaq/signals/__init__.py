"""Signals: what an attacker sees of each record, of the target and of reference models."""

from tfmiaq.signals.access import ACCESS, HeldModel
from tfmiaq.signals.duplicates import Duplicates, find_duplicates
from tfmiaq.signals.groups import check_group_pair, check_groups, count_groups, group_folds
from tfmiaq.signals.inputs import Inputs
from tfmiaq.signals.queries import AugmentedQueries, Queries, query_augmented
from tfmiaq.signals.records import Records, check_records, match_classes, pair, sample
from tfmiaq.signals.reference_models import ReferenceModels
from tfmiaq.signals.reference_sets import TrainingSets, half_splits
from tfmiaq.signals.reference_signals import ReferenceSignals
from tfmiaq.signals.reference_training import train_references
from tfmiaq.signals.saved_references import saved_references
from tfmiaq.signals.signals import AUGMENTED, FEATURES, KEPT_CLASSES, Signals, extract, extract_sets, from_scores
from tfmiaq.signals.targets import SavedOutputs, Target, predict_logits, targets_of_sets

__all__ = [
    "ACCESS",
    "AUGMENTED",
    "FEATURES",
    "KEPT_CLASSES",
    "AugmentedQueries",
    "Duplicates",
    "HeldModel",
    "Inputs",
    "Queries",
    "Records",
    "ReferenceModels",
    "ReferenceSignals",
    "SavedOutputs",
    "Signals",
    "Target",
    "TrainingSets",
    "check_group_pair",
    "check_groups",
    "check_records",
    "count_groups",
    "extract",
    "extract_sets",
    "find_duplicates",
    "from_scores",
    "group_folds",
    "half_splits",
    "match_classes",
    "pair",
    "predict_logits",
    "query_augmented",
    "sample",
    "saved_references",
    "targets_of_sets",
    "train_references",
]
