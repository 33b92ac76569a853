"""Turns a table into parameters of one test: each row with each of its properties."""

from __future__ import annotations

import functools
from typing import Any

import isolated
import open_rows
import properties
import pytest
import situations

_TABLE = properties.rows((*situations.TRAINING, *situations.MODELS))
_shared: dict[Any, properties.Case] = {}


@functools.lru_cache(maxsize=4)
def case_of(name: str) -> properties.Case:
    """The models of a row: the properties of a row come one after the other and share them."""
    row, k = _TABLE[name]
    key = row.build, row.data, row.after, row.vary, row.batch, k
    if key not in _shared:
        # Ways of training take back what they change, and rows of the same models follow one another.
        _shared[key] = properties.Case(row, k)
        while len(_shared) > 4:
            _shared.pop(next(iter(_shared)))
    return _shared[key] if _shared[key].row is row else properties.Case(row, k, models=_shared[key])


def _marks(name: str, has: Any) -> list[Any]:
    known = {**open_rows.EVERYWHERE, **(open_rows.KERAS_3_THERE if properties.keras3() is not None else {})}
    reason = known.get((name, has.__name__))
    return [] if reason is None else [pytest.mark.xfail(strict=True, reason=reason)]


def parameters(table: tuple[situations.Situation, ...]) -> list[Any]:
    """One parameter set for each property of each row."""
    return [
        pytest.param(name, has, id=f"{name}-{has.__name__}", marks=_marks(name, has))
        for name, (row, k) in properties.rows(table).items()
        for has in properties.properties_of(row, k)
    ]


def of_models(of_layers: bool) -> tuple[situations.Situation, ...]:
    """The rows of `situations.MODELS` about single layers, or the others."""
    return tuple(row for row in situations.MODELS if row.name.startswith("layers: ") == of_layers)


def hold(name: str, has: Any) -> None:
    """Asserts a property of a row."""
    if not _TABLE[name][0].isolated:
        return properties.hold(case_of(name), has)
    together = tuple(other for other, (row, _) in _TABLE.items() if row.isolated)
    fault = isolated.results(together).get((name, has.__name__), "an earlier property ended the process")
    assert not fault, fault
