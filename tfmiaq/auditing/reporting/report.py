"""The report of an audit: its data and derived figures."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable
from typing import Any, Optional, Union

import numpy as np

from tfmiaq import metrics
from tfmiaq._checks import check, real
from tfmiaq.auditing import gate, verdict
from tfmiaq.auditing.findings import Finding
from tfmiaq.auditing.reporting import attackers, contents, files, page, plots, saved, wording
from tfmiaq.auditing.reporting.canary_report import CanaryReport
from tfmiaq.auditing.reporting.exposure import Exposure
from tfmiaq.auditing.reporting.provenance import Provenance
from tfmiaq.auditing.reporting.results import AttackResult, Decided, Slice, decisions, with_interval
from tfmiaq.caching.store import private_folder, write_text, write_whole
from tfmiaq.metrics import RATES, Estimate

_MOST_CURVES = 6


@dataclasses.dataclass(frozen=True, eq=False)
class AuditReport(Decided):
    """What an audit found; prints as Markdown.

    The verdict is over all attacks. The report's own figures are those of an attacker who chooses: an attack and its
    threshold are chosen on one half of the records and applied to the other half, both ways.

    Attributes:
        attacks: Every attack by itself.
        chosen: Names of the two attacks picked, one for each way.
        confusion: Decisions at the picked attacks and thresholds, on all records.
        auc: AUC of the picked attacks on the halves they did not choose, mean of both ways.
        curves: (fpr, tpr) of the two ways.
        member_accuracy: Accuracy of the target on members.
        non_member_accuracy: Accuracy of the target on non-members.
        seed: Seed of reference models and attack models.
        slices: Classes, right and wrong labels, quarters of the loss and attributes of the user's, each with the attack
            that says most of it.
        exposed: Indices of the most exposed members, most exposed first: by the strongest attack on each, the lowest
            false positive rate at which it finds the record. `records` writes them all.
        epsilon: Lower bound on epsilon, on one half of the records, of the attack that has the highest on the other
            (`metrics.epsilon_lower_bound`).
        skipped: Attacks that did not run, each with the reason.
        reference_models: Number of reference models, 0 for none.
        reference_set_size: Number of records that each of them trained on, about; None where it is not known.
        label_only: Whether the target gave labels instead of scores.
        groups: Numbers of groups of members and of non-members, or None where each record is one.
        half_sizes: Members and non-members of the halves that the curves are of; () for halves as even as can be.
        canaries: The audit of canaries, or None.
        access: "file" for an attacker who holds the file and reads the logits inside, "query" for one who can only ask.
        query: The report of who can only ask, where this one is of who holds the file; else None.
        unread: Why the logits inside a .tflite were not read, or empty.
        independent: As how many independent members and non-members the records count: fewer than there are where they
            have duplicates or are of one person, and half as many where a picked attack learns. () for all of them.
        findings: What a look at the sets found, told first.
        about: What was audited, when and with what.
    """

    attacks: tuple[AttackResult, ...]
    chosen: tuple[str, str]
    confusion: metrics.Confusion
    auc: Estimate
    curves: tuple[tuple[np.ndarray, np.ndarray], ...]
    member_accuracy: float
    non_member_accuracy: float
    seed: int
    slices: tuple[Slice, ...] = ()
    exposed: tuple[int, ...] = ()
    epsilon: float = 0.0
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    reference_models: int = 0
    reference_set_size: Optional[int] = None
    label_only: bool = False
    access: str = "query"
    query: Optional[AuditReport] = None
    unread: str = ""
    groups: Optional[tuple[int, ...]] = None
    half_sizes: tuple[tuple[int, int], ...] = ()
    canaries: Optional[CanaryReport] = None
    independent: tuple[float, ...] = ()
    findings: tuple[Finding, ...] = ()
    about: Provenance = dataclasses.field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if not self.half_sizes:
            # The first curve is of the second halves, which are the larger ones of odd numbers.
            m, n = self.members, self.non_members
            object.__setattr__(self, "half_sizes", ((m - m // 2, n - n // 2), (m // 2, n // 2)))

    def __getitem__(self, name: str) -> AttackResult:
        """Returns one attack by name.

        Raises:
            KeyError: An attack that did not run.
        """
        for attack in self.attacks:
            if attack.name == name:
                return attack
        raise KeyError(f"{name!r} is not among the attacks that ran: {', '.join(a.name for a in self.attacks)}.")

    @property
    def members(self) -> int:
        """Number of members."""
        return self.confusion.members

    @property
    def non_members(self) -> int:
        """Number of non-members."""
        return self.confusion.non_members

    @property
    def attack_accuracy(self) -> Estimate:
        """Balanced accuracy of the attacker, 0 to 1; 0.5 is a coin."""
        members, non_members = self.independent or (self.members, self.non_members)
        return self.confusion.accuracy_estimate(sizes=(members, non_members))

    @property
    def gap_attack_accuracy(self) -> float:
        """Accuracy of "member if the label is right": 0.5 + (member accuracy - non-member accuracy) / 2.

        No masking of outputs brings an attacker below it (Yeom et al. 2018, section 3.2).
        """
        return 0.5 + (self.member_accuracy - self.non_member_accuracy) / 2

    @property
    def resolution(self) -> int:
        """Non-members of the smaller half: a false positive rate below one over it cannot be measured."""
        return min(non_members for _, non_members in self.half_sizes)

    def tpr_at_fpr(self, limit: float) -> Optional[float]:
        """Returns the true positive rate at no more than `limit` false positives.

        None where the non-members are too few to resolve it.

        Args:
            limit: False positive rate, more than 0 and less than 1.

        Raises:
            ValueError: A limit outside (0, 1).
        """
        check("tpr_at_fpr", limit=(limit, real(0, 1, closed="neither")))
        if limit * self.resolution < 1:
            return None
        return float(np.mean([metrics.tpr_at_fpr(fpr, tpr, limit) for fpr, tpr in self.curves]))

    @functools.cached_property
    def verdict(self) -> verdict.Verdict:
        """What was found, in three parts, over all attacks and both attackers; prints as sentences."""
        reports = [self] if self.query is None else [self, self.query]
        views = [
            verdict.View(attackers.NAMES[report.access] if self.query else "", report.attacks, report.slices)
            for report in reports
        ]
        return verdict.judge(views, self.findings)

    @property
    def leaks(self) -> bool:
        """Whether any part of the verdict is "leaks"."""
        return self.verdict.leaks

    def gate(self, conditions: Iterable[Union[str, gate.Condition]], allow_unresolved: bool = False) -> gate.Gate:
        """Judges limits on the figures of all attacks, for a build that stops on a leak.

        Example:
            >>> judged = report.gate(["auc>0.55", "tpr@0.01>0.02", "epsilon>1"])
            >>> print(judged.passed, judged)

        Args:
            conditions: Limits: "auc>0.55", "accuracy>0.55", "tpr@0.01>0.02" or "epsilon>1".
            allow_unresolved: Whether a limit lets the gate pass that the records are too few to judge.

        Returns:
            The gate: `passed`, and a check with its reason for each limit. A figure passes where the upper ends of its
            intervals, of all attacks, are no higher than the limit (`tfmiaq.auditing.gate.judge`). A finding that voids
            the audit fails it.

        Raises:
            InvalidArgumentError: No conditions, another form, or limits out of their range.
        """
        return gate.judge(self, conditions, allow_unresolved)

    @property
    def assumptions(self) -> list[str]:
        """What the figures rest on, and what was not tested."""
        return wording.assumptions(self.headline(), self.attacks)

    def headline(self) -> dict[str, Any]:
        """Returns the report's own figures as JSON values, without attacks, slices and records: for a model's metadata.

        A rate that the sample cannot resolve is null.
        """
        return {
            "schema": saved.SCHEMA,
            "verdict": self.verdict.to_dict(),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            **with_interval("attack_accuracy", self.attack_accuracy),
            **with_interval("auc", self.auc),
            **decisions(self.confusion),
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
            "reference_set_size": self.reference_set_size,
            "label_only": self.label_only,
            "groups": None if self.groups is None else list(self.groups),
            "access": self.access,
            "unread": self.unread,
            "query": None if self.query is None else self.query.headline(),
        }

    def to_dict(self, exposed: bool = False) -> dict[str, Any]:
        """Returns all figures as JSON values. A rate that the sample cannot resolve is null.

        Args:
            exposed: Whether the most exposed members are named by their indices, who are then known to be members to
                whoever has the list of records. Without it their list is empty.
        """
        return {
            **self.headline(),
            "attacks": {attack.name: attack.to_dict() for attack in self.attacks},
            "slices": [part.to_dict() for part in self.slices],
            "most_exposed_members": list(self.exposed) if exposed else [],
            "not_tested": self.skipped,
            "canaries": None if self.canaries is None else self.canaries.to_dict(),
            "assumptions": self.assumptions,
            "query": None if self.query is None else self.query.to_dict(exposed),
        }

    def to_json(self, exposed: bool = False) -> str:
        """Returns `to_dict` as text."""
        return json.dumps(self.to_dict(exposed), indent=2)

    def figures(self) -> list[tuple[str, str]]:
        """Returns names and values of the report's own figures, as text."""
        return contents.figures(self)

    def attack_head(self) -> list[str]:
        """Returns the column names of the table of attacks."""
        return list(contents.ATTACK_HEAD)

    def attack_rows(self) -> list[tuple[str, ...]]:
        """Returns one row of text for each attack: name, accuracy, AUC, TPR at each rate, and what it needs."""
        return contents.attack_rows(self.attacks)

    def worst_slices(self, count: int = 5) -> list[Slice]:
        """Returns the slices of lowest p-values, of those with records enough."""
        judged = [part for part in self.slices if part.auc is not None]
        return sorted(judged, key=lambda part: (part.p_value, -float(part.auc or 0.0)))[:count]

    def to_markdown(self) -> str:
        """Returns the report as Markdown."""
        return contents.to_markdown(self)

    def to_html(self, exposed: bool = False) -> str:
        """Returns the report as one page with its plots. That of a loaded report has no histogram of scores.

        Args:
            exposed: As of `to_dict`.
        """
        picked = self[self.chosen[0]]
        histogram = None
        if picked.member_scores is not None and picked.non_member_scores is not None:
            histogram = plots.histogram_svg(picked.name, picked.member_scores, picked.non_member_scores)
        roc = plots.roc_svg(self._strongest_curves(), {picked.name: self.members})
        return contents.to_html(self, roc, histogram, self.exposed if exposed else ())

    def _strongest_curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        strongest = sorted(self.attacks, key=lambda attack: -attack.auc)[:_MOST_CURVES]
        return {attack.name: (attack.fpr, attack.tpr) for attack in strongest}

    def plot(self) -> Any:
        """Returns a Matplotlib figure: ROC curves of the strongest attacks, on two logarithmic axes."""
        return plots.roc(self._strongest_curves(), {self.chosen[0]: self.members})

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        return (
            f"AuditReport(attack accuracy {self.attack_accuracy}, AUC {self.auc}, access {self.access!r}, "
            f"{self.members} members, {self.non_members} non-members, {len(self.attacks)} attacks, "
            f"{self.reference_models} reference models)"
        )

    def _repr_html_(self) -> str:
        tables = [(contents.FIGURE_HEAD, self.figures()), (self.attack_head(), self.attack_rows())]
        if self.query is not None:
            tables.insert(0, contents.attackers_table(self))
        return page.render("notebook.html", verdict=str(self.verdict), tables=tables)

    def save(self, folder: Any, exposed: bool = False) -> pathlib.Path:
        """Writes `report.json`, `report.md`, `report.html` (one file, plots inside) and `roc.png` into a folder.

        `report.json` has what `load` needs, and no scores of single records.

        Args:
            folder: Path of the folder, which is made if need be.
            exposed: As of `to_dict`, for `report.json` and `report.html`.

        Returns:
            The folder.
        """
        folder = private_folder(folder)
        write_text(folder / saved.FILE, saved.to_text(files.to_saved(self, exposed)))
        write_text(folder / "report.md", f"{self.to_markdown()}\n![ROC](roc.png)")
        write_text(folder / "report.html", self.to_html(exposed))
        curves = {attack.name: (attack.fpr, attack.tpr) for attack in self.attacks}
        write_whole(folder / "roc.png", lambda path: plots.save_roc(curves, path))
        return folder

    def records(self, path: Any) -> pathlib.Path:
        """Writes a CSV file with a row for each record, members first, and returns its path.

        Example:
            >>> report.records("scores.csv")

        Columns are the index in its set, the set ("member" or "non-member"), the strongest attack on the record, its
        score, and the part of the non-members, without the record itself, that have at least that score.

        Raises:
            ValueError: A report that was loaded, which has no scores of single records.
        """
        return Exposure.of(self.attacks).write(path)

    @classmethod
    def load(cls, path: Any) -> AuditReport:
        """Reads a report that `save` wrote.

        Example:
            >>> before = tfmiaq.AuditReport.load("reports/float")
            >>> print(before.auc)

        Args:
            path: The folder that it was saved in, or the report.json in it.

        Returns:
            A report with the same figures, verdict, tables and curves, without scores of single records, and without
            the most exposed members unless they were saved too.

        Raises:
            ValueError: No such file; a file that is not a report, is damaged or has another schema.
        """
        return files.load(cls, path)
