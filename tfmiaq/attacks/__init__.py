"""Membership inference attacks, by name."""

from tfmiaq.attacks.base import (
    AUGMENTED_OUTPUTS,
    AUGMENTED_QUERIES,
    AUGMENTED_REFERENCES,
    LABEL_AGREEMENT,
    OTHER_VERSION,
    OUTPUTS,
    PRIVACY_SUITE,
    PROBABILITIES,
    RECORDS,
    REFERENCE_MEMBERS,
    REFERENCE_MODELS,
    SCORES,
    WHOLE_OUTPUTS,
    Attack,
    Evidence,
)
from tfmiaq.attacks.registry import ATTACKS, DEFAULT, choose, register

__all__ = [
    "ATTACKS",
    "AUGMENTED_OUTPUTS",
    "AUGMENTED_QUERIES",
    "AUGMENTED_REFERENCES",
    "DEFAULT",
    "LABEL_AGREEMENT",
    "OTHER_VERSION",
    "OUTPUTS",
    "PRIVACY_SUITE",
    "PROBABILITIES",
    "RECORDS",
    "REFERENCE_MEMBERS",
    "REFERENCE_MODELS",
    "SCORES",
    "WHOLE_OUTPUTS",
    "Attack",
    "Evidence",
    "choose",
    "register",
]
