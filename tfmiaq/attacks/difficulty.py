"""Difficulty calibration: the confidence against its mean over reference models."""

from __future__ import annotations

import numpy as np

from tfmiaq.attacks.base import OUTPUTS, Attack, Evidence, mean_where, needs_of


class Difficulty(Attack):
    """Confidence minus the mean of reference models (Watson et al. 2022, equation 3).

    The mean is that between the means of the models that trained on a record and of those that did not; where there are
    models of one kind only, theirs, moved by half the difference that other records have.

    Args:
        name: Name in the report.
        of: As of `Lira`.
    """

    learns = False

    def __init__(self, name: str = "difficulty calibration", of: str = OUTPUTS) -> None:
        self.name = name
        self.of = of
        self.needs = needs_of(of)
        self.note = "few reference models through the same pipeline"

    def scores(self, evidence: Evidence) -> np.ndarray:
        assert evidence.reference_signals is not None
        trained_on = evidence.reference_signals.trained_on
        target, confidences = evidence.confidences(self.of)
        inside, outside = mean_where(confidences, trained_on), mean_where(confidences, ~trained_on)
        both = ~np.isnan(inside) & ~np.isnan(outside)
        shift = float(np.mean((inside - outside)[both])) if both.any() else 0.0
        inside = np.where(np.isnan(inside), outside + shift, inside)
        outside = np.where(np.isnan(outside), inside - shift, outside)
        return target - (inside + outside) / 2
