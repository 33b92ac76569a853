"""Rows of canaries' audits: their null, and their table."""

from __future__ import annotations

import dataclasses
from typing import Any

NULL = "no canaries (null)"


@dataclasses.dataclass(frozen=True)
class MembersOnly:
    """A stage that trains on the first records alone, which are the members.

    Attributes:
        stage: The stage.
        members: Their number.
    """

    stage: Any
    members: int

    def get_config(self) -> dict[str, Any]:
        """Everything that defines the stage, for its fingerprint."""
        return {"members only": self.stage, "members": self.members}

    def __call__(self, *given: Any) -> Any:
        """The trained model."""
        return self.stage(*self._first(given))

    def lend(self, *given: Any) -> Any:
        """The trained model, which the next training may change."""
        return self.stage.lend(*self._first(given))

    def _first(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        *model, x, y = given
        return (*model, x[: self.members], y[: self.members])


def _text(attacks: dict[str, Any], rate: str) -> str:
    """The largest of all attacks."""
    values = [found["tpr_at_fpr"][rate] for found in attacks.values()]
    return "unresolved" if None in values else f"{max(values):.{3 if rate == '0.001' else 2}f}"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: the attack that has the higher AUC in each, and the largest TPR of all."""
    lines = [
        "| canaries | model | models | attack | AUC | TPR at 1 % FPR | TPR at 0.1 % FPR | lower bound on epsilon |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        name, found = max(row["attacks"].items(), key=lambda item: item[1]["auc"])
        low, high = found["auc_interval"]
        lines.append(
            f"| {row['canaries']} | {row['model']} | {row['models']} | {name} | "
            f"{found['auc']:.3f} ({low:.3f} to {high:.3f}) | {_text(row['attacks'], '0.01')} | "
            f"{_text(row['attacks'], '0.001')} | "
            f"{row['one_run_epsilon_median']:.2f} |"
        )
    return "\n".join(lines)
