"""Attacks that compare one signal with a threshold."""

from __future__ import annotations

import numpy as np

from tfmiaq.attacks.base import PROBABILITIES, SCORES, Attack, Evidence

_FEW = 5


class Confidence(Attack):
    """Logit-scaled confidence of the true class; the loss orders records alike."""

    name = "confidence"
    learns = False
    note = "known members and non-members"

    def scores(self, evidence: Evidence) -> np.ndarray:
        return np.asarray(evidence.target.confidences, np.float64)


class Entropy(Attack):
    """Minus the entropy of the class probabilities, whatever the true class (Salem et al. 2019, section 5)."""

    name = "entropy"
    needs = frozenset({SCORES, PROBABILITIES})
    learns = False
    note = "known members and non-members; no labels"

    def scores(self, evidence: Evidence) -> np.ndarray:
        return -np.asarray(evidence.target.entropies, np.float64)


class ModifiedEntropy(Attack):
    """Modified entropy, with a threshold for each class (Song and Mittal 2021, section 3.2).

    A class's threshold is, on the known half, the value that separates its members from non-members best. Scores are
    relative to it. A class with fewer than 5 known members or non-members takes the threshold of all.
    """

    name = "modified entropy by class"
    needs = frozenset({SCORES, PROBABILITIES})
    note = "known members and non-members of each class"

    def scores(self, evidence: Evidence) -> np.ndarray:
        values = -np.log(np.maximum(np.asarray(evidence.target.modified_entropies, np.float64), 1e-30))
        labels, scores = evidence.target.labels, np.zeros(len(values))
        for known, scored in evidence.halves():
            member = evidence.is_member[known]
            overall = _best(values[known], member)
            for label in np.unique(labels[scored]):
                of_class = labels[known] == label
                few = min((member & of_class).sum(), (~member & of_class).sum()) < _FEW
                threshold = overall if few else _best(values[known][of_class], member[of_class])
                where = scored[labels[scored] == label]
                scores[where] = values[where] - threshold
        return scores


def _best(values: np.ndarray, member: np.ndarray) -> float:
    """Returns the value at which the rate of members at or above it exceeds that of non-members most."""
    order = np.argsort(-values, kind="stable")
    gains = np.cumsum(np.where(member[order], 1 / member.sum(), -1 / (~member).sum()))
    return float(values[order][gains.argmax()])
