"""The report of an audit: its data and derived figures."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Optional

import numpy as np

from tfmiaq import metrics
from tfmiaq._checks import check, real
from tfmiaq.auditing.reporting import attackers, markdown, page, plots, saved, wording
from tfmiaq.auditing.reporting.canary_report import CanaryReport
from tfmiaq.auditing.reporting.exposure import Exposure
from tfmiaq.auditing.reporting.results import AttackResult, Decided, Slice, decisions, estimate, with_interval
from tfmiaq.caching.store import private_folder, write_text, write_whole
from tfmiaq.metrics import RATES, Estimate, format_figure

_MOST_CURVES = 6


@dataclasses.dataclass(frozen=True, eq=False)
class AuditReport(Decided):
    """What an audit found; prints as Markdown.

    An attack and its threshold are chosen on one half of the records and applied to the other half, both ways.

    Attributes:
        attacks: Every attack by itself.
        chosen: Names of the two attacks picked, one for each way.
        confusion: Decisions at the picked attacks and thresholds, on all records.
        auc: AUC of the picked attacks on the halves they did not choose, mean of both ways.
        curves: (fpr, tpr) of the two ways.
        member_accuracy: Accuracy of the target on members.
        non_member_accuracy: Accuracy of the target on non-members.
        seed: Seed of halves and attack models.
        slices: The first attack that was picked, class by class and by right and wrong labels.
        exposed: Indices of the most exposed members, most exposed first: by the strongest attack on each, the lowest
            false positive rate at which it finds the record. `records` writes them all.
        epsilon: Lower bound on epsilon, of the picked attack (`metrics.epsilon_lower_bound`).
        skipped: Attacks that did not run, each with the reason.
        reference_models: Number of reference models, 0 for none.
        label_only: Whether the target gave labels instead of scores.
        groups: Numbers of groups of members and of non-members, or None where each record is one.
        half_sizes: Members and non-members of the halves that the curves are of; () for halves as even as can be.
        canaries: The audit of canaries, or None.
        access: "file" for an attacker who holds the file and reads the logits inside, "query" for one who can only ask.
        query: The report of who can only ask, where this one is of who holds the file; else None.
        unread: Why the logits inside a .tflite were not read, or empty.
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
    label_only: bool = False
    access: str = "query"
    query: Optional[AuditReport] = None
    unread: str = ""
    groups: Optional[tuple[int, ...]] = None
    half_sizes: tuple[tuple[int, int], ...] = ()
    canaries: Optional[CanaryReport] = None

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

    @property
    def verdict(self) -> str:
        """What was found, in one sentence."""
        return wording.verdict(self.attack_accuracy, self.auc, self.leaks, self.chosen, self.access)

    @property
    def leaks(self) -> bool:
        """Whether the 95 % interval of attack accuracy or of AUC lies above a coin's 0.5."""
        return self.attack_accuracy.low > 0.5 or self.auc.low > 0.5

    @property
    def assumptions(self) -> list[str]:
        """What the figures rest on, and what was not tested."""
        return wording.assumptions(
            self.reference_models, self.label_only, self.access, self.unread, self.groups is not None, self.attacks
        )

    def headline(self) -> dict[str, Any]:
        """Returns the report's own figures as JSON values, without attacks, slices and records: for a model's metadata.

        A rate that the sample cannot resolve is null.
        """
        return {
            "schema": saved.SCHEMA,
            "verdict": self.verdict,
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
            "label_only": self.label_only,
            "groups": None if self.groups is None else list(self.groups),
            "access": self.access,
            "unread": self.unread,
            "query": None if self.query is None else self.query.headline(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as JSON values. A rate that the sample cannot resolve is null."""
        return {
            **self.headline(),
            "attacks": {attack.name: attack.to_dict() for attack in self.attacks},
            "slices": [part.to_dict() for part in self.slices],
            "most_exposed_members": list(self.exposed),
            "not_tested": self.skipped,
            "canaries": None if self.canaries is None else self.canaries.to_dict(),
            "assumptions": self.assumptions,
            "query": None if self.query is None else self.query.to_dict(),
        }

    def to_json(self) -> str:
        """Returns `to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2)

    def figures(self) -> list[tuple[str, str]]:
        """Returns names and values of the report's own figures, as text."""
        return [
            ("attack accuracy", format_figure(self.attack_accuracy)),
            ("AUC", format_figure(self.auc)),
            ("advantage", format_figure(self.advantage)),
            ("TPR", format_figure(self.tpr)),
            ("FPR", format_figure(self.fpr)),
            ("precision", format_figure(self.precision)),
            ("recall", format_figure(self.recall)),
            ("F1 of members", format_figure(self.f1_members)),
            ("F1 of non-members", format_figure(self.f1_non_members)),
            *((name, format_figure(self.tpr_at_fpr(rate))) for name, rate in zip(attackers.RATE_NAMES, RATES)),
            ("lower bound on epsilon", f"{self.epsilon:.2f}"),
            ("gap attack accuracy", format_figure(self.gap_attack_accuracy)),
            ("target's accuracy on members", format_figure(self.member_accuracy)),
            ("target's accuracy on non-members", format_figure(self.non_member_accuracy)),
        ]

    def attack_head(self) -> list[str]:
        """Returns the column names of the table of attacks."""
        return ["attack", "accuracy", "AUC", *attackers.RATE_NAMES, "needs"]

    def attack_rows(self) -> list[tuple[str, ...]]:
        """Returns one row of text for each attack: name, accuracy, AUC, TPR at each rate, and what it needs."""
        return [
            (
                attack.name,
                format_figure(attack.confusion.accuracy),
                format_figure(attack.auc),
                *(format_figure(attack.tpr_at_fpr(rate)) for rate in RATES),
                attack.note,
            )
            for attack in self.attacks
        ]

    def worst_slices(self, count: int = 5) -> list[Slice]:
        """Returns the slices of highest AUC."""
        return sorted(self.slices, key=lambda part: -part.auc)[:count]

    def _attacker_rows(self) -> list[list[str]]:
        return [] if self.query is None else [attackers.row(self.query), attackers.row(self)]

    def _shown(self, most_slices: int) -> dict[str, Any]:
        """Returns what Markdown and page show, as text and rows of text."""
        return {
            "verdict": self.verdict,
            "attackers": (attackers.HEAD, self._attacker_rows()),
            "figures": self.figures(),
            "attack_head": self.attack_head(),
            "attack_rows": self.attack_rows(),
            "picked": self.chosen[0],
            "slice_rows": [
                (part.name, f"{part.members} + {part.non_members}", format_figure(part.auc))
                for part in self.worst_slices(most_slices)
            ],
            "skipped": self.skipped,
            "sizes": wording.sizes(self.members, self.non_members, self.groups, self.seed),
            "canaries": self.canaries,
            "assumptions": self.assumptions,
        }

    def to_markdown(self) -> str:
        """Returns the report as Markdown."""
        return markdown.report(**self._shown(most_slices=5))

    def to_html(self) -> str:
        """Returns the report as one page with its plots. That of a loaded report has no histogram of scores."""
        picked = self[self.chosen[0]]
        histogram = None
        if picked.member_scores is not None and picked.non_member_scores is not None:
            histogram = plots.histogram_svg(picked.name, picked.member_scores, picked.non_member_scores)
        return page.render(
            "report.html",
            leaks=self.leaks,
            roc=plots.roc_svg(self._strongest_curves(), {picked.name: self.members}),
            histogram=histogram,
            exposed=self.exposed,
            **self._shown(most_slices=12),
        )

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
        about = [(attackers.HEAD, self._attacker_rows())] if self.query else []
        tables = [*about, (("figure", "value"), self.figures()), (self.attack_head(), self.attack_rows())]
        return page.render("notebook.html", verdict=self.verdict, tables=tables)

    def save(self, folder: Any) -> pathlib.Path:
        """Writes `report.json`, `report.md`, `report.html` (one file, plots inside) and `roc.png` into a folder.

        `report.json` has what `load` needs, and no scores of single records.

        Args:
            folder: Path of the folder, which is made if need be.

        Returns:
            The folder.
        """
        folder = private_folder(folder)
        write_text(folder / saved.FILE, saved.to_text(self._to_saved()))
        write_text(folder / "report.md", f"{self.to_markdown()}\n![ROC](roc.png)")
        write_text(folder / "report.html", self.to_html())
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
            A report with the same figures, verdict, tables and curves, without scores of single records.

        Raises:
            ValueError: No such file; a file that is not a report, is damaged or has another schema.
        """
        path, content = saved.read(path)
        try:
            report = cls._from_saved(content)
            for name in report.chosen:
                report[name]
            is_whole = saved.same_figures(report._to_saved(), content)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"AuditReport.load: '{path}' is damaged ({type(error).__name__}: {error}).") from error
        if not is_whole:
            raise ValueError(f"AuditReport.load: '{path}' is damaged: its figures contradict each other.")
        return report

    def _to_saved(self) -> dict[str, Any]:
        return {
            **self.to_dict(),
            "attacks": {attack.name: attack.to_saved() for attack in self.attacks},
            "confusion": dataclasses.asdict(self.confusion),
            "curves": [saved.curve_to_counts(curve, *size) for curve, size in zip(self.curves, self.half_sizes)],
            "query": None if self.query is None else self.query._to_saved(),
        }

    @classmethod
    def _from_saved(cls, content: dict[str, Any]) -> AuditReport:
        one, other = content["chosen"]
        return cls(
            attacks=tuple(AttackResult.from_saved(*item) for item in content["attacks"].items()),
            chosen=(one, other),
            confusion=metrics.Confusion(**content["confusion"]),
            auc=estimate("auc", content),
            curves=tuple(saved.counts_to_curve(counts) for counts in content["curves"]),
            member_accuracy=content["member_accuracy"],
            non_member_accuracy=content["non_member_accuracy"],
            seed=content["seed"],
            slices=tuple(
                Slice(part["name"], part["members"], part["non_members"], estimate("auc", part))
                for part in content["slices"]
            ),
            exposed=tuple(content["most_exposed_members"]),
            epsilon=content["epsilon_lower_bound"],
            skipped=content["not_tested"],
            reference_models=content["reference_models"],
            label_only=content["label_only"],
            groups=None if content["groups"] is None else tuple(content["groups"]),
            half_sizes=tuple(
                (counts["true_positives"][-1], counts["false_positives"][-1]) for counts in content["curves"]
            ),
            canaries=None if content["canaries"] is None else CanaryReport.from_dict(content["canaries"]),
            access=content["access"],
            query=None if content["query"] is None else cls._from_saved(content["query"]),
            unread=content["unread"],
        )
