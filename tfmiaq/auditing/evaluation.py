"""From evidence to a report: attack scores, and the figures of attacks and thresholds chosen on other records."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Optional

import numpy as np

from tfmiaq import metrics
from tfmiaq.attacks.base import REFERENCE_MODELS, Attack, Evidence
from tfmiaq.auditing.reporting.exposure import Exposure
from tfmiaq.auditing.reporting.report import AuditReport
from tfmiaq.auditing.reporting.results import AttackResult, Slice
from tfmiaq.signals.groups import count_groups, group_folds

# A class with fewer members or non-members than this is no slice of its own.
_SMALLEST_SLICE = 10
_EXPOSED = 20


@dataclasses.dataclass(frozen=True)
class _Scores:
    """An attack's scores of members and of non-members."""

    members: np.ndarray
    non_members: np.ndarray
    seconds: float = 0.0
    growth: dict[int, float] = dataclasses.field(default_factory=dict)

    @property
    def sets(self) -> tuple[np.ndarray, np.ndarray]:
        return self.members, self.non_members

    def of(self, half: _Half) -> tuple[np.ndarray, np.ndarray]:
        return self.members[half.members], self.non_members[half.non_members]


@dataclasses.dataclass(frozen=True)
class _Half:
    """Indices of one half of the members, and of one half of the non-members."""

    members: np.ndarray
    non_members: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Crossed:
    """An attack with a threshold chosen on one half: its accuracy there, and its decisions on the other half."""

    chosen_accuracy: float
    confusion: metrics.Confusion


def score(evidence: Evidence, attacks: Iterable[Attack], step: Optional[Callable[[str], None]] = None) -> AuditReport:
    """Runs attacks on evidence and returns their report.

    Args:
        evidence: Signals of members, then of non-members.
        attacks: Attacks whose needs the evidence meets.
        step: Called with the name of each attack when it is done.

    Raises:
        ValueError: An attack that gives something else than one finite score for each record.
    """
    scored = {}
    for attack in attacks:
        scored[attack] = _run(attack, evidence)
        if step:
            step(attack.name)
    return _report(evidence, scored)


def _run(attack: Attack, evidence: Evidence) -> _Scores:
    started = time.process_time()
    values = np.asarray(attack.scores(evidence), np.float64)
    if values.shape != evidence.is_member.shape or not np.isfinite(values).all():
        raise ValueError(
            f"audit: Attack {attack.name!r} gave scores of shape {values.shape}, or some that are not finite. "
            f"Expected {evidence.is_member.shape} finite scores."
        )
    count = int(evidence.is_member.sum())
    took = time.process_time() - started
    return _Scores(values[:count], values[count:], took, _growth(attack, evidence, values))


def _growth(attack: Attack, evidence: Evidence, values: np.ndarray) -> dict[int, float]:
    """Returns the AUC of an attack with the first 2, 4, 8, ... reference models, and with all, by their number."""
    references, inside = evidence.reference_signals, evidence.is_member
    if references is None or REFERENCE_MODELS not in attack.needs:
        return {}
    models = len(references.trained_on)
    found = {}
    for count in (2**power for power in range(1, models.bit_length()) if 2**power < models):
        few = dataclasses.replace(evidence, reference_signals=references.first(count))
        try:
            fewer = np.asarray(attack.scores(few), np.float64)
        except ValueError:
            continue  # An attack that needs more of them.
        if fewer.shape != values.shape or not np.isfinite(fewer).all():
            continue
        found[count] = metrics.auc_estimate(fewer[inside], fewer[~inside]).value
    return {**found, models: metrics.auc_estimate(values[inside], values[~inside]).value}


def _report(evidence: Evidence, scored: dict[Attack, _Scores]) -> AuditReport:
    """Returns the report: on each half of the records the attack and the threshold that were chosen on the other."""
    members = int(evidence.is_member.sum())
    one, other = _halves(evidence)
    ways = ((one, other), (other, one))
    crossed = {attack: [_cross(scores, attack.threshold, *way) for way in ways] for attack, scores in scored.items()}
    results = {attack: _result(attack, scores, crossed[attack]) for attack, scores in scored.items()}

    # Of each way, the attack that is best on the half that choices are made on.
    picked = [max(scored, key=lambda attack: crossed[attack][way].chosen_accuracy) for way in range(len(ways))]
    held_out = [scored[attack].of(applied_to) for attack, (_, applied_to) in zip(picked, ways)]
    decisions = [crossed[attack][way].confusion for way, attack in enumerate(picked)]
    known = scored[picked[0]].of(one)
    target, groups, references = evidence.target, evidence.groups, evidence.reference_signals
    return AuditReport(
        attacks=tuple(results.values()),
        chosen=(picked[0].name, picked[1].name),
        confusion=decisions[0] + decisions[1],
        auc=_mean([metrics.auc_estimate(*sets) for sets in held_out]),
        curves=tuple(metrics.roc(*sets) for sets in held_out),
        member_accuracy=float(target.correct[:members].mean()),
        non_member_accuracy=float(target.correct[members:].mean()),
        seed=evidence.seed,
        slices=_slices(scored[picked[0]], evidence),
        exposed=Exposure.of(list(results.values())).most_exposed(_EXPOSED),
        epsilon=metrics.epsilon_lower_bound(known, held_out[0]),
        reference_models=0 if references is None else len(references.features),
        reference_set_size=None if references is None else references.set_size,
        label_only=target.losses is None,
        groups=None if groups is None else count_groups([groups[:members], groups[members:]]),
        half_sizes=tuple((len(half.members), len(half.non_members)) for _, half in ways),
    )


def _halves(evidence: Evidence) -> tuple[_Half, _Half]:
    """Returns two halves of the members and of the non-members, which split no group."""
    generator = np.random.default_rng(evidence.seed)
    halves = []
    for of_set in (evidence.is_member, ~evidence.is_member):
        count = int(of_set.sum())
        if evidence.groups is None:
            order = generator.permutation(count)
            halves.append((order[: count // 2], order[count // 2 :]))
        else:
            fold = group_folds(evidence.groups[of_set], 2, generator)
            halves.append((np.flatnonzero(fold == 0), np.flatnonzero(fold == 1)))
    return _Half(halves[0][0], halves[1][0]), _Half(halves[0][1], halves[1][1])


def _cross(scores: _Scores, threshold: Optional[float], chosen_on: _Half, applied_to: _Half) -> _Crossed:
    """Chooses a threshold on one half, if the attack has none of its own, and applies it to the other half."""
    known = scores.of(chosen_on)
    if threshold is None:
        threshold, accuracy = metrics.best_threshold(*known)
    else:
        accuracy = metrics.confusion(*known, threshold).accuracy
    return _Crossed(accuracy, metrics.confusion(*scores.of(applied_to), threshold))


def _result(attack: Attack, scores: _Scores, crossed: list[_Crossed]) -> AttackResult:
    fpr, tpr = metrics.roc(*scores.sets)
    return AttackResult(
        name=attack.name,
        confusion=crossed[0].confusion + crossed[1].confusion,
        auc=metrics.auc_estimate(*scores.sets),
        fpr=fpr,
        tpr=tpr,
        member_scores=scores.members,
        non_member_scores=scores.non_members,
        threshold=attack.threshold,
        note=attack.note,
        seconds=scores.seconds,
        growth=scores.growth,
    )


def _mean(estimates: list[metrics.Estimate]) -> metrics.Estimate:
    """Returns the mean of two estimates on different records, whose half-widths add in squares."""
    mean = float(np.mean([estimate.value for estimate in estimates]))
    half_width = float(np.sqrt(sum(((e.high - e.low) / 2) ** 2 for e in estimates)) / len(estimates))
    return metrics.Estimate(mean, max(0.0, mean - half_width), min(1.0, mean + half_width))


def _slices(scores: _Scores, evidence: Evidence) -> tuple[Slice, ...]:
    """Returns an attack class by class, by right and wrong labels and by quarters of the loss, without small slices."""
    target = evidence.target
    values = np.concatenate(scores.sets)
    masks = {f"class {label}": target.labels == label for label in np.unique(target.labels)}
    masks.update({"right label": target.correct, "wrong label": ~target.correct})
    if target.losses is not None:
        quarters = np.searchsorted(np.quantile(target.losses, [0.25, 0.5, 0.75]), target.losses)
        masks.update({f"loss in quarter {quarter + 1} of 4": quarters == quarter for quarter in range(4)})
    found = []
    for name, mask in masks.items():
        inside, outside = values[mask & evidence.is_member], values[mask & ~evidence.is_member]
        if min(len(inside), len(outside)) >= _SMALLEST_SLICE:
            found.append(Slice(name, len(inside), len(outside), metrics.auc_estimate(inside, outside)))
    return tuple(found)
