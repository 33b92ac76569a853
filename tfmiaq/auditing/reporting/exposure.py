"""How exposed each record is: the attack that finds it best, and at how many false positives."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfmiaq._checks import as_path
from tfmiaq.auditing.reporting.results import AttackResult
from tfmiaq.caching.store import write_whole

_HEAD = ("index", "set", "attack", "score", "false_positive_rate")


@dataclasses.dataclass(frozen=True)
class Exposure:
    """The strongest attack on each record, members first: the one at whose score the fewest non-members are called so.

    Attributes:
        members: Number of members.
        names: Name of the attack, for each record.
        scores: Shape (n,), its score.
        rates: Shape (n,), its false positive rate at that score: the part of the non-members, without the record
            itself, that have at least the score. The lowest of several attacks' rates is low by chance more often than
            one attack's.
        margins: Shape (n,), how far the score lies above the non-members' mean, in their standard deviations: orders
            records of equal rates, as of those that lie above all non-members.
    """

    members: int
    names: tuple[str, ...]
    scores: np.ndarray
    rates: np.ndarray
    margins: np.ndarray

    @classmethod
    def of(cls, attacks: Sequence[AttackResult]) -> Exposure:
        """Returns the exposure of all records under attacks that have scores. Of equal ones the higher AUC counts.

        Raises:
            ValueError: Attacks of a report that was loaded, which have no scores.
        """
        ordered = sorted(attacks, key=lambda attack: -attack.auc)
        pairs: list[Any] = [(attack.member_scores, attack.non_member_scores) for attack in ordered]
        if any(inside is None or outside is None for inside, outside in pairs):
            raise ValueError(
                "AuditReport.records: A report that was loaded has no scores of single records. Write them from the "
                "report that `audit` returned."
            )
        scores = np.stack([np.concatenate(pair) for pair in pairs])
        members = len(pairs[0][0])
        rates = np.stack([_rates(row[:members], row[members:]) for row in scores])
        best = rates.argmin(0)
        records = np.arange(scores.shape[1])
        names = tuple(ordered[attack].name for attack in best)
        others = scores[:, members:]
        margins = (scores - others.mean(1, keepdims=True)) / np.maximum(others.std(1, keepdims=True), 1e-12)
        return cls(members, names, *(values[best, records] for values in (scores, rates, margins)))

    def most_exposed(self, count: int) -> tuple[int, ...]:
        """Returns the indices of the members of the lowest false positive rates, lowest first."""
        order = np.lexsort((-self.margins[: self.members], self.rates[: self.members]))
        return tuple(int(index) for index in order[:count])

    def write(self, path: Any) -> pathlib.Path:
        """Writes a CSV file with a row for each record, and returns its path."""
        path = as_path("records", "the file", path)
        write_whole(path, self._write)
        return path

    def _write(self, path: pathlib.Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(_HEAD)
            for number, name in enumerate(self.names):
                is_member = number < self.members
                index = number if is_member else number - self.members
                of_set = "member" if is_member else "non-member"
                rows.writerow([index, of_set, name, repr(float(self.scores[number])), repr(float(self.rates[number]))])


def _rates(members: np.ndarray, non_members: np.ndarray) -> np.ndarray:
    """Returns the part of the other non-members with at least the score of each record, members first."""
    ranked = np.sort(non_members)
    count = len(ranked)
    of_members = (count - np.searchsorted(ranked, members, "left")) / count
    # A non-member has at least its own score.
    of_others = (count - np.searchsorted(ranked, non_members, "left") - 1) / max(1, count - 1)
    return np.concatenate([of_members, of_others])
