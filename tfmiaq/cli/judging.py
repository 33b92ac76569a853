"""What audits leave on the standard output, and the exit status of their release gate."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

SUCCEEDED, FAILED, BAD_INPUT = 0, 1, 2
FORMATS = TEXT, JSON, JUNIT = ("text", "json", "junit")


def conditions_of(given: argparse.Namespace) -> list[Any]:
    """Returns the limits of --fail_if, checked before any work.

    Raises:
        ValueError: Limits of another form, or options of a gate without limits.
    """
    from tfmiaq.auditing.gate import Condition

    if not given.fail_if and (given.junit is not None or given.allow_unresolved or given.format == JUNIT):
        raise ValueError(
            "--junit, --format=junit and --allow_unresolved are of a release gate: give its limits with --fail_if."
        )
    return [Condition.parse(text) for text in given.fail_if]


def show(given: argparse.Namespace, conditions: list[Any], reports: dict[str, Any], shown: Any) -> int:
    """Prints reports and what their gate says, in the format of --format, and returns the exit status.

    Args:
        given: The flags `folder`, `format`, `junit` and `allow_unresolved`.
        conditions: Limits of the gate, or none.
        reports: The `AuditReport` of each target.
        shown: What is printed as text: a report or a comparison.
    """
    from tfmiaq.auditing.gate import to_junit
    from tfmiaq.caching.store import write_text

    gates = {name: report.gate(conditions, given.allow_unresolved) for name, report in reports.items() if conditions}
    if given.junit is not None:
        write_text(given.junit, to_junit(gates))
    if given.format == JSON:
        print(json.dumps(_content(given, reports, gates), indent=2))
    elif given.format == JUNIT:
        print(to_junit(gates), end="")
    else:
        print(f"{shown}\n\nWritten to {given.folder}")
    for name, gate in gates.items():
        if given.format == TEXT:
            print(f"\n{name}: the release gate {'passes' if gate.passed else 'FAILS'}.\n{gate}")
        for check in gate.failures:
            print(f"{name}: {check.name} {check.outcome}: {check.reason}", file=sys.stderr)
    return SUCCEEDED if all(gate.passed for gate in gates.values()) else FAILED


def _content(given: argparse.Namespace, reports: dict[str, Any], gates: dict[str, Any]) -> dict[str, Any]:
    """Returns reports by target, and what the gate says of each, as JSON values."""
    judged = {
        name: {
            "passed": gate.passed,
            "checks": [{"name": c.name, "outcome": c.outcome, "reason": c.reason} for c in gate.checks],
        }
        for name, gate in gates.items()
    }
    return {
        "reports": {name: report.to_dict() for name, report in reports.items()},
        "gates": judged or None,
        "folder": str(given.folder),
    }
