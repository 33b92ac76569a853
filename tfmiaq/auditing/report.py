"""What an audit found: figures, intervals, JSON, Markdown and a ROC figure."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Optional

import numpy as np

from tfmiaq.auditing import metrics

_SCHEMA = 1
_RATES = (0.001, 0.01)


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """One attack, at a threshold chosen on one half of the records and applied to the other, both ways.

    Attributes:
        name: The attack.
        confusion: Decisions on all records, each made at the other half's threshold.
        auc: Area under the ROC curve of all records.
        auc_interval: 95 % interval of the AUC.
        fpr: False positive rates of the ROC curve.
        tpr: True positive rates of the ROC curve.
    """

    name: str
    confusion: metrics.Confusion
    auc: float
    auc_interval: tuple[float, float]
    fpr: np.ndarray
    tpr: np.ndarray

    def to_dict(self, resolution: int) -> dict[str, Any]:
        """The attack's figures as JSON values."""
        c = self.confusion
        return {
            "attack_accuracy": c.accuracy,
            "attack_accuracy_interval": list(c.accuracy_interval()),
            "auc": self.auc,
            "auc_interval": list(self.auc_interval),
            "advantage": c.tpr - c.fpr,
            "tpr": c.tpr,
            "fpr": c.fpr,
            "precision": c.precision,
            "recall": c.recall,
            "f1_members": c.f1_members,
            "f1_non_members": c.f1_non_members,
            "tpr_at_fpr": {
                str(rate): None if rate * resolution < 1 else metrics.tpr_at_fpr(self.fpr, self.tpr, rate)
                for rate in _RATES
            },
        }


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """Result of `tfmiaq.audit`; prints as a table.

    The figures of the report itself (`attack_accuracy`, `tpr`, ...) are those of an attacker who picks both the attack
    and its threshold on one half of the records and uses them on the other, both ways. None of them is the best
    in hindsight. `auc` and `tpr_at_fpr` are those of the attack that was picked, mean of both ways.

    Attributes:
        attacks: Every attack by itself.
        chosen: Names of the two attacks picked, one for each way.
        confusion: Decisions at the picked attacks and thresholds.
        auc: AUC of the picked attacks on the halves they did not choose, mean of both ways.
        auc_interval: Its 95 % interval.
        curves: (fpr, tpr) of the two ways.
        members: Number of members.
        non_members: Number of non-members.
        member_accuracy: Accuracy of the target on members.
        non_member_accuracy: Accuracy of the target on non-members.
        seed: Seed of halves and attack models.
    """

    attacks: tuple[AttackResult, ...]
    chosen: tuple[str, str]
    confusion: metrics.Confusion
    auc: float
    auc_interval: tuple[float, float]
    curves: tuple[tuple[np.ndarray, np.ndarray], ...]
    members: int
    non_members: int
    member_accuracy: float
    non_member_accuracy: float
    seed: int

    @property
    def attack_accuracy(self) -> float:
        """Balanced accuracy of the attacker, 0 to 1; 0.5 is a coin."""
        return self.confusion.accuracy

    @property
    def attack_accuracy_interval(self) -> tuple[float, float]:
        """95 % interval of `attack_accuracy`."""
        return self.confusion.accuracy_interval()

    @property
    def advantage(self) -> float:
        """TPR - FPR (Yeom et al. 2018, definition 4)."""
        return self.tpr - self.fpr

    @property
    def tpr(self) -> float:
        """Share of members called members."""
        return self.confusion.tpr

    @property
    def fpr(self) -> float:
        """Share of non-members called members."""
        return self.confusion.fpr

    @property
    def precision(self) -> float:
        """Share of members among those called members, at equal prior."""
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

    @property
    def gap_attack_accuracy(self) -> float:
        """Accuracy of "member if the label is right": 0.5 + (member accuracy - non-member accuracy) / 2.

        No masking of outputs brings an attacker below it (Yeom et al. 2018, section 3.2).
        """
        return 0.5 + (self.member_accuracy - self.non_member_accuracy) / 2

    @property
    def resolution(self) -> int:
        """Number of non-members in a half: a false positive rate below one over it cannot be measured."""
        return self.non_members // 2

    def tpr_at_fpr(self, limit: float) -> Optional[float]:
        """True positive rate at no more than `limit` false positives.

        Args:
            limit: False positive rate, more than 0 and less than 1.

        Returns:
            The rate, or None where the non-members are too few to resolve it.

        Raises:
            ValueError: A limit outside (0, 1).
        """
        if not 0 < limit < 1:
            raise ValueError(f"tpr_at_fpr: Expected a rate between 0 and 1. Received {limit}.")
        if limit * self.resolution < 1:
            return None
        return float(np.mean([metrics.tpr_at_fpr(fpr, tpr, limit) for fpr, tpr in self.curves]))

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON values. A rate that the sample cannot resolve is null."""
        return {
            "schema": _SCHEMA,
            "attack_accuracy": self.attack_accuracy,
            "attack_accuracy_interval": list(self.attack_accuracy_interval),
            "auc": self.auc,
            "auc_interval": list(self.auc_interval),
            "advantage": self.advantage,
            "tpr": self.tpr,
            "fpr": self.fpr,
            "precision": self.precision,
            "recall": self.recall,
            "f1_members": self.f1_members,
            "f1_non_members": self.f1_non_members,
            "tpr_at_fpr": {str(rate): self.tpr_at_fpr(rate) for rate in _RATES},
            "gap_attack_accuracy": self.gap_attack_accuracy,
            "member_accuracy": self.member_accuracy,
            "non_member_accuracy": self.non_member_accuracy,
            "members": self.members,
            "non_members": self.non_members,
            "chosen": list(self.chosen),
            "seed": self.seed,
            "attacks": {attack.name: attack.to_dict(self.non_members) for attack in self.attacks},
            "assumptions": list(ASSUMPTIONS),
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        return self.to_markdown()

    def to_markdown(self) -> str:
        """The report as Markdown."""
        low, high = self.attack_accuracy_interval
        auc_low, auc_high = self.auc_interval
        lines = [
            "# Membership inference audit",
            "",
            "An attacker who chooses the attack and its threshold on other records tells members from non-members with "
            f"accuracy {self.attack_accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}; a coin has 0.5).",
            "",
            "| figure | value |",
            "| --- | --- |",
            f"| attack accuracy | {self.attack_accuracy:.3f} ({low:.3f} to {high:.3f}) |",
            f"| AUC | {self.auc:.3f} ({auc_low:.3f} to {auc_high:.3f}) |",
            f"| advantage | {self.advantage:.3f} |",
            f"| TPR | {self.tpr:.3f} |",
            f"| FPR | {self.fpr:.3f} |",
            f"| precision | {self.precision:.3f} |",
            f"| recall | {self.recall:.3f} |",
            f"| F1 of members | {self.f1_members:.3f} |",
            f"| F1 of non-members | {self.f1_non_members:.3f} |",
            *(f"| TPR at {rate:.1%} FPR | {format_rate(self.tpr_at_fpr(rate))} |" for rate in _RATES),
            f"| gap attack accuracy | {self.gap_attack_accuracy:.3f} |",
            f"| target's accuracy on members | {self.member_accuracy:.3f} |",
            f"| target's accuracy on non-members | {self.non_member_accuracy:.3f} |",
            "",
            "| attack | accuracy | AUC | TPR at 1.0% FPR |",
            "| --- | --- | --- | --- |",
        ]
        for attack in self.attacks:
            rate = attack.to_dict(self.non_members)["tpr_at_fpr"]["0.01"]
            lines.append(
                f"| {attack.name} | {attack.confusion.accuracy:.3f} | {attack.auc:.3f} | {format_rate(rate)} |"
            )
        lines += [
            "",
            f"{self.members} members, {self.non_members} non-members, seed {self.seed}.",
            "",
            *(f"- {assumption}" for assumption in ASSUMPTIONS),
            "",
        ]
        return "\n".join(lines)

    def save(self, folder: Any) -> pathlib.Path:
        """Writes `report.json`, `report.md` and `roc.png` (log-log) into a folder, which is made if need be.

        Args:
            folder: Path of the folder.

        Returns:
            The folder.
        """
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(self.to_json() + "\n", encoding="utf-8")
        (folder / "report.md").write_text(f"{self.to_markdown()}\n![ROC](roc.png)\n", encoding="utf-8")
        from tfmiaq.auditing import plots

        plots.save_roc({attack.name: (attack.fpr, attack.tpr) for attack in self.attacks}, folder / "roc.png")
        return folder


ASSUMPTIONS = (
    "The attacks are tensorflow-privacy's; they know some members and non-members, and train no shadow models. "
    "An attacker who trains models through the same pipeline can do better.",
    "Members and non-members are taken to come from one distribution.",
    "Empirical resistance is not differential privacy.",
)


def format_rate(rate: Optional[float]) -> str:
    """A rate for a table; one that the sample cannot resolve is no zero."""
    return "unresolved" if rate is None else f"{rate:.3f}"
