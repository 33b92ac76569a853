"""The likelihood ratio attack."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import stats

from tfmiaq.attacks.base import AUGMENTED_OUTPUTS, LABEL_AGREEMENT, OUTPUTS, Attack, Evidence, needs_of

# Two models that agree to the last digit have no spread.
_TINY = 1e-30


class Lira(Attack):
    """LiRA (Carlini et al. 2022): each record's confidence against Gaussians over reference models.

    Online, the likelihood ratio of "trained on" and "not trained on" (algorithm 1): what tensorflow-privacy's
    `compute_score_lira` gives, for all records at once instead of one by one. Offline, how far the confidence lies
    above those of models that did not train on the record, in standard deviations: the one-sided test of section VI
    (the suite's offline score is the two-sided density).

    Args:
        name: Name in the report.
        online: Use the models that trained on a record too.
        fix_variance: One variance for all records, which few reference models can estimate, instead of one for each.
        of: What is compared: OUTPUTS, AUGMENTED_OUTPUTS, which is how models that were trained with augmentation are
            attacked (section VI-C, which fits Gaussians over the queries together), or LABEL_AGREEMENT, of labels
            alone.
    """

    learns = False

    def __init__(self, name: str, online: bool, fix_variance: bool, of: str = OUTPUTS) -> None:
        self.name = name
        self.online = online
        self.fix_variance = fix_variance
        self.of = of
        self.needs = needs_of(of)
        models = "reference models with and without the record" if online else "reference models without the record"
        self.note = f"{models}, through the same pipeline" + ("" if of == OUTPUTS else ", and augmented queries")

    def _gaussians(self, confidences: np.ndarray, of_record: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns centre and spread of each record's confidences over the models that count for it, shape (n,) each.

        A record without such models gets the mean of the others.
        """
        values = np.where(of_record, confidences, np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # Records that all or no models trained on.
            center = np.nanmedian(values, axis=0)
            spread = np.nanstd(values, axis=0)
            if self.fix_variance and self.online:
                spread = np.full_like(spread, np.nanstd(values - center))
            elif self.fix_variance:
                spread = np.full_like(spread, np.sqrt(np.nanmean(spread**2)))
            return (
                np.where(np.isnan(center), np.nanmean(center), center),
                np.where(np.isnan(spread), np.nanmean(spread), spread),
            )

    def scores(self, evidence: Evidence) -> np.ndarray:
        assert evidence.reference_signals is not None
        target, confidences = evidence.confidences(self.of)
        trained_on = evidence.reference_signals.trained_on
        center, spread = self._gaussians(confidences, ~trained_on)
        if self.online and trained_on.any() and not trained_on.all():
            inside = self._gaussians(confidences, trained_on)
            likelihoods = [stats.norm.logpdf(target, c, s + _TINY) for c, s in (inside, (center, spread))]
            return np.nan_to_num(likelihoods[0] - likelihoods[1])
        spread = np.where(spread < 1e-6, np.nanmean(spread) + 1e-6, spread)
        return (target - center) / spread


LIRA = (
    Lira("LiRA", online=True, fix_variance=True),
    Lira("LiRA with variance by record", online=True, fix_variance=False),
    Lira("LiRA on augmented queries", online=True, fix_variance=True, of=AUGMENTED_OUTPUTS),
    Lira("LiRA on label agreement", online=True, fix_variance=True, of=LABEL_AGREEMENT),
    Lira("offline LiRA", online=False, fix_variance=True),
    Lira("offline LiRA with variance by record", online=False, fix_variance=False),
)
