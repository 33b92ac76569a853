"""Sentences of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from tfmiaq.auditing.reporting.results import AttackResult
from tfmiaq.signals.reference_sets import are_alike

# A doubling of reference models that adds less to the AUC is taken to add nothing.
_SETTLED = 0.003


def growth(attacks: Sequence[AttackResult]) -> list[str]:
    """Returns how the strongest attack's AUC grew with the number of reference models, and what a doubling may add.

    A doubling is taken to add as much less than the one before it as that added less than its own predecessor, and no
    more than it.

    Args:
        attacks: The attacks that ran.

    Returns:
        One text, or none where no attack used three reference models or more.
    """
    grown = [attack for attack in attacks if len(attack.growth) > 1]
    if not grown:
        return []
    strongest = max(grown, key=lambda attack: attack.auc)
    name, auc = strongest.name, strongest.growth
    by_number = ", ".join(f"{value:.3f} with {count}" for count, value in auc.items())
    # Of 12 models the last doubling is that from 4 to 8.
    doublings = [value for count, value in auc.items() if count & (count - 1) == 0]
    values = doublings if len(doublings) > 1 else list(auc.values())
    last = values[-1] - values[-2]
    if last < -_SETTLED:
        return [f"AUC of {name}: {by_number}. The last doubling of reference models found less, by chance."]
    if last <= _SETTLED:
        return [f"AUC of {name}: {by_number}. The last doubling of reference models added nearly nothing."]
    before = values[-2] - values[-3] if len(values) > 2 else last
    further = last * min(1.0, last / before) if before > 0 else last
    return [
        f"AUC of {name}: {by_number}. It is still climbing: twice as many reference models may find about "
        f"{min(1.0, values[-1] + further):.3f}, so that the figure is a lower bound."
    ]


def assumptions(headline: Mapping[str, Any], attacks: Sequence[AttackResult]) -> list[str]:
    """Returns what the figures of an audit rest on, and what was not tested.

    Args:
        headline: `AuditReport.headline()`.
        attacks: The attacks that ran.
    """
    reference_models, access, unread = headline["reference_models"], headline["access"], headline["unread"]
    if reference_models:
        about = (
            f"{reference_models} reference models were trained through the given pipeline. The figures hold for an "
            "attacker who knows it; with more reference models the attack can be stronger."
            f"{_of_other_size(headline['reference_set_size'], headline['members'])}"
        )
    else:
        about = (
            "No reference models were trained: the attackers know some members and non-members. One who trains models "
            "through the same pipeline can do better (reference_models)."
        )
    found = [about, *growth(attacks)]
    if access == "file":
        found.append(
            "The attacker holds the file and reads the logits in front of output rounding, softmax or argmax, and the "
            "size of the last hidden layer; other tensors of the file were not attacked."
        )
    elif unread:
        found.append(f"The logits inside the file were not found ({unread}): what its holder reads was not tested.")
    else:
        found.append(
            "The attacker sees outputs only. One who holds the model's file reads the logits in front of them."
        )
    if headline["label_only"]:
        found.append("The target gives labels, so that only label-only attacks ran.")
    if headline["groups"] is not None:
        found.append(
            "No group is split by halves, folds and reference models, and intervals count the records of a group as "
            "dependent on one another."
        )
    return [
        *found,
        "The verdict corrects for the number of attacks and slices (Holm): a model that does not leak is said to in at "
        "most one of twenty audits. The intervals of single attacks are not corrected, those of slices are.",
        "Members and non-members are taken to come from one distribution.",
        "The bound on epsilon takes records for independent, though one training has seen them all, and delta for 0; "
        "attack and threshold were chosen on one half of the records and the bound taken on the other.",
        "Empirical resistance is not differential privacy.",
    ]


def _of_other_size(size: Optional[int], members: int) -> str:
    """Returns a sentence on training sets of reference models that are of another size than the target's, or none."""
    if size is None or are_alike(size, members):
        return ""
    return (
        f" Each trained on about {size} records and the target on {members}: the audited records, or the population, "
        f"allow no more alike. Models of {'fewer' if size < members else 'more'} records memorize otherwise than the "
        "target, so that the attack is weaker than one with sets as large as the target's."
    )


def sizes(report: Any) -> str:
    """Returns the numbers of records and groups of an `AuditReport`, and the seed, in one sentence."""
    of = ["", ""] if report.groups is None else [f" of {count} groups" for count in report.groups]
    return f"{report.members} members{of[0]}, {report.non_members} non-members{of[1]}, seed {report.seed}."
