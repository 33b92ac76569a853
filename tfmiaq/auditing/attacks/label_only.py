"""The label-only attack: no scores, several queries for each record."""

from __future__ import annotations

import numpy as np

from tfmiaq.auditing.attacks.base import QUERIES, Attack, Evidence


class LabelOnly(Attack):
    """How robustly the target is right: over changed copies of the record (Choquette-Choo et al. 2021, section 4).

    The record itself breaks ties between equal shares.
    """

    name = "label-only"
    needs = frozenset({QUERIES})
    note = "labels of changed copies of the record"

    def scores(self, evidence: Evidence) -> np.ndarray:
        return np.asarray(evidence.target.votes, np.float64) + 0.01 * evidence.target.correct
