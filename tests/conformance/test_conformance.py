"""What a model computes: every row of `situations.MODELS` has every property that applies.

Those of single layers are in a file of their own, so that two processes share the work.
"""

from __future__ import annotations

import pathlib
import sys

import pytest
import rows
import situations

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))
import conformance_table


@pytest.mark.parametrize(("name", "has"), rows.parameters(rows.of_models(of_layers=False)))
def test_quantized_model_keeps(name, has):
    rows.hold(name, has)


def test_table_is_a_table():
    names = [row.name for row in (*situations.TRAINING, *situations.MODELS)]
    assert len(names) == len(set(names))
    assert len(names) >= 60


def test_the_documentation_has_the_table_of_now():
    page = conformance_table.PAGE.read_text(encoding="utf-8")
    assert conformance_table.written(page) == page, "Run tools/conformance_table.py."
