"""Looks at the audited sets before any attack is believed: sets that cannot be what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from scipy import optimize, stats

from tfmiaq import metrics
from tfmiaq.auditing.findings import Finding
from tfmiaq.signals.inputs import matrix, record_hashes
from tfmiaq.signals.outputs import CLASSES, SEVERAL, VALUES
from tfmiaq.signals.records import Records
from tfmiaq.signals.signals import KEPT_CLASSES, Signals

# Each test errs in one of a thousand audits of sound sets.
_ERROR = 0.001
# Shared records up to this part of the non-members, and class mixes that tell members with an AUC up to this, are told
# and void nothing.
_SHARED, _TELLING = 0.01, 0.53
_BINS = 10
_FEWEST_EXPECTED = 5
# What a target knows more than chance is sure at this error; an accuracy at chance lies this near to it.
_IDLE, _NEAR_CHANCE = 0.05, 0.3
# An order of classes under which so many labels of members are right is the right one.
_ANOTHER_ORDER = 0.5


def check_sets(
    members: Records, non_members: Records, found: Signals, units: Optional[np.ndarray] = None
) -> list[Finding]:
    """Returns the faults of two sets, and of how the target reads them; none for sound sets.

    Looked for are the same records in both sets (by a hash of each record, or of its outputs where there are no
    records), swapped sets, classes that are mixed unlike (chi-square test), an accuracy on members far below that on
    non-members, and one at chance. Each test errs in about one of a thousand sound audits.

    Args:
        members: Pair (x, y), as `records.check_records` returns it; x without features where outputs were saved.
        non_members: The same.
        found: The target's signals of members, then of non-members.
        units: Shape (n,), which records depend on one another; None where each is a unit of its own.
    """
    count = len(members[1])
    is_member = np.arange(len(found.labels)) < count
    return [
        *_shared(members, non_members, found, is_member),
        *_order(found, is_member, units),
        *_mixes(np.concatenate([members[1], non_members[1]]), found, is_member, units),
        *_accuracy(members, found, is_member, units),
    ]


def _shared(members: Records, non_members: Records, found: Signals, is_member: np.ndarray) -> list[Finding]:
    """Returns what the sets share. Equal records of different people are as frequent within a set as across."""
    what, inside, outside = _hashes(members, non_members, found, is_member)
    if inside is None:
        return []
    _, first, counts = np.unique(inside, return_inverse=True, return_counts=True)
    both = np.isin(outside, inside)
    if not both.any():
        return []
    of_members, of_others = np.isin(inside, outside), len(outside)
    if both.all() and of_members.all():
        text = (
            f"Members and non-members are the same {what}s: each of {len(inside)} members is a non-member too. Give as "
            "non_members records that had no part in training."
        )
        return [Finding("same sets", text, True)]
    within = float((counts[first] > 1).mean())
    places = ", ".join(map(str, np.flatnonzero(both)[:5]))
    text = (
        f"{int(both.sum())} of {of_others} non-members ({both.mean():.1%}) are members too: equal {what}s, the first "
        f"at index {places} of non_members."
    )
    expected = within + 3 * np.sqrt(within * (1 - within) / of_others)
    if both.mean() <= expected:
        text += (
            f" {within:.1%} of the members equal another member, so that people may share a {what} by chance. Who "
            "of them was in the training set no audit can say."
        )
        return [Finding("shared records", text, False)]
    text += " They hide a leak, as no attack can tell them apart. Leave them out of non_members."
    return [Finding("shared records", text, bool(both.mean() - within > _SHARED))]


def _hashes(members: Records, non_members: Records, found: Signals, is_member: np.ndarray) -> tuple[str, Any, Any]:
    if members[0].shape[1:] != (0,):
        kind = np.result_type(*(matrix(x[:1]).dtype for x in (members[0], non_members[0])))
        one, other = (record_hashes(matrix(x).astype(kind, copy=False)) for x, _ in (members, non_members))
        return "record", one, other
    if found.losses is None:
        return "output", None, None
    rows = np.column_stack([found.labels, found.features, *([] if found.logits is None else [found.logits])])
    hashes = record_hashes(rows)
    return "output", hashes[is_member], hashes[~is_member]


def _order(found: Signals, is_member: np.ndarray, units: Optional[np.ndarray]) -> list[Finding]:
    """Returns whether members have the lower confidences, or the lower accuracy."""
    scores = found.correct.astype(np.float64) if found.confidences is None else found.confidences
    of_sets = None if units is None else (units[is_member], units[~is_member])
    inside, outside = scores[is_member], scores[~is_member]
    auc = metrics.auc_estimate(inside, outside).value
    is_below = auc < 0.5 and metrics.auc_p_value(inside, outside, units=of_sets) < _ERROR
    right = [found.correct[mask].astype(np.float64) for mask in (is_member, ~is_member)]
    accuracies = [float(part.mean()) for part in right]
    is_worse = accuracies[0] < accuracies[1] and metrics.auc_p_value(*right, units=of_sets) < _ERROR
    called = "part of values right to half a standard deviation" if found.task == VALUES else "accuracy"
    told = f"on members {accuracies[0]:.3f}, on non-members {accuracies[1]:.3f}"
    if is_below and is_worse:
        text = (
            f"The sets look swapped: the target does better on non-members ({called}: {told}), and the confidence "
            f"ranks members below them (AUC {auc:.3f}). Pass the training records as members; if they are, their "
            "records or labels went through another preprocessing."
        )
        return [Finding("swapped sets", text, True)]
    if is_worse:
        text = (
            f"The {called} is far lower on members than on non-members ({told}). A target knows its training records "
            "best: look whether the sets are swapped, and whether their records and labels went through one "
            "preprocessing."
        )
        return [Finding("accuracy below non-members", text, True)]
    if is_below:
        text = (
            f"The confidence ranks members below non-members (AUC {auc:.3f}, surely below 0.5). That is a fault of the "
            "sets, such as another preprocessing, or a leak: an attacker turns the order round."
        )
        return [Finding("inverted confidence", text, False)]
    return []


def _mixes(y: np.ndarray, found: Signals, is_member: np.ndarray, units: Optional[np.ndarray]) -> list[Finding]:
    """Returns whether labels alone tell members from non-members."""
    codes = _codes(y, found.task)
    some = np.arange(len(y)) if units is None else _first_of_each(units, is_member)
    p_values = [_chi_square(column[some], is_member[some]) for column in codes.T]
    p_value = min(1.0, min(p_values) * len(p_values))
    if p_value >= _ERROR:
        return []
    telling = _auc_of_labels(codes, is_member)
    name, noun = {
        CLASSES: ("classes are mixed", "class"),
        SEVERAL: ("labels are mixed", "label"),
        VALUES: ("values are spread", "value"),
    }[found.task]
    worst = codes[:, int(np.argmin(p_values))]
    text = (
        f"The {name} unlike in members and non-members (chi-square test: p = {p_value:.1g}"
        f"{_largest(found, is_member)}). The {noun} alone tells members with an AUC of {telling:.3f}, which is no "
        "leak of the target"
    )
    if found.confidences is not None:
        within = _auc_within(found.confidences, worst, is_member)
        over_all = metrics.auc_estimate(found.confidences[is_member], found.confidences[~is_member]).value
        if within is not None:
            text += f"; the confidence has {over_all:.3f} over all, and {within:.3f} between records of one {noun}"
    text += ". Draw non-members as the members were drawn"
    text += ", or take tfmiaq.signals.match_classes(members, non_members)." if found.task == CLASSES else "."
    return [Finding("unlike classes", text, telling > _TELLING)]


def _codes(y: np.ndarray, task: str) -> np.ndarray:
    """Returns labels as small integers, shape (n, columns)."""
    columns = y.reshape(len(y), -1)
    if task != VALUES:
        return np.column_stack([np.unique(column, return_inverse=True)[1] for column in columns.T])
    edges = np.quantile(columns, np.linspace(0, 1, _BINS + 1)[1:-1], axis=0)
    return np.column_stack([np.searchsorted(np.unique(edge), column) for edge, column in zip(edges.T, columns.T)])


def _first_of_each(units: np.ndarray, is_member: np.ndarray) -> np.ndarray:
    """Returns one record of each unit: the others have its class."""
    return np.unique(np.stack([units, is_member]), axis=1, return_index=True)[1]


def _chi_square(codes: np.ndarray, is_member: np.ndarray) -> float:
    """Returns the p-value of the chi-square test of two mixes; classes of few records are taken together."""
    size = int(codes.max()) + 1
    table = np.stack([np.bincount(codes[mask], minlength=size) for mask in (is_member, ~is_member)])
    totals = table.sum(0)
    expected = totals * table.sum(1).min() / totals.sum()
    few = expected < _FEWEST_EXPECTED
    table = np.column_stack([table[:, ~few], table[:, few].sum(1)])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2 or not table.sum(1).all():
        return 1.0
    return float(stats.chi2_contingency(table, correction=False)[1])


def _largest(found: Signals, is_member: np.ndarray) -> str:
    """Returns the class whose parts of the two sets differ most, with the parts."""
    classes, codes = np.unique(found.labels, return_inverse=True)
    parts = [np.bincount(codes[mask], minlength=len(classes)) / mask.sum() for mask in (is_member, ~is_member)]
    worst = int(np.argmax(abs(parts[0] - parts[1])))
    name = found.class_name(classes[worst])
    return f"; {name}: {parts[0][worst]:.1%} of the members, {parts[1][worst]:.1%} of the non-members"


def _auc_of_labels(codes: np.ndarray, is_member: np.ndarray) -> float:
    """Returns the AUC of naive Bayes on labels alone, learnt on one half of the records and applied to the other."""
    generator = np.random.default_rng(0)
    half: np.ndarray = np.zeros(len(codes), bool)
    for mask in (is_member, ~is_member):
        places = generator.permutation(np.flatnonzero(mask))
        half[places[: len(places) // 2]] = True
    aucs = []
    for known in (half, ~half):
        scores = np.zeros(len(codes))
        for column in codes.T:
            size = int(column.max()) + 1
            counts = [np.bincount(column[known & mask], minlength=size) + 0.5 for mask in (is_member, ~is_member)]
            scores += np.log(counts[0] / counts[0].sum() / (counts[1] / counts[1].sum()))[column]
        aucs.append(metrics.auc_estimate(scores[~known & is_member], scores[~known & ~is_member]).value)
    return float(np.mean(aucs))


def _auc_within(scores: np.ndarray, codes: np.ndarray, is_member: np.ndarray) -> Optional[float]:
    """Returns the mean AUC over classes, weighted by their pairs over their records (van Elteren 1960)."""
    aucs, weights = [], []
    for code in np.unique(codes):
        inside, outside = scores[(codes == code) & is_member], scores[(codes == code) & ~is_member]
        if len(inside) and len(outside):
            aucs.append(metrics.auc_estimate(inside, outside).value)
            weights.append(len(inside) * len(outside) / (len(inside) + len(outside)))
    return float(np.average(aucs, weights=weights)) if aucs else None


def _accuracy(members: Records, found: Signals, is_member: np.ndarray, units: Optional[np.ndarray]) -> list[Finding]:
    """Returns whether the target knows no more of its members than chance does."""
    inside = found[is_member]
    if found.task == VALUES:
        spread = float(np.var(members[1].astype(np.float64), axis=0).mean())
        error = float(np.mean(np.asarray(inside.losses)))
        if not 0 < spread <= error:
            return []
        told = f"mean squared error is {error:.4g}, no less than the variance of the values, {spread:.4g}"
    elif found.task == SEVERAL:
        rates = np.clip(members[1].mean(0), 1e-9, 1 - 1e-9)
        chance = float(-(rates * np.log(rates) + (1 - rates) * np.log(1 - rates)).sum())
        loss = float(np.mean(np.asarray(inside.losses)))
        if not 0.01 < chance <= loss:
            return []
        told = f"mean loss is {loss:.3f}, no less than {chance:.3f}, that of each label's own frequency"
    else:
        one_of_each = slice(None) if units is None else np.unique(units[is_member], return_index=True)[1]
        if not _at_chance(inside[one_of_each]):
            return []
        told = f"accuracy is {inside.correct.mean():.3f}, what chance gives"
        order = _another_order(found, is_member)
        if order:
            text = f"On members the target's {told}, {order}"
            return [Finding("labels in another order", text, True)]
    text = (
        f"On members the target's {told}. A target that learnt anything of its members does better: look whether "
        f"records are scaled as for training{_range(members[0])}, and labels in the order of the target's outputs."
    )
    return [Finding("accuracy at chance", text, True)]


def _at_chance(inside: Signals) -> bool:
    """Returns whether a target says no more of its members' labels than their frequencies do.

    Its accuracy is not surely above that of independent guesses of the same frequencies, and surely below three tenths
    of the way from there to 1; and its loss is no less than that of the classes' frequencies, or its log-probabilities
    are not surely higher of a record's label than of other records'.
    """
    labels, right, count = inside.labels, int(inside.correct.sum()), len(inside.labels)
    frequencies = np.unique(labels, return_counts=True)[1] / count
    if len(frequencies) < 2:
        return False
    is_idle = True
    if inside.logits is None or inside.logits.shape[1] == KEPT_CLASSES:
        chance = 1 / len(frequencies)
    else:
        size = inside.logits.shape[1]
        of_each = np.bincount(labels, minlength=size) / count
        chance = float(np.bincount(inside.logits.argmax(1), minlength=size) / count @ of_each)
        log_p = np.maximum(inside.log_p, -30.0)
        gain = log_p[np.arange(count), labels] - log_p @ of_each
        spread = float(gain.std())
        p_value = float(stats.norm.sf(gain.mean() / (spread / np.sqrt(count)))) if spread else 1.0
        entropy = -(frequencies * np.log(frequencies)).sum()
        is_idle = p_value > _IDLE or float(np.mean(np.asarray(inside.losses))) >= entropy
    is_above = stats.binomtest(right, count, min(chance, 1.0), alternative="greater").pvalue < _IDLE
    high = stats.beta.ppf(0.99, right + 1, count - right) if right < count else 1.0
    return bool(is_idle and not is_above and high < chance + _NEAR_CHANCE * (1 - chance))


def _another_order(found: Signals, is_member: np.ndarray) -> str:
    """Returns under which order of classes the labels are right, chosen on non-members; empty for none."""
    if found.logits is None or found.logits.shape[1] >= KEPT_CLASSES:
        return ""
    guesses, labels = found.logits.argmax(1), found.labels
    for shift, called in ((1, "labels start at 1: pass y - 1"), (-1, "labels start one too low: pass y + 1")):
        accuracy = float((guesses[is_member] == labels[is_member] - shift).mean())
        if accuracy >= _ANOTHER_ORDER:
            return f"and {accuracy:.3f} if {called}."
    size = max(found.logits.shape[1], int(labels.max()) + 1)
    table = np.zeros((size, size))
    np.add.at(table, (labels[~is_member], guesses[~is_member]), 1)
    rows, columns = optimize.linear_sum_assignment(-table)
    order = np.zeros(size, int)
    order[rows] = columns
    accuracy = float((guesses[is_member] == order[labels[is_member]]).mean())
    if accuracy < _ANOTHER_ORDER:
        return ""
    shown: Sequence[str] = [f"label {label} is output {order[label]}" for label in np.unique(labels)[:4]]
    return (
        f"and {accuracy:.3f} if classes have another order ({', '.join(shown)}, ...): pass labels in the order of the "
        "target's outputs."
    )


def _range(x: Any) -> str:
    flat = matrix(x[:1000])
    if not flat.size or flat.dtype.kind not in "iuf":
        return ""
    return f" (those of the members go from {np.nanmin(flat):.4g} to {np.nanmax(flat):.4g})"
