"""Reports of schema 4, which had no tests: read for their figures, with tests made of these."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmiaq import metrics
from tfmiaq.auditing.reporting import saved
from tfmiaq.metrics import RATES

_TOLD = (
    "This report was saved by an earlier version (schema 4). Its verdict is made of the saved figures, which took all "
    "records for independent and all attacks for ones that learn nothing from known members: audit again to be sure."
)


def upgraded(content: dict[str, Any], is_headline: bool = True) -> dict[str, Any]:
    """Returns the JSON values of a report of schema 4 as those of this version's, with a finding that says so."""
    sizes = content["members"], content["non_members"]
    query = content["query"]
    return {
        **content,
        "findings": [{"kind": "older report", "text": _TOLD, "invalid": False}] if is_headline else [],
        "about": {},
        "reference_set_size": None,
        "independent_records": [],
        "attacks": {name: _attack(attack, sizes) for name, attack in content["attacks"].items()},
        "slices": [_slice(part, content["chosen"][0]) for part in content["slices"]],
        "query": None if query is None else upgraded(query, is_headline=False),
    }


def agrees(found: dict[str, Any], content: dict[str, Any]) -> bool:
    """Returns whether a report that was read has the figures of the file: those that both schemas have alike."""
    names = ("attack_accuracy", "members", "non_members", "tpr_at_fpr", "label_only", "curves", "confusion", "auc")
    return saved.same_figures({name: found[name] for name in names}, {name: content[name] for name in names})


def _attack(attack: dict[str, Any], sizes: tuple[int, int]) -> dict[str, Any]:
    fpr, tpr = saved.counts_to_curve(attack["curve"])
    p_values = {"auc": metrics.auc_p_value_of(attack["auc"], *sizes)}
    tails = {f"tpr@{rate}": rate for rate in RATES if rate * sizes[1] >= 1 - 1e-9}
    for name, rate in {**tails, "records": 0.0}.items():
        found = float(tpr[fpr <= rate + 1e-12].max(initial=0.0))
        p_values[name] = metrics.tpr_p_value_of(int(np.rint(found * sizes[0])), rate, *sizes)
    return {**attack, "independent_records": list(sizes), "learns": False, "p_values": p_values}


def _slice(part: dict[str, Any], attack: str) -> dict[str, Any]:
    p_value = metrics.auc_p_value_of(part["auc"], part["members"], part["non_members"])
    return {**part, "attack": attack, "p_value": p_value}
