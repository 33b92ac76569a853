"""The label-only attack: no scores, several queries for each record."""

from __future__ import annotations

import numpy as np

from tfmiaq.attacks.base import AUGMENTED_QUERIES, Attack, Evidence


class LabelOnly(Attack):
    """Whether the target is right on a record, and how often on augmented copies of it (Choquette-Choo et al. 2021).

    A logistic regression weighs the two, as the attack model of section 4 does; each record is scored by one that did
    not train on it.
    """

    name = "label-only"
    needs = frozenset({AUGMENTED_QUERIES})
    note = "labels of the record and of augmented queries, known members and non-members"

    def scores(self, evidence: Evidence) -> np.ndarray:
        from sklearn import linear_model

        target = evidence.target
        features = np.column_stack(
            [target.correct, target.label_agreement, target.correct * target.label_agreement]
        ).astype(np.float64)
        return evidence.cross_fit(features, linear_model.LogisticRegression)
