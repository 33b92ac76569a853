"""Figures with an interval, and the figures of decisions."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any, Optional

import numpy as np
from scipy import special

from tfmiaq._checks import check, real

# False positive rates at which attacks are compared.
RATES = (0.001, 0.01)


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

    def accuracy_estimate(self, confidence: float = 0.95, sizes: Optional[tuple[float, float]] = None) -> Estimate:
        """Returns the balanced accuracy with its interval.

        Each rate's exact interval (Clopper and Pearson 1934) gives its half-width; the two sets are independent, so
        that the half-widths add in squares (Newcombe 1998, method 10, which squares and adds Wilson's).

        Args:
            confidence: Of the interval.
            sizes: Numbers of independent members and non-members, where they are fewer than the records
                (`independent_records`).
        """
        lower, upper = 0.0, 0.0
        sizes = (self.members, self.non_members) if sizes is None else sizes
        for rate, size in zip((self.tpr, 1 - self.fpr), sizes):
            low, high = clopper_pearson(rate * size, size, confidence)
            lower += (rate - low) ** 2
            upper += (high - rate) ** 2
        low, high = self.accuracy - np.sqrt(lower) / 2, self.accuracy + np.sqrt(upper) / 2
        return Estimate(self.accuracy, max(0.0, float(low)), min(1.0, float(high)))


def clopper_pearson(successes: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the exact binomial interval of successes / total (Clopper and Pearson 1934).

    Of records that depend on one another both numbers may be fractions: the rate times the number of independent
    records, and that number (Korn and Graubard 1998).

    Raises:
        InvalidArgumentError: A total that is not above 0, successes that are not from 0 to it, or a confidence that is
            not between 0 and 1.
    """
    check(
        "clopper_pearson",
        total=(total, real(0, closed="neither")),
        # Rates times numbers of records come out a rounding above them.
        successes=(successes, real(-1e-6, total * (1 + 1e-9) + 1e-6 if isinstance(total, numbers.Real) else None)),
        confidence=(confidence, real(0, 1, closed="neither")),
    )
    error, failures = (1 - confidence) / 2, total - successes
    low = 0.0 if successes <= 0 else float(special.betaincinv(successes, failures + 1, error))
    high = 1.0 if failures <= 0 else float(special.betaincinv(successes + 1, failures, 1 - error))
    return low, high


def independent_records(units: np.ndarray) -> float:
    """Returns as how many independent records those of some units count, where a unit's are taken to be alike.

    A unit is a person with several records, or a record with its duplicates: n records in units of sizes s count as
    n^2 / sum(s^2) (Kish 1965, section 8.2, with a correlation of 1 within units).

    Args:
        units: Shape (n,), the unit of each record.

    Returns:
        From 1 to n; n where each record is a unit of its own.
    """
    sizes = np.unique(units, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())
