"""ROC curves, and the rates and areas that are read from them."""

from __future__ import annotations

from typing import Optional

import numpy as np
from scipy import optimize, special, stats
from sklearn import metrics as sklearn_metrics

from tfmiaq._checks import InvalidArgumentError, check, real
from tfmiaq.metrics.estimates import Confusion, Estimate, clopper_pearson, independent_records


def _scores(owner: str, members: np.ndarray, non_members: np.ndarray) -> np.ndarray:
    """Returns the scores of both sets as one array.

    Raises:
        InvalidArgumentError: A set that is no array of shape (n,), is empty, or holds NaN.
    """
    for name, part in (("members", members), ("non_members", non_members)):
        if np.ndim(part) != 1 or not len(part) or np.asarray(part).dtype.kind not in "biuf" or np.isnan(part).any():
            raise InvalidArgumentError(
                f"{owner}: Expected {name} as scores, shape (n,), with at least one and without NaN. Received "
                f"{part!r:.80}."
            )
    return np.concatenate([members, non_members])


def best_threshold(members: np.ndarray, non_members: np.ndarray) -> tuple[float, float]:
    """Returns the score at or above which to call a record a member, and its balanced accuracy on these scores.

    The threshold lies midway between two scores that occur, so that it does not lean towards either set.
    """
    scores = _scores("best_threshold", members, non_members)
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    fpr, tpr, thresholds = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    best = int(np.argmax(tpr - fpr))
    below = scores[scores < thresholds[best]]
    threshold = (thresholds[best] + below.max()) / 2 if below.size and best else thresholds[best]
    return float(threshold), float((tpr[best] + 1 - fpr[best]) / 2)


def confusion(members: np.ndarray, non_members: np.ndarray, threshold: float) -> Confusion:
    """Returns the counts of "member if score >= threshold"."""
    hits, alarms = int((members >= threshold).sum()), int((non_members >= threshold).sum())
    return Confusion(hits, len(members) - hits, alarms, len(non_members) - alarms)


def roc(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns false and true positive rates over all thresholds, both growing, as a step function.

    The points are those that change the curve: for each true positive rate the lowest false positive rate that reaches
    it, up to (1, 1). Between two points the rates of the left one hold.
    """
    scores = _scores("roc", members, non_members)
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    # Points on a straight line between two others are operating points all the same: read as steps, they count.
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    highest = np.append(fpr[1:] != fpr[:-1], True)
    fpr, tpr = fpr[highest], tpr[highest]
    grows = np.insert(tpr[1:] > tpr[:-1], 0, True)
    grows[-1] = True
    return fpr[grows], tpr[grows]


def tpr_at_fpr(fpr: np.ndarray, tpr: np.ndarray, limit: float) -> float:
    """Returns the highest true positive rate of a ROC curve at no more than `limit` false positives."""
    check("tpr_at_fpr", limit=(limit, real(0, 1)))
    return float(np.asarray(tpr)[np.asarray(fpr) <= limit].max())


def tpr_estimate(
    fpr: np.ndarray, tpr: np.ndarray, members: float, non_members: float, limit: float, confidence: float = 0.95
) -> Optional[Estimate]:
    """Returns the true positive rate at no more than `limit` false positives, with an interval.

    Both what the threshold should be and how many members lie above it are uncertain. With half of the error each: the
    threshold lies between two order statistics of the non-members (binomial), and the rates at those have exact
    intervals (Clopper and Pearson 1934).

    Args:
        fpr: False positive rates of the ROC curve.
        tpr: Its true positive rates.
        members: Number of members it was taken of; a fraction where records depend on one another.
        non_members: Number of non-members, likewise.
        limit: False positive rate, above 0 and below 1.
        confidence: Of the interval.

    Returns:
        The rate; None where fewer than one non-member may be called a member.
    """
    if limit * non_members + 1e-9 < 1:
        return None
    each = (1 + confidence) / 2
    ends = []
    for above, end in zip(stats.binom.ppf([(1 - each) / 2, (1 + each) / 2], int(non_members), limit), (0, 1)):
        rate = tpr[fpr <= above / non_members + 1e-12].max()
        ends.append(clopper_pearson(rate * members, members, each)[end])
    return Estimate(tpr_at_fpr(fpr, tpr, limit), *ends)


def auc_estimate(
    members: np.ndarray,
    non_members: np.ndarray,
    confidence: float = 0.95,
    *,
    units: Optional[tuple[np.ndarray, np.ndarray]] = None,
    scale: float = 1.0,
) -> Estimate:
    """Returns the AUC with an interval that holds for few records and near 0 and 1 too.

    The interval is the wider one, at each end, of two: the score interval of Newcombe (2006, part 2, method 5), whose
    variance is that of exponential scores (Hanley and McNeil 1982) and which has a width at an AUC of 1; and the
    interval on the logit scale (Pepe 2003, section 5.2) from the variance of the placements (DeLong, DeLong and
    Clarke-Pearson 1988), which knows how few records carry the figure.

    Args:
        members: Scores of members, higher for members.
        non_members: Scores of non-members.
        confidence: Of the interval.
        units: Units of the members and of the non-members, numbered alike in both, whose records depend on one another:
            persons, or records with their duplicates. The variance is that of clustered records (Obuchowski 1997).
            None where each record is one.
        scale: Part of the records that count, for scores of an attack that learned from half of them.
    """
    _scores("auc_estimate", members, non_members)
    value, variance, growth = placement_variance(members, non_members, units)
    variance, growth = variance / scale, growth / scale
    quantile = 0.5 + confidence / 2
    z = float(special.ndtri(quantile) if units is None else special.stdtrit(degrees_of_freedom(units), quantile))
    low, high = _score_interval(value, len(members) / growth, len(non_members) / growth, z)
    if 0 < value < 1:
        half = z * np.sqrt(variance) / (value * (1 - value))
        low = min(low, float(special.expit(special.logit(value) - half)))
        high = max(high, float(special.expit(special.logit(value) + half)))
    return Estimate(value, low, high)


def placement_variance(
    members: np.ndarray, non_members: np.ndarray, units: Optional[tuple[np.ndarray, np.ndarray]] = None
) -> tuple[float, float, float]:
    """Returns the AUC, the variance of its placements, and by how much dependent records make the variance grow.

    Args:
        members: Scores of members.
        non_members: Scores of non-members.
        units: As `auc_estimate`.

    Returns:
        AUC; variance (DeLong et al. 1988; with units that of Obuchowski 1997, and no less than without); its growth by
        the units, at least 1.
    """
    ranks = stats.rankdata(np.concatenate([members, non_members]))
    m, n = len(members), len(non_members)
    inside = (ranks[:m] - stats.rankdata(members)) / n
    outside = 1 - (ranks[m:] - stats.rankdata(non_members)) / m
    auc = float(inside.mean())
    alone = sum(float(part.var(ddof=1)) / len(part) if len(part) > 1 else 0.25 for part in (inside, outside))
    if units is None:
        return auc, alone, 1.0
    count = int(max(part.max() for part in units)) + 1
    sums = np.zeros(count)
    for of_set, part in zip(units, (inside, outside)):
        sums += np.bincount(of_set, (part - auc) / len(part), count)
    present = max(2, len(np.unique(np.concatenate(units))))
    clustered = float((sums**2).sum() * present / (present - 1))
    if alone > 0:
        growth = max(1.0, clustered / alone)
    else:
        growth = max(len(of_set) / independent_records(of_set) for of_set in units)
    return auc, alone * growth, growth


def degrees_of_freedom(units: tuple[np.ndarray, np.ndarray]) -> float:
    """Returns those of a variance of clustered records: a few large units know it less well than many small ones.

    sum(s^2)^2 / sum(s^4) of the sizes s of a set's units (Satterthwaite 1946, with variances as the squared sizes), of
    the set that has fewer.

    Args:
        units: As `auc_estimate`.

    Returns:
        At least 1.
    """
    squares = [np.unique(of_set, return_counts=True)[1].astype(np.float64) ** 2 for of_set in units]
    return max(1.0, min(float(part.sum() ** 2 / (part**2).sum()) for part in squares))


def _score_interval(auc: float, members: float, non_members: float, z: float) -> tuple[float, float]:
    """Returns the AUCs that lie z standard deviations of their own from the one found (Newcombe 2006, method 5)."""
    more = max(0.0, (members + non_members) / 2 - 1)

    def excess(theta: float) -> float:
        spread = 1 + more * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (auc - theta) ** 2 - z**2 * theta * (1 - theta) * spread / (members * non_members)

    low = float(optimize.brentq(excess, 0.0, auc)) if auc > 0 and excess(auc) < 0 else auc
    high = float(optimize.brentq(excess, auc, 1.0)) if auc < 1 and excess(auc) < 0 else auc
    if auc == 1.0:
        low = float(optimize.brentq(excess, 0.0, 1.0 - 1e-12))
    if auc == 0.0:
        high = float(optimize.brentq(excess, 1e-12, 1.0))
    return low, high
