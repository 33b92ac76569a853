"""What attacks find: their scores, thresholds chosen on other records, and the report of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Optional

import numpy as np

from tfmiaq import metrics
from tfmiaq.attacks.base import Attack, Evidence
from tfmiaq.auditing.reporting import report
from tfmiaq.auditing.reporting.report import AttackResult, AuditReport

Scores = tuple[np.ndarray, np.ndarray]


def _halves(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    order = generator.permutation(count)
    return order[: count // 2], order[count // 2 :]


def _cross(scores: Scores, own: Optional[float], chosen_on: Any, applied_to: Any) -> tuple[float, metrics.Confusion]:
    """Accuracy on the half that a threshold is chosen on, and the decisions on the other half."""
    members, non_members = scores
    known = members[chosen_on[0]], non_members[chosen_on[1]]
    threshold, accuracy = metrics.best_threshold(*known)
    if own is not None:
        threshold, accuracy = own, metrics.confusion(*known, own).accuracy
    return accuracy, metrics.confusion(members[applied_to[0]], non_members[applied_to[1]], threshold)


def _report(evidence: Evidence, scored: dict[Attack, tuple[np.ndarray, float]]) -> AuditReport:
    """The report of scores of all attacks; of each, scores of members and then of non-members."""
    count = int(evidence.is_member.sum())
    scores = {attack: (values[:count], values[count:]) for attack, (values, _) in scored.items()}
    generator = np.random.default_rng(evidence.seed)
    in_halves, out_halves = _halves(count, generator), _halves(len(evidence.is_member) - count, generator)
    halves = [(in_halves[0], out_halves[0]), (in_halves[1], out_halves[1])]
    ways = [(halves[0], halves[1]), (halves[1], halves[0])]

    crossed = {attack: [_cross(values, attack.threshold, *way) for way in ways] for attack, values in scores.items()}
    results = {}
    for attack, values in scores.items():
        auc, low, high = metrics.auc_interval(*values)
        decisions = crossed[attack][0][1] + crossed[attack][1][1]
        results[attack] = AttackResult(
            attack.name,
            decisions,
            auc,
            (low, high),
            *metrics.roc(*values),
            *values,
            threshold=attack.threshold,
            note=attack.note,
            seconds=scored[attack][1],
        )

    chosen = [max(scores, key=lambda attack: crossed[attack][way][0]) for way in range(2)]

    def part(attack: Attack, half: Any) -> Scores:
        return scores[attack][0][half[0]], scores[attack][1][half[1]]

    held_out = [part(attack, applied_to) for attack, (_, applied_to) in zip(chosen, ways)]
    aucs = [metrics.auc_interval(*values) for values in held_out]
    auc = float(np.mean([value for value, _, _ in aucs]))
    half_width = float(np.sqrt(sum(((high - low) / 2) ** 2 for _, low, high in aucs)) / 2)
    correct = evidence.target.correct
    picked = results[chosen[0]]
    return AuditReport(
        attacks=tuple(results.values()),
        chosen=(chosen[0].name, chosen[1].name),
        confusion=crossed[chosen[0]][0][1] + crossed[chosen[1]][1][1],
        auc=auc,
        auc_interval=(max(0.0, auc - half_width), min(1.0, auc + half_width)),
        curves=tuple(metrics.roc(*values) for values in held_out),
        members=count,
        non_members=len(evidence.is_member) - count,
        member_accuracy=float(correct[:count].mean()),
        non_member_accuracy=float(correct[count:].mean()),
        seed=evidence.seed,
        slices=report.slices(picked, evidence.target.labels, correct, evidence.target.losses),
        exposed=report.exposed(picked),
        epsilon=metrics.epsilon_lower_bound(part(chosen[0], ways[0][0]), held_out[0]),
        reference_models=0 if evidence.reference_signals is None else len(evidence.reference_signals.features),
        label_only=evidence.target.losses is None,
    )


def score(evidence: Evidence, attacks: Iterable[Attack], step: Optional[Callable[[str], None]] = None) -> AuditReport:
    """Runs attacks on evidence that is there already, and reports.

    Args:
        evidence: Signals of members, then of non-members.
        attacks: Attacks whose needs the evidence meets.
        step: Called with the name of each attack when it is done.

    Returns:
        The report.

    Raises:
        ValueError: An attack that gives something else than one finite score for each record.
    """
    scored: dict[Attack, tuple[np.ndarray, float]] = {}
    for attack in attacks:
        started = time.process_time()
        values = np.asarray(attack.scores(evidence), np.float64)
        if values.shape != evidence.is_member.shape or not np.isfinite(values).all():
            raise ValueError(
                f"audit: Attack {attack.name!r} gave scores of shape {values.shape}, or some that are not finite. "
                f"Expected {evidence.is_member.shape} finite scores."
            )
        scored[attack] = values, time.process_time() - started
        if step:
            step(attack.name)
    return _report(evidence, scored)
