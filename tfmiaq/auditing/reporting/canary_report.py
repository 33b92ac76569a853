"""The report of an audit of canaries: its figures, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Optional

import numpy as np

from tfmiaq._tables import html_table, markdown_table
from tfmiaq.auditing.reporting.results import estimate, with_interval
from tfmiaq.metrics import RATES, Estimate, format_figure


@dataclasses.dataclass(frozen=True)
class CanaryResult:
    """One attack on the canaries of all models together.

    Attributes:
        name: The attack.
        auc: AUC over all pairs of a model and a canary.
        rates: TPR at each of `metrics.RATES`; None where the pairs are too few to resolve it.
    """

    name: str
    auc: Estimate
    rates: tuple[Optional[Estimate], ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as JSON values."""
        return {
            **with_interval("auc", self.auc),
            "tpr_at_fpr": {str(rate): found and found.value for rate, found in zip(RATES, self.rates)},
            "tpr_at_fpr_interval": {
                str(rate): None if found is None else [found.low, found.high] for rate, found in zip(RATES, self.rates)
            },
        }

    @classmethod
    def from_dict(cls, name: str, content: dict[str, Any]) -> CanaryResult:
        """Returns the result of these JSON values."""
        values, intervals = content["tpr_at_fpr"], content["tpr_at_fpr_interval"]
        rates = tuple(
            None if values[str(rate)] is None else Estimate(values[str(rate)], *intervals[str(rate)]) for rate in RATES
        )
        return cls(name, estimate("auc", content), rates)


@dataclasses.dataclass(frozen=True)
class CanaryReport:
    """What attacks find of canaries, the records that a model memorizes most; prints as Markdown.

    Each model was the target in turn, and the others its reference models. The figures are of the canaries alone, over
    all models. Their intervals hold for other canaries and other models: resampled over both (Owen 2007), and at least
    as wide as those of independent pairs.

    Attributes:
        kind: What the canaries are, of `Canaries`.
        count: Number of canaries.
        models: Number of models.
        results: One for each attack.
        epsilons: For each model, the lower bound on its epsilon (`metrics.one_run_epsilon`) at a confidence of 95 %.
            Where a twin goes in and out with the canary, it is of two records.
        seed: Seed of canaries, memberships and trainings.
    """

    kind: str
    count: int
    models: int
    results: tuple[CanaryResult, ...]
    epsilons: tuple[float, ...]
    seed: int

    def __getitem__(self, name: str) -> CanaryResult:
        """Returns one attack by name.

        Raises:
            KeyError: An attack that did not run.
        """
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(f"{name!r} is not among the attacks that ran: {', '.join(r.name for r in self.results)}.")

    @property
    def auc(self) -> Estimate:
        """AUC of the attack that has the highest."""
        return max((result.auc for result in self.results), key=float)

    @property
    def epsilon(self) -> float:
        """Median over the models of their lower bounds on epsilon."""
        return float(np.median(self.epsilons))

    @property
    def verdict(self) -> str:
        """What was found, in one sentence."""
        best = max(self.results, key=lambda result: float(result.auc))
        return (
            f"{self.count} canaries ({self.kind}), {self.models} models: {best.name} has an AUC of {best.auc}, and a "
            f"TPR of {format_figure(best.rates[-1])} at {RATES[-1]:.0%} FPR."
        )

    def head(self) -> list[str]:
        """Returns the column names of the table of attacks."""
        return ["attack on canaries", "AUC", *(f"TPR at {rate:.1%} FPR" for rate in RATES)]

    def rows(self) -> list[list[str]]:
        """Returns one row of text for each attack."""
        return [[r.name, f"{r.auc:.3f}", *(_text(rate) for rate in r.rates)] for r in self.results]

    def _bound(self) -> str:
        return (
            f"Lower bound on epsilon of a single model, from its canaries: median {self.epsilon:.2f}, from "
            f"{min(self.epsilons):.2f} to {max(self.epsilons):.2f}."
        )

    def to_markdown(self) -> str:
        """Returns the verdict and the table as Markdown."""
        return "\n".join([self.verdict, "", *markdown_table(self.head(), self.rows()), "", self._bound(), ""])

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as JSON values. A rate that the pairs cannot resolve is null."""
        return {
            "kind": self.kind,
            "count": self.count,
            "models": self.models,
            "attacks": {result.name: result.to_dict() for result in self.results},
            "one_run_epsilons": list(self.epsilons),
            "one_run_epsilon_median": self.epsilon,
            "seed": self.seed,
        }

    def to_json(self) -> str:
        """Returns `to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> CanaryReport:
        """Returns the report of the JSON values that `to_dict` gives."""
        return cls(
            kind=content["kind"],
            count=content["count"],
            models=content["models"],
            results=tuple(CanaryResult.from_dict(*item) for item in content["attacks"].items()),
            epsilons=tuple(content["one_run_epsilons"]),
            seed=content["seed"],
        )

    def __str__(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        return html_table(self.head(), self.rows(), note=f"{self.verdict} {self._bound()}")

    def __repr__(self) -> str:
        return f"CanaryReport({self.kind!r}, {self.count} canaries, {self.models} models, AUC {self.auc})"


def _text(rate: Optional[Estimate]) -> str:
    return format_figure(None) if rate is None else f"{rate:.3f}"
