"""How much a model tells about who was in its training set."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any, Optional, Union

import numpy as np
from tqdm import tqdm

from tfmiaq import attacks as attack_registry
from tfmiaq import metrics
from tfmiaq.attacks.base import (
    AUGMENTED_QUERIES,
    AUGMENTED_REFERENCES,
    OTHER_VERSION,
    RECORDS,
    REFERENCE_MODELS,
    SCORES,
    Attack,
    Evidence,
)
from tfmiaq.attacks.suite import SMALLEST_SET
from tfmiaq.auditing.reporting import report
from tfmiaq.auditing.reporting.report import AttackResult, AuditReport
from tfmiaq.signals import reference_models as references
from tfmiaq.signals import signals

Scores = tuple[np.ndarray, np.ndarray]

_WAYS = {
    SCORES: "the target answers labels",
    RECORDS: "needs the records themselves",
    REFERENCE_MODELS: "needs reference models: pass train_fn",
    AUGMENTED_QUERIES: "needs queries of changed copies: pass queries=True, and a target that can be asked",
    OTHER_VERSION: "needs another version of the target: pass other",
    AUGMENTED_REFERENCES: "needs changed copies asked of reference models: pass train_fn and queries=True",
}


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
        references=0 if evidence.references is None else len(evidence.references.features),
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


def audit(
    target: signals.Target,
    members: Any,
    non_members: Any,
    attacks: Optional[Iterable[str]] = None,
    *,
    train_fn: Optional[references.TrainFn] = None,
    n_reference: int = 4,
    splits: str = "half",
    population: Optional[Any] = None,
    cache: Optional[Any] = None,
    n_jobs: Optional[int] = None,
    other: Optional[signals.Target] = None,
    queries: Union[bool, references.Queries] = False,
    batch_size: int = 256,
    threads: Optional[int] = None,
    seed: int = 0,
    verbose: bool = True,
) -> AuditReport:
    """Attacks a model with membership inference, and says how much its answers tell.

    With `train_fn` the attacker adapts: reference models go through the target's own pipeline, on records of the
    attacker's choice. An audit without them flatters a defence.

    Example:
        >>> report = tfmiaq.audit("model.tflite", members=(x_train, y_train), non_members=(x_test, y_test))
        >>> print(report.attack_accuracy, report.tpr_at_fpr(0.01))
        >>> tfmiaq.audit(quantized, members, non_members, train_fn=[train_float, quantize_and_tune], cache="cache")

    Args:
        target: A Keras model, a .tflite (path or bytes), a function from records (n, ...) to probabilities or logits
            (n, classes) or to integer labels (n,), or a pair of saved outputs, of members and of non-members (arrays,
            or paths of .npy files).
        members: Pair (x, y) of records that the target was trained on. y: integer classes (n,) or one-hot. x may be
            None with saved outputs.
        non_members: The same of records that had no part in training or in choosing the model.
        attacks: Names of attacks; None for those that are strongest for their cost. `tfmiaq.attacks.ATTACKS` has all.
        train_fn: The target's pipeline, for reference models: a function from (x, y) to a trained model, or a list of
            functions, of which the later ones take (model, x, y). Stages that two pipelines begin with alike are
            trained once, if there is a cache. The random generators are seeded before each.
        n_reference: Number of reference models, at least 2; an even number puts every record in half of them. RMIA
            gains little from more than 4, LiRA goes on gaining (docs/attacks_measured.md).
        splits: "half": each reference model trains on a random half of all audited records. "disjoint": on random
            halves of the population, for attackers who have none of the audited records.
        population: Pair (x, y) of further records, for "disjoint".
        cache: Folder that keeps every finished reference model's signals, by data, pipeline and seed: an audit that was
            stopped goes on there. None keeps nothing.
        n_jobs: Processes that train reference models side by side (joblib); None for one, or for what
            `joblib.parallel_config` says, Dask and Ray among it.
        other: Another version of the target that the attacker holds too, such as the float model.
        queries: True to ask for changed copies of each record (`signals.augmented_queries`), for the label-only attack; or
            a function from records and the number of a query to copies. Implied by a target that answers labels.
        batch_size: Records scored in one call of the target.
        threads: Threads of the .tflite interpreter.
        seed: Seed of folds, halves, attack models, splits and reference models.
        verbose: Show a progress bar where standard error is a terminal.

    Returns:
        The report.

    Raises:
        TypeError: A target or a set of records of another type; a train_fn that cannot be called.
        ValueError: Unknown attacks, or attacks that lack what they need; sets that are empty, too small, of different
            shapes or with NaN; labels that are no classes; a target that answers something else than finite scores; a
            file that is no .tflite; arguments of reference models that do not go together.
        RuntimeError: A process that trained a reference model died.
    """
    chosen = attack_registry.choose(attacks)
    _check_numbers(batch_size=batch_size, threads=threads, n_jobs=n_jobs, seed=seed)
    members, non_members = signals.check_records(members, non_members)
    smallest = min(len(members[1]), len(non_members[1]))
    if smallest < SMALLEST_SET:
        raise ValueError(
            f"audit: Expected at least {SMALLEST_SET} members and as many non-members. Received {len(members[1])} and "
            f"{len(non_members[1])}."
        )
    population = references.check(train_fn, n_reference, splits, population, len(members[1]), cache)
    can_ask = not isinstance(target, (tuple, list))
    _check_needs(attacks, chosen, train_fn is not None, other is not None, can_ask)
    rounds = n_reference if train_fn is not None else 0
    with tqdm(total=len(chosen) + 2 + rounds, desc="audit", disable=None if verbose else True) as bar:

        def step(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        def references_done(count: int) -> None:
            bar.set_postfix_str("reference models")
            bar.update(count)

        parts = signals.extract(target, members, non_members, batch_size, step, threads)
        found = signals.Signals.concatenate(parts)
        augmented = {AUGMENTED_QUERIES, AUGMENTED_REFERENCES}
        asked = bool(queries) or (attacks is not None and any(augmented & attack.needs for attack in chosen))
        make = queries if callable(queries) else signals.augmented_queries
        if can_ask and (asked or found.losses is None):
            bar.set_postfix_str("queries")
            copies = [
                signals.query_augmented(target, records, make, batch_size=batch_size, threads=threads)
                for records in (members, non_members)
            ]
            joined = {name: np.concatenate([part[name] for part in copies]) for name in copies[0]}
            found = dataclasses.replace(found, **joined)
        evidence = Evidence(
            target=found,
            is_member=np.arange(len(found.labels)) < len(members[1]),
            seed=seed,
            other=None
            if other is None
            else signals.Signals.concatenate(signals.extract(other, members, non_members, batch_size, None, threads)),
            records=None if members[0].shape[1:] == (0,) else lambda: np.concatenate([members[0], non_members[0]]),
            references=None
            if train_fn is None or (found.losses is None and not can_ask)
            else references.train_references(
                train_fn,
                (np.concatenate([members[0], non_members[0]]), found.labels),
                n_reference,
                splits=splits,
                population=population,
                folder=cache,
                n_jobs=n_jobs,
                batch_size=batch_size,
                queries=None if found.label_agreement is None else make,
                seed=seed,
                progress=references_done,
            ),
        )
        ready = [attack for attack in chosen if attack.needs <= evidence.available]
        if not ready:
            raise ValueError(f"audit: {'; '.join(f'{a.name!r}: {_reason(a, evidence)}' for a in chosen)}.")
        skipped = {attack.name: _reason(attack, evidence) for attack in chosen if attack not in ready}
        others = [attack for name, attack in attack_registry.ATTACKS.items() if attack not in chosen]
        skipped.update({attack.name: "was not asked for" for attack in others})
        made = score(evidence, ready, step)
    return dataclasses.replace(made, skipped=skipped)


def _check_numbers(batch_size: int, threads: Optional[int], n_jobs: Optional[int], seed: int) -> None:
    for name, value, is_right, expected in (
        ("batch_size", batch_size, lambda n: n >= 1, "at least 1"),
        ("threads", threads, lambda n: n >= 1, "at least 1, or None"),
        ("n_jobs", n_jobs, lambda n: n != 0, "a number of processes, -1 for all cores, or None"),
        ("seed", seed, lambda n: 0 <= n < 2**32, "from 0 to 2^32 - 1"),
    ):
        if value is None and "None" in expected:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not is_right(value):
            raise ValueError(f"audit: Expected {name} to be {expected}. Received {value!r}.")


def _reason(attack: Attack, evidence: Evidence) -> str:
    return "; ".join(_WAYS[need] for need in sorted(attack.needs - evidence.available))


def _check_needs(
    asked: Optional[Iterable[str]], chosen: list[Attack], has_references: bool, has_other: bool, can_ask: bool
) -> None:
    """Refuses attacks that were asked for by name and lack what they need, before any work is done."""
    if asked is None:
        return
    missing = {
        REFERENCE_MODELS: has_references,
        OTHER_VERSION: has_other,
        AUGMENTED_QUERIES: can_ask,
        AUGMENTED_REFERENCES: has_references and can_ask,
    }
    faults = [
        f"{attack.name!r} {_WAYS[need]}"
        for attack in chosen
        for need in sorted(attack.needs)
        if not missing.get(need, True)
    ]
    if faults:
        raise ValueError(f"audit: {'; '.join(faults)}.")
