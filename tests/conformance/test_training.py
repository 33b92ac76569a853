"""How a model is trained: every row of `situations.TRAINING` has every property that applies."""

from __future__ import annotations

import pytest
import rows
import situations


@pytest.mark.parametrize(("name", "has"), rows.parameters(situations.TRAINING))
def test_quantized_model_keeps(name, has):
    rows.hold(name, has)
