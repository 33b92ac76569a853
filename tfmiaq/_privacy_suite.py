"""The only place that imports tensorflow-privacy."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def import_suite(*modules: str) -> list[Any]:
    """Returns modules of `tensorflow_privacy.privacy.privacy_tests`, given by their path under it."""
    # tensorflow_privacy imports the estimator API, which TensorFlow 2.16 and later do not have, unless told not to.
    sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]
    return [importlib.import_module(f"tensorflow_privacy.privacy.privacy_tests.{module}") for module in modules]
