"""The import paths and names of attacks that the documentation gives."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from tfmiaq import attacks


def test_documented_names_are_imported_from_the_package():
    code = (
        "from tfmiaq.attacks import Attack, Evidence, ATTACKS, DEFAULT, register, choose\n"
        "from tfmiaq.attacks import SCORES, RECORDS, REFERENCE_MODELS, AUGMENTED_QUERIES, OTHER_VERSION\n"
        "from tfmiaq.attacks import AUGMENTED_REFERENCES, OUTPUTS, AUGMENTED_OUTPUTS, LABEL_AGREEMENT\n"
        "import sys\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "package", ["tfmiaq.attacks", "tfmiaq.auditing", "tfmiaq.auditing.reporting", "tfmiaq.signals"]
)
def test_packages_export_what_they_list(package):
    module = importlib.import_module(package)
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


def test_attacks_are_known_by_names_without_commas():
    assert set(attacks.DEFAULT) <= set(attacks.ATTACKS)
    assert all(attack.name == name and "," not in name for name, attack in attacks.ATTACKS.items())
    assert [attack.name for attack in attacks.choose(None)] == list(attacks.DEFAULT)
    assert [attack.name for attack in attacks.choose("RMIA")] == ["RMIA"]
    assert attacks.choose("all") == list(attacks.ATTACKS.values())
    assert [attack.name for attack in attacks.choose(["gap", "gap", "LiRA"])] == ["gap", "LiRA"]


def test_needs_are_of_the_constants():
    constants = {
        attacks.SCORES,
        attacks.RECORDS,
        attacks.REFERENCE_MODELS,
        attacks.REFERENCE_MEMBERS,
        attacks.AUGMENTED_QUERIES,
        attacks.AUGMENTED_REFERENCES,
        attacks.OTHER_VERSION,
        attacks.PRIVACY_SUITE,
        attacks.PROBABILITIES,
        attacks.WHOLE_OUTPUTS,
    }
    assert {need for attack in attacks.ATTACKS.values() for need in attack.needs} == constants
