"""The shadow model attack: an attack classifier trained on models of the attacker's own."""

from __future__ import annotations

import numpy as np

from tfmiaq.attacks.base import REFERENCE_MEMBERS, REFERENCE_MODELS, SCORES, Attack, Evidence
from tfmiaq.attacks.boosting import make_classifier

_MOST_ROWS = 100_000


class ShadowModels(Attack):
    """A classifier that learns members from non-members on shadow models' signals (Shokri et al. 2017, section IV).

    It is applied to the target as it is, at its own threshold, and knows of no record whether the target trained on it.
    Shadow models are the reference models; with more than 100,000 rows of signals it trains on a sample of them.
    """

    name = "shadow models"
    learns = False
    needs = frozenset({SCORES, REFERENCE_MODELS, REFERENCE_MEMBERS})
    threshold = 0.5
    note = "shadow models through the same pipeline; no known members"

    def scores(self, evidence: Evidence) -> np.ndarray:
        references = evidence.reference_signals
        assert references is not None
        models, count, width = references.features.shape
        rows = np.arange(models * count)
        if len(rows) > _MOST_ROWS:
            rows = np.random.default_rng(evidence.seed).choice(rows, _MOST_ROWS, replace=False)
        labels = evidence.target.labels
        features = references.features.reshape(-1, width)[rows]
        known = references.trained_on.reshape(-1)[rows]
        classifier = make_classifier(evidence.seed).fit(np.column_stack([features, labels[rows % count]]), known)
        return classifier.predict_proba(np.column_stack([evidence.target.features, labels]))[:, 1]
