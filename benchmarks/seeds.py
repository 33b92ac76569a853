"""Rows of several seeds, taken together."""

from __future__ import annotations

from typing import Any

import numpy as np

Rows = list[dict[str, Any]]


def grouped(rows: Rows, *keys: str) -> dict[tuple[Any, ...], Rows]:
    """The rows that are alike in some columns, in the order in which each group's first row comes."""
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def mean(rows: Rows, key: str) -> float:
    """Mean of a column; NaN where a row has no value in it."""
    return float(np.mean([np.nan if row.get(key) is None else row[key] for row in rows]))
