"""Reports side by side."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np

from tfmiaq.auditing.reporting import attackers, markdown, page, plots, saved
from tfmiaq.auditing.reporting.report import AuditReport
from tfmiaq.caching.store import private_folder, write_text
from tfmiaq.metrics import RATES, format_figure

Report = Union[AuditReport, str, "os.PathLike[str]"]


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
        """For which model attack accuracy is highest and for which lowest, in one sentence."""
        accuracy = {name: float(np.mean([r.attack_accuracy for r in group])) for name, group in self.reports.items()}
        most, least = max(accuracy, key=accuracy.__getitem__), min(accuracy, key=accuracy.__getitem__)
        return (
            f"Attack accuracy is highest for {most} ({accuracy[most]:.3f}) and lowest for {least} "
            f"({accuracy[least]:.3f})."
        )

    def head(self) -> list[str]:
        """Returns the column names of the table."""
        return ["model", *_figures(next(iter(self.reports.values()))[0])]

    def rows(self) -> list[list[str]]:
        """Returns one row of text for each model, and one more for who can only ask where a file was read."""
        rows = []
        for name, group in self._views().items():
            found = [_figures(report) for report in group]
            rows.append([name, *(_spread([figures[key] for figures in found]) for key in found[0])])
        return rows

    def _views(self) -> dict[str, tuple[AuditReport, ...]]:
        """Returns the reports by the name of the model and, of a file, of the attacker."""
        views: dict[str, tuple[AuditReport, ...]] = {}
        for name, group in self.reports.items():
            queries = tuple(report.query for report in group if report.query is not None)
            if len(queries) < len(group):
                views[name] = group
                continue
            views[f"{name}, {attackers.NAMES['query']}"] = queries
            views[f"{name}, {attackers.NAMES['file']}"] = group
        return views

    def attack_head(self) -> list[str]:
        """Returns the column names of the table of attacks."""
        return ["attack", *self.reports]

    def attack_rows(self) -> list[list[str]]:
        """Returns one row of text for each attack, with its AUC on each model; "-" where it did not run."""
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
        """Returns the ROC curve of each model: of its first report, the attack that was picked."""
        return {name: group[0].curves[0] for name, group in self.reports.items()}

    def to_dict(self) -> dict[str, Any]:
        """Returns all reports as JSON values."""
        reports = {name: [report.to_dict() for report in group] for name, group in self.reports.items()}
        return {"schema": saved.SCHEMA, "verdict": self.verdict, "reports": reports}

    def _tables(self) -> list[tuple[list[str], list[list[str]]]]:
        return [(self.head(), self.rows()), (self.attack_head(), self.attack_rows())]

    def to_markdown(self) -> str:
        """Returns the tables as Markdown."""
        return markdown.comparison(verdict=self.verdict, tables=self._tables())

    def to_html(self) -> str:
        """Returns the comparison as one page with its plot."""
        return page.render(
            "comparison.html",
            verdict=self.verdict,
            leaks=any(report.leaks for group in self.reports.values() for report in group),
            head=self.head(),
            rows=self.rows(),
            attack_head=self.attack_head(),
            attack_rows=self.attack_rows(),
            roc=plots.roc_svg(self.curves(), {}),
        )

    def plot(self) -> Any:
        """Returns a Matplotlib figure: the ROC curve of each model, on two logarithmic axes."""
        return plots.roc(self.curves(), {})

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        names = ", ".join(map(str, self.reports))
        return f"Comparison({len(self.reports)} models: {names if len(names) <= 100 else f'{names[:100]}...'})"

    def _repr_html_(self) -> str:
        return page.render("notebook.html", verdict=self.verdict, tables=self._tables())

    def save(self, folder: Any) -> pathlib.Path:
        """Writes `comparison.json`, `comparison.md` and `comparison.html` into a folder, which is made if need be."""
        folder = private_folder(folder)
        write_text(folder / "comparison.json", json.dumps(self.to_dict(), indent=2))
        write_text(folder / "comparison.md", self.to_markdown().rstrip("\n"))
        write_text(folder / "comparison.html", self.to_html())
        return folder


def _spread(values: Sequence[Any]) -> str:
    """Returns the mean of values, with their standard deviation if there are several."""
    if any(value is None for value in values):
        return format_figure(None)
    mean = format_figure(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} ± {format_figure(float(np.std(values, ddof=1)))}"


def compare(reports: Mapping[str, Union[Report, Sequence[Report]]]) -> Comparison:
    """Puts audits side by side, for example of the float model, the quantized one and the .tflite.

    Example:
        >>> print(tfmiaq.compare({"float": before, "quantized": after, ".tflite": shipped}))
        >>> print(tfmiaq.compare({"last month": "reports/may", "now": report}))

    Args:
        reports: For each name a report, or several of different seeds, which become mean and standard deviation. The
            path of a saved report may stand for a report (`AuditReport.load`).

    Returns:
        The comparison.

    Raises:
        TypeError: Anything else than reports.
        ValueError: No reports, or a path that `AuditReport.load` cannot read.
    """
    if not isinstance(reports, Mapping):
        raise TypeError(f"compare: Expected reports by name, a mapping. Received {type(reports).__name__}.")
    grouped = {}
    for name, given in dict(reports).items():
        group = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        if not group or not all(isinstance(report, (AuditReport, str, os.PathLike)) for report in group):
            raise TypeError(
                f"compare: Expected an AuditReport, the path of a saved one, or a list of them for {name!r}. Received "
                f"{given!r:.200}."
            )
        grouped[str(name)] = tuple(
            report if isinstance(report, AuditReport) else AuditReport.load(report) for report in group
        )
    if not grouped:
        raise ValueError("compare: Expected at least one report, as in {'float': report}. Received none.")
    return Comparison(grouped)
