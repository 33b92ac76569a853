"""Attack figures from membership scores, and how sure they are. Needs no TensorFlow."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional, Union

import numpy as np
from scipy import optimize, special, stats
from sklearn import metrics as sklearn_metrics

from tfmiaq._checks import check, integer, real

# False positive rates at which attacks are compared.
RATES = (0.001, 0.01)
# Numbers of guesses that `one_run_epsilon` tries if none is given: parts of the canaries that are guessed to be in, and
# parts that are guessed to be out. Each has its share of the error.
_GUESSES = ((0.5, 0.5), (0.125, 0.125), (0.25, 0.0), (0.1, 0.0), (0.03, 0.0))
# A bound above this would need more canaries, all guessed right, than any training has.
_MOST_EPSILON = 64.0


@dataclasses.dataclass(frozen=True)
class Estimate(float):
    """A figure with an interval: a float that prints, and formats, as "0.612 (0.580 to 0.640)".

    Example:
        >>> auc = tfmiaq.metrics.Estimate(0.612, 0.58, 0.64)
        >>> print(auc, f"{auc:.1f}", auc > 0.5, auc.low > 0.5)
        0.612 (0.580 to 0.640) 0.6 (0.6 to 0.6) True True

    Attributes:
        value: The figure itself, which comparisons and arithmetic use.
        low: Lower end of the interval, 95 % if nothing else is said.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __new__(cls, value: float, low: float, high: float) -> Estimate:  # noqa: D102
        return super().__new__(cls, value)

    def __getnewargs__(self) -> Any:
        return self.value, self.low, self.high

    def __format__(self, spec: str) -> str:
        value, low, high = (format(float(number), spec or ".3f") for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"

    def __str__(self) -> str:
        return format(self, "")

    # Estimates are equal if their intervals are too; a float of the same value is equal to one, and has its hash.
    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = float.__hash__


def format_figure(figure: Optional[float]) -> str:
    """Returns a rate, or an estimate with its interval, as text; None, which the sample cannot resolve, is no zero."""
    return "unresolved" if figure is None else f"{figure:.3f}"


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
    def members(self) -> int:
        """Number of members."""
        return self.true_positives + self.false_negatives

    @property
    def non_members(self) -> int:
        """Number of non-members."""
        return self.false_positives + self.true_negatives

    @property
    def tpr(self) -> float:
        """Fraction of members called members."""
        return self.true_positives / self.members

    @property
    def fpr(self) -> float:
        """Fraction of non-members called members."""
        return self.false_positives / self.non_members

    @property
    def accuracy(self) -> float:
        """Balanced accuracy, (TPR + 1 - FPR) / 2: 0.5 is a coin, whatever the sizes of the sets."""
        return (self.tpr + 1 - self.fpr) / 2

    @property
    def precision(self) -> float:
        """Fraction of members among those called members, at equal prior; 0 if none is called so."""
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

    def accuracy_estimate(self, confidence: float = 0.95) -> Estimate:
        """Returns the balanced accuracy with its interval.

        Each rate's exact interval (Clopper and Pearson 1934) gives its half-width; the two sets are independent, so
        that the half-widths add in squares.
        """
        lower, upper = 0.0, 0.0
        for successes, total in (
            (self.true_positives, self.members),
            (self.true_negatives, self.non_members),
        ):
            low, high = clopper_pearson(successes, total, confidence)
            lower += (successes / total - low) ** 2
            upper += (high - successes / total) ** 2
        low, high = self.accuracy - np.sqrt(lower) / 2, self.accuracy + np.sqrt(upper) / 2
        return Estimate(self.accuracy, max(0.0, float(low)), min(1.0, float(high)))


def clopper_pearson(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the exact binomial interval of successes / total (Clopper and Pearson 1934)."""
    interval = stats.binomtest(successes, total).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def best_threshold(members: np.ndarray, non_members: np.ndarray) -> tuple[float, float]:
    """Returns the score at or above which to call a record a member, and its balanced accuracy on these scores.

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
    """Returns the counts of "member if score >= threshold"."""
    hits, alarms = int((members >= threshold).sum()), int((non_members >= threshold).sum())
    return Confusion(hits, len(members) - hits, alarms, len(non_members) - alarms)


def roc(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns false and true positive rates over all thresholds, both growing, as a step function.

    The points are those that change the curve: for each true positive rate the lowest false positive rate that reaches
    it, up to (1, 1). Between two points the rates of the left one hold.
    """
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    # Points on a straight line between two others are operating points all the same: read as steps, they count.
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, np.concatenate([members, non_members]), drop_intermediate=False)
    highest = np.append(fpr[1:] != fpr[:-1], True)
    fpr, tpr = fpr[highest], tpr[highest]
    grows = np.insert(tpr[1:] > tpr[:-1], 0, True)
    grows[-1] = True
    return fpr[grows], tpr[grows]


def tpr_at_fpr(fpr: np.ndarray, tpr: np.ndarray, limit: float) -> float:
    """Returns the highest true positive rate of a ROC curve at no more than `limit` false positives."""
    return float(tpr[fpr <= limit].max())


def tpr_estimate(
    fpr: np.ndarray, tpr: np.ndarray, members: int, non_members: int, limit: float, confidence: float = 0.95
) -> Optional[Estimate]:
    """Returns the true positive rate at no more than `limit` false positives, with an interval.

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
        The rate; None where fewer than one non-member may be called a member.
    """
    if limit * non_members + 1e-9 < 1:
        return None
    each = (1 + confidence) / 2
    ends = []
    for above, end in zip(stats.binom.ppf([(1 - each) / 2, (1 + each) / 2], non_members, limit), (0, 1)):
        rate = tpr[fpr <= above / non_members + 1e-12].max()
        ends.append(clopper_pearson(round(rate * members), members, each)[end])
    return Estimate(tpr_at_fpr(fpr, tpr, limit), *ends)


def _ratio_bound(above: int, total: int, below: int, other_total: int, alpha: float) -> float:
    """Returns a lower bound on the ratio of two binomial proportions, above / total over below / other_total.

    Each proportion takes half of the error (Clopper and Pearson 1934; Jagielski et al. 2020, algorithm 1). 0 where the
    interval of either proportion says nothing.
    """
    low = stats.beta.ppf(alpha / 2, above, total - above + 1) if above else 0.0
    high = stats.beta.isf(alpha / 2, below + 1, other_total - below) if below < other_total else 1.0
    return 0.0 if low <= 0 or high >= 1 else float(low / high)


def epsilon_lower_bound(
    known: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], confidence: float = 0.95
) -> float:
    """Returns a lower bound on the epsilon of differential privacy.

    The bound is log(TPR / FPR) or log(TNR / FNR), each rate at the end of its exact interval (Jagielski et al. 2020,
    algorithm 1), as in tensorflow-privacy's `RatioBound`. The threshold is chosen on known records and the bound taken
    on others, at that threshold alone: with many thresholds tried on the same records the best bound would hold with
    less confidence than it says.

    It assumes that the records are independent, though one training has seen them all, that the threshold was chosen on
    other records than those of the bound, and that delta is 0. `one_run_epsilon` holds for the dependent records of one
    training, of canaries that were put in by coins.

    Args:
        known: Scores of members and of non-members to choose the threshold on.
        held_out: Scores of other members and non-members.
        confidence: Of the bound.

    Returns:
        The bound, at least 0.
    """

    def bound(scores: tuple[np.ndarray, np.ndarray], threshold: float) -> float:
        c = confusion(*scores, threshold)
        m, n = len(scores[0]), len(scores[1])
        # Two bounds come of one threshold: each has half of the error.
        ratios = [
            _ratio_bound(c.true_positives, m, c.false_positives, n, (1 - confidence) / 2),
            _ratio_bound(c.true_negatives, n, c.false_negatives, m, (1 - confidence) / 2),
        ]
        return float(np.log(max(1.0, *ratios)))

    candidates = np.unique(np.quantile(np.concatenate(known), np.linspace(0.005, 0.995, 100)))
    best = max(candidates, key=lambda threshold: bound(known, threshold))
    return bound(held_out, best)


def auc_estimate(members: np.ndarray, non_members: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Returns the AUC, with an interval from the variance of its placements (DeLong, DeLong and Clarke-Pearson 1988).

    Args:
        members: Scores of members, higher for members.
        non_members: Scores of non-members.
        confidence: Of the interval.
    """
    ranks = stats.rankdata(np.concatenate([members, non_members]))
    m, n = len(members), len(non_members)
    placements_in = (ranks[:m] - stats.rankdata(members)) / n
    placements_out = 1 - (ranks[m:] - stats.rankdata(non_members)) / m
    auc = float(placements_in.mean())
    variance = (placements_in.var(ddof=1) / m if m > 1 else 0.25) + (placements_out.var(ddof=1) / n if n > 1 else 0.25)
    half = float(stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(variance))
    return Estimate(auc, max(0.0, auc - half), min(1.0, auc + half))


def _one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Returns how likely `right` right guesses or more are under (epsilon, delta) differential privacy, at most.

    For delta of 0 the number of right guesses is dominated by Binomial(guesses, e^epsilon / (1 + e^epsilon)). Delta
    adds 2 canaries delta max_i P(right - i <= Binomial < right) / i (Steinke, Nasr and Jagielski 2023, theorem 5.2).
    """
    chance = special.expit(epsilon)
    tail = float(stats.binom.sf(right - 1, guesses, chance))
    if not delta:
        return tail
    steps = np.arange(1, right + 1)
    slopes = (stats.binom.sf(right - steps - 1, guesses, chance) - tail) / steps
    return min(1.0, tail + 2 * canaries * delta * float(np.max(slopes, initial=0.0)))


def _one_run_bound(canaries: int, guesses: int, right: int, error: float, delta: float) -> float:
    """Returns the largest epsilon at which `right` right guesses are less likely than `error`; 0 if there is none."""

    def excess(epsilon: float) -> float:
        return _one_run_p_value(canaries, guesses, right, epsilon, delta) - error

    if excess(0.0) >= 0:
        return 0.0
    return float(optimize.brentq(excess, 0.0, _MOST_EPSILON, xtol=1e-6))


def one_run_epsilon(
    scores: Any,
    included: Any,
    guesses: Union[int, tuple[int, int], None] = None,
    confidence: float = 0.95,
    delta: float = 0.0,
) -> float:
    """Returns a lower bound on the epsilon of differential privacy, from canaries of a single training.

    Each canary was put into the training set, or left out, by a fair coin of its own. The attacker guesses the coins of
    the highest scores to be "in" and those of the lowest to be "out", and abstains from the others. Under (epsilon,
    delta) differential privacy the number of right guesses has a binomial tail (Steinke, Nasr and Jagielski 2023,
    theorem 5.2). The coins are the only randomness that counts: the scores may depend on one another, as those of one
    training do. The number of guesses must not be chosen by the outcome. So it is given, or five numbers are tried and
    each has a fifth of the error (Bonferroni): half of the canaries in and half out, an eighth each, and a quarter, a
    tenth and 3 % in.

    Example:
        >>> included = np.random.default_rng(0).random(1000) < 0.5
        >>> model = train(np.concatenate([x_train, canaries[included]]), ...)
        >>> tfmiaq.metrics.one_run_epsilon(confidences(model, canaries), included)

    Args:
        scores: Shape (n,), scores of the canaries, higher for those that were in. Equal ones are put into a random
            order of a fixed seed.
        included: Shape (n,), bool: whether the canary was in the training set.
        guesses: Number of guesses, half of them "in" and half "out"; or a pair of the numbers of both kinds, such as
            (30, 0). None for five pairs.
        confidence: Of the bound, above 0 and below 1.
        delta: Of the differential privacy, from 0 to below 1.

    Returns:
        The bound, at least 0.

    Raises:
        InvalidArgumentError: A confidence or a delta out of its range; no guesses, or more than canaries.
        ValueError: Scores that are not finite, or not one for each canary.
    """
    scores, included = np.asarray(scores, np.float64), np.asarray(included)
    if scores.ndim != 1 or not len(scores) or scores.shape != included.shape or not np.isfinite(scores).all():
        raise ValueError(
            "one_run_epsilon: Expected a finite score, and whether it was in, of each canary. Received shapes "
            f"{scores.shape} and {included.shape}, and {int((~np.isfinite(scores)).sum())} scores that are not finite."
        )
    count = len(scores)
    if guesses is None:
        pairs = {(round(above * count), round(below * count)) for above, below in _GUESSES}
        # Of an odd number the two halves are rounded: together they are no more than all.
        pairs = {(above, min(below, count - above)) for above, below in pairs if above + below}
    else:
        pairs = {guesses if isinstance(guesses, tuple) else (guesses - guesses // 2, guesses // 2)}
    checked = check(
        "one_run_epsilon",
        confidence=(confidence, real(0, 1, closed="neither")),
        delta=(delta, real(0, 1, closed="left")),
    )
    for above, below in pairs:
        numbers = {"guesses in": (above, integer(0)), "guesses out": (below, integer(0))}
        check("one_run_epsilon", **numbers, guesses=(above + below, integer(1, count)))
    error = (1 - checked["confidence"]) / len(pairs)
    # The order of equal scores must not follow the order that the canaries are given in: members may come first.
    shuffled = np.random.default_rng(0).permutation(count)
    ranked = included[shuffled][np.argsort(-scores[shuffled], kind="stable")].astype(bool)
    bounds = []
    for above, below in pairs:
        right = int(ranked[:above].sum() + (~ranked[count - below :]).sum())
        bounds.append(_one_run_bound(count, above + below, right, error, checked["delta"]))
    return max(bounds)
