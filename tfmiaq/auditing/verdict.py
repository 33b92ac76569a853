"""The verdict of an audit, over all of its attacks and attackers, corrected for their number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Optional

from tfmiaq import metrics
from tfmiaq._tables import html_table
from tfmiaq.auditing.findings import Finding
from tfmiaq.auditing.reporting.results import AttackResult, Slice
from tfmiaq.metrics import RATES, format_figure

LEAKS, NO_LEAK, CANNOT_TELL = "leaks", "does not leak", "cannot tell"
# The chance of a false alarm, over all parts together; each part has its share.
ERROR = 0.05
ON_AVERAGE, AT_LOW_RATES, AT_WORST = "on average", "at low false positives", "for the worst slices and records"
NAMES = (ON_AVERAGE, AT_LOW_RATES, AT_WORST)
# Where only larger leaks than these would be seen, that none was is no answer.
_COARSEST_AUC, _COARSEST_TPR = 0.7, 0.2
_RECORDS = "records"


@dataclasses.dataclass(frozen=True)
class View:
    """What the verdict reads of one attacker.

    Attributes:
        attacker: Who the attacker is, where there are several, such as "who holds the file"; else empty.
        attacks: The attacks.
        slices: The slices.
    """

    attacker: str
    attacks: tuple[AttackResult, ...]
    slices: tuple[Slice, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """One of three parts of a verdict.

    Attributes:
        name: "on average", "at low false positives" or "for the worst slices and records".
        outcome: "leaks", "does not leak" or "cannot tell".
        text: What was found, or which leak would have been seen, in one or two sentences.
        p_value: How likely as much is without any leak, over all tests of all parts.
    """

    name: str
    outcome: str
    text: str
    p_value: float

    def __str__(self) -> str:
        return f"{self.name[0].upper()}{self.name[1:]}: {self.outcome}. {self.text}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a target leaks, in three parts; prints as sentences.

    All attacks, of all attackers, are tested, and the p-values of each part corrected for their number (Holm 1979).
    Each part has a third of an error of 5 %, so that a target that does not leak is said to in at most one of twenty
    audits.

    Attributes:
        parts: On average; at low false positives; for the worst slices and records.
        findings: What a look at the sets found.
    """

    parts: tuple[Part, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def is_valid(self) -> bool:
        """Whether no finding voids the audit."""
        return not any(finding.invalid for finding in self.findings)

    @property
    def leaks(self) -> bool:
        """Whether any part leaks, of an audit that is not void."""
        return self.outcome == LEAKS

    @property
    def outcome(self) -> str:
        """The outcome of all parts: "leaks" if any does, "cannot tell" if any other cannot, or the audit is void."""
        outcomes = [part.outcome for part in self.parts]
        if not self.is_valid:
            return CANNOT_TELL
        return LEAKS if LEAKS in outcomes else CANNOT_TELL if CANNOT_TELL in outcomes else NO_LEAK

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        if not self.is_valid:
            return "This audit is void: its sets are not what they should be."
        by_outcome = {
            outcome: [part.name for part in self.parts if part.outcome == outcome]
            for outcome in (LEAKS, CANNOT_TELL, NO_LEAK)
        }
        if self.outcome == LEAKS:
            said = {LEAKS: "The model leaks", CANNOT_TELL: "the audit cannot tell", NO_LEAK: "no leak was found"}
            told = [f"{said[outcome]} {_and(names)}" for outcome, names in by_outcome.items() if names]
            return f"{'; '.join(told)}."
        if self.outcome == CANNOT_TELL:
            return f"The audit cannot tell whether the model leaks {_and(by_outcome[CANNOT_TELL])}."
        return "No leak was found, within what this many records can show."

    def __str__(self) -> str:
        told = [f"{finding.text}" for finding in self.findings]
        return "\n".join([self.headline, *told, *map(str, self.parts)])

    def _repr_html_(self) -> str:
        rows = [(part.name, part.outcome, part.text) for part in self.parts]
        note = " ".join([self.headline, *(finding.text for finding in self.findings)])
        return html_table(("part", "outcome", "what was found"), rows, note=note)

    def to_dict(self) -> dict[str, Any]:
        """Returns the verdict as JSON values."""
        return {
            "outcome": self.outcome,
            "headline": self.headline,
            "parts": {
                part.name: {"outcome": part.outcome, "text": part.text, "p_value": part.p_value} for part in self.parts
            },
        }


def judge(views: Sequence[View], findings: Sequence[Finding] = ()) -> Verdict:
    """Returns the verdict over all attacks of some attackers.

    Args:
        views: Attackers with their attacks and slices; at least one attack.
        findings: What a look at the sets found.
    """
    parts = (_on_average(views), _at_low_rates(views), _at_worst(views))
    found = Verdict(parts, tuple(findings))
    if found.is_valid:
        return found
    void = [
        dataclasses.replace(
            part, outcome=CANNOT_TELL, text=f"The audit is void. The attacks by themselves: {part.text}"
        )
        for part in parts
    ]
    return Verdict(tuple(void), found.findings)


@dataclasses.dataclass(frozen=True)
class _Test:
    """A test of an attack, of an attacker."""

    view: View
    attack: AttackResult
    name: str
    p_value: float

    @property
    def subject(self) -> str:
        return f"{self.attack.name} ({self.view.attacker})" if self.view.attacker else self.attack.name


def _tests(views: Sequence[View], names: Sequence[str]) -> list[_Test]:
    return [
        _Test(view, attack, name, attack.p_values[name])
        for view in views
        for attack in view.attacks
        for name in names
        if name in attack.p_values
    ]


def _corrected(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number and for that of the parts."""
    return [min(1.0, len(NAMES) * value) for value in metrics.holm(p_values)]


def _sizes(views: Sequence[View]) -> tuple[float, float]:
    """Returns the most independent members and non-members that an attack has."""
    return max((attack.sizes for view in views for attack in view.attacks), key=min)


def _records(sizes: tuple[float, float]) -> str:
    return f"{sizes[0]:,.0f} members and {sizes[1]:,.0f} non-members"


def _on_average(views: Sequence[View]) -> Part:
    tests = _tests(views, ["auc"])
    corrected = _corrected([test.p_value for test in tests])
    best = min(range(len(tests)), key=corrected.__getitem__)
    attack, p_value = tests[best].attack, corrected[best]
    below = [test for test, p in zip(tests, corrected) if p <= ERROR and test.attack.auc < 0.5]
    if p_value <= ERROR:
        told = []
        if attack.auc >= 0.5:
            told.append(
                f"By {tests[best].subject} members are told from non-members with an AUC of {attack.auc} and an "
                f"accuracy of {attack.attack_accuracy}; a coin has 0.5."
            )
        if below:
            lowest = min(below, key=lambda test: test.attack.auc)
            told.append(
                f"By {lowest.subject} members rank below non-members: an AUC of {lowest.attack.auc}, where a coin has "
                "0.5. Either the sets, their labels or their scaling are at fault, such as members and non-members "
                "swapped, or this is a leak: an attacker turns the order round."
            )
        return Part(ON_AVERAGE, LEAKS, " ".join(told), p_value)
    sizes = _sizes(views)
    smallest = metrics.smallest_auc(*sizes, ERROR / len(NAMES) / len(tests))
    if smallest > _COARSEST_AUC:
        text = f"{_records(sizes)} show only an AUC of {smallest:.2f} or more. Audit more records."
        return Part(ON_AVERAGE, CANNOT_TELL, text, p_value)
    text = f"Within what {_records(sizes)} can show (smallest leak that would be seen: an AUC of {smallest:.3f})."
    return Part(ON_AVERAGE, NO_LEAK, text, p_value)


def _at_low_rates(views: Sequence[View]) -> Part:
    tests = _tests(views, [f"tpr@{rate}" for rate in RATES])
    sizes = _sizes(views)
    if not tests:
        needed = 1 / RATES[-1]
        text = f"A false positive rate of {RATES[-1]:.0%} takes {needed:.0f} non-members; here {sizes[1]:.0f} count."
        return Part(AT_LOW_RATES, CANNOT_TELL, text, 1.0)
    corrected = _corrected([test.p_value for test in tests])
    best = min(range(len(tests)), key=corrected.__getitem__)
    test, p_value = tests[best], corrected[best]
    if p_value <= ERROR:
        rate = float(test.name.partition("@")[2])
        found = test.attack.tpr_at_fpr(rate)
        text = (
            f"{test.subject[0].upper()}{test.subject[1:]} finds {_percent(found)} of the members at {rate:.1%} false "
            f"positives, where chance finds {rate:.1%}."
        )
        return Part(AT_LOW_RATES, LEAKS, text, p_value)
    error = ERROR / len(NAMES) / len(tests)
    seen = [(rate, metrics.smallest_tpr(*sizes, rate, error)) for rate in RATES if rate * sizes[1] >= 1 - 1e-9]
    reached = any((test.attack.tpr_at_fpr(RATES[-1]) or 0.0) > 0 for test in tests)
    if not reached:
        text = f"No attack has a threshold that only {RATES[-1]:.0%} of the non-members reach: scores are too coarse."
        return Part(AT_LOW_RATES, CANNOT_TELL, text, p_value)
    told = [f"a TPR of {found:.1%} at {rate:.1%} FPR" for rate, found in seen if found is not None]
    largest = seen[-1][1] if seen else None
    if largest is None or largest > _COARSEST_TPR:
        text = f"{_records(sizes)} show only {told[-1] if told else 'nothing'} or more. Audit more records."
        return Part(AT_LOW_RATES, CANNOT_TELL, text, p_value)
    unresolved = "" if len(seen) == len(RATES) else f" {RATES[0]:.1%} FPR takes {1 / RATES[0]:,.0f} non-members."
    text = (
        f"Within what {_records(sizes)} can show (smallest leak that would be seen: {' or '.join(told)}).{unresolved}"
    )
    return Part(AT_LOW_RATES, NO_LEAK, text, p_value)


def _at_worst(views: Sequence[View]) -> Part:
    tests = _tests(views, [_RECORDS])
    parts = [(view, part) for view in views for part in view.slices if part.auc is not None]
    small = len({part.name for view in views for part in view.slices if part.auc is None})
    corrected = _corrected([*(test.p_value for test in tests), *(part.p_value for _, part in parts)])
    p_value = min(corrected)
    sizes = _sizes(views)
    untold = f" Too few records to judge: {small} {'slice' if small == 1 else 'slices'}." if small else ""
    if p_value <= ERROR:
        told = [_of_records(test) for test, p in zip(tests, corrected) if p == p_value]
        told += [_of_slice(view, part) for (view, part), p in zip(parts, corrected[len(tests) :]) if p == p_value]
        return Part(AT_WORST, LEAKS, told[0] + untold, p_value)
    error = ERROR / len(NAMES) / len(corrected)
    smallest = metrics.smallest_tpr(*sizes, 0.0, error)
    aucs = sorted(metrics.smallest_auc(part.members, part.non_members, error) for _, part in parts)
    if smallest is None or smallest > _COARSEST_TPR:
        return Part(AT_WORST, CANNOT_TELL, f"{_records(sizes)} are too few. Audit more records.{untold}", p_value)
    of_slices = (
        f", or an AUC of {aucs[0]:.2f} in the largest slice and of {aucs[-1]:.2f} in the smallest" if aucs else ""
    )
    text = (
        f"Within what {_records(sizes)} can show (smallest leak that would be seen: {smallest:.1%} of the members "
        f"above every non-member{of_slices}).{untold}"
    )
    return Part(AT_WORST, NO_LEAK, text, p_value)


def _of_records(test: _Test) -> str:
    attack = test.attack
    found = round(float(attack.tpr[attack.fpr <= 0].max(initial=0.0)) * attack.confusion.members)
    chance = attack.confusion.members / (attack.confusion.non_members + 1)
    return (
        f"By {test.subject}, {found} members score above every non-member, where chance has {chance:.1f}: they are "
        "found without a false positive."
    )


def _of_slice(view: View, part: Slice) -> str:
    attack = f"{part.attack} ({view.attacker})" if view.attacker else part.attack
    return f"{part.name[0].upper()}{part.name[1:]}: an AUC of {part.auc} by {attack}, on {part.members} members."


def _percent(found: Optional[metrics.Estimate]) -> str:
    return format_figure(None) if found is None else f"{found:.1%}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
