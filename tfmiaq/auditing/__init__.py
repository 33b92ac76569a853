"""How much a model tells about who was in its training set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

import numpy as np
from tqdm import tqdm

from tfmiaq.auditing import metrics, signals, suite
from tfmiaq.auditing.report import AttackResult, AuditReport

__all__ = ["AttackResult", "AuditReport", "audit"]

Scores = tuple[np.ndarray, np.ndarray]


def _check_attacks(attacks: Optional[Iterable[str]]) -> list[str]:
    names = list(suite.ATTACKS) if attacks is None else list(attacks)
    unknown = [name for name in names if name not in suite.ATTACKS]
    if unknown or not names:
        raise ValueError(f"audit: Unknown attacks {unknown}. Expected some of {', '.join(map(repr, suite.ATTACKS))}.")
    return names


def _halves(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    order = generator.permutation(count)
    return order[: count // 2], order[count // 2 :]


def _cross(scores: Scores, chosen_on: Any, applied_to: Any) -> tuple[float, metrics.Confusion]:
    """Accuracy on the half that a threshold is chosen on, and the decisions on the other half."""
    members, non_members = scores
    threshold, accuracy = metrics.best_threshold(members[chosen_on[0]], non_members[chosen_on[1]])
    return accuracy, metrics.confusion(members[applied_to[0]], non_members[applied_to[1]], threshold)


def _report(scores: dict[str, Scores], inside: signals.Signals, outside: signals.Signals, seed: int) -> AuditReport:
    generator = np.random.default_rng(seed)
    in_halves, out_halves = _halves(len(inside.labels), generator), _halves(len(outside.labels), generator)
    halves = [(in_halves[0], out_halves[0]), (in_halves[1], out_halves[1])]
    ways = [(halves[0], halves[1]), (halves[1], halves[0])]

    crossed = {name: [_cross(values, *way) for way in ways] for name, values in scores.items()}
    results = []
    for name, values in scores.items():
        auc, low, high = metrics.auc_interval(*values)
        decisions = crossed[name][0][1] + crossed[name][1][1]
        results.append(AttackResult(name, decisions, auc, (low, high), *metrics.roc(*values)))

    chosen = [max(scores, key=lambda name: crossed[name][way][0]) for way in range(2)]
    held_out = [
        (scores[name][0][applied_to[0]], scores[name][1][applied_to[1]]) for name, (_, applied_to) in zip(chosen, ways)
    ]
    aucs = [metrics.auc_interval(*values) for values in held_out]
    auc = float(np.mean([value for value, _, _ in aucs]))
    half_width = float(np.sqrt(sum(((high - low) / 2) ** 2 for _, low, high in aucs)) / 2)
    return AuditReport(
        attacks=tuple(results),
        chosen=(chosen[0], chosen[1]),
        confusion=crossed[chosen[0]][0][1] + crossed[chosen[1]][1][1],
        auc=auc,
        auc_interval=(max(0.0, auc - half_width), min(1.0, auc + half_width)),
        curves=tuple(metrics.roc(*values) for values in held_out),
        members=len(inside.labels),
        non_members=len(outside.labels),
        member_accuracy=float(inside.correct.mean()),
        non_member_accuracy=float(outside.correct.mean()),
        seed=seed,
    )


def audit(
    target: signals.Target,
    members: Any,
    non_members: Any,
    attacks: Optional[Iterable[str]] = None,
    batch_size: int = 256,
    seed: int = 0,
    verbose: bool = True,
) -> AuditReport:
    """Attacks a model with tensorflow-privacy's membership inference suite.

    Example:
        >>> report = tfmiaq.audit("model.tflite", members=(x_train, y_train), non_members=(x_test, y_test))
        >>> print(report.attack_accuracy, report.tpr_at_fpr(0.01))

    Args:
        target: A Keras model, a .tflite (path or bytes), or a function from records (n, ...) to probabilities or
            logits (n, classes).
        members: Pair (x, y) of records that the target was trained on. y: integer classes (n,) or one-hot.
        non_members: The same of records that had no part in training or in choosing the model.
        attacks: Names of attacks; None for all: "threshold", "logistic regression", "multi-layer perceptron",
            "random forest", "k nearest neighbours".
        batch_size: Records scored in one call of the target.
        seed: Seed of folds, halves and attack models.
        verbose: Show a progress bar where standard error is a terminal.

    Returns:
        The report.

    Raises:
        TypeError: A target or a set of records of another type.
        ValueError: Unknown attacks; sets that are empty, too small, of different shapes or with NaN; labels that are
            no classes; a target that answers something else than finite scores; a file that is no .tflite.
    """
    names = _check_attacks(attacks)
    members, non_members = signals.check_records(members, non_members)
    smallest = min(len(members[1]), len(non_members[1]))
    if smallest < suite.SMALLEST_SET:
        raise ValueError(
            f"audit: Expected at least {suite.SMALLEST_SET} members and as many non-members. Received "
            f"{len(members[1])} and {len(non_members[1])}."
        )
    with tqdm(total=len(names) + 2, desc="audit", disable=None if verbose else True) as bar:

        def step(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        inside, outside = signals.extract(target, members, non_members, batch_size, step)
        scores = {}
        for name in names:
            bar.set_postfix_str(name)
            scores[name] = suite.scores(name, inside, outside, seed)
            bar.update()
    return _report(scores, inside, outside, seed)
