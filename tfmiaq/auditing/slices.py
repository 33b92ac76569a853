"""Attacks on parts of the records: classes, right and wrong labels, quarters of the loss, attributes of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq import metrics
from tfmiaq._checks import InvalidArgumentError
from tfmiaq.attacks.base import Evidence
from tfmiaq.auditing.reporting.results import AttackResult, Slice
from tfmiaq.signals.groups import check_groups

# A slice with fewer members or non-members than this is not judged.
SMALLEST = 10
# Numbers of more values than this are cut into quarters.
_MOST_VALUES = 20

Attributes = Mapping[str, np.ndarray]


def check_slices(slices: Any, count: int) -> Attributes:
    """Returns attributes of records as arrays.

    Args:
        slices: For each attribute its name and a value for each record, members first; or None.
        count: Number of members and non-members together.

    Raises:
        InvalidArgumentError: No mapping of names to one value for each record, or values that are missing.
    """
    if slices is None:
        return {}
    if not isinstance(slices, Mapping) or not all(isinstance(name, str) and name for name in slices):
        raise InvalidArgumentError(
            "audit: Expected slices as a dict from names to one value for each record, members first, as in "
            f"slices={{'sex': np.concatenate([sex_of_members, sex_of_others])}}. Received {slices!r:.200}."
        )
    return {name: check_groups(values, count, "audit", f"slices[{name!r}]") for name, values in slices.items()}


def masks(evidence: Evidence, attributes: Attributes) -> dict[str, np.ndarray]:
    """Returns for each slice its name and which records are in it, shape (n,), bool."""
    target = evidence.target
    found = {target.class_name(label): target.labels == label for label in np.unique(target.labels)}
    found.update({"right label": target.correct, "wrong label": ~target.correct})
    if target.losses is not None:
        found.update(_quarters("loss", target.losses))
    for name, values in attributes.items():
        distinct = np.unique(values)
        if len(distinct) > _MOST_VALUES and np.issubdtype(values.dtype, np.number):
            found.update(_quarters(name, values))
        else:
            found.update({f"{name} = {value}": values == value for value in distinct})
    return found


def _quarters(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    quarters = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values)
    return {f"{name} in quarter {quarter + 1} of 4": quarters == quarter for quarter in range(4)}


def judge(
    attacks: Sequence[tuple[AttackResult, float]],
    evidence: Evidence,
    attributes: Attributes,
) -> tuple[Slice, ...]:
    """Returns all slices, each with the attack that says most of it; those of too few records without an AUC.

    Args:
        attacks: The attacks with their scores, and for each the part of the records that count (1, or 0.5 for an attack
            that learns).
        evidence: What was attacked.
        attributes: Attributes of the user's.
    """
    members = int(evidence.is_member.sum())
    units: Any = (None, None)
    if evidence.groups is not None:
        units = evidence.groups[:members], evidence.groups[members:]
    all_masks = masks(evidence, attributes)
    judged = {}
    for name, mask in all_masks.items():
        inside, outside = mask[:members], mask[members:]
        of_units = None if units[0] is None else (units[0][inside], units[1][outside])
        if min(_count(part, of) for part, of in zip((inside, outside), of_units or (None, None))) >= SMALLEST:
            judged[name] = inside, outside, of_units
    error = 0.05 / max(1, len(judged) * len(attacks))
    found = []
    for name, mask in all_masks.items():
        sizes = int(mask[:members].sum()), int(mask[members:].sum())
        if name not in judged:
            found.append(Slice(name, *sizes))
            continue
        inside, outside, of_units = judged[name]
        scored: list[Any] = [
            (attack, part, (np.asarray(attack.member_scores)[inside], np.asarray(attack.non_member_scores)[outside]))
            for attack, part in attacks
        ]
        p_values = [
            metrics.auc_p_value(*scores, units=of_units, scale=part, above_alone=attack.learns)
            for attack, part, scores in scored
        ]
        most = int(np.argmin(p_values))
        attack, part, scores = scored[most]
        auc = metrics.auc_estimate(scores[0], scores[1], 1 - error, units=of_units, scale=part)
        found.append(Slice(name, *sizes, auc, attack.name, min(1.0, p_values[most] * len(attacks))))
    return tuple(found)


def _count(mask: np.ndarray, units: Optional[np.ndarray]) -> int:
    return int(mask.sum()) if units is None else len(np.unique(units))
