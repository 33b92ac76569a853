"""Every model of a row attacked in turn, with the others as its reference models.

Reference models come in pairs, of which the second trains on what the first one leaves out. A model is attacked with
all others but its pair, so that each record is in half of the sets that the attacker knows, and these sets say nothing
of the model's own. One training of k models gives k targets with k - 2 reference models each.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

import numpy as np

from tfmiaq import auditing, signals
from tfmiaq.attacks import ATTACKS, RECORDS, Evidence
from tfmiaq.signals.signals import from_scores

LOGITS, ONE_BIT = "logits", "1-bit outputs"
_SLOW = ("multi-layer perceptron", "random forest", "k nearest neighbours", "logistic regression")
# Never the strongest beside reference models, and a third of the time.
_WEAK = ("gradient boosting", "threshold")
_CLIP = 0.2
_PAPER = "shadow models"


def attacked(
    found: signals.Signals, inside: np.ndarray, references: Any, seed: int, without: tuple[str, ...] = ()
) -> Any:
    """Report of every attack but those that are slow.

    Args:
        found: The target's signals on n records.
        inside: Shape (n,), whether the target trained on them.
        references: Signals of reference models on them.
        seed: Seed of the attacks.
        without: Names of further attacks to leave out.
    """
    order = np.argsort(~inside, kind="stable")
    evidence = Evidence(
        target=found[order], is_member=inside[order], seed=seed, reference_signals=references.of_records(order)
    )
    chosen = [
        attack
        for attack in ATTACKS.values()
        if RECORDS not in attack.needs and attack.needs <= evidence.available and attack.name not in (*_SLOW, *without)
    ]
    return auditing.score(evidence, chosen)


def figures(report: Any) -> dict[str, list[float]]:
    """AUC, TPR at 0.1 % and at 1 % FPR, and accuracy of every attack of a report."""
    found = {}
    for attack in report.attacks:
        rates = [attack.tpr_at_fpr(fpr) for fpr in (0.001, 0.01)]
        values = [attack.auc, *(float("nan") if rate is None else rate for rate in rates), attack.confusion.accuracy]
        found[attack.name] = [round(float(value), 4) for value in values]
    return found


def _one_bit(outputs: np.ndarray) -> np.ndarray:
    """Outputs as `OutputBits(1, 0.2)` gives them: 0 where a class is less than half a step below the largest."""
    return np.where(outputs >= outputs.max(-1, keepdims=True) - _CLIP / 2, 0.0, -_CLIP)


def _of_outputs(references: signals.ReferenceSignals, labels: np.ndarray, one_bit: bool) -> signals.ReferenceSignals:
    """References whose signals are made of their outputs: all of them, or their 1-bit ones."""
    assert references.outputs is not None
    given: np.ndarray = references.outputs.astype(np.float64)
    found = [from_scores(_one_bit(each) if one_bit else each, labels, False) for each in given]
    more: dict[str, Any] = {"augmented": None, "augmented_outputs": None, "hidden": None} if one_bit else {}
    return dataclasses.replace(
        references,
        features=np.stack([each.features for each in found]),
        outputs=np.stack([each.outputs for each in found]),
        query=None,
        **more,
    )


def _target(references: signals.ReferenceSignals, labels: np.ndarray, index: int) -> signals.Signals:
    """Signals of one of the models, as a target has them."""
    assert references.outputs is not None
    found = from_scores(references.outputs[index].astype(np.float64), labels, False)
    more: dict[str, Any] = {}
    if references.augmented is not None and references.augmented_outputs is not None:
        agreement, confidences = references.augmented[index].T.astype(np.float64)
        more = {"label_agreement": agreement, "augmented_confidences": confidences}
        more["augmented_outputs"] = references.augmented_outputs[index]
    if references.hidden is not None and references.hidden.shape[2]:
        more["hidden"] = references.hidden[index]
    return dataclasses.replace(found, **more)


def _others(index: int, count: int) -> np.ndarray:
    """Numbers of all models but one and its pair."""
    numbers = np.arange(count)
    return numbers[numbers // 2 != index // 2]


def _paper(report: Any) -> Optional[list[float]]:
    """Accuracy, TPR, and F1 of members of the attack of Famili and Lao, at its own threshold."""
    confusion = report[_PAPER].confusion
    return [float(confusion.accuracy), float(confusion.tpr), float(confusion.f1_members)]


def _mean(found: list[dict[str, list[float]]], spread: bool = False) -> dict[str, list[float]]:
    values = {name: np.array([each[name] for each in found]) for name in found[0]}
    taken = {name: array.std(0, ddof=1) if spread else array.mean(0) for name, array in values.items()}
    return {name: [round(float(value), 4) for value in array] for name, array in taken.items()}


def in_turn(
    references: signals.ReferenceSignals, labels: np.ndarray, targets: int, with_null: bool = False
) -> dict[str, Any]:
    """What the attacks find of the first models of a row.

    Args:
        references: Signals of k models on n records, in pairs of sets that complete each other.
        labels: Shape (n,), the records' classes.
        targets: Number of models to attack, at least 2.
        with_null: Attack them by memberships that are drawn anew too.

    Returns:
        Accuracies on what a model trained on and on the rest, means over models, with the spread of the second; and for
        each view, means and spreads over targets of `figures`.
    """
    count = len(references.features)
    sets = references.trained_on
    assert references.outputs is not None
    right = references.outputs.argmax(2) == labels
    tests = [float(right[model, ~sets[model]].mean()) for model in range(count)]
    row: dict[str, Any] = {
        "reference_models": count - 2,
        "targets": targets,
        "train_accuracy": round(float(right[sets].mean()), 4),
        "test_accuracy": round(float(np.mean(tests)), 4),
        "test_spread": round(float(np.std(tests, ddof=1)), 4),
        "reads_hidden_layer": references.hidden is not None and references.hidden.shape[2] > 0,
        "augmented_queries": references.augmented is not None,
    }
    for view in (LOGITS, ONE_BIT):
        seen = _of_outputs(references, labels, view == ONE_BIT)
        for null in (False, True) if with_null else (False,):
            found, paper = [], []
            for model in range(targets):
                inside = sets[model]
                if null:
                    inside = np.random.default_rng(40_000 + model).permutation(inside)
                others = seen.of_models(_others(model, count))
                report = attacked(_target(seen, labels, model), inside, others, model, _WEAK)
                found.append(figures(report))
                paper.append(_paper(report))
            row[f"null: {view}" if null else view] = _mean(found)
            row[f"spread, {'null: ' if null else ''}{view}"] = _mean(found, True)
            if not null:
                row[f"accuracy, TPR and F1 of shadow models, {view}"] = [
                    round(float(value), 4) for value in np.mean(paper, 0)
                ]
    return row
