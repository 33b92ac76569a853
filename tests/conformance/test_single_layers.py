"""What single layers compute: every row of `situations.MODELS` about one has every property that applies."""

from __future__ import annotations

import pytest
import rows


@pytest.mark.parametrize(("name", "has"), rows.parameters(rows.of_models(of_layers=True)))
def test_quantized_model_keeps(name, has):
    rows.hold(name, has)
