"""A short corpus of changed files, by their seeds; `benchmarks/fuzz.py` runs many more."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import random

import numpy as np
import pytest

import tfmiaq
from tfmiaq.auditing import AuditReport

_PATH = pathlib.Path(__file__).parents[2] / "benchmarks" / "mutations.py"


@pytest.fixture(scope="module")
def mutations():
    if not _PATH.exists():
        pytest.skip("the package is tested without its benchmarks")
    spec = importlib.util.spec_from_file_location("mutations_of_files", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcomes(read, change, sound, count):
    """Returns how many of the changed files are accepted, and the errors about the others."""
    accepted, errors = 0, []
    for case in range(count):
        try:
            read(change(sound, random.Random(case)))
            accepted += 1
        except ValueError as error:
            errors.append(str(error))
    return accepted, errors


def test_changed_policies_are_read_or_refused_in_one_line(mutations):
    policy = tfmiaq.BitwidthPolicy.uniform(2, 4, layers={"stem*": tfmiaq.LayerBits(8, 8)})
    sound = policy.to_json().encode()
    accepted, errors = outcomes(
        lambda text: tfmiaq.BitwidthPolicy.from_json(text.decode(errors="replace")),
        mutations.change_json_text,
        sound,
        400,
    )
    assert accepted and len(errors) > 200
    assert not [text for text in errors if "\n" in text or len(text) > 1000]


def test_changed_reports_are_read_or_refused_in_one_line(mutations, tmp_path):
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(120, 3)).astype(np.float32), np.arange(60) % 3
    report = tfmiaq.audit((scores[:60], scores[60:]), (None, labels), (None, labels), verbose=False)
    path = report.save(tmp_path) / "report.json"

    def read(text):
        path.write_bytes(text)
        AuditReport.load(path)

    accepted, errors = outcomes(read, mutations.change_json_text, path.read_bytes(), 120)
    assert accepted and len(errors) > 60
    assert not [text for text in errors if "\n" in text or len(text) > 1000]


def test_changes_are_those_of_their_seed(mutations):
    sound = json.dumps({"a": [1, 2, {"b": None}]}).encode()
    assert {mutations.change_json_text(sound, random.Random(7)) for _ in range(3)} == {
        mutations.change_json_text(sound, random.Random(7))
    }
    assert mutations.change_bytes(sound, random.Random(1)) != mutations.change_bytes(sound, random.Random(2))
