"""A release gate: limits on the figures of an audit, judged on the ends of their intervals."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Union
from xml.etree import ElementTree

from tfmiaq._checks import InvalidArgumentError, real
from tfmiaq._tables import html_table
from tfmiaq.auditing.reporting.results import AttackResult
from tfmiaq.metrics import Estimate

PASSED, FAILED, UNRESOLVED = "passed", "failed", "unresolved"
_CONDITION = re.compile(r"\s*(?P<figure>auc|accuracy|epsilon|tpr)(?:@(?P<rate>[^\s>]+))?\s*>\s*(?P<limit>\S+)\s*")
_LIMITS = {
    "auc": real(0.5, 1),
    "accuracy": real(0.5, 1),
    "tpr": real(0, 1),
    "epsilon": real(0),
}
_RATE = real(0, 1, closed="neither")
_FORMS = "'auc>0.55', 'accuracy>0.55', 'tpr@0.01>0.02' or 'epsilon>1'"


@dataclasses.dataclass(frozen=True)
class Condition:
    """A limit that no attack may exceed.

    Attributes:
        figure: "auc", "accuracy", "tpr" or "epsilon".
        limit: Above this the gate fails: 0.5 to 1 for AUC and accuracy, 0 to 1 for a TPR, at least 0 for epsilon.
        rate: False positive rate of a TPR, above 0 and below 1; else None.
    """

    figure: str
    limit: float
    rate: Optional[float] = None

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Returns the condition of a text such as "tpr@0.01>0.02".

        Raises:
            InvalidArgumentError: Another form, or numbers out of their range, NaN among them.
        """
        found = _CONDITION.fullmatch(text) if isinstance(text, str) else None
        if found is None or (found["rate"] is not None) != (found["figure"] == "tpr"):
            raise InvalidArgumentError(f"gate: Expected a condition such as {_FORMS}. Received {text!r:.200}.")
        limit, rate = _number(found["limit"], text), None if found["rate"] is None else _number(found["rate"], text)
        if limit not in _LIMITS[found["figure"]]:
            raise InvalidArgumentError(
                f"gate: Expected the limit of {text.strip()!r} to be {_LIMITS[found['figure']]}. Received {limit}."
            )
        if rate is not None and rate not in _RATE:
            raise InvalidArgumentError(
                f"gate: Expected the false positive rate of {text.strip()!r} to be {_RATE}. Received {rate}."
            )
        return cls(found["figure"], limit, rate)

    def __str__(self) -> str:
        rate = "" if self.rate is None else f"@{self.rate:g}"
        return f"{self.figure}{rate}>{self.limit:g}"


def _number(text: str, of: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidArgumentError(f"gate: {text!r} in {of!r} is no number. Expected {_FORMS}.") from None


@dataclasses.dataclass(frozen=True)
class Check:
    """One limit, judged.

    Attributes:
        name: The condition, such as "auc>0.55", or "valid sets".
        outcome: "passed", "failed" or "unresolved".
        reason: Why, in one sentence.
    """

    name: str
    outcome: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Gate:
    """The judgement of a release gate; prints a line for each limit.

    Attributes:
        checks: The judged limits, the validity of the sets first.
        allow_unresolved: Whether limits that the records cannot resolve let the gate pass.
    """

    checks: tuple[Check, ...]
    allow_unresolved: bool = False

    @property
    def passed(self) -> bool:
        """Whether the gate is open."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that keep it shut."""
        return tuple(check for check in self.checks if self._fails(check))

    def _fails(self, check: Check) -> bool:
        return check.outcome == FAILED or (check.outcome == UNRESOLVED and not self.allow_unresolved)

    def __str__(self) -> str:
        return "\n".join(f"{check.outcome}: {check.name}: {check.reason}" for check in self.checks)

    def _repr_html_(self) -> str:
        rows = [(check.name, check.outcome, check.reason) for check in self.checks]
        return html_table(("limit", "outcome", "why"), rows, note=f"The gate {'passes' if self.passed else 'fails'}.")


def judge(report: Any, conditions: Iterable[Union[str, Condition]], allow_unresolved: bool = False) -> Gate:
    """Judges limits on the figures of a report, of all attacks and attackers.

    A figure passes where the upper end of its interval, of the attack that has the highest, is no higher than the
    limit. It fails where the figure itself is higher. Between the two it is unresolved: too few records to say. No
    correction for the number of attacks is needed: a figure passes only if those of all attacks do (Berger 1982). An
    AUC or an accuracy below 0.5 counts as its mirror image above, except of attacks that learn the order. Epsilon has a
    lower bound only: it fails above the limit, and passing says no more than that the attacks showed no more.

    Args:
        report: The `AuditReport`.
        conditions: Limits, as texts such as "tpr@0.01>0.02" or as `Condition`.
        allow_unresolved: Whether unresolved limits let the gate pass.

    Raises:
        InvalidArgumentError: No conditions, or as `Condition.parse`.
    """
    if not isinstance(conditions, (str, Condition, Iterable)):
        raise InvalidArgumentError(f"gate: Expected conditions such as {_FORMS}. Received {conditions!r:.200}.")
    given: list[Union[str, Condition]] = [conditions] if isinstance(conditions, (str, Condition)) else list(conditions)
    parsed = [condition if isinstance(condition, Condition) else Condition.parse(condition) for condition in given]
    if not parsed:
        raise InvalidArgumentError(f"gate: Expected at least one condition, such as {_FORMS}. Received none.")
    invalid = [finding for finding in report.findings if finding.invalid]
    sets = (
        Check("valid sets", FAILED, " ".join(finding.text for finding in invalid))
        if invalid
        else Check("valid sets", PASSED, "No finding voids the audit.")
    )
    return Gate((sets, *(_judge(report, condition) for condition in parsed)), allow_unresolved)


def _judge(report: Any, condition: Condition) -> Check:
    name = str(condition)
    views = [report] if report.query is None else [report, report.query]
    if condition.figure == "epsilon":
        bound = max(view.epsilon for view in views)
        if bound > condition.limit:
            return Check(name, FAILED, f"Epsilon is at least {bound:.2f}.")
        return Check(name, PASSED, f"The attacks show an epsilon of at least {bound:.2f}, and no more.")
    found: list[tuple[str, Optional[Estimate]]] = [
        (attack.name, _figure(attack, condition)) for view in views for attack in view.attacks
    ]
    resolved = [(attack, figure) for attack, figure in found if figure is not None]
    if resolved:
        attack, highest = max(resolved, key=lambda pair: float(pair[1]))
        widest_attack, widest = max(resolved, key=lambda pair: pair[1].high)
        if highest > condition.limit:
            return Check(name, FAILED, f"{attack} has {highest}.")
    if len(resolved) < len(found):
        lacking = next(attack for attack, figure in found if figure is None)
        return Check(
            name,
            UNRESOLVED,
            f"{report.non_members} non-members cannot resolve a rate of {condition.rate:g} by {lacking}.",
        )
    if widest.high > condition.limit:
        return Check(
            name, UNRESOLVED, f"{widest_attack} has {widest}: the interval reaches above the limit. Audit more records."
        )
    return Check(name, PASSED, f"The highest is {highest}, of {attack}, and no interval reaches above the limit.")


def _figure(attack: AttackResult, condition: Condition) -> Optional[Estimate]:
    if condition.rate is not None:
        return attack.tpr_at_fpr(condition.rate)
    found: Estimate = attack.auc if condition.figure == "auc" else attack.attack_accuracy
    if attack.learns:
        return found
    mirrored = Estimate(1 - found.value, 1 - found.high, 1 - found.low)
    # By chance a coin's figure lies on either side: both intervals count.
    best = max(found, mirrored, key=float)
    return Estimate(best.value, best.low, max(found.high, mirrored.high))


def to_junit(gates: Mapping[str, Gate]) -> str:
    """Returns gates as JUnit XML, which build servers show: a suite for each target, a case for each limit.

    Unresolved limits are failures, or skipped cases where they are allowed.

    Args:
        gates: For each target its gate.
    """
    top = ElementTree.Element("testsuites", name="tfmiaq audit")
    totals = [0, 0, 0]
    for name, gate in gates.items():
        skipped = [check for check in gate.checks if check.outcome == UNRESOLVED and gate.allow_unresolved]
        counts = len(gate.checks), len(gate.failures), len(skipped)
        totals = [total + count for total, count in zip(totals, counts)]
        suite = ElementTree.SubElement(top, "testsuite", _attributes(counts), name=_clean(name))
        for check in gate.checks:
            case = ElementTree.SubElement(suite, "testcase", classname=_clean(name), name=check.name, time="0")
            if check in gate.failures:
                failure = ElementTree.SubElement(case, "failure", message=_clean(check.reason), type=check.outcome)
                failure.text = _clean(f"{check.name}: {check.reason}")
            elif check in skipped:
                ElementTree.SubElement(case, "skipped", message=_clean(check.reason))
            else:
                ElementTree.SubElement(case, "system-out").text = _clean(check.reason)
    for key, value in _attributes(totals).items():
        top.set(key, value)
    ElementTree.indent(top)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(top, encoding="unicode") + "\n"


def _attributes(counts: Sequence[int]) -> dict[str, str]:
    return {**dict(zip(("tests", "failures", "skipped"), map(str, counts))), "errors": "0", "time": "0"}


def _clean(text: str) -> str:
    """Returns text without the characters that XML has no way to write."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else " " for letter in text)
