"""What every attack is, and what it may look at."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
from sklearn import model_selection

from tfmiaq.auditing.references import References
from tfmiaq.auditing.signals import Signals

# What an attack may need beyond the labels that the target gives.
SCORES, RECORDS, REFERENCES, QUERIES, OTHER = "scores", "records", "reference models", "queries", "another version"
COPIES = "changed copies asked of reference models"
# What attacks that compare a target with reference models may look at.
ANSWERS, ANSWERS_ON_COPIES, VOTES = "answers", "answers on copies", "votes"
_HALF_A_VOTE = 0.05


def needs_of(of: str) -> frozenset[str]:
    """What an attack needs that compares these values of a target with those of reference models."""
    return frozenset({REFERENCES, *([] if of == VOTES else [SCORES]), *([] if of == ANSWERS else [COPIES])})


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What an attacker has on n records: members first, then non-members.

    Attributes:
        target: The target's signals on all n records.
        is_member: Shape (n,), bool. A trained attack may learn from other records' values, never from the record's own.
        seed: Seed of folds and attack models.
        references: Signals of reference models, or None.
        other: Signals of another version of the target, or None.
        records: Function that gives the records themselves, shape (n, ...), or None.
    """

    target: Signals
    is_member: np.ndarray
    seed: int = 0
    references: Optional[References] = None
    other: Optional[Signals] = None
    records: Optional[Callable[[], np.ndarray]] = None

    @property
    def available(self) -> set[str]:
        """What there is to attack with."""
        there = {
            SCORES: self.target.losses is not None,
            RECORDS: self.records is not None,
            REFERENCES: self.references is not None,
            QUERIES: self.target.votes is not None,
            OTHER: self.other is not None,
            COPIES: self.references is not None
            and self.references.of_copies is not None
            and self.target.votes is not None,
        }
        return {name for name, is_there in there.items() if is_there}

    def halves(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Two ways (known, scored) to split the records in half, members and non-members alike."""
        folds = model_selection.StratifiedKFold(2, shuffle=True, random_state=self.seed)
        return [(known, scored) for known, scored in folds.split(np.zeros(len(self.is_member)), self.is_member)]

    def confidences(self, of: str = ANSWERS) -> tuple[np.ndarray, np.ndarray]:
        """Logit-scaled confidences of the target, shape (n,), and of the reference models, shape (k, n).

        Args:
            of: ANSWERS on the records; ANSWERS_ON_COPIES, their means over changed copies of each record; or VOTES, the
                share of those copies whose label is right in the place of a probability, shrunk by half a vote of ten.
        """
        assert self.references is not None
        if of == ANSWERS:
            return np.asarray(self.target.confidences, np.float64), self.references.confidences
        assert self.references.of_copies is not None
        votes, confidences = np.moveaxis(self.references.of_copies.astype(np.float64), -1, 0)
        if of == ANSWERS_ON_COPIES:
            return np.asarray(self.target.copy_confidences, np.float64), confidences
        return _logit(np.asarray(self.target.votes, np.float64)), _logit(votes)

    def cross_fit(self, features: np.ndarray, make: Callable[[], Any]) -> np.ndarray:
        """Membership probabilities of an attack model, each record scored by one that did not train on it.

        Args:
            features: Shape (n, d).
            make: Makes a scikit-learn classifier.

        Returns:
            Shape (n,).
        """
        scores = np.zeros(len(features))
        for known, scored in self.halves():
            model = make().fit(features[known], self.is_member[known])
            scores[scored] = model.predict_proba(features[scored])[:, 1]
        return scores


def _logit(votes: np.ndarray) -> np.ndarray:
    return np.asarray(np.log((votes + _HALF_A_VOTE) / (1 + _HALF_A_VOTE - votes)))


class Attack(abc.ABC):
    """A membership inference attack: a score for each record, higher for members.

    Attributes:
        name: How it is asked for, and how the report calls it.
        needs: What it needs, of the constants of this module. Attacks whose needs are not met are left out.
        threshold: The score at or above which the attack itself calls a record a member, or None: then the audit
            chooses one on other records.
        note: What an attacker needs for it, in half a sentence.
    """

    name: str
    needs: frozenset[str] = frozenset({SCORES})
    threshold: Optional[float] = None
    note: str = ""

    @abc.abstractmethod
    def scores(self, evidence: Evidence) -> np.ndarray:
        """Scores of all records, shape (n,), finite."""
