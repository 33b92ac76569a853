"""The likelihood ratio attack."""

from __future__ import annotations

import warnings

import numpy as np

from tfmiaq.auditing.attacks.base import REFERENCES, SCORES, Attack, Evidence
from tfmiaq.auditing.attacks.suite import import_suite


class Lira(Attack):
    """LiRA (Carlini et al. 2022): each record's confidence against Gaussians over reference models.

    Online, the likelihood ratio of "trained on" and "not trained on" (algorithm 1), by tensorflow-privacy's
    `compute_score_lira`. Offline, how far the confidence lies above those of models that did not train on the record,
    in standard deviations: the one-sided test of section VI (the suite's offline score is the two-sided density).

    Args:
        name: Name in the report.
        online: Use the models that trained on a record too.
        fix_variance: One variance for all records, which few reference models can tell, instead of one for each.
    """

    needs = frozenset({SCORES, REFERENCES})

    def __init__(self, name: str, online: bool, fix_variance: bool) -> None:
        self.name = name
        self.online = online
        self.fix_variance = fix_variance
        models = "reference models with and without the record" if online else "reference models without the record"
        self.note = models + ", through the same pipeline"

    def scores(self, evidence: Evidence) -> np.ndarray:
        assert evidence.references is not None
        confidences, trained_on = evidence.references.confidences, evidence.references.trained_on
        target = np.asarray(evidence.target.confidences, np.float64)
        if self.online and trained_on.any():
            (suite,) = import_suite("membership_inference_attack.advanced_mia")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # Records that all or no models trained on.
                out = suite.compute_score_lira(
                    target[:, None],
                    [column[mask][:, None] for column, mask in zip(confidences.T, trained_on.T)],
                    [column[~mask][:, None] for column, mask in zip(confidences.T, trained_on.T)],
                    option="both",
                    fix_variance=self.fix_variance,
                )
            return -np.nan_to_num(out)
        without = np.where(trained_on, np.nan, confidences)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            center, spread = np.nanmedian(without, axis=0), np.nanstd(without, axis=0)
        if self.fix_variance:
            spread = np.full_like(spread, np.sqrt(np.nanmean(spread**2)))
        center = np.where(np.isnan(center), np.nanmean(center), center)
        spread = np.where(np.isnan(spread) | (spread < 1e-6), np.nanmean(spread) + 1e-6, spread)
        return (target - center) / spread


LIRA = (
    Lira("LiRA", online=True, fix_variance=True),
    Lira("LiRA, variance by record", online=True, fix_variance=False),
    Lira("offline LiRA", online=False, fix_variance=True),
    Lira("offline LiRA, variance by record", online=False, fix_variance=False),
)
