"""From evidence to a report: attack scores, and the figures of attacks and thresholds chosen on other records."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Optional

import numpy as np

from tfmiaq import metrics
from tfmiaq.attacks.base import REFERENCE_MODELS, Attack, Evidence
from tfmiaq.auditing import slices
from tfmiaq.auditing.reporting.exposure import Exposure
from tfmiaq.auditing.reporting.report import AuditReport
from tfmiaq.auditing.reporting.results import AttackResult
from tfmiaq.metrics import RATES

_EXPOSED = 20
# The split on whose halves attacks and thresholds are chosen: another one than those that attacks learn by.
_CHOICES = 1_000


@dataclasses.dataclass(frozen=True)
class _Scores:
    """An attack's scores of members and of non-members, and the part of the records that count: see `Attack.learns`."""

    members: np.ndarray
    non_members: np.ndarray
    seconds: float = 0.0
    growth: dict[int, float] = dataclasses.field(default_factory=dict)
    part: float = 1.0

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


def score(
    evidence: Evidence,
    attacks: Iterable[Attack],
    step: Optional[Callable[[str], None]] = None,
    attributes: Optional[slices.Attributes] = None,
) -> AuditReport:
    """Runs attacks on evidence and returns their report.

    Args:
        evidence: Signals of members, then of non-members.
        attacks: Attacks whose needs the evidence meets.
        step: Called with the name of each attack when it is done.
        attributes: Attributes of the records whose values make slices, each of shape (n,).

    Raises:
        ValueError: An attack that gives something else than one finite score for each record.
    """
    scored = {}
    for attack in attacks:
        scored[attack] = _run(attack, evidence)
        if step:
            step(attack.name)
    return _report(evidence, scored, attributes or {})


def _run(attack: Attack, evidence: Evidence) -> _Scores:
    started = time.process_time()
    values = _scores(attack, evidence)
    if values.shape != evidence.is_member.shape or not np.isfinite(values).all():
        raise ValueError(
            f"audit: Attack {attack.name!r} gave scores of shape {values.shape}, or some that are not finite. "
            f"Expected {evidence.is_member.shape} finite scores."
        )
    count = int(evidence.is_member.sum())
    took = time.process_time() - started
    part = 0.5 if attack.learns else 1.0
    return _Scores(values[:count], values[count:], took, _growth(attack, evidence, values), part)


def _scores(attack: Attack, evidence: Evidence) -> np.ndarray:
    """Returns an attack's scores; of one that learns the mean over several splits, none of which hangs on the seed."""
    if not attack.learns:
        return np.asarray(attack.scores(evidence), np.float64)
    splits = [dataclasses.replace(evidence, split=split, seed=split) for split in range(attack.splits)]
    found = [np.asarray(attack.scores(of_split), np.float64) for of_split in splits]
    return np.mean(found, axis=0) if len({values.shape for values in found}) == 1 else found[0]


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


def _report(evidence: Evidence, scored: dict[Attack, _Scores], attributes: slices.Attributes) -> AuditReport:
    """Returns the report: on each half of the records the attack and the threshold that were chosen on the other."""
    members = int(evidence.is_member.sum())
    non_members = len(evidence.is_member) - members
    one, other = _halves(evidence)
    ways = ((one, other), (other, one))
    crossed = {attack: [_cross(scores, attack.threshold, *way) for way in ways] for attack, scores in scored.items()}
    results = {attack: _result(attack, scores, crossed[attack], evidence) for attack, scores in scored.items()}

    # Of each way, the attack that is best on the half that choices are made on.
    picked = [max(scored, key=lambda attack: crossed[attack][way].chosen_accuracy) for way in range(len(ways))]
    part = min(scored[attack].part for attack in picked)
    held_out = [scored[attack].of(applied_to) for attack, (_, applied_to) in zip(picked, ways)]
    aucs = [
        metrics.auc_estimate(*sets, units=_units(evidence, applied_to), scale=part)
        for sets, (_, applied_to) in zip(held_out, ways)
    ]
    decisions = [crossed[attack][way].confusion for way, attack in enumerate(picked)]
    independent = _independent(evidence, 1.0)
    target = evidence.target
    references = evidence.reference_signals
    return AuditReport(
        attacks=tuple(results.values()),
        chosen=(picked[0].name, picked[1].name),
        confusion=decisions[0] + decisions[1],
        auc=_mean(aucs),
        curves=tuple(metrics.roc(*sets) for sets in held_out),
        member_accuracy=float(target.correct[:members].mean()),
        non_member_accuracy=float(target.correct[members:].mean()),
        seed=evidence.seed,
        slices=slices.judge([(results[attack], scored[attack].part) for attack in scored], evidence, attributes),
        exposed=Exposure.of(list(results.values())).most_exposed(_EXPOSED),
        epsilon=_epsilon(list(scored.values()), one, other, (independent[0] / members, independent[1] / non_members)),
        reference_models=0 if references is None else len(references.features),
        reference_set_size=None if references is None else references.set_size,
        label_only=target.losses is None,
        half_sizes=tuple((len(half.members), len(half.non_members)) for _, half in ways),
        independent=tuple(size * part for size in independent),
    )


def _epsilon(scored: list[_Scores], one: _Half, other: _Half, parts: tuple[float, float]) -> float:
    """Returns the bound on epsilon of the attack whose bound is highest on one half, on the other half."""

    def bound(scores: _Scores, held_out: _Half) -> float:
        counted = parts[0] * scores.part, parts[1] * scores.part
        return metrics.epsilon_lower_bound(scores.of(one), scores.of(held_out), parts=counted)

    return bound(max(scored, key=lambda scores: bound(scores, one)), other)


def _units(evidence: Evidence, half: Optional[_Half] = None) -> Optional[tuple[np.ndarray, np.ndarray]]:
    """Returns the units of members and of non-members, of all or of a half of them; None where each record is one."""
    if evidence.groups is None:
        return None
    inside, outside = evidence.groups[evidence.is_member], evidence.groups[~evidence.is_member]
    return (inside, outside) if half is None else (inside[half.members], outside[half.non_members])


def _independent(evidence: Evidence, part: float) -> tuple[float, float]:
    """Returns as how many independent members and non-members the records count."""
    units = _units(evidence)
    if units is None:
        return part * float(evidence.is_member.sum()), part * float((~evidence.is_member).sum())
    inside, outside = map(metrics.independent_records, units)
    return part * inside, part * outside


def _halves(evidence: Evidence) -> tuple[_Half, _Half]:
    """Returns two halves of the members and of the non-members, which split no group."""
    (known, scored), _ = dataclasses.replace(evidence, split=_CHOICES).halves()
    members = int(evidence.is_member.sum())
    one, other = (_Half(half[half < members], half[half >= members] - members) for half in (known, scored))
    return one, other


def _cross(scores: _Scores, threshold: Optional[float], chosen_on: _Half, applied_to: _Half) -> _Crossed:
    """Chooses a threshold on one half, if the attack has none of its own, and applies it to the other half."""
    known = scores.of(chosen_on)
    if threshold is None:
        threshold, accuracy = metrics.best_threshold(*known)
    else:
        accuracy = metrics.confusion(*known, threshold).accuracy
    return _Crossed(accuracy, metrics.confusion(*scores.of(applied_to), threshold))


def _result(attack: Attack, scores: _Scores, crossed: list[_Crossed], evidence: Evidence) -> AttackResult:
    fpr, tpr = metrics.roc(*scores.sets)
    independent, units = _independent(evidence, scores.part), _units(evidence)
    options = {"units": units, "scale": scores.part}
    tails = {f"tpr@{rate}": rate for rate in RATES if rate * independent[1] >= 1 - 1e-9}
    p_values = {
        "auc": metrics.auc_p_value(*scores.sets, above_alone=attack.learns, **options)  # type: ignore[arg-type]
    }
    for name, rate in {**tails, "records": 0.0}.items():
        p_values[name] = metrics.tpr_p_value(*scores.sets, rate, **options)  # type: ignore[arg-type]
    return AttackResult(
        name=attack.name,
        confusion=crossed[0].confusion + crossed[1].confusion,
        auc=metrics.auc_estimate(*scores.sets, **options),  # type: ignore[arg-type]
        fpr=fpr,
        tpr=tpr,
        member_scores=scores.members,
        non_member_scores=scores.non_members,
        threshold=attack.threshold,
        note=attack.note,
        seconds=scores.seconds,
        growth=scores.growth,
        independent=independent,
        learns=attack.learns,
        p_values=p_values,
    )


def _mean(estimates: list[metrics.Estimate]) -> metrics.Estimate:
    """Returns the mean of two estimates on different records; distances to the ends of intervals add in squares."""
    mean = float(np.mean([estimate.value for estimate in estimates]))
    down, up = (
        float(np.sqrt(sum((getattr(e, end) - e.value) ** 2 for e in estimates)) / len(estimates))
        for end in ("low", "high")
    )
    return metrics.Estimate(mean, max(0.0, mean - down), min(1.0, mean + up))
