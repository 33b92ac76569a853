"""Reports and comparisons as Markdown. Takes text and tables alone, and knows nothing of where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from tfmiaq._tables import markdown_table

Rows = Sequence[Sequence[str]]


def report(
    *,
    findings: Sequence[str],
    headline: str,
    parts: Rows,
    attacker: str,
    attackers: tuple[Sequence[str], Rows],
    meaning: tuple[Sequence[str], Rows],
    how_to_read: str,
    sentences: Sequence[str],
    next_steps: Sequence[str],
    figures: Rows,
    attack_head: Sequence[str],
    attack_rows: Rows,
    slice_rows: Rows,
    small_slices: str,
    skipped: Mapping[str, str],
    about: Rows,
    assumptions: Sequence[str],
    glossary: Rows,
    canaries: Optional[object] = None,
) -> str:
    """Returns the report of an audit.

    Args:
        findings: Faults of the sets, told first.
        headline: The verdict in one sentence.
        parts: Name, outcome and text of each part of the verdict.
        attacker: Who the attacker is.
        attackers: Column names and rows of the table of attackers, which is left out without rows.
        meaning: Column names and rows of what the figures mean for people.
        how_to_read: What its columns mean.
        sentences: The same in words.
        next_steps: What to do next.
        figures: Name and value of each figure.
        attack_head: Column names of the table of attacks.
        attack_rows: Its rows.
        slice_rows: Name, number of records, AUC and attack of the worst slices.
        small_slices: Which slices have too few records, or empty.
        skipped: Attacks that did not run, each with the reason.
        about: What was audited, when and with what.
        assumptions: What the figures rest on.
        glossary: Terms and what they mean.
        canaries: The audit of canaries, which prints as Markdown, or None.
    """
    lines = ["# Membership inference audit", ""]
    lines += [*(f"**{finding}**\n" for finding in findings)]
    lines += [f"**{headline}**", ""]
    lines += [*(f"- {name[0].upper()}{name[1:]}: **{outcome}**. {text}" for name, outcome, text in parts), ""]
    lines += [
        attacker,
        "",
        *markdown_table(*meaning),
        "",
        how_to_read,
        "",
        *(f"- {sentence}" for sentence in sentences),
        "",
    ]
    lines += ["Next:", "", *(f"- {step}" for step in next_steps), ""]
    if attackers[1]:
        lines += [*markdown_table(*attackers), ""]
    lines += [*markdown_table(("figure", "value"), figures), ""]
    lines += [*markdown_table(attack_head, attack_rows), ""]
    if slice_rows:
        lines += ["Worst slices:", "", *markdown_table(("records", "number", "AUC", "attack"), slice_rows), ""]
    if small_slices:
        lines += [small_slices, ""]
    if canaries is not None:
        lines += [str(canaries)]
    if skipped:
        lines += ["Not tested:", "", *(f"- {name}: {reason}" for name, reason in skipped.items()), ""]
    lines += [*(f"- {assumption}" for assumption in assumptions), ""]
    lines += [*(f"- {name}: {value}" for name, value in about), ""]
    lines += ["Words:", "", *(f"- {term}: {text}" for term, text in glossary), ""]
    return "\n".join(lines)


def comparison(*, verdict: str, tables: Sequence[tuple[Sequence[str], Rows]]) -> str:
    """Returns a comparison of audits: a verdict and tables, each with its head."""
    lines = [verdict, ""]
    for head, rows in tables:
        lines += [*markdown_table(head, rows), ""]
    return "\n".join(lines)
