"""Reports as the JSON values of report.json, and back."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfmiaq import metrics
from tfmiaq.auditing.findings import Finding
from tfmiaq.auditing.reporting import older, saved
from tfmiaq.auditing.reporting.canary_report import CanaryReport
from tfmiaq.auditing.reporting.provenance import Provenance
from tfmiaq.auditing.reporting.results import AttackResult, Slice, estimate


def to_saved(report: Any, exposed: bool) -> dict[str, Any]:
    """Returns all that `from_saved` needs of an `AuditReport`: its figures, curves and provenance.

    `exposed` says whether the most exposed members are named.
    """
    return {
        **report.to_dict(exposed),
        "about": dataclasses.asdict(report.about),
        "attacks": {attack.name: attack.to_saved() for attack in report.attacks},
        "confusion": dataclasses.asdict(report.confusion),
        "independent_records": list(report.independent),
        "curves": [saved.curve_to_counts(curve, *size) for curve, size in zip(report.curves, report.half_sizes)],
        "query": None if report.query is None else to_saved(report.query, exposed),
    }


def from_saved(cls: Any, content: dict[str, Any]) -> Any:
    """Returns the report of these JSON values, without scores of single records.

    Args:
        cls: `AuditReport`.
        content: What `to_saved` gives.
    """
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
        slices=tuple(map(Slice.from_dict, content["slices"])),
        exposed=tuple(content["most_exposed_members"]),
        epsilon=content["epsilon_lower_bound"],
        skipped=content["not_tested"],
        reference_models=content["reference_models"],
        reference_set_size=content["reference_set_size"],
        label_only=content["label_only"],
        groups=None if content["groups"] is None else tuple(content["groups"]),
        half_sizes=tuple((counts["true_positives"][-1], counts["false_positives"][-1]) for counts in content["curves"]),
        canaries=None if content["canaries"] is None else CanaryReport.from_dict(content["canaries"]),
        access=content["access"],
        query=None if content["query"] is None else from_saved(cls, content["query"]),
        unread=content["unread"],
        independent=tuple(content["independent_records"]),
        findings=tuple(Finding(**finding) for finding in content["findings"]),
        about=Provenance.from_dict(content["about"]),
    )


def load(cls: Any, path: Any) -> Any:
    """Returns the report that `AuditReport.save` wrote; its errors are those of `AuditReport.load`."""
    path, content = saved.read(path)
    try:
        is_older = content["schema"] == saved.OLDER_SCHEMA
        report = from_saved(cls, older.upgraded(content) if is_older else content)
        for name in report.chosen:
            report[name]
        found = to_saved(report, exposed=True)
        is_whole = older.agrees(found, content) if is_older else saved.same_figures(found, content)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"AuditReport.load: '{path}' is damaged ({type(error).__name__}: {error!s:.300}).") from error
    if not is_whole:
        raise ValueError(f"AuditReport.load: '{path}' is damaged: its figures contradict each other.")
    return report
