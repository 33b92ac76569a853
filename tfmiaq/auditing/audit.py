"""The audit of a model: how much its outputs say about who was in its training set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Optional, Union

import numpy as np
from tqdm.auto import tqdm

from tfmiaq._checks import AT_LEAST_ONE, SEED, check, integer
from tfmiaq.attacks.base import (
    AUGMENTED_QUERIES,
    AUGMENTED_REFERENCES,
    Attack,
    Evidence,
)
from tfmiaq.attacks.registry import ALL, choose
from tfmiaq.attacks.suite import SMALLEST_SET
from tfmiaq.auditing import evaluation, requirements
from tfmiaq.auditing import slices as slices_of
from tfmiaq.auditing.canaries import Canaries, audit_canaries, check_canaries
from tfmiaq.auditing.findings import Finding
from tfmiaq.auditing.reporting.provenance import Provenance
from tfmiaq.auditing.reporting.report import AuditReport
from tfmiaq.auditing.set_checks import check_sets
from tfmiaq.auditing.units import units_of
from tfmiaq.caching.store import check_space
from tfmiaq.signals import access as access_to
from tfmiaq.signals import queries
from tfmiaq.signals.access import FILE, QUERY
from tfmiaq.signals.duplicates import warn_of_duplicates
from tfmiaq.signals.groups import check_group_pair, count_groups
from tfmiaq.signals.inputs import concatenate, matrix
from tfmiaq.signals.outputs import Labels
from tfmiaq.signals.queries import AugmentedQueries, Queries
from tfmiaq.signals.records import Records, check_records
from tfmiaq.signals.reference_models import ReferenceModels
from tfmiaq.signals.reference_signals import ReferenceSignals
from tfmiaq.signals.reference_training import train_references
from tfmiaq.signals.signals import Signals, extract_sets
from tfmiaq.signals.targets import Target, classes_of, targets_of_sets

_KNOWN_SEED = (
    "All stages of the reference models were seeded with known_seed. Where the target's were too, the figures are "
    "those of an attacker who knows its seed, who finds more than others."
)


@dataclasses.dataclass(frozen=True)
class _Sets:
    """The audited records, and how a target is scored on them."""

    members: Records
    non_members: Records
    batch_size: int
    threads: Optional[int]

    def signals(self, target: Target, progress: Optional[Callable[[str], None]] = None) -> Signals:
        """Returns the signals of members, then of non-members."""
        inside, outside = targets_of_sets(target)
        sets = [("members", inside, self.members), ("non_members", outside, self.non_members)]
        return Signals.concatenate(extract_sets(sets, self.batch_size, progress, self.threads))

    def augmented(self, target: Target, make: Queries) -> dict[str, Any]:
        """Returns the fields of `Signals` that augmented queries give."""
        parts = [
            queries.query_augmented(
                target, records, make, batch_size=self.batch_size, threads=self.threads, known=Labels.of(self.labels)
            )
            for records in (self.members, self.non_members)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels of members and of non-members."""
        return self.members[1], self.non_members[1]

    @property
    def have_features(self) -> bool:
        """Whether the records themselves are there; they may be left out with saved outputs."""
        x, _ = self.members
        return x.shape[1:] != (0,)

    def x(self) -> Any:
        """Returns all records without their labels; a copy."""
        return concatenate(self.members[0], self.non_members[0])


class _Progress:
    """A bar with a step for each set, each reference model and each attack."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def step(self, name: str, count: int = 1) -> None:
        self.bar.set_postfix_str(name)
        self.bar.update(count)


def audit(
    target: Target,
    members: Any,
    non_members: Any,
    attacks: Optional[Union[str, Iterable[str]]] = None,
    *,
    reference_models: Optional[Union[ReferenceModels, ReferenceSignals]] = None,
    other: Optional[Target] = None,
    augmented_queries: Union[bool, Queries] = False,
    access: Optional[str] = None,
    groups: Optional[Any] = None,
    slices: Optional[Mapping[str, Any]] = None,
    canaries: Optional[Canaries] = None,
    batch_size: int = 256,
    threads: Optional[int] = None,
    seed: int = 0,
    verbose: bool = True,
) -> AuditReport:
    """Attacks a model with membership inference, and reports how much it says about its training records.

    Who ships a .tflite gives more than its outputs: whoever holds the file reads the logits in front of the rounding of
    `policy.output`, of a softmax or of an argmax. A .tflite is audited so, and the report has the figures of an
    attacker who can only ask beside it (`AuditReport.query`).

    With `reference_models` the attacker adapts: models go through the target's own pipeline, on records of the
    attacker's choice. An audit without them flatters a defence.

    Example:
        >>> report = tfmiaq.audit("model.tflite", members=(x_train, y_train), non_members=(x_test, y_test))
        >>> print(report.attack_accuracy, report.tpr_at_fpr(0.01))
        >>> pipeline = tfmiaq.ReferenceModels([train_float, quantize_and_tune], cache="cache")
        >>> tfmiaq.audit(quantized, members, non_members, reference_models=pipeline)

    Args:
        target: A Keras model, a .tflite (path or bytes), a function from records (n, ...) to probabilities or logits
            (n, classes), to one unit (n,) or (n, 1), a sigmoid or its logit, to values, or to integer labels (n,), or a
            pair of saved outputs, of members and of non-members (arrays, or paths of .npy files).
        members: Pair (x, y) of records that the target was trained on, or a tf.data.Dataset of such pairs. x: an array,
            a DataFrame, or a dict or list of arrays, one for each input; None with saved outputs. y: integer classes
            (n,), one-hot rows, names that a scikit-learn target has in its classes_, rows of several labels (0 or 1
            each), or values. Stages of reference models get x in the same form, and classes as integers.
        non_members: The same of records that had no part in training or in choosing the model.
        attacks: Names of attacks; None for those that are strongest for their cost; "all" for each of
            `tfmiaq.attacks.ATTACKS` whose needs are met, which takes minutes where the strongest take seconds.
        reference_models: The target's pipeline and how many models to train through it, or the signals of models that
            were trained elsewhere (`signals.saved_references`); None for no reference models.
        other: Another version of the target that the attacker holds too, such as the float model.
        augmented_queries: True to query augmented copies of each record too (`signals.AugmentedQueries`), for the
            label-only attack; or a function from records and the number of a query to copies. Implied by a target that
            gives labels.
        access: What the attacker has: "query" for the target's outputs alone, or "file" for the .tflite or the Keras
            model itself, with the logits inside; reference models are then read in the same way. None for "file" where
            the target is a .tflite, else "query". A .tflite whose logits cannot be found is audited by its outputs,
            and the report says so.
        groups: Pair of arrays, (groups of the members, groups of the non-members): one value for each record, such as
            its person, patient or device. No group is split by halves, folds and reference models. None where each
            record is a group of its own.
        slices: Attributes of the records, each by its name: a value for each record, members first, then non-members,
            as in {"sex": np.concatenate([sex_of_members, sex_of_others])}. Each value is a slice of the report, and
            numbers of more than 20 values are cut into quarters.
        canaries: Canaries that further models are trained with, `reference_models.count` of them, through its pipeline
            (`audit_canaries`): `report.canaries` has what is found of the records that are memorized most.
        batch_size: Records scored in one call of the target.
        threads: Threads of the .tflite interpreter.
        seed: Seed of reference models, their training sets and attacks that sample them. Halves and folds do not follow
            it: without reference models the verdict is the same for every seed.
        verbose: Show a progress bar where standard error is a terminal.

    Returns:
        The report.

    Warns:
        UserWarning: Exact or near duplicates among the records, of different groups (`signals.find_duplicates`).

    Raises:
        TypeError: A target, a set of records or reference models of another type; access="file" to a function, a
            classifier or saved outputs.
        ValueError: Unknown attacks, or attacks that lack what they need; sets that are empty, too small, of different
            shapes or with NaN; labels that are no classes; a target that gives something else than finite scores; a
            file that is no .tflite; another access; access="file" to a model whose logits cannot be found; numbers out
            of range; a group that is in members and in non-members.
        RuntimeError: A process that trained a reference model died.
    """
    chosen = choose(attacks)
    numbers = check(
        "audit",
        batch_size=(batch_size, AT_LEAST_ONE),
        threads=(threads, integer(1, or_none=True, none_means="the interpreter's default")),
        seed=(seed, SEED),
    )
    seed = numbers.pop("seed")
    sets = _Sets(*_check_sets(members, non_members, classes_of(target)), **numbers)
    requirements.check_reference_models(reference_models, len(sets.labels[0]), len(sets.labels[1]), sets.have_features)
    if canaries is not None:
        check_canaries(canaries, reference_models, sets.non_members, "audit")
    sizes = len(sets.members[1]), len(sets.non_members[1])
    of_sets = None if groups is None else check_group_pair(groups, sizes, fewest=(2, 2))
    of_records = None if of_sets is None else np.concatenate(of_sets)
    attributes = slices_of.check_slices(slices, len(sets.members[1]) + len(sets.non_members[1]))
    duplicates = None
    if sets.have_features:
        duplicates = warn_of_duplicates(sets.members[0], sets.non_members[0], of_records)
    can_query = not isinstance(target, (tuple, list))
    held, unread = access_to.hold(target, access, **numbers)
    is_all = isinstance(attacks, str) and attacks == ALL
    if attacks is not None and not is_all:
        requirements.check_needs(chosen, reference_models, other is not None, can_query)
    if isinstance(reference_models, ReferenceModels):
        check_space(reference_models.cache)
    count = reference_models.count if isinstance(reference_models, ReferenceModels) else 0
    models = count * (1 if canaries is None else 2)
    targets = {QUERY: target} if held is None else {FILE: held.file, QUERY: held.query}
    others = {QUERY: other} if held is None or other is None else access_to.views(other, **numbers)
    steps = (len(chosen) + 2) * len(targets) + models
    with tqdm(total=steps, desc="audit", disable=None if verbose else True) as bar:
        progress = _Progress(bar)
        make = augmented_queries if callable(augmented_queries) else AugmentedQueries.from_records(sets.x())
        by_name = attacks is not None and any({AUGMENTED_QUERIES, AUGMENTED_REFERENCES} & a.needs for a in chosen)
        by_name &= not is_all or requirements.can_make(make, sets.x())
        found = {}
        for name, view in targets.items():
            found[name] = sets.signals(view, progress.step)
            if held is not None and name == FILE:
                found[name] = dataclasses.replace(found[name], hidden=held.hidden(sets.x()))
            if can_query and (augmented_queries or by_name or found[name].losses is None):
                requirements.check_queries(make, sets.members[0], found[name])
                progress.step("augmented queries", 0)
                found[name] = dataclasses.replace(found[name], **sets.augmented(view, make))
        units = units_of(len(sets.members[1]) + len(sets.non_members[1]), len(sets.members[1]), of_records, duplicates)
        findings = check_sets(sets.members, sets.non_members, found[next(iter(targets))], units)
        references = _reference_signals(
            reference_models, sets, found, make, can_query, seed, progress, of_records, units
        )
        if references is not None and getattr(reference_models, "known_seed", None) is not None:
            findings.append(Finding("known seed", _KNOWN_SEED, invalid=False))
        reports: dict[str, Optional[AuditReport]] = {}
        for name in targets:
            evidence = Evidence(
                target=found[name],
                is_member=np.arange(len(found[name].labels)) < len(sets.members[1]),
                seed=seed,
                other=None if other is None else sets.signals(others[name]),
                records=(lambda: matrix(sets.x())) if sets.have_features else None,
                reference_signals=references if name == FILE or references is None else references.query or references,
                groups=units,
            )
            is_headline = name == next(iter(targets))
            reports[name] = _report(chosen, evidence, name, progress, is_headline, attributes, count_groups(of_sets))
        of_canaries = None
        if canaries is not None:
            assert isinstance(reference_models, ReferenceModels)
            of_canaries = audit_canaries(
                reference_models,
                sets.members,
                sets.non_members,
                canaries,
                member_groups=None if of_sets is None else of_sets[0],
                access=FILE if FILE in found else QUERY,
                batch_size=sets.batch_size,
                seed=seed,
                progress=lambda count: progress.step("canaries", count),
            )
    (name, report), *_ = reports.items()
    assert report is not None
    return dataclasses.replace(
        report,
        query=reports[QUERY] if name == FILE else None,
        unread=unread,
        canaries=of_canaries,
        about=Provenance.of(target),
        findings=tuple(findings),
    )


def _report(
    chosen: list[Attack],
    evidence: Evidence,
    access: str,
    progress: _Progress,
    is_headline: bool,
    attributes: slices_of.Attributes,
    groups: Optional[tuple[int, ...]],
) -> Optional[AuditReport]:
    """Returns the report of one view, or None where it is not the report's own and no attack can run on it."""
    ready, skipped = requirements.split(chosen, evidence)
    if not ready and is_headline:
        raise ValueError(f"audit: {'; '.join(f'{attack.name!r}: {skipped[attack.name]}' for attack in chosen)}.")
    if not ready:
        return None
    report = evaluation.score(evidence, ready, progress.step, attributes)
    return dataclasses.replace(report, skipped=skipped, access=access, groups=groups)


def _check_sets(members: Any, non_members: Any, classes: Optional[np.ndarray]) -> tuple[Records, Records]:
    members, non_members = check_records(members, non_members, any_kind=True, classes=classes)
    if min(len(members[1]), len(non_members[1])) < SMALLEST_SET:
        raise ValueError(
            f"audit: Expected at least {SMALLEST_SET} members and as many non-members. Received {len(members[1])} and "
            f"{len(non_members[1])}."
        )
    return members, non_members


def _reference_signals(
    reference_models: Optional[Union[ReferenceModels, ReferenceSignals]],
    sets: _Sets,
    found: dict[str, Signals],
    make: Queries,
    can_query: bool,
    seed: int,
    progress: _Progress,
    groups: Optional[np.ndarray],
    units: Optional[np.ndarray],
) -> Optional[ReferenceSignals]:
    views = list(found.values())
    if isinstance(reference_models, ReferenceSignals):
        return None if views[0].losses is None else reference_models
    if reference_models is None or (views[0].losses is None and not can_query):
        return None
    pool = sets.x(), np.concatenate(sets.labels)
    return train_references(
        reference_models,
        pool,
        batch_size=sets.batch_size,
        queries=None if all(view.label_agreement is None for view in views) else make,
        seed=seed,
        progress=lambda count: progress.step("reference models", count),
        access=FILE if FILE in found else QUERY,
        groups=groups,
        units=units,
        members=len(sets.members[1]),
    )
