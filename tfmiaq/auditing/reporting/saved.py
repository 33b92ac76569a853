"""report.json: reading it, and ROC curves as counts. Knows JSON values alone, not what is made of them."""

from __future__ import annotations

import json
import numbers
import os
import pathlib
import re
from typing import Any

import numpy as np

from tfmiaq.loading.json_text import parse_json
from tfmiaq.loading.limits import read_text

# Raised when keys of report.json, or what they mean, change.
SCHEMA = 5
# What is read too, for what it holds.
OLDER_SCHEMA = 4
FILE = "report.json"

Curve = tuple[np.ndarray, np.ndarray]


def curve_to_counts(curve: Curve, members: int, non_members: int) -> dict[str, list[int]]:
    """Returns a ROC curve (fpr, tpr) as counts of false and true positives, from which the same rates come."""
    fpr, tpr = curve
    return {
        "false_positives": [int(count) for count in np.rint(fpr * non_members)],
        "true_positives": [int(count) for count in np.rint(tpr * members)],
    }


def counts_to_curve(counts: dict[str, list[int]]) -> Curve:
    """Returns false and true positive rates of a curve whose last point is (1, 1)."""
    fpr, tpr = (np.array(counts[name], np.float64) for name in ("false_positives", "true_positives"))
    return fpr / fpr[-1], tpr / tpr[-1]


def to_text(content: dict[str, Any]) -> str:
    """Returns JSON with a line for each value; a list of counts takes one line."""
    text = json.dumps(content, indent=2)
    # No string of JSON has a line break in it, so that this finds lists alone.
    return re.sub(r"\[\n[\d\s,]+\]", lambda counts: " ".join(counts[0].split()), text) + "\n"


def read(path: Any) -> tuple[pathlib.Path, dict[str, Any]]:
    """Returns the path and the content of a saved report.

    Args:
        path: The folder that a report was saved in, or the report.json in it.

    Raises:
        ValueError: No such file, no JSON, no report, or one of another schema.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"AuditReport.load: Expected the path of a report. Received {type(path).__name__}.")
    path = pathlib.Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"AuditReport.load: No report at '{path}'.")
    content = parse_json(read_text(path, "AuditReport.load"), f"AuditReport.load: '{path}' cannot be read as JSON")
    if not isinstance(content, dict) or not {"schema", "verdict", "attacks"} <= set(content):
        raise ValueError(f"AuditReport.load: '{path}' is not the report.json of an audit.")
    if content["schema"] not in (SCHEMA, OLDER_SCHEMA):
        raise ValueError(
            f"AuditReport.load: '{path}' has schema {content['schema']!r:.50}, and this version of tfmiaq reads "
            f"schemas {OLDER_SCHEMA} and {SCHEMA}. Audit again to make a report that it reads."
        )
    return path, content


def same_figures(one: Any, other: Any) -> bool:
    """Returns whether two JSON values have the same keys, lengths and types, and the same numbers but for rounding.

    Text is not compared: a later version may word it otherwise.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_figures(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same_figures, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, numbers.Real) and isinstance(other, numbers.Real):
        return bool(np.isclose(float(one), float(other), rtol=1e-6, atol=1e-9))
    return type(one) is type(other)
