"""The base class of attacks, and the evidence that they score."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq import _privacy_suite
from tfmiaq.signals.outputs import CLASSES
from tfmiaq.signals.reference_signals import ReferenceSignals
from tfmiaq.signals.signals import Signals

# What an attack may need beyond the labels that the target gives: values of `Attack.needs`.
SCORES, RECORDS, REFERENCE_MODELS, AUGMENTED_QUERIES, OTHER_VERSION = (
    "scores",
    "records",
    "reference models",
    "augmented queries",
    "another version",
)
# Those with "disjoint" splits train on none.
REFERENCE_MEMBERS = "reference models that trained on audited records"
AUGMENTED_REFERENCES = "augmented queries of reference models"
WHOLE_OUTPUTS = "whole outputs of reference models"
PRIVACY_SUITE = "tensorflow-privacy's suite"
PROBABILITIES = "probabilities of classes"
# What an attack may compare between a target and reference models.
OUTPUTS, AUGMENTED_OUTPUTS, LABEL_AGREEMENT = "outputs", "outputs on augmented queries", "label agreement"
_HALF_A_QUERY = 0.05


def needs_of(of: str) -> frozenset[str]:
    """Returns the needs of an attack that compares these values of a target with those of reference models."""
    return frozenset(
        {
            REFERENCE_MODELS,
            *([] if of == LABEL_AGREEMENT else [SCORES]),
            *([] if of == OUTPUTS else [AUGMENTED_REFERENCES]),
        }
    )


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What an attacker has on n records: members first, then non-members.

    Attributes:
        target: The target's signals on all n records.
        is_member: Shape (n,), bool. A trained attack may learn from other records' values, never from the record's own.
        seed: Seed of folds and attack models.
        reference_signals: Signals of reference models, or None.
        other: Signals of another version of the target, or None.
        records: Function that returns the records themselves, shape (n, ...), or None.
        groups: Shape (n,), the group of each record, such as its person, or the record with its duplicates; None where
            each record is one.
        split: Number of the split that `halves` gives.
    """

    target: Signals
    is_member: np.ndarray
    seed: int = 0
    reference_signals: Optional[ReferenceSignals] = None
    other: Optional[Signals] = None
    records: Optional[Callable[[], np.ndarray]] = None
    groups: Optional[np.ndarray] = None
    split: int = 0

    @property
    def available(self) -> set[str]:
        """The needs that this evidence meets."""
        there = {
            SCORES: self.target.losses is not None,
            RECORDS: self.records is not None,
            REFERENCE_MODELS: self.reference_signals is not None,
            REFERENCE_MEMBERS: self.reference_signals is not None and bool(self.reference_signals.trained_on.any()),
            AUGMENTED_QUERIES: self.target.label_agreement is not None,
            OTHER_VERSION: self.other is not None and self.other.losses is not None,
            AUGMENTED_REFERENCES: self.reference_signals is not None
            and self.reference_signals.augmented is not None
            and self.target.label_agreement is not None,
            WHOLE_OUTPUTS: self.reference_signals is not None
            and self.reference_signals.outputs is not None
            and self.target.logits is not None
            and self.target.logits.shape[1] == self.reference_signals.outputs.shape[2]
            and (self.reference_signals.augmented is None or self.reference_signals.augmented_outputs is not None),
            PRIVACY_SUITE: _privacy_suite.is_installed() and self.target.task == CLASSES,
            PROBABILITIES: self.target.entropies is not None,
        }
        return {name for name, is_there in there.items() if is_there}

    def halves(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns two ways (known, scored) to split the records in half, members and non-members alike.

        No group is split. The halves follow from the number of the split, not from the seed, so that no verdict hangs
        on one.
        """
        fold = folds(self.is_member, self.groups, np.random.default_rng(self.split))
        return [(np.flatnonzero(fold != half), np.flatnonzero(fold == half)) for half in range(2)]

    def confidences(self, of: str = OUTPUTS) -> tuple[np.ndarray, np.ndarray]:
        """Returns logit-scaled confidences of the target, shape (n,), and of the reference models, shape (k, n).

        Args:
            of: OUTPUTS on the records; AUGMENTED_OUTPUTS, their means over the augmented queries of each record; or
                LABEL_AGREEMENT, the part of those queries whose label is right in the place of a probability, shrunk by
                half a query of ten.
        """
        target, references = self.target, self.reference_signals
        assert references is not None
        if of == OUTPUTS:
            return np.asarray(target.confidences, np.float64), references.feature("confidence")
        if of == AUGMENTED_OUTPUTS:
            confidences = references.augmented_feature("augmented_confidence")
            return np.asarray(target.augmented_confidences, np.float64), confidences
        label_agreement = references.augmented_feature("label_agreement")
        return _logit(np.asarray(target.label_agreement, np.float64)), _logit(label_agreement)

    def cross_fit(self, features: np.ndarray, make: Callable[[], Any]) -> np.ndarray:
        """Returns membership probabilities, shape (n,), of an attack model that did not train on the scored record.

        Args:
            features: Shape (n, d).
            make: Function that returns a scikit-learn classifier.
        """
        scores = np.zeros(len(features))
        for known, scored in self.halves():
            model = make().fit(features[known], self.is_member[known])
            found = model.predict_proba(features[scored])[:, 1]
            # Halves that keep groups whole may have other parts of members, which must not tell the halves apart.
            part = self.is_member[known].mean()
            odds = found * (1 - part)
            scores[scored] = found if self.groups is None else odds / (odds + (1 - found) * part)
        return scores


def folds(is_member: np.ndarray, groups: Optional[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Returns the half, 0 or 1, of each record: half of the members and half of the non-members, and no group split.

    Groups of several records come first, in random order, larger ones first, each into the half that lacks more of
    its kind of records; single records fill up.

    Args:
        is_member: Shape (n,), bool.
        groups: Shape (n,), or None. A group may have members and non-members.
        generator: Draws the order.
    """
    fold: np.ndarray = np.zeros(len(is_member), int)
    alone: np.ndarray = np.ones(len(is_member), bool)
    kinds = np.stack([is_member, ~is_member]).astype(int)
    totals = np.zeros((2, 2))
    if groups is not None:
        _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        codes = codes.ravel()
        alone = sizes[codes] == 1
        counts = np.stack([np.bincount(codes, kind, len(sizes)) for kind in kinds], axis=1)
        order = generator.permutation(np.flatnonzero(sizes > 1))
        of_group: np.ndarray = np.zeros(len(sizes), int)
        for group in order[np.argsort(-sizes[order], kind="stable")]:
            of_group[group] = int((totals[0] * counts[group]).sum() > (totals[1] * counts[group]).sum())
            totals[of_group[group]] += counts[group]
        fold = of_group[codes]
    for kind, mask in enumerate(kinds.astype(bool)):
        records = generator.permutation(np.flatnonzero(mask & alone))
        lacking = int(np.clip(mask.sum() // 2 - totals[0, kind], 0, len(records)))
        fold[records[lacking:]] = 1
    return fold


def mean_where(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns each record's mean over the models that count for it, shape (n,); NaN without any.

    Args:
        values: Shape (k, n).
        mask: Shape (k, n), bool, which models count for which record.
    """
    counts = mask.sum(0)
    return np.where(counts > 0, (values * mask).sum(0) / np.maximum(counts, 1), np.nan)


def _logit(label_agreement: np.ndarray) -> np.ndarray:
    return np.asarray(np.log((label_agreement + _HALF_A_QUERY) / (1 + _HALF_A_QUERY - label_agreement)))


class Attack(abc.ABC):
    """A membership inference attack: a score for each record, higher for members.

    Attributes:
        name: Its name in `tfmiaq.audit` and in reports.
        needs: What it needs, of the constants of `tfmiaq.attacks`. Attacks whose needs are not met are left out.
        threshold: The score at or above which the attack itself calls a record a member, or None: then the audit
            chooses one on other records.
        note: What an attacker needs for it, in half a sentence.
        learns: Whether it learns from known members and non-members, by `Evidence.halves` or otherwise. Such an attack
            runs on several splits, whose scores are averaged; and its figures count as those of half of the records,
            because what the two halves have in common by chance moves both halves' figures alike. An AUC below 0.5 is
            no sign of a leak then. False for an attack whose scores do not depend on `is_member`.
        splits: Number of those splits.
    """

    name: str
    learns: bool = True
    splits: int = 3
    needs: frozenset[str] = frozenset({SCORES})
    threshold: Optional[float] = None
    note: str = ""

    @abc.abstractmethod
    def scores(self, evidence: Evidence) -> np.ndarray:
        """Returns the scores of all records, shape (n,), finite."""
