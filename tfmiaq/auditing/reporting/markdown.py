"""Reports and comparisons as Markdown. Takes text and tables alone, and knows nothing of where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from tfmiaq._tables import markdown_table

Rows = Sequence[Sequence[str]]


def report(
    *,
    verdict: str,
    attackers: tuple[Sequence[str], Rows],
    figures: Rows,
    attack_head: Sequence[str],
    attack_rows: Rows,
    picked: str,
    slice_rows: Rows,
    skipped: Mapping[str, str],
    sizes: str,
    assumptions: Sequence[str],
    canaries: Optional[object] = None,
) -> str:
    """Returns the report of an audit.

    Args:
        verdict: What was found, in one sentence.
        attackers: Column names and rows of the table of attackers, which is left out without rows.
        figures: Name and value of each figure.
        attack_head: Column names of the table of attacks.
        attack_rows: Its rows.
        picked: The attack that slices are taken of.
        slice_rows: Name, number of records and AUC of the worst slices.
        skipped: Attacks that did not run, each with the reason.
        sizes: Numbers of records and the seed, in one sentence.
        assumptions: What the figures rest on.
        canaries: The audit of canaries, which prints as Markdown, or None.
    """
    lines = ["# Membership inference audit", "", verdict, ""]
    if attackers[1]:
        lines += [*markdown_table(*attackers), ""]
    lines += [*markdown_table(("figure", "value"), figures), ""]
    lines += [*markdown_table(attack_head, attack_rows), ""]
    if slice_rows:
        lines += [f"Worst slices, by {picked}:", "", *markdown_table(("records", "number", "AUC"), slice_rows), ""]
    if canaries is not None:
        lines += [str(canaries)]
    if skipped:
        lines += ["Not tested:", "", *(f"- {name}: {reason}" for name, reason in skipped.items()), ""]
    lines += [sizes, "", *(f"- {assumption}" for assumption in assumptions), ""]
    return "\n".join(lines)


def comparison(*, verdict: str, tables: Sequence[tuple[Sequence[str], Rows]]) -> str:
    """Returns a comparison of audits: a verdict and tables, each with its head."""
    lines = [verdict, ""]
    for head, rows in tables:
        lines += [*markdown_table(head, rows), ""]
    return "\n".join(lines)
