"""The gap attack: the floor under every defence that only blurs outputs."""

from __future__ import annotations

import numpy as np

from tfmiaq.attacks.base import Attack, Evidence


class Gap(Attack):
    """Member if the label is right (Yeom et al. 2018, section 3.2)."""

    name = "gap"
    learns = False
    needs = frozenset()
    threshold = 0.5
    note = "labels alone"

    def scores(self, evidence: Evidence) -> np.ndarray:
        return evidence.target.correct.astype(np.float64)
