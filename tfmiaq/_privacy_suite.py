"""The one door to tensorflow-privacy."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from typing import Any

HOW_TO_INSTALL = (
    'pip install "tfmiaq[suite]" && pip install --no-deps --ignore-requires-python tensorflow-privacy==0.9.0 '
    "tensorflow-empirical-privacy==0.1.0"
)


def is_installed() -> bool:
    """Returns whether tensorflow-privacy's membership inference suite is installed, without importing it."""
    try:
        importlib.metadata.version("tensorflow-empirical-privacy")
        importlib.metadata.version("tensorflow-privacy")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def import_suite(*modules: str) -> list[Any]:
    """Imports modules of `tensorflow_privacy.privacy.privacy_tests`, given by their path under it."""
    # tensorflow_privacy imports the estimator API, which TensorFlow 2.16 and later do not have, unless told not to.
    sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]
    return [importlib.import_module(f"tensorflow_privacy.privacy.privacy_tests.{module}") for module in modules]
