"""What a report shows, in its order: as rows of text, as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from tfmiaq.auditing.reporting import advice, attackers, markdown, meaning, page, wording
from tfmiaq.auditing.reporting.results import AttackResult
from tfmiaq.metrics import RATES, format_figure

FIGURE_HEAD = ("figure", "value")
ATTACK_HEAD = ("attack", "accuracy", "AUC", *attackers.RATE_NAMES, "needs")
SLICE_HEAD = ("records", "members + non-members", "AUC", "attack")
_SLICES_OF_MARKDOWN, _SLICES_OF_PAGE, _NAMES = 5, 12, 10


def figures(report: Any) -> list[tuple[str, str]]:
    """Returns names and values of an `AuditReport`'s own figures, as text."""
    return [
        ("attack accuracy", format_figure(report.attack_accuracy)),
        ("AUC", format_figure(report.auc)),
        ("advantage", format_figure(report.advantage)),
        ("TPR", format_figure(report.tpr)),
        ("FPR", format_figure(report.fpr)),
        ("precision", format_figure(report.precision)),
        ("recall", format_figure(report.recall)),
        ("F1 of members", format_figure(report.f1_members)),
        ("F1 of non-members", format_figure(report.f1_non_members)),
        *((name, format_figure(report.tpr_at_fpr(rate))) for name, rate in zip(attackers.RATE_NAMES, RATES)),
        ("lower bound on epsilon", f"{report.epsilon:.2f}"),
        ("gap attack accuracy", format_figure(report.gap_attack_accuracy)),
        ("target's accuracy on members", format_figure(report.member_accuracy)),
        ("target's accuracy on non-members", format_figure(report.non_member_accuracy)),
    ]


def attack_rows(attacks: Sequence[AttackResult]) -> list[tuple[str, ...]]:
    """Returns one row of text for each attack, in the order of `ATTACK_HEAD`."""
    return [
        (
            attack.name,
            format_figure(attack.confusion.accuracy),
            format_figure(attack.auc),
            *(format_figure(attack.tpr_at_fpr(rate)) for rate in RATES),
            attack.note,
        )
        for attack in attacks
    ]


def attackers_table(report: Any) -> tuple[Sequence[str], list[list[str]]]:
    """Returns head and rows of the table of attackers; no rows where there is one."""
    rows = [] if report.query is None else [attackers.row(report.query), attackers.row(report)]
    return attackers.HEAD, rows


def _all_attacks(report: Any) -> list[AttackResult]:
    return [*report.attacks, *(() if report.query is None else report.query.attacks)]


def _slices(report: Any, most: int) -> list[tuple[str, ...]]:
    return [
        (part.name, f"{part.members} + {part.non_members}", format_figure(part.auc), part.attack)
        for part in report.worst_slices(most)
    ]


def _too_small(report: Any) -> str:
    """Returns the slices that have too few records to judge, in one sentence, or nothing."""
    small = [f"{part.name} ({part.members} + {part.non_members})" for part in report.slices if part.auc is None]
    if not small:
        return ""
    more = f" and {len(small) - _NAMES} more" if len(small) > _NAMES else ""
    return f"Too few members or non-members to judge: {', '.join(small[:_NAMES])}{more}."


def _shown(report: Any, most_slices: int) -> dict[str, Any]:
    """Returns what Markdown and page show, as text and rows of text."""
    verdict, attacks = report.verdict, _all_attacks(report)
    return {
        "findings": [finding.text for finding in report.findings],
        "headline": verdict.headline,
        "parts": [(part.name, part.outcome, part.text) for part in verdict.parts],
        "attacker": advice.attacker(
            report.access, report.label_only, report.reference_models, report.query is not None
        ),
        "attackers": attackers_table(report),
        "meaning": (meaning.HEAD, meaning.rows(attacks, report.confusion)),
        "how_to_read": meaning.HOW_TO_READ,
        "sentences": meaning.sentences(report.auc, attacks),
        "next_steps": advice.next_steps(verdict, report.reference_models, report.access),
        "figures": figures(report),
        "attack_head": ATTACK_HEAD,
        "attack_rows": attack_rows(report.attacks),
        "slice_rows": _slices(report, most_slices),
        "small_slices": _too_small(report),
        "skipped": report.skipped,
        "about": [
            *report.about.lines(),
            ("records", wording.sizes(report)),
            ("access", attackers.NAMES[report.access]),
        ],
        "canaries": report.canaries,
        "assumptions": report.assumptions,
        "glossary": meaning.GLOSSARY,
    }


def to_markdown(report: Any) -> str:
    """Returns an `AuditReport` as Markdown."""
    return markdown.report(**_shown(report, _SLICES_OF_MARKDOWN))


def to_html(report: Any, roc: str, histogram: Optional[str], exposed: Sequence[int]) -> str:
    """Returns an `AuditReport` as a page.

    Args:
        report: The report.
        roc: The figure of ROC curves, an svg element.
        histogram: That of scores, or None.
        exposed: Indices of the members that are named; none for none.
    """
    return page.render(
        "report.html",
        model=report.about.model,
        date=report.about.date,
        outcome=report.verdict.outcome,
        picked=report.chosen[0],
        roc=roc,
        histogram=histogram,
        exposed=exposed,
        **_shown(report, _SLICES_OF_PAGE),
    )
