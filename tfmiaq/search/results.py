"""What a search finds: candidates, and the best of them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from tfmiaq._tables import format_table, html_table
from tfmiaq.caching.store import write_text, write_whole
from tfmiaq.policy import BitwidthPolicy

_HEAD = ("policy", "leakage (AUC)", "accuracy", "packed")


@dataclasses.dataclass(frozen=True, repr=False)
class Candidate:
    """An allocation of bits, as the shared model scores it, or as it comes out of a training of its own.

    Attributes:
        policy: The bits of each layer.
        leakage: AUC of the confidence attack on samples of members and non-members; 0.5 is chance.
        accuracy: Accuracy on validation records.
        packed_bytes: Size of the weights if each took only its bits.
    """

    policy: BitwidthPolicy
    leakage: float
    accuracy: float
    packed_bytes: int

    def beats(self, other: Candidate) -> bool:
        """Returns whether this one is no worse in leakage, accuracy and size, and better in one of them."""
        ours = (self.leakage, -self.accuracy, self.packed_bytes)
        theirs = (other.leakage, -other.accuracy, other.packed_bytes)
        return all(a <= b for a, b in zip(ours, theirs)) and ours != theirs

    def __repr__(self) -> str:
        return f"Candidate({len(self.policy.rules)} layers, {_figures(self)})"


def _figures(candidate: Candidate) -> str:
    return (
        f"leakage={candidate.leakage:.3f}, accuracy={candidate.accuracy:.3f}, packed_bytes={candidate.packed_bytes:,}"
    )


@dataclasses.dataclass(frozen=True, repr=False)
class SearchResult:
    """What `search_policy` found; prints as a table.

    Attributes:
        candidates: All allocations that were scored, in order.
        baseline: All layers at 8 bits.
        sensitivities: For each choice ("layer/weight", bits) on its own, all others at 8 bits: the drop of the leakage,
            and that of the accuracy.
        max_accuracy_drop: Accuracy that may be lost against the baseline.
        retrained: Retrained candidates: 8 bits everywhere first, then the others in order, each after a training of its
            own. Empty if the search trained none.
    """

    candidates: tuple[Candidate, ...]
    baseline: Candidate
    sensitivities: dict[tuple[str, int], tuple[float, float]]
    max_accuracy_drop: float
    retrained: tuple[Candidate, ...] = ()

    @property
    def frontier(self) -> tuple[Candidate, ...]:
        """The candidates that no other one beats, least leakage first."""
        kept = [c for c in self.candidates if not any(other.beats(c) for other in self.candidates)]
        return tuple(sorted(kept, key=lambda candidate: candidate.leakage))

    @property
    def best(self) -> Candidate:
        """The least leakage within `max_accuracy_drop` of 8 bits.

        It is taken from the retrained candidates, or from all by the shared model's scores if none was retrained.
        """
        field = self.retrained or (self.baseline, *self.candidates)
        floor = field[0].accuracy - self.max_accuracy_drop
        return min((c for c in field if c.accuracy >= floor), key=lambda candidate: candidate.leakage)

    def _rows(self) -> list[tuple[str, str, str, str]]:
        named = [
            ("8 bits", self.baseline),
            *((f"retrained {i}", c) for i, c in enumerate(self.retrained)),
            ("best", self.best),
            *((f"frontier {i}", c) for i, c in enumerate(self.frontier, start=1)),
        ]
        return [(name, f"{c.leakage:.3f}", f"{c.accuracy:.3f}", f"{c.packed_bytes:,} B") for name, c in named]

    def __str__(self) -> str:
        return format_table(_HEAD, self._rows())

    def __repr__(self) -> str:
        return (
            f"SearchResult({len(self.candidates)} candidates, {len(self.retrained)} retrained, "
            f"best: {_figures(self.best)})"
        )

    def _repr_html_(self) -> str:
        return html_table(_HEAD, self._rows())

    def save(self, folder: Any) -> pathlib.Path:
        """Writes `search.json`, `best.json` (a policy) and `frontier.png` into a folder, which is made if need be.

        Returns:
            The folder.
        """
        from tfmiaq.auditing.reporting import plots

        folder = pathlib.Path(folder)
        write_text(folder / "search.json", json.dumps(self._values(), indent=2))
        write_text(folder / "best.json", self.best.policy.to_json())
        points = {
            "all": [(c.leakage, c.accuracy) for c in self.candidates],
            "frontier": [(c.leakage, c.accuracy) for c in self.frontier],
            "8 bits": [(self.baseline.leakage, self.baseline.accuracy)],
            "retrained": [(c.leakage, c.accuracy) for c in self.retrained],
            "best": [(self.best.leakage, self.best.accuracy)],
        }
        axes = ("leakage (AUC of the confidence attack)", "accuracy")
        write_whole(folder / "frontier.png", lambda path: plots.save_points(points, *axes, path))
        return folder

    def _values(self) -> dict[str, Any]:
        def values(candidate: Candidate) -> dict[str, Any]:
            return {**dataclasses.asdict(candidate), "policy": json.loads(candidate.policy.to_json())}

        return {
            "baseline": values(self.baseline),
            "best": values(self.best),
            "retrained": [values(candidate) for candidate in self.retrained],
            "frontier": [values(candidate) for candidate in self.frontier],
            "sensitivities": [
                {"choice": name, "bits": bits, "leakage": leakage, "accuracy": accuracy}
                for (name, bits), (leakage, accuracy) in self.sensitivities.items()
            ],
        }
