"""Gradient-boosted trees on the target's signals."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmiaq.attacks.base import OTHER_VERSION, SCORES, Attack, Evidence


def make_classifier(seed: int) -> Any:
    """Returns small boosted trees, which trained attacks learn with: seconds for 20,000 records."""
    from sklearn import ensemble

    return ensemble.HistGradientBoostingClassifier(
        max_iter=60, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=40, l2_regularization=1.0, random_state=seed
    )


class GradientBoosting(Attack):
    """A classifier on confidence, loss, entropies, correctness, the two largest log-probabilities and the class."""

    name = "gradient boosting"
    note = "known members and non-members"

    def scores(self, evidence: Evidence) -> np.ndarray:
        features = np.column_stack([evidence.target.features, evidence.target.labels])
        return evidence.cross_fit(features, lambda: make_classifier(evidence.seed))


class TwoVersions(Attack):
    """A classifier on the signals of two versions of the target, and their differences.

    Who holds the float model and the quantized one, or two bit-widths, finds more than in either (after CompLeak,
    2025).
    """

    name = "two versions"
    needs = frozenset({SCORES, OTHER_VERSION})
    note = "both versions, known members and non-members"

    def scores(self, evidence: Evidence) -> np.ndarray:
        one, two = evidence.target.features, evidence.other.features  # type: ignore[union-attr]
        features = np.column_stack([one, two, one - two, evidence.target.labels])
        return evidence.cross_fit(features, lambda: make_classifier(evidence.seed))
