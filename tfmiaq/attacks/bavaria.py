"""LiRA with Bayesian variances: a Student's t for each record, whose spread few reference models can estimate."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize, special, stats

from tfmiaq.attacks.base import OUTPUTS, Attack, Evidence, needs_of

# Weight of the prior mean, in models: little, since records differ far more than models do.
_PRIOR_MEAN_MODELS = 0.1
_FEWEST_DEGREES, _MOST_DEGREES = 2.0, 200.0


class Bavaria(Attack):
    """The likelihood ratio of LiRA with a conjugate prior on each record's variance (BaVarIA-t, Brännvall 2026).

    The confidences of the models that trained on a record, and of those that did not, are Gaussian with a
    normal-inverse-gamma prior; the target's confidence is scored by the ratio of the two Student's t predictive
    densities. The prior's mean is that of all records; its scale and degrees of freedom come from how much the
    logarithms of the records' variances differ beyond what so few models make them differ (Smyth 2004, section 6.2).
    With many models this nears LiRA with variance by record, with few LiRA with one variance.

    Args:
        name: Name in the report.
        of: As of `Lira`.
    """

    learns = False

    def __init__(self, name: str = "BaVarIA", of: str = OUTPUTS) -> None:
        self.name = name
        self.of = of
        self.needs = needs_of(of)
        self.note = "few reference models with and without the record, through the same pipeline"

    def scores(self, evidence: Evidence) -> np.ndarray:
        assert evidence.reference_signals is not None
        target, confidences = evidence.confidences(self.of)
        trained_on = evidence.reference_signals.trained_on
        outside = _predictive(confidences, ~trained_on)
        if not trained_on.any():
            # One-sided, as offline LiRA: how far above the models that did not train on the record.
            return -outside.logsf(target)
        inside = _predictive(confidences, trained_on)
        return np.nan_to_num(inside.logpdf(target) - outside.logpdf(target))


def _predictive(confidences: np.ndarray, of_record: np.ndarray) -> Any:
    """Returns each record's predictive Student's t over the models that count for it."""
    counts = of_record.sum(0).astype(np.float64)
    mean_of_all = confidences[of_record].mean() if of_record.any() else float(np.mean(confidences))
    mean = np.where(counts > 0, (confidences * of_record).sum(0) / np.maximum(counts, 1), mean_of_all)
    squares = (np.square(confidences - mean) * of_record).sum(0)
    degrees, scale = _prior(squares, counts)
    weight = counts + _PRIOR_MEAN_MODELS
    center = (counts * mean + _PRIOR_MEAN_MODELS * mean_of_all) / weight
    degrees_after = degrees + counts
    between = counts * _PRIOR_MEAN_MODELS / weight * np.square(mean - mean_of_all)
    spread = (degrees * scale + squares + between) / degrees_after
    return stats.t(degrees_after, center, np.sqrt(spread * (1 + 1 / weight)) + 1e-12)


def _prior(squares: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Returns degrees of freedom and scale of the prior, by the moments of the logarithms of the records' variances."""
    known = counts > 1
    if not known.any():
        return _FEWEST_DEGREES, 1.0
    own = counts[known] - 1
    variances = squares[known] / own
    # Outputs that are quantized tie, and a variance of 0 has no logarithm.
    logarithms = np.log(np.maximum(variances, 1e-4 * variances.mean() + 1e-12))
    values = logarithms - special.digamma(own / 2) + np.log(own / 2)
    excess = float(values.var() - special.polygamma(1, own / 2).mean())
    least, most = (float(special.polygamma(1, degrees / 2)) for degrees in (_MOST_DEGREES, _FEWEST_DEGREES))
    excess = min(max(excess, least), most)
    degrees = float(optimize.brentq(lambda d: special.polygamma(1, d / 2) - excess, _FEWEST_DEGREES, _MOST_DEGREES))
    return degrees, float(np.exp(values.mean() + special.digamma(degrees / 2) - np.log(degrees / 2)))
