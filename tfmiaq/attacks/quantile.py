"""The quantile regression attack: no reference models."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmiaq.attacks.base import RECORDS, SCORES, Attack, Evidence

_COMPONENTS = 32
_FITTED = 5_000
_CHUNK = 4096


class QuantileRegression(Attack):
    """How unusual a confidence is for a record that was not trained on (Bertran et al. 2023).

    Regressions on non-members of the other half predict the mean and the spread of the confidence from the record and
    its class (the Gaussian variant of section 3); the score is how many spreads the target's confidence lies above.
    The record enters by its first 32 principal components, which boosted trees can use at a small cost; the paper's
    regressors are neural networks.
    """

    name = "quantile regression"
    needs = frozenset({SCORES, RECORDS})
    note = "known non-members"

    def scores(self, evidence: Evidence) -> np.ndarray:
        from sklearn import ensemble

        assert evidence.records is not None
        labels = evidence.target.labels
        features = np.column_stack([_components(evidence.records(), evidence.seed), labels])
        confidences = np.asarray(evidence.target.confidences, np.float64)
        scores = np.zeros(len(labels))

        def regressor() -> Any:
            return ensemble.HistGradientBoostingRegressor(
                max_iter=60, max_leaf_nodes=8, min_samples_leaf=20, random_state=evidence.seed
            )

        for known, scored in evidence.halves():
            known = known[~evidence.is_member[known]]
            center = regressor().fit(features[known], confidences[known])
            residuals = np.abs(confidences[known] - center.predict(features[known]))
            spread = regressor().fit(features[known], np.log(residuals + 1e-3))
            away = confidences[scored] - center.predict(features[scored])
            scores[scored] = away / np.exp(spread.predict(features[scored]))
        return scores


def _components(records: np.ndarray, seed: int) -> np.ndarray:
    """Returns the first principal components of records, fitted on a few of them and applied in chunks."""
    from sklearn import decomposition

    flat = records.reshape(len(records), -1)
    some = np.random.default_rng(seed).choice(len(flat), min(len(flat), _FITTED), replace=False)
    model = decomposition.PCA(
        min(_COMPONENTS, flat.shape[1], len(some)), svd_solver="randomized", random_state=seed
    ).fit(np.nan_to_num(flat[some].astype(np.float32)))
    starts = range(0, len(flat), _CHUNK)
    chunks = [model.transform(np.nan_to_num(flat[start : start + _CHUNK].astype(np.float32))) for start in starts]
    return np.concatenate(chunks)
