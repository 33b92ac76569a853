"""Whether a figure may be a coin's: tests of no leak, their correction for number, and the leaks that they see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np
from scipy import special, stats

from tfmiaq._checks import InvalidArgumentError
from tfmiaq.metrics.curves import degrees_of_freedom, placement_variance

# A smallest leak is one that a test sees with this probability.
POWER = 0.8


def auc_p_value(
    members: np.ndarray,
    non_members: np.ndarray,
    *,
    units: Optional[tuple[np.ndarray, np.ndarray]] = None,
    scale: float = 1.0,
    above_alone: bool = False,
) -> float:
    """Returns how likely an AUC at least as far from 0.5 is without any leak, on either side or above alone.

    The variance is that of ranks of one distribution, with ties (Mann and Whitney 1947; Lehmann 1975, section 1.2);
    where records depend on one another, it is no less than that of clustered records (Obuchowski 1997).

    Args:
        members: Scores of members.
        non_members: Scores of non-members.
        units: As `auc_estimate`.
        scale: As `auc_estimate`.
        above_alone: Whether an AUC below 0.5 counts as none, for scores of an attack that learned which records are
            members: it would have learned the other order. Its AUC without any leak lies a little below 0.5, because
            each half has more members where the other has fewer (Airola et al. 2011, section 3).

    Returns:
        From 0 to 1; 1 where all scores are equal.
    """
    m, n = len(members), len(non_members)
    auc, clustered, _ = placement_variance(members, non_members, units)
    ties = np.unique(np.concatenate([members, non_members]), return_counts=True)[1].astype(np.float64)
    variance = (m + n + 1 - (ties**3 - ties).sum() / ((m + n) * (m + n - 1))) / (12 * m * n)
    if units is not None:
        variance = max(variance, clustered)
    if variance <= 0:
        return 1.0
    # Half a step of the statistic, as it is a count.
    difference = auc - 0.5 if above_alone else abs(auc - 0.5)
    away = max(0.0, difference - 0.5 / (m * n)) / np.sqrt(variance / scale)
    sides = 1 if above_alone else 2
    if units is None:
        return float(sides * special.ndtr(-away))
    return float(sides * special.stdtr(degrees_of_freedom(units), -away))


def tpr_p_value(
    members: np.ndarray,
    non_members: np.ndarray,
    limit: float,
    *,
    units: Optional[tuple[np.ndarray, np.ndarray]] = None,
    scale: float = 1.0,
) -> float:
    """Returns how likely as many members above the threshold of a false positive rate are without any leak.

    The threshold is the non-member after the k that may be called members. Without a leak all orders of members and
    non-members are as likely, so that t members or more lie above it where no more than k of the first t + k records
    are non-members: a hypergeometric tail, exact, that counts the threshold's own uncertainty in. Members that tie with
    the threshold lie below it. A unit of records counts once, in parts.

    Args:
        members: Scores of members.
        non_members: Scores of non-members.
        limit: False positive rate, from 0 to below 1; 0 for the members above every non-member.
        units: As `auc_estimate`.
        scale: As `auc_estimate`.

    Returns:
        From 0 to 1.
    """
    parts = [
        _parts(len(scores), of_set) * scale for scores, of_set in zip((members, non_members), units or (None,) * 2)
    ]
    totals = [int(part.sum() + 1e-9) for part in parts]
    allowed = int(limit * totals[1] + 1e-9)
    order = np.argsort(-non_members, kind="stable")
    beyond = int(np.searchsorted(np.cumsum(parts[1][order]), allowed + 1e-9, side="right"))
    if beyond >= len(order):
        return 1.0
    above = int(parts[0][members > non_members[order[beyond]]].sum() + 1e-9)
    return _tail(above, allowed, totals[0], totals[1])


def auc_p_value_of(auc: float, members: int, non_members: int) -> float:
    """Returns `auc_p_value` of a figure without its scores: of independent records without ties."""
    spread = np.sqrt((members + non_members + 1) / (12 * members * non_members))
    return float(2 * special.ndtr(-abs(auc - 0.5) / spread))


def tpr_p_value_of(above: int, limit: float, members: int, non_members: int) -> float:
    """Returns `tpr_p_value` of the number of members above the threshold: of independent records."""
    return _tail(above, int(limit * non_members + 1e-9), members, non_members)


def _parts(count: int, units: Optional[np.ndarray]) -> np.ndarray:
    """Returns the part of a unit that each record is, shape (count,)."""
    if units is None:
        return np.ones(count)
    _, codes, sizes = np.unique(units, return_inverse=True, return_counts=True)
    return 1.0 / sizes[codes.ravel()]


def _tail(above: int, allowed: int, members: int, non_members: int) -> float:
    if above == 0:
        return 1.0
    return float(stats.hypergeom.cdf(allowed, members + non_members, non_members, above + allowed))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number (Holm 1979): those up to an error keep the chance of any false one.

    Args:
        p_values: From 0 to 1 each.

    Raises:
        InvalidArgumentError: Others.
    """
    values = np.asarray(p_values if isinstance(p_values, (Sequence, np.ndarray)) else np.nan, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise InvalidArgumentError(f"holm: Expected a list of p-values from 0 to 1. Received {p_values!r:.200}.")
    order = np.argsort(values, kind="stable")
    steps = np.minimum(values[order] * np.arange(len(values), 0, -1), 1.0)
    corrected = np.empty(len(values))
    corrected[order] = np.maximum.accumulate(steps) if len(values) else steps
    return [float(value) for value in corrected]


def smallest_auc(members: float, non_members: float, error: float) -> float:
    """Returns the AUC that a two-sided test of this error sees with a probability of 80 %.

    Args:
        members: Number of independent members.
        non_members: Number of independent non-members.
        error: Of the test, such as 0.05 over the number of tests.
    """
    spread = np.sqrt((members + non_members + 1) / (12 * members * non_members))
    return float(min(1.0, 0.5 + (special.ndtri(1 - error / 2) + special.ndtri(POWER)) * spread))


def smallest_tpr(members: float, non_members: float, limit: float, error: float) -> Optional[float]:
    """Returns the true positive rate that `tpr_p_value` finds below an error with a probability of 80 %.

    Args:
        members: Number of independent members.
        non_members: Number of independent non-members.
        limit: False positive rate.
        error: Of the test.

    Returns:
        The rate; None where not even all members above the threshold would be below the error.
    """
    m, n = int(members), int(non_members)
    allowed = int(limit * n + 1e-9)
    # More members above the threshold are less likely: the fewest below the error lie where the tail crosses it.
    low, high = 0, m
    if _tail(m, allowed, m, n) > error:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _tail(middle, allowed, m, n) <= error else (middle, high)
    return float(special.betaincinv(high, m - high + 1, POWER))
