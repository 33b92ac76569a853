"""Canaries: records made to be memorized, which show what a defence does for the worst cases among its records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
from scipy import stats
from tqdm.auto import tqdm

from tfmiaq import metrics
from tfmiaq._checks import AT_LEAST_ONE, SEED, InvalidArgumentError, check, check_choice, check_fields, integer
from tfmiaq.attacks.base import Attack, Evidence
from tfmiaq.attacks.registry import ATTACKS
from tfmiaq.auditing.reporting.canary_report import CanaryReport, CanaryResult
from tfmiaq.metrics import RATES, Estimate
from tfmiaq.signals.access import ACCESS, QUERY
from tfmiaq.signals.records import Records, check_records, pair
from tfmiaq.signals.reference_models import ReferenceModels
from tfmiaq.signals.reference_sets import TrainingSets
from tfmiaq.signals.reference_signals import ReferenceSignals
from tfmiaq.signals.reference_training import train_references
from tfmiaq.signals.signals import Signals

MISLABELLED, WITH_TWIN, BESIDE_TWIN = "mislabelled", "mislabelled with a twin", "mislabelled beside a twin"
KINDS = (MISLABELLED, WITH_TWIN, BESIDE_TWIN)
# The target and two reference models are the fewest that leave a canary both in and out.
_FEWEST_MODELS = 3
_FLIPPED, _NOISE = 0.01, 0.1
_RESAMPLES = 200


@dataclasses.dataclass(frozen=True)
class Canaries:
    """Records that are made from the data to be memorized (Aerni, Zhang and Tramer 2024, section 4).

    Example:
        >>> canaries = tfmiaq.Canaries("mislabelled with a twin", count=100)
        >>> report = tfmiaq.audit(model, members, non_members, reference_models=pipeline, canaries=canaries)
        >>> print(report.canaries)

    Attributes:
        kind: "mislabelled": a record with a wrong label. "mislabelled with a twin": a near-twin of the same wrong label
            goes in and out with it, which voids a defence that trains on a record's neighbours. "mislabelled beside a
            twin": the near-twin is always in the training set, so that the model may know the wrong label anyway.
        count: Number of canaries, at least 10. A TPR at 0.1 % FPR takes 2,000 pairs of a model and a canary.
        twin: Function from records (n, ...) to a near-twin of each. None for 1 % of the features changed of binary
            records, 1 % exchanged with other records of integers, a shift by a pixel of images, and noise of a tenth of
            each feature's standard deviation of others.

    Raises:
        InvalidArgumentError: An unknown kind, too few canaries, a twin that cannot be called.
    """

    kind: str = MISLABELLED
    count: int = 100
    twin: Optional[Callable[[np.ndarray], np.ndarray]] = None

    def __post_init__(self) -> None:
        check_choice("Canaries", "kind", self.kind, KINDS)
        check_fields(self, count=integer(10))
        if self.twin is not None and not callable(self.twin):
            raise InvalidArgumentError(
                f"Canaries: Expected twin as a function from records to records, or None. Received {self.twin!r:.200}."
            )


_ATTACKS = (ATTACKS["difficulty calibration"], ATTACKS["LiRA"])


def audit_canaries(
    reference_models: ReferenceModels,
    members: Any,
    non_members: Any,
    canaries: Optional[Canaries] = None,
    *,
    member_groups: Optional[np.ndarray] = None,
    access: str = QUERY,
    batch_size: int = 256,
    seed: int = 0,
    verbose: bool = True,
    progress: Optional[Callable[[int], None]] = None,
) -> CanaryReport:
    """Trains models on the members and on canaries, and attacks the canaries of each with the others as references.

    Each model goes through the pipeline of `reference_models`, on all members and on the canaries that fall to it: each
    canary by a fair coin of its own for each model, so that no model's coins say anything about another's. Then each
    model is the target in turn (leave one model out). No model is trained for the audit of an existing one: a canary's
    membership must be random, so the figures are of the pipeline.

    Example:
        >>> pipeline = tfmiaq.ReferenceModels([train_float, quantize_and_tune], count=32, cache="cache")
        >>> print(tfmiaq.audit_canaries(pipeline, members, non_members, tfmiaq.Canaries("mislabelled", 100)))

    Args:
        reference_models: The pipeline, the number of models, of which at least 3, the cache and n_jobs. Its `splits`,
            `population`, `minutes` and `known_seed` have no part in this.
        members: Pair (x, y) of the target's training records.
        non_members: Pair (x, y) of records that canaries are made from.
        canaries: What they are. None for `Canaries()`.
        member_groups: A value for each member, such as its person, for stages that take groups. Canaries and twins have
            groups of their own, as those of a person whom nobody recognizes.
        access: "query" for an attacker who can only ask, "file" for one who reads the logits inside the models.
        batch_size: Records scored in one call.
        seed: Seed of canaries, memberships and trainings.
        verbose: Show a progress bar where standard error is a terminal.
        progress: Called with the number of models that were finished since the last call, in place of the bar.

    Returns:
        The report.

    Raises:
        TypeError: A pipeline, canaries or records of another type.
        ValueError: Fewer than 3 models; more canaries than non-members; a single class; as `audit`.
        RuntimeError: As `audit`.
    """
    canaries = Canaries() if canaries is None else canaries
    check_choice("audit_canaries", "access", access, ACCESS)
    checked = check("audit_canaries", batch_size=(batch_size, AT_LEAST_ONE), seed=(seed, SEED))
    members, non_members = check_records(members, non_members, "audit_canaries")
    check_canaries(canaries, reference_models, non_members, "audit_canaries")
    made, sets = _training_sets(canaries, reference_models.count, members, non_members, checked["seed"], member_groups)
    alone: dict[str, Any] = {"population": None, "population_groups": None, "known_seed": None}
    options = dataclasses.replace(reference_models, splits="half", **alone)
    with tqdm(total=options.count, desc="canaries", disable=None if verbose and progress is None else True) as bar:
        found = train_references(options, made, progress=progress or bar.update, sets=sets, access=access, **checked)
    return _report(canaries, found, made[1], checked["seed"])


def check_canaries(canaries: Any, reference_models: Any, non_members: Records, owner: str) -> None:
    """Raises an error if canaries cannot be made of the non-members, or no pipeline can be trained on them."""
    if not isinstance(canaries, Canaries):
        raise InvalidArgumentError(f"{owner}: Expected canaries as tfmiaq.Canaries(...). Received {canaries!r:.200}.")
    if not isinstance(reference_models, ReferenceModels):
        raise InvalidArgumentError(
            f"{owner}: Canaries are trained on through the target's pipeline: expected reference_models as "
            f"tfmiaq.ReferenceModels(train_fn, count=16). Received {reference_models!r:.200}."
        )
    check(owner, count=(reference_models.count, integer(_FEWEST_MODELS)))
    # Canaries get wrong classes, and near-twins of arrays.
    x, y = pair(non_members, "non_members", owner)
    if canaries.count > len(y) or x.shape[1:] == (0,):
        raise InvalidArgumentError(
            f"{owner}: {canaries.count} canaries are made from as many non-members. Received {len(y)} non-members of "
            f"shape {x.shape[1:]}."
        )


def near_twins(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns a near-twin of each record, as `Canaries.twin` says for None.

    Args:
        x: Shape (n, ...).
        generator: Draws the features, the other records and the noise.

    Returns:
        Array of the shape and type of `x`.
    """
    if x.ndim == 4:
        return np.concatenate([x[:, :, :1], x[:, :, :-1]], axis=2)
    if np.issubdtype(x.dtype, np.integer) or np.all((x == 0) | (x == 1)):
        flat = x.reshape(len(x), -1)
        count = int(np.ceil(_FLIPPED * flat.shape[1]))
        places = np.argsort(generator.random(flat.shape), axis=1)[:, :count]
        binary = bool(np.all((x == 0) | (x == 1)))
        others = 1 - flat if binary else flat[generator.permutation(len(x))]
        twins = flat.copy()
        np.put_along_axis(twins, places, np.take_along_axis(others, places, 1).astype(x.dtype), 1)
        return twins.reshape(x.shape)
    noise = generator.normal(size=x.shape) * _NOISE * x.std(axis=0, keepdims=True)
    return (x + noise).astype(x.dtype)


def _training_sets(
    canaries: Canaries,
    models: int,
    members: Records,
    non_members: Records,
    seed: int,
    member_groups: Optional[np.ndarray],
) -> tuple[Records, TrainingSets]:
    """Returns the canaries, and what each model trains on: all members, its canaries, and their twins."""
    generator = np.random.default_rng([seed, canaries.count])
    x, y = non_members
    some = generator.choice(len(y), canaries.count, replace=False)
    classes = int(max(members[1].max(), y.max())) + 1
    if classes < 2:
        raise InvalidArgumentError(
            "audit_canaries: Expected records of at least 2 classes, so that a label can be wrong."
        )
    made = x[some], (y[some] + generator.integers(1, classes, canaries.count)) % classes
    coins = generator.random((models, canaries.count)) < 0.5
    parts, chosen = [members, made], [np.ones((models, len(members[1])), bool), coins]
    if canaries.kind != MISLABELLED:
        make = canaries.twin or (lambda records: near_twins(records, generator))
        twins = np.asarray(make(made[0]))
        if twins.shape != made[0].shape or not np.isfinite(twins).all():
            raise InvalidArgumentError(
                f"audit_canaries: Expected finite twins of shape {made[0].shape}. Received {twins.shape}."
            )
        parts.append((twins.astype(made[0].dtype), made[1]))
        chosen.append(coins if canaries.kind == WITH_TWIN else np.ones_like(coins))
    groups = None
    if member_groups is not None:
        codes = np.unique(member_groups, return_inverse=True)[1]
        own = codes.max() + 1 + np.arange(canaries.count * (len(parts) - 1))
        groups = np.concatenate([codes, own])
    records = tuple(np.concatenate([part[i] for part in parts]) for i in range(2))
    return made, TrainingSets((records[0], records[1]), np.concatenate(chosen, axis=1), coins, groups)


def _report(canaries: Canaries, found: ReferenceSignals, labels: np.ndarray, seed: int) -> CanaryReport:
    coins = found.trained_on
    scores = {attack.name: leave_one_out(attack, found, labels, seed) for attack in _ATTACKS}
    results = tuple(_result(name, values, coins, seed) for name, values in scores.items())
    bounds = [metrics.one_run_epsilon(row, coin) for row, coin in zip(scores[_ATTACKS[0].name], coins)]
    return CanaryReport(canaries.kind, canaries.count, len(coins), results, tuple(bounds), seed)


def leave_one_out(attack: Attack, found: ReferenceSignals, labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns the scores of an attack with each model as the target and the others as its references, shape (k, n).

    Memberships must be drawn for each model on its own. The attack must not learn from the target's memberships.

    Args:
        attack: An attack that needs no more than scores and reference models.
        found: Signals of k models on n records.
        labels: Shape (n,), the labels that models trained on.
        seed: Seed of the attack.
    """
    rows = []
    for model in range(len(found.trained_on)):
        others = np.arange(len(found.trained_on)) != model
        target = Signals(
            labels=labels,
            correct=found.feature("correct")[model] > 0.5,
            losses=found.losses[model],
            confidences=found.confidences[model],
        )
        references = ReferenceSignals(found.features[others], found.trained_on[others])
        evidence = Evidence(target, found.trained_on[model], seed, reference_signals=references)
        rows.append(np.asarray(attack.scores(evidence), np.float64))
    return np.stack(rows)


def _result(name: str, scores: np.ndarray, coins: np.ndarray, seed: int) -> CanaryResult:
    """Returns the figures over all pairs of a model and a canary, with intervals over models and canaries."""
    inside, outside = scores[coins], scores[~coins]
    if not len(inside) or not len(outside):
        raise ValueError("audit_canaries: All canaries fell to one side. Take more canaries or more models.")
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(_RESAMPLES):
        pairs = np.ix_(*(generator.integers(0, size, size) for size in scores.shape))
        if 0 < coins[pairs].sum() < coins.size:
            of_draw = scores[pairs][coins[pairs]], scores[pairs][~coins[pairs]]
            draws.append([_auc(*of_draw), *(_tpr(*of_draw, rate) for rate in RATES)])
    ends = np.quantile(np.array(draws), [0.025, 0.975], axis=0)
    fpr, tpr = metrics.roc(inside, outside)
    alone = [metrics.tpr_estimate(fpr, tpr, len(inside), len(outside), rate) for rate in RATES]
    rates = tuple(None if found is None else _wider(found, *ends[:, 1 + i]) for i, found in enumerate(alone))
    return CanaryResult(name, _wider(metrics.auc_estimate(inside, outside), *ends[:, 0]), rates)


def _auc(inside: np.ndarray, outside: np.ndarray) -> float:
    ranks = stats.rankdata(np.concatenate([inside, outside]))[: len(inside)]
    return float((ranks.mean() - (len(inside) + 1) / 2) / len(outside))


def _tpr(inside: np.ndarray, outside: np.ndarray, limit: float) -> float:
    """Returns the part of `inside` that lies above all but `limit` of `outside`."""
    above = int(limit * len(outside) + 1e-9)
    return float((inside > np.sort(outside)[len(outside) - 1 - above]).mean())


def _wider(found: Estimate, low: float, high: float) -> Estimate:
    """Returns an estimate whose interval has another one in it too."""
    return Estimate(found.value, float(min(found.low, low)), float(max(found.high, high)))
