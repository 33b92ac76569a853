"""What the figures of an audit mean for people: how many are found, and how often an attacker is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from tfmiaq.auditing.reporting.results import AttackResult
from tfmiaq.metrics import RATES, Confusion, Estimate

# Parts of the people whom an attacker asks about that are members.
PRIORS = (0.01, 0.1, 0.5)
HEAD = ("threshold", "members found", "others named", *(f"right at {prior:.0%}" for prior in PRIORS))
HOW_TO_READ = (
    "Right at 1%: how often the attacker is right about someone named a member, where 1% of those asked about are "
    "members."
)


def precision(tpr: float, fpr: float, prior: float) -> Optional[float]:
    """Returns the part of those called members that are: the positive predictive value.

    prior TPR / (prior TPR + (1 - prior) FPR), by Bayes' rule (Jayaraman et al. 2021, section 3.2).

    Args:
        tpr: True positive rate.
        fpr: False positive rate.
        prior: Part of members among those asked about, above 0 and below 1.

    Returns:
        From 0 to 1; None where nobody is called a member.
    """
    found, wrong = prior * tpr, (1 - prior) * fpr
    return found / (found + wrong) if found + wrong > 0 else None


def rows(attacks: Sequence[AttackResult], decisions: Confusion) -> list[list[str]]:
    """Returns the rows of the table under `HEAD`, as text.

    Args:
        attacks: The attacks; at each rate the one that finds most counts.
        decisions: Those at the threshold that an attacker chooses to be right most often.
    """
    found = []
    for rate in RATES:
        rates = [tpr for tpr in (attack.tpr_at_fpr(rate) for attack in attacks) if tpr is not None]
        if rates:
            best = max(rates, key=float)
            found.append(_row(f"at {rate:.1%} false positives", float(best), rate, decisions))
    found.append(_row("right most often", decisions.tpr, decisions.fpr, decisions))
    return found


def _row(name: str, tpr: float, fpr: float, sizes: Confusion) -> list[str]:
    right = [precision(tpr, fpr, prior) for prior in PRIORS]
    return [
        name,
        f"{tpr * sizes.members:.0f} of {sizes.members:,} ({tpr:.1%})",
        f"{fpr * sizes.non_members:.0f} of {sizes.non_members:,} ({fpr:.1%})",
        *("nobody called" if value is None else f"{value:.0%}" for value in right),
    ]


def sentences(auc: Estimate, attacks: Sequence[AttackResult]) -> list[str]:
    """Returns what the AUC and the strongest true positive rate mean for 100 and for 1,000 people."""
    told = [
        f"An AUC of {auc.value:.2f}: of a member and another person, drawn at random, the attacker ranks the member "
        f"higher in {100 * auc.value:.0f} of 100 cases. A coin does so in 50."
    ]
    for rate in RATES:
        rates = [tpr for tpr in (attack.tpr_at_fpr(rate) for attack in attacks) if tpr is not None]
        if rates:
            best = max(rates, key=float)
            told.append(
                f"A TPR of {best.value:.1%} at {rate:.1%} FPR: of 1,000 members {1000 * best.value:.0f} are found "
                f"({1000 * best.low:.0f} to {1000 * best.high:.0f}), while {1000 * rate:.0f} of 1,000 others are taken "
                f"for members. Chance finds {1000 * rate:.0f} of the members."
            )
    return told


GLOSSARY = (
    ("member", "a record, or the person behind it, that the model was trained on"),
    ("non-member", "a record of the same kind that had no part in training"),
    ("membership inference", "finding out from a model whether a person's record was among its training records"),
    ("AUC", "how often a member ranks above a non-member: 0.5 is a coin, 1 tells all apart"),
    ("attack accuracy", "part of right answers where half of those asked about are members: 0.5 is a coin"),
    (
        "TPR at 1 % FPR",
        "part of the members that are found where 1 % of the others are taken for members; a coin has 1 %",
    ),
    ("FPR", "false positive rate: part of the non-members that are taken for members"),
    ("interval", "the true value lies in it in 95 of 100 audits; a wide one says that records are too few"),
    (
        "epsilon",
        "the parameter of differential privacy; the audit shows that it is at least this, never that it is less",
    ),
    ("reference model", "a model that the attacker trains like the target, to see what membership changes"),
    ("slice", "some of the records, such as a class or a group of people"),
    ("unresolved", "too few records to measure this rate"),
)
