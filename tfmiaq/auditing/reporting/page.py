"""A report as one page that a browser shows without any other file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfmiaq.auditing.reporting import plots
from tfmiaq.metrics import RATES

if TYPE_CHECKING:
    from tfmiaq.auditing.reporting.comparison import Comparison
    from tfmiaq.auditing.reporting.report import AuditReport

_MOST_CURVES = 6


def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("tfmiaq.auditing.reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def render(report: AuditReport) -> str:
    """The page of a report."""
    strongest = sorted(report.attacks, key=lambda attack: -attack.auc)[:_MOST_CURVES]
    picked = report[report.chosen[0]]
    return str(
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            rates=[f"TPR at {rate:.1%} FPR" for rate in RATES],
            roc=plots.roc_svg(
                {attack.name: (attack.fpr, attack.tpr) for attack in strongest}, {picked.name: report.members}
            ),
            histogram=plots.histogram_svg(picked),
            picked=picked,
        )
    )


def render_comparison(comparison: Comparison) -> str:
    """The page of a comparison."""
    return str(
        _environment()
        .get_template("comparison.html")
        .render(comparison=comparison, roc=plots.roc_svg(comparison.curves(), {}))
    )
