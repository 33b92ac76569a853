"""Reports side by side."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np

from tfmiaq._tables import markdown_table
from tfmiaq.auditing.reporting.report import SCHEMA, AuditReport
from tfmiaq.metrics import RATES


def _figures(report: AuditReport) -> dict[str, Optional[float]]:
    return {
        "accuracy on non-members": report.non_member_accuracy,
        "attack accuracy": report.attack_accuracy,
        "gap attack": report.gap_attack_accuracy,
        "AUC": report.auc,
        **{f"TPR at {rate:.1%} FPR": report.tpr_at_fpr(rate) for rate in RATES},
        "epsilon at least": report.epsilon,
    }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Audits of several models; prints as a table.

    Attributes:
        reports: For each model, its reports, one for each seed.
    """

    reports: dict[str, tuple[AuditReport, ...]]

    @property
    def verdict(self) -> str:
        """Which model tells most and which least, in one sentence."""
        accuracy = {name: float(np.mean([r.attack_accuracy for r in group])) for name, group in self.reports.items()}
        most, least = max(accuracy, key=accuracy.__getitem__), min(accuracy, key=accuracy.__getitem__)
        return (
            f"Attack accuracy is highest for {most} ({accuracy[most]:.3f}) and lowest for {least} "
            f"({accuracy[least]:.3f})."
        )

    def head(self) -> list[str]:
        """Column names of the table."""
        return ["model", *_figures(next(iter(self.reports.values()))[0])]

    def rows(self) -> list[list[str]]:
        """One row of text for each model."""
        rows = []
        for name, group in self.reports.items():
            found = [_figures(report) for report in group]
            rows.append([name, *(_spread([figures[key] for figures in found]) for key in found[0])])
        return rows

    def attack_head(self) -> list[str]:
        """Column names of the table of attacks."""
        return ["attack", *self.reports]

    def attack_rows(self) -> list[list[str]]:
        """One row of text for each attack, with its AUC on each model; "-" where it did not run."""
        names = list(dict.fromkeys(a.name for group in self.reports.values() for r in group for a in r.attacks))
        rows = []
        for name in names:
            cells = []
            for group in self.reports.values():
                aucs = [attack.auc for report in group for attack in report.attacks if attack.name == name]
                cells.append(_spread(aucs) if aucs else "-")
            rows.append([name, *cells])
        return rows

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """ROC curve of each model: of its first report, the attack that was picked."""
        return {name: group[0].curves[0] for name, group in self.reports.items()}

    def to_dict(self) -> dict[str, Any]:
        """All reports as JSON values."""
        reports = {name: [report.to_dict() for report in group] for name, group in self.reports.items()}
        return {"schema": SCHEMA, "verdict": self.verdict, "reports": reports}

    def to_markdown(self) -> str:
        """The tables as Markdown."""
        lines = [self.verdict, "", *markdown_table(self.head(), self.rows()), ""]
        return "\n".join([*lines, *markdown_table(self.attack_head(), self.attack_rows()), ""])

    def __str__(self) -> str:
        return self.to_markdown()

    def save(self, folder: Any) -> pathlib.Path:
        """Writes `comparison.json`, `comparison.md` and `comparison.html` into a folder, which is made if need be."""
        from tfmiaq.auditing.reporting import page

        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        (folder / "comparison.md").write_text(self.to_markdown(), encoding="utf-8")
        (folder / "comparison.html").write_text(page.render_comparison(self), encoding="utf-8")
        return folder


def _spread(values: Sequence[Any]) -> str:
    if any(value is None for value in values):
        return "unresolved"
    mean = f"{float(np.mean(values)):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {float(np.std(values, ddof=1)):.3f}"


def compare(reports: Mapping[str, Union[AuditReport, Sequence[AuditReport]]]) -> Comparison:
    """Puts audits side by side, for example of the float model, the quantized one and the .tflite.

    Example:
        >>> print(tfmiaq.compare({"float": before, "quantized": after, ".tflite": shipped}))

    Args:
        reports: For each name a report, or several of different seeds, which become mean and standard deviation.

    Returns:
        The comparison.

    Raises:
        TypeError: Anything else than reports.
        ValueError: No reports.
    """
    grouped = {}
    for name, given in dict(reports).items():
        group = (given,) if isinstance(given, AuditReport) else tuple(given)
        if not group or not all(isinstance(report, AuditReport) for report in group):
            raise TypeError(f"compare: Expected an AuditReport or a list of them for {name!r}. Received {given!r}.")
        grouped[str(name)] = group
    if not grouped:
        raise ValueError("compare: Expected at least one report, as in {'float': report}. Received none.")
    return Comparison(grouped)
