"""Result files of benchmarks, what is asked of them, and searches over settings that are written to them."""

from __future__ import annotations

import fnmatch
import json
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any, Optional

import tfmiaq
from tfmiaq import signals


def _with_nan(value: Any) -> Any:
    """A value of a result file with NaN for each null of its lists."""
    if isinstance(value, dict):
        return {name: _with_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [math.nan if each is None else _with_nan(each) for each in value]
    return value


def _as_json(value: Any) -> Any:
    """A value with null for each number that JSON does not have."""
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: pathlib.Path) -> dict[str, Any]:
    """A result file, empty where there is none; a null in a list is NaN."""
    return _with_nan(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def write(results: pathlib.Path, kept: dict[str, Any]) -> None:
    """Writes a result file, whole or not at all: other runs may read it meanwhile.

    JSON has no NaN: a rate that the records do not resolve is null.
    """
    part = results.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(_as_json(kept), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(results)


def is_asked(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of those that globs ask for."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def search(
    trials: Iterable[tuple[dict[str, Any], Any, Any]],
    sets: dict[str, signals.Records],
    results: pathlib.Path,
    network: Optional[str] = None,
) -> None:
    """Writes accuracies of trainings over their settings.

    Args:
        trials: Setting, training stage, and a set of records with their labels or a function that makes the labels.
        sets: Records that accuracies are measured on, by name.
        results: The result file.
        network: Name of the network or task in it, or None where there is one only.
    """
    for setting, stage, (x, labels) in trials:
        kept = read(results)
        done = kept.get("tuning", [])
        found: dict[str, Any] = {**({} if network is None else {"network": network}), **setting}
        if any(found.items() <= one.items() for one in done):
            continue
        given = labels() if callable(labels) else labels
        tfmiaq.keras.utils.set_random_seed(0)
        model = stage.lend(x, given)
        for name, (records, classes) in sets.items():
            right = signals.predict_logits(model, records).argmax(1) == classes
            found[name] = round(float(right.mean()), 4)
        write(results, {**kept, "tuning": [*done, found]})
        print(found, flush=True)
