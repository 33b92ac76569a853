"""Attack figures from membership scores, and how sure they are. Needs no TensorFlow."""

from __future__ import annotations

import dataclasses
from typing import Optional

import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from tfmiaq._privacy_suite import import_suite

# False positive rates at which attacks are compared.
RATES = (0.001, 0.01)


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of an attack's decisions: members called members, and so on."""

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    @property
    def tpr(self) -> float:
        """Share of members called members."""
        return self.true_positives / (self.true_positives + self.false_negatives)

    @property
    def fpr(self) -> float:
        """Share of non-members called members."""
        return self.false_positives / (self.false_positives + self.true_negatives)

    @property
    def accuracy(self) -> float:
        """Balanced accuracy, (TPR + 1 - FPR) / 2: 0.5 is a coin, whatever the sizes of the sets."""
        return (self.tpr + 1 - self.fpr) / 2

    @property
    def precision(self) -> float:
        """Share of members among those called members, at equal prior; 0 if none is called so."""
        return self.tpr / (self.tpr + self.fpr) if self.tpr + self.fpr else 0.0

    @property
    def recall(self) -> float:
        """TPR."""
        return self.tpr

    @property
    def f1_members(self) -> float:
        """Harmonic mean of precision and recall of members, at equal prior."""
        return 2 * self.tpr / (self.tpr + self.fpr + 1)

    @property
    def f1_non_members(self) -> float:
        """Harmonic mean of precision and recall of non-members, at equal prior."""
        tnr, fnr = 1 - self.fpr, 1 - self.tpr
        return 2 * tnr / (tnr + fnr + 1)

    def accuracy_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Interval of the balanced accuracy.

        Each rate's exact interval (Clopper and Pearson 1934) gives its half-width; the two sets are independent, so
        that the half-widths add in squares.
        """
        lower, upper = 0.0, 0.0
        for successes, total in (
            (self.true_positives, self.true_positives + self.false_negatives),
            (self.true_negatives, self.true_negatives + self.false_positives),
        ):
            low, high = clopper_pearson(successes, total, confidence)
            lower += (successes / total - low) ** 2
            upper += (high - successes / total) ** 2
        return max(0.0, self.accuracy - np.sqrt(lower) / 2), min(1.0, self.accuracy + np.sqrt(upper) / 2)


def clopper_pearson(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of successes / total (Clopper and Pearson 1934)."""
    interval = stats.binomtest(successes, total).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def best_threshold(members: np.ndarray, non_members: np.ndarray) -> tuple[float, float]:
    """The score at or above which to call a record a member, and its balanced accuracy on these scores.

    The threshold lies midway between two scores that occur, so that it does not lean towards either set.
    """
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    scores = np.concatenate([members, non_members])
    fpr, tpr, thresholds = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    best = int(np.argmax(tpr - fpr))
    below = scores[scores < thresholds[best]]
    threshold = (thresholds[best] + below.max()) / 2 if below.size and best else thresholds[best]
    return float(threshold), float((tpr[best] + 1 - fpr[best]) / 2)


def confusion(members: np.ndarray, non_members: np.ndarray, threshold: float) -> Confusion:
    """Decisions of "member if score >= threshold"."""
    hits, alarms = int((members >= threshold).sum()), int((non_members >= threshold).sum())
    return Confusion(hits, len(members) - hits, alarms, len(non_members) - alarms)


def roc(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates over all thresholds."""
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, np.concatenate([members, non_members]))
    return fpr, tpr


def tpr_at_fpr(fpr: np.ndarray, tpr: np.ndarray, limit: float) -> float:
    """The highest true positive rate at no more than `limit` false positives."""
    return float(tpr[fpr <= limit].max())


def tpr_interval(
    fpr: np.ndarray, tpr: np.ndarray, members: int, non_members: int, limit: float, confidence: float = 0.95
) -> Optional[tuple[float, float, float]]:
    """True positive rate at no more than `limit` false positives, with an interval.

    Both what the threshold should be and how many members lie above it are uncertain. With half of the error each: the
    threshold lies between two order statistics of the non-members (binomial), and the rates at those have exact
    intervals (Clopper and Pearson 1934).

    Args:
        fpr: False positive rates of the ROC curve.
        tpr: Its true positive rates.
        members: Number of members it was taken of.
        non_members: Number of non-members.
        limit: False positive rate, above 0 and below 1.
        confidence: Of the interval.

    Returns:
        Rate, lower and upper end; None where fewer than one non-member may be called a member.
    """
    if limit * non_members + 1e-9 < 1:
        return None
    each = (1 + confidence) / 2
    ends = []
    for above, end in zip(stats.binom.ppf([(1 - each) / 2, (1 + each) / 2], non_members, limit), (0, 1)):
        rate = tpr[fpr <= above / non_members + 1e-12].max()
        ends.append(clopper_pearson(round(rate * members), members, each)[end])
    return tpr_at_fpr(fpr, tpr, limit), ends[0], ends[1]


def epsilon_lower_bound(
    known: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], confidence: float = 0.95
) -> float:
    """A lower bound on the epsilon of differential privacy, by tensorflow-privacy's `RatioBound`.

    The threshold is chosen on known records and the bound taken on others, at that threshold alone: with many
    thresholds tried on the same records the best bound would hold with less confidence than it says. It takes records
    for independent, though one training has seen them all, and delta for 0.

    Args:
        known: Scores of members and of non-members to choose the threshold on.
        held_out: Scores of other members and non-members.
        confidence: Of the bound (Clopper-Pearson).

    Returns:
        The bound, at least 0.
    """
    (bounds,) = import_suite("epsilon_lower_bound")

    def bound(scores: tuple[np.ndarray, np.ndarray], threshold: float) -> float:
        c = confusion(*scores, threshold)
        m, n = len(scores[0]), len(scores[1])
        # Two bounds come of one threshold, TPR over FPR and TNR over FNR: each has half of the error.
        ratios = [
            bounds.RatioBound(*counts, (1 - confidence) / 2).compute_bound(bounds.BoundMethod.CLOPPER_PEARSON)
            for counts in (
                (c.true_positives, c.false_positives, m, n),
                (c.true_negatives, c.false_negatives, n, m),
            )
        ]
        return float(np.log(max(1.0, *np.nan_to_num(ratios))))

    candidates = np.unique(np.quantile(np.concatenate(known), np.linspace(0.005, 0.995, 100)))
    best = max(candidates, key=lambda threshold: bound(known, threshold))
    return bound(held_out, best)


def auc_interval(members: np.ndarray, non_members: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """AUC with an interval from the variance of its placements (DeLong, DeLong and Clarke-Pearson 1988).

    Returns:
        AUC, lower and upper end.
    """
    ranks = stats.rankdata(np.concatenate([members, non_members]))
    m, n = len(members), len(non_members)
    placements_in = (ranks[:m] - stats.rankdata(members)) / n
    placements_out = 1 - (ranks[m:] - stats.rankdata(non_members)) / m
    auc = float(placements_in.mean())
    variance = (placements_in.var(ddof=1) / m if m > 1 else 0.25) + (placements_out.var(ddof=1) / n if n > 1 else 0.25)
    half = float(stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(variance))
    return auc, max(0.0, auc - half), min(1.0, auc + half)
