"""Who the attacker is, and what to do next: sentences of a report."""

from __future__ import annotations

from tfmiaq.auditing.verdict import AT_LOW_RATES, AT_WORST, CANNOT_TELL, LEAKS, ON_AVERAGE, Verdict


def attacker(access: str, label_only: bool, reference_models: int, has_query: bool) -> str:
    """Returns who the attacker is, in two or three sentences.

    Args:
        access: "query" or "file".
        label_only: Whether the target gives labels instead of scores.
        reference_models: Number of reference models, 0 for none.
        has_query: Whether an attacker who can only ask was audited too.
    """
    seen = "its labels" if label_only else "its outputs"
    if access == "file":
        who = "Whoever holds the model's file, has a person's record, and reads the logits inside the model"
        also = "; and who can only ask for its outputs" if has_query else ""
    else:
        who, also = f"Whoever has a person's record, asks the model about it and sees {seen}", ""
    knows = (
        f"The attacker has trained {reference_models} models through the same pipeline."
        if reference_models
        else "The attacker knows other members and non-members, and has trained no models of its own."
    )
    return f"{who}{also}. {knows} What is learnt: whether that record was among the training records."


def next_steps(verdict: Verdict, reference_models: int, access: str) -> list[str]:
    """Returns what to do next, most urgent first.

    Args:
        verdict: The verdict.
        reference_models: Number of reference models, 0 for none.
        access: "query" or "file".
    """
    if not verdict.is_valid:
        return ["Mend what the findings name, and audit again: no figure below can be believed until then."]
    outcomes = {part.name: part.outcome for part in verdict.parts}
    steps = []
    if verdict.outcome == LEAKS:
        steps.append("Do not release the model as it is, or release it knowing what the table says of its people.")
        steps.append(
            "Train again with less memorization (fewer epochs, regularization, tfmiaq.defend) or with differential "
            "privacy, and audit again."
        )
    if LEAKS in (outcomes[AT_LOW_RATES], outcomes[AT_WORST]):
        steps.append(
            "Look at the worst slices below, and at the most exposed members (report.exposed, --exposed). Mislabelled, "
            "rare and repeated records are memorized first: correct, merge or leave them out."
        )
    if outcomes[ON_AVERAGE] == LEAKS and access == "query":
        steps.append(
            "Give less: labels or rounded outputs (OutputBits) in the place of scores, if nobody holds the file."
        )
    if CANNOT_TELL in outcomes.values():
        steps.append(
            "Audit more members and more records that had no part in training: 1,000 of each resolve 1 % FPR well, "
            "and 0.1 % barely."
        )
    if not reference_models:
        steps.append("Audit with reference models (reference_models): an attacker who trains models finds more.")
    steps.append("Set limits for every release: tfmiaq audit --fail_if (docs/release_gate.md).")
    return steps
