"""Lower bounds on the epsilon of differential privacy."""

from __future__ import annotations

from typing import Any, Union

import numpy as np
from scipy import optimize, special, stats

from tfmiaq._checks import check, integer, real
from tfmiaq.metrics.curves import confusion

# Numbers of guesses that `one_run_epsilon` tries if none is given: parts of the canaries that are guessed to be in, and
# parts that are guessed to be out. Each has its share of the error.
_GUESSES = ((0.5, 0.5), (0.125, 0.125), (0.25, 0.0), (0.1, 0.0), (0.03, 0.0))
# A bound above this would need more canaries, all guessed right, than any training has.
_MOST_EPSILON = 64.0


def _ratio_bound(above: float, total: float, below: float, other_total: float, alpha: float) -> float:
    """Returns a lower bound on the ratio of two binomial proportions, above / total over below / other_total.

    Each proportion takes half of the error (Clopper and Pearson 1934; Jagielski et al. 2020, algorithm 1). 0 where the
    interval of either proportion says nothing.
    """
    low = special.betaincinv(above, total - above + 1, alpha / 2) if above else 0.0
    high = special.betaincinv(below + 1, other_total - below, 1 - alpha / 2) if below < other_total else 1.0
    return 0.0 if low <= 0 or high >= 1 else float(low / high)


def epsilon_lower_bound(
    known: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    confidence: float = 0.95,
    parts: tuple[float, float] = (1.0, 1.0),
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
        parts: Parts of the members and of the non-members that count, from above 0 to 1, where records depend on one
            another (`independent_records`).

    Returns:
        The bound, at least 0.
    """

    def bound(scores: tuple[np.ndarray, np.ndarray], threshold: float) -> float:
        c = confusion(*scores, threshold)
        p, q = parts
        m, n = len(scores[0]) * p, len(scores[1]) * q
        # Two bounds come of one threshold: each has half of the error.
        ratios = [
            _ratio_bound(c.true_positives * p, m, c.false_positives * q, n, (1 - confidence) / 2),
            _ratio_bound(c.true_negatives * q, n, c.false_negatives * p, m, (1 - confidence) / 2),
        ]
        return float(np.log(max(1.0, *ratios)))

    candidates = np.unique(np.quantile(np.concatenate(known), np.linspace(0.005, 0.995, 100)))
    best = max(candidates, key=lambda threshold: bound(known, threshold))
    return bound(held_out, best)


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
