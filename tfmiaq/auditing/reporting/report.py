"""What an audit found: figures, intervals, JSON, Markdown, and one page for a browser."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Optional

import numpy as np

from tfmiaq import metrics
from tfmiaq._tables import markdown_table
from tfmiaq.metrics import RATES

SCHEMA = 2
# A class with fewer members or non-members than this is no slice of its own.
_SMALLEST_SLICE = 10
_EXPOSED = 20


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """One attack.

    Attributes:
        name: The attack.
        confusion: Decisions on all records: at the attack's own threshold, or each at one chosen on the other half.
        auc: Area under the ROC curve of all records.
        auc_interval: 95 % interval of the AUC.
        fpr: False positive rates of the ROC curve.
        tpr: True positive rates of the ROC curve.
        member_scores: Scores of the members, in their order; higher means member.
        non_member_scores: Scores of the non-members.
        threshold: The attack's own threshold, or None where it was chosen on the other half.
        note: What the attacker needs for it.
        seconds: Processor time that the attack took, without that of reference models.
    """

    name: str
    confusion: metrics.Confusion
    auc: float
    auc_interval: tuple[float, float]
    fpr: np.ndarray
    tpr: np.ndarray
    member_scores: np.ndarray
    non_member_scores: np.ndarray
    threshold: Optional[float] = None
    note: str = ""
    seconds: float = 0.0

    def tpr_at_fpr(self, limit: float) -> Optional[tuple[float, float, float]]:
        """True positive rate at no more than `limit` false positives, lower and upper end of its 95 % interval.

        None where the non-members are too few to resolve it.
        """
        sizes = len(self.member_scores), len(self.non_member_scores)
        return metrics.tpr_interval(self.fpr, self.tpr, *sizes, limit)

    def to_dict(self) -> dict[str, Any]:
        """The attack's figures as JSON values."""
        c = self.confusion
        rates = {str(rate): self.tpr_at_fpr(rate) for rate in RATES}
        return {
            "attack_accuracy": c.accuracy,
            "attack_accuracy_interval": list(c.accuracy_interval()),
            "threshold": self.threshold,
            "auc": self.auc,
            "auc_interval": list(self.auc_interval),
            "advantage": c.tpr - c.fpr,
            "tpr": c.tpr,
            "fpr": c.fpr,
            "precision": c.precision,
            "recall": c.recall,
            "f1_members": c.f1_members,
            "f1_non_members": c.f1_non_members,
            "tpr_at_fpr": {rate: None if found is None else found[0] for rate, found in rates.items()},
            "tpr_at_fpr_interval": {rate: None if found is None else [*found[1:]] for rate, found in rates.items()},
            "needs": self.note,
        }


@dataclasses.dataclass(frozen=True)
class Slice:
    """The attack that was picked, on some of the records.

    Attributes:
        name: Which records, as "class 3" or "right label".
        members: Their number among the members.
        non_members: Their number among the non-members.
        auc: AUC on them.
        auc_interval: Its 95 % interval.
    """

    name: str
    members: int
    non_members: int
    auc: float
    auc_interval: tuple[float, float]


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
        slices: The first attack that was picked, class by class and by right and wrong labels.
        exposed: Indices of the members with the highest scores of that attack, most exposed first.
        epsilon: Lower bound on epsilon, of the picked attack (`metrics.epsilon_lower_bound`).
        skipped: Attacks that did not run, each with the reason.
        reference_models: Number of reference models, 0 for none.
        label_only: Whether the target answered labels instead of scores.
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
    slices: tuple[Slice, ...] = ()
    exposed: tuple[int, ...] = ()
    epsilon: float = 0.0
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    reference_models: int = 0
    label_only: bool = False

    def __getitem__(self, name: str) -> AttackResult:
        """One attack by name.

        Raises:
            KeyError: An attack that did not run.
        """
        for attack in self.attacks:
            if attack.name == name:
                return attack
        raise KeyError(f"{name!r} is not among the attacks that ran: {', '.join(a.name for a in self.attacks)}.")

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

    @property
    def verdict(self) -> str:
        """What was found, in one sentence."""
        low, high = self.attack_accuracy_interval
        accuracy = f"accuracy {self.attack_accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}; a coin has 0.5)"
        if not self.leaks:
            return (
                "None of the attacks that ran tells members from non-members better than a coin on these records: "
                f"{accuracy}."
            )
        if low <= 0.5:
            return (
                f"An attacker has {accuracy}, which may be a coin's, but orders records better than one: AUC "
                f"{self.auc:.3f} ({self.auc_interval[0]:.3f} to {self.auc_interval[1]:.3f})."
            )
        return (
            "An attacker who chooses the attack and its threshold on other records tells members from non-members with "
            f"{accuracy}, by {' and '.join(dict.fromkeys(self.chosen))}."
        )

    @property
    def leaks(self) -> bool:
        """Whether the 95 % interval of attack accuracy or of AUC lies above a coin's 0.5."""
        return self.attack_accuracy_interval[0] > 0.5 or self.auc_interval[0] > 0.5

    @property
    def assumptions(self) -> list[str]:
        """What the figures rest on, and what was not tested."""
        if self.reference_models:
            about = (
                f"{self.reference_models} reference models were trained through the pipeline that was given. They speak for "
                "an attacker who knows it; with more of them the attack can be stronger."
            )
        else:
            about = (
                "No reference models were trained: the attackers know some members and non-members. One who trains "
                "models through the same pipeline can do better (reference_models)."
            )
        found = [about]
        if self.label_only:
            found.append("The target answers labels, so that only label-only attacks ran.")
        return [
            *found,
            "Members and non-members are taken to come from one distribution.",
            "The bound on epsilon takes records for independent, though one training has seen them all, and delta for "
            "0; its threshold was chosen on one half of the records and the bound taken on the other.",
            "Empirical resistance is not differential privacy.",
        ]

    def headline(self) -> dict[str, Any]:
        """The report's own figures as JSON values, without attacks, slices and records: what may ship with a model.

        A rate that the sample cannot resolve is null.
        """
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
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
            "tpr_at_fpr": {str(rate): self.tpr_at_fpr(rate) for rate in RATES},
            "epsilon_lower_bound": self.epsilon,
            "gap_attack_accuracy": self.gap_attack_accuracy,
            "member_accuracy": self.member_accuracy,
            "non_member_accuracy": self.non_member_accuracy,
            "members": self.members,
            "non_members": self.non_members,
            "chosen": list(self.chosen),
            "seed": self.seed,
            "reference_models": self.reference_models,
            "label_only": self.label_only,
        }

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON values. A rate that the sample cannot resolve is null."""
        return {
            **self.headline(),
            "attacks": {attack.name: attack.to_dict() for attack in self.attacks},
            "slices": [dataclasses.asdict(part) for part in self.slices],
            "most_exposed_members": list(self.exposed),
            "not_tested": self.skipped,
            "assumptions": self.assumptions,
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        return self.to_markdown()

    def figures(self) -> list[tuple[str, str]]:
        """Names and values of the report's own figures, as text."""
        low, high = self.attack_accuracy_interval
        auc_low, auc_high = self.auc_interval
        return [
            ("attack accuracy", f"{self.attack_accuracy:.3f} ({low:.3f} to {high:.3f})"),
            ("AUC", f"{self.auc:.3f} ({auc_low:.3f} to {auc_high:.3f})"),
            ("advantage", f"{self.advantage:.3f}"),
            ("TPR", f"{self.tpr:.3f}"),
            ("FPR", f"{self.fpr:.3f}"),
            ("precision", f"{self.precision:.3f}"),
            ("recall", f"{self.recall:.3f}"),
            ("F1 of members", f"{self.f1_members:.3f}"),
            ("F1 of non-members", f"{self.f1_non_members:.3f}"),
            *((f"TPR at {rate:.1%} FPR", format_rate(self.tpr_at_fpr(rate))) for rate in RATES),
            ("lower bound on epsilon", f"{self.epsilon:.2f}"),
            ("gap attack accuracy", f"{self.gap_attack_accuracy:.3f}"),
            ("target's accuracy on members", f"{self.member_accuracy:.3f}"),
            ("target's accuracy on non-members", f"{self.non_member_accuracy:.3f}"),
        ]

    def attack_rows(self) -> list[tuple[str, ...]]:
        """One row of text for each attack: name, accuracy, AUC, TPR at each rate, and what it needs."""
        return [
            (
                attack.name,
                f"{attack.confusion.accuracy:.3f}",
                f"{attack.auc:.3f} ({attack.auc_interval[0]:.3f} to {attack.auc_interval[1]:.3f})",
                *(format_rate(attack.tpr_at_fpr(rate)) for rate in RATES),
                attack.note,
            )
            for attack in self.attacks
        ]

    def worst_slices(self, count: int = 5) -> list[Slice]:
        """The slices of highest AUC."""
        return sorted(self.slices, key=lambda part: -part.auc)[:count]

    def to_markdown(self) -> str:
        """The report as Markdown."""
        rates = [f"TPR at {rate:.1%} FPR" for rate in RATES]
        lines = [
            "# Membership inference audit",
            "",
            self.verdict,
            "",
            *markdown_table(("figure", "value"), self.figures()),
            "",
            *markdown_table(("attack", "accuracy", "AUC", *rates, "needs"), self.attack_rows()),
            "",
        ]
        if self.slices:
            rows = [
                (
                    part.name,
                    f"{part.members} + {part.non_members}",
                    f"{part.auc:.3f} ({part.auc_interval[0]:.3f} to {part.auc_interval[1]:.3f})",
                )
                for part in self.worst_slices()
            ]
            lines += [
                f"Worst slices, by {self.chosen[0]}:",
                "",
                *markdown_table(("records", "number", "AUC"), rows),
                "",
            ]
        if self.skipped:
            lines += ["Not tested:", "", *(f"- {name}: {reason}" for name, reason in self.skipped.items()), ""]
        lines += [
            f"{self.members} members, {self.non_members} non-members, seed {self.seed}.",
            "",
            *(f"- {assumption}" for assumption in self.assumptions),
            "",
        ]
        return "\n".join(lines)

    def save(self, folder: Any) -> pathlib.Path:
        """Writes `report.json`, `report.md`, `report.html` (one file, figures inside) and `roc.png` into a folder.

        Args:
            folder: Path of the folder, which is made if need be.

        Returns:
            The folder.
        """
        from tfmiaq.auditing.reporting import page, plots

        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(self.to_json() + "\n", encoding="utf-8")
        (folder / "report.md").write_text(f"{self.to_markdown()}\n![ROC](roc.png)\n", encoding="utf-8")
        (folder / "report.html").write_text(page.render(self), encoding="utf-8")
        plots.save_roc({attack.name: (attack.fpr, attack.tpr) for attack in self.attacks}, folder / "roc.png")
        return folder


def slices(
    attack: AttackResult, labels: np.ndarray, correct: np.ndarray, losses: Optional[np.ndarray]
) -> tuple[Slice, ...]:
    """An attack class by class, by right and wrong labels, and by quarters of the loss; small slices are left out.

    Args:
        attack: The attack.
        labels: Classes of the members, then of the non-members.
        correct: Whether the target is right on each.
        losses: The target's loss on each, or None.

    Returns:
        The slices.
    """
    scores = np.concatenate([attack.member_scores, attack.non_member_scores])
    is_member = np.arange(len(scores)) < len(attack.member_scores)
    masks = {f"class {label}": labels == label for label in np.unique(labels)}
    masks.update({"right label": correct, "wrong label": ~correct})
    if losses is not None:
        quarters = np.searchsorted(np.quantile(losses, [0.25, 0.5, 0.75]), losses)
        masks.update({f"loss in quarter {quarter + 1} of 4": quarters == quarter for quarter in range(4)})
    found = []
    for name, mask in masks.items():
        inside, outside = scores[mask & is_member], scores[mask & ~is_member]
        if min(len(inside), len(outside)) >= _SMALLEST_SLICE:
            auc, low, high = metrics.auc_interval(inside, outside)
            found.append(Slice(name, len(inside), len(outside), auc, (low, high)))
    return tuple(found)


def exposed(attack: AttackResult) -> tuple[int, ...]:
    """Indices of the members that an attack is surest of."""
    return tuple(int(index) for index in np.argsort(-attack.member_scores, kind="stable")[:_EXPOSED])


def format_rate(rate: Any) -> str:
    """A rate for a table, with its interval if there is one; one that the sample cannot resolve is no zero."""
    if rate is None:
        return "unresolved"
    if isinstance(rate, tuple):
        return f"{rate[0]:.3f} ({rate[1]:.3f} to {rate[2]:.3f})"
    return f"{rate:.3f}"
