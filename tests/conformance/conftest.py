"""Failures of the modules beside the tests say what was compared, as those of a test do."""

import pytest

pytest.register_assert_rewrite("checks", "properties", "rows")
