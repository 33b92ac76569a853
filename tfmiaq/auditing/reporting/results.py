"""Parts of a report: one attack, and one attack on some of the records."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

import numpy as np

from tfmiaq import metrics
from tfmiaq.auditing.reporting import saved
from tfmiaq.metrics import RATES, Estimate


class Decided:
    """The figures of decisions, members against non-members.

    Attributes:
        confusion: Counts of the decisions.
    """

    confusion: metrics.Confusion

    @property
    def attack_accuracy(self) -> Estimate:
        """Balanced accuracy of the attacker, 0 to 1; 0.5 is a coin."""
        return self.confusion.accuracy_estimate()

    @property
    def advantage(self) -> float:
        """TPR - FPR (Yeom et al. 2018, definition 4)."""
        return self.tpr - self.fpr

    @property
    def tpr(self) -> float:
        """Fraction of members called members."""
        return self.confusion.tpr

    @property
    def fpr(self) -> float:
        """Fraction of non-members called members."""
        return self.confusion.fpr

    @property
    def precision(self) -> float:
        """Fraction of members among those called members, at equal prior."""
        return self.confusion.precision

    @property
    def recall(self) -> float:
        """The same as `tpr`."""
        return self.confusion.recall

    @property
    def f1_members(self) -> float:
        """F1 score of the class "member", at equal prior."""
        return self.confusion.f1_members

    @property
    def f1_non_members(self) -> float:
        """F1 score of the class "non-member", at equal prior."""
        return self.confusion.f1_non_members


@dataclasses.dataclass(frozen=True, eq=False)
class AttackResult:
    """One attack.

    Attributes:
        name: The attack.
        confusion: Decisions on all records: at the attack's own threshold, or each at one chosen on the other half.
        auc: Area under the ROC curve of all records.
        fpr: False positive rates of the ROC curve (`metrics.roc`).
        tpr: True positive rates of the ROC curve.
        member_scores: Scores of the members, in their order; higher means member. None in a report that was loaded.
        non_member_scores: Scores of the non-members, or None.
        threshold: The attack's own threshold, or None where it was chosen on the other half.
        note: What the attacker needs for it.
        seconds: Processor time that the attack took, without that of reference models. Not saved.
        growth: AUC with the first 2, 4, 8, ... of the reference models and with all of them, by their number; empty
            for an attack without reference models.
        independent: As how many independent members and non-members the records count in intervals and tests: fewer
            than there are where records have duplicates or are of one person, and half as many for an attack that
            learns from known members. () for all of them.
        learns: Whether it learned from known members and non-members (`attacks.Attack.learns`).
        p_values: How likely as much is without any leak, for each test by itself: "auc"; "tpr@0.01" and "tpr@0.001"
            where the non-members resolve them; "records" for the members above every non-member.
    """

    name: str
    confusion: metrics.Confusion
    auc: Estimate
    fpr: np.ndarray
    tpr: np.ndarray
    member_scores: Optional[np.ndarray] = None
    non_member_scores: Optional[np.ndarray] = None
    threshold: Optional[float] = None
    note: str = ""
    seconds: float = 0.0
    growth: dict[int, float] = dataclasses.field(default_factory=dict)
    independent: tuple[float, ...] = ()
    learns: bool = False
    p_values: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def sizes(self) -> tuple[float, float]:
        """Numbers of independent members and non-members."""
        members, non_members = self.independent or (self.confusion.members, self.confusion.non_members)
        return float(members), float(non_members)

    @property
    def attack_accuracy(self) -> Estimate:
        """Balanced accuracy of the attack, 0 to 1; 0.5 is a coin."""
        return self.confusion.accuracy_estimate(sizes=self.sizes)

    def tpr_at_fpr(self, limit: float) -> Optional[Estimate]:
        """Returns the true positive rate at no more than `limit` false positives.

        None where the non-members are too few to resolve it.
        """
        return metrics.tpr_estimate(self.fpr, self.tpr, *self.sizes, limit)

    def __repr__(self) -> str:
        return f"AttackResult({self.name!r:.60}, attack accuracy {self.attack_accuracy}, AUC {self.auc})"

    def to_dict(self) -> dict[str, Any]:
        """Returns the attack's figures as JSON values."""
        rates = {str(rate): self.tpr_at_fpr(rate) for rate in RATES}
        return {
            **with_interval("attack_accuracy", self.attack_accuracy),
            "threshold": self.threshold,
            **with_interval("auc", self.auc),
            **decisions(self.confusion),
            "tpr_at_fpr": {rate: None if found is None else found.value for rate, found in rates.items()},
            "tpr_at_fpr_interval": {
                rate: None if found is None else [found.low, found.high] for rate, found in rates.items()
            },
            "needs": self.note,
            "auc_by_reference_models": {str(count): auc for count, auc in self.growth.items()},
            "independent_records": list(self.sizes),
            "learns": self.learns,
            "p_values": self.p_values,
        }

    def to_saved(self) -> dict[str, Any]:
        """Returns the figures and the ROC curve as JSON values: what `from_saved` needs."""
        sizes = self.confusion.members, self.confusion.non_members
        return {
            **self.to_dict(),
            "confusion": dataclasses.asdict(self.confusion),
            "curve": saved.curve_to_counts((self.fpr, self.tpr), *sizes),
        }

    @classmethod
    def from_saved(cls, name: str, content: dict[str, Any]) -> AttackResult:
        """Returns the attack of these JSON values, without scores of single records."""
        return cls(
            name,
            metrics.Confusion(**content["confusion"]),
            estimate("auc", content),
            *saved.counts_to_curve(content["curve"]),
            threshold=content["threshold"],
            note=content["needs"],
            growth={int(count): auc for count, auc in content["auc_by_reference_models"].items()},
            independent=tuple(content["independent_records"]),
            learns=content["learns"],
            p_values=content["p_values"],
        )


@dataclasses.dataclass(frozen=True)
class Slice:
    """Some of the records, under the attack that says most of them.

    Attributes:
        name: Which records, as "class 3", "right label" or "sex = f".
        members: Their number among the members.
        non_members: Their number among the non-members.
        auc: AUC on them. Its interval is simultaneous: with a probability of 95 % those of all slices and attacks hold
            together. None for too few records to judge.
        attack: The attack.
        p_value: How likely an AUC as far from 0.5 is without any leak, corrected for the number of attacks.
    """

    name: str
    members: int
    non_members: int
    auc: Optional[Estimate] = None
    attack: str = ""
    p_value: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the slice as JSON values. An AUC of too few records is null."""
        found: dict[str, Any] = {"name": self.name, "members": self.members, "non_members": self.non_members}
        if self.auc is None:
            return {**found, "auc": None}
        return {**found, **with_interval("auc", self.auc), "attack": self.attack, "p_value": self.p_value}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Slice:
        """Returns the slice of the JSON values that `to_dict` gives."""
        sizes = content["name"], content["members"], content["non_members"]
        if content["auc"] is None:
            return cls(*sizes)
        return cls(*sizes, estimate("auc", content), content["attack"], content["p_value"])


def with_interval(name: str, estimate: Estimate) -> dict[str, Any]:
    """Returns an estimate under the two keys that JSON has for it."""
    return {name: estimate.value, f"{name}_interval": [estimate.low, estimate.high]}


def estimate(name: str, content: dict[str, Any]) -> Estimate:
    """Returns the estimate that `with_interval` gave these keys of."""
    return Estimate(content[name], *content[f"{name}_interval"])


def decisions(confusion: metrics.Confusion) -> dict[str, Any]:
    """Returns the figures of decisions as JSON values."""
    return {
        "advantage": confusion.tpr - confusion.fpr,
        "tpr": confusion.tpr,
        "fpr": confusion.fpr,
        "precision": confusion.precision,
        "recall": confusion.recall,
        "f1_members": confusion.f1_members,
        "f1_non_members": confusion.f1_non_members,
    }
