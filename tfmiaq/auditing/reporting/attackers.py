"""The table of attackers: who can only ask, and who holds the file."""

from __future__ import annotations

from typing import Any

from tfmiaq.metrics import RATES, format_figure

# Attackers, by their access to the target.
NAMES = {"query": "who can only ask", "file": "who holds the file"}
RATE_NAMES = tuple(f"TPR at {rate:.1%} FPR" for rate in RATES)
HEAD = ("attacker", "attack accuracy", "AUC", *RATE_NAMES, "attack")


def row(report: Any) -> list[str]:
    """Returns an attacker's figures as text, in the order of `HEAD`.

    Args:
        report: The `AuditReport` of that attacker.
    """
    return [
        NAMES[report.access],
        format_figure(report.attack_accuracy),
        format_figure(report.auc),
        *(format_figure(report.tpr_at_fpr(rate)) for rate in RATES),
        " and ".join(dict.fromkeys(report.chosen)),
    ]
