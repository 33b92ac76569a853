"""What a model computes: every row of `situations.MODELS` has every property that applies."""

from __future__ import annotations

import pytest
import rows
import situations


@pytest.mark.parametrize(("name", "has"), rows.parameters(situations.MODELS))
def test_quantized_model_keeps(name, has):
    rows.hold(name, has)


def test_table_is_a_table():
    names = [row.name for row in (*situations.TRAINING, *situations.MODELS)]
    assert len(names) == len(set(names))
    assert len(names) >= 60
