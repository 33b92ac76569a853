"""What is kept of members is for who made it."""

from __future__ import annotations

import os
import stat
import sys

import numpy as np
import pytest

from tfmiaq.auditing import audit, compare
from tfmiaq.caching import ARRAYS, Store, write_text

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps rights elsewhere")


@pytest.fixture(autouse=True)
def _open_umask():
    before = os.umask(0o002)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_caches_are_private(tmp_path):
    folder = tmp_path / "new" / "cache"
    Store(folder).put("key", {"scores": np.zeros(3)}, ARRAYS)
    assert mode(folder) == mode(folder.parent) == 0o700
    assert mode(folder / "key.npz") == 0o600


def test_a_folder_of_the_users_stays_as_it_is(tmp_path):
    tmp_path.chmod(0o755)
    write_text(tmp_path / "text", "x")
    assert mode(tmp_path) == 0o755 and mode(tmp_path / "text") == 0o600


def test_reports_are_private(tmp_path, linear_scores):
    generator = np.random.default_rng(0)
    members, others = (
        (generator.normal(shift, 1, (60, 1)).astype(np.float32), np.arange(60) % 2) for shift in (1.0, 0.0)
    )
    report = audit(linear_scores, members, others, verbose=False)
    report.save(tmp_path / "report")
    compare({"one": report}).save(tmp_path / "compared")
    for folder in (tmp_path / "report", tmp_path / "compared"):
        files = list(folder.iterdir())
        assert mode(folder) == 0o700 and len(files) >= 3
        assert {mode(file) for file in files} == {0o600}
