"""The secret that a folder keeps."""

from __future__ import annotations

import os
import stat
from concurrent import futures

import pytest

from tfmiaq.caching.seeds import Seeds, kept_secret


def test_a_folder_keeps_a_secret_of_its_own_that_others_cannot_read(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    found = [kept_secret(folder) for folder in folders]
    assert len(set(found)) == 2
    assert [kept_secret(folder) for folder in folders] == found
    assert stat.S_IMODE((folders[0] / "secret").stat().st_mode) == 0o600
    assert [path.name for path in folders[0].iterdir()] == ["secret"]


def test_two_calls_at_once_get_one_secret(tmp_path):
    with futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: kept_secret(tmp_path), range(64)))) == 1


def test_a_file_system_without_links_keeps_a_secret_too(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError("no links")

    monkeypatch.setattr(os, "link", refused)
    secret = kept_secret(tmp_path)
    assert kept_secret(tmp_path) == secret
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_seeds_that_are_told_tell_nothing(tmp_path):
    assert Seeds.of(7, tmp_path) == Seeds(7, 7)
    assert not list(tmp_path.iterdir())
    secret = kept_secret(tmp_path)
    assert Seeds.of(None, tmp_path) == Seeds(0, secret % 2**32, secret)


@pytest.mark.parametrize("text", ["", "seven", "-1", str(2**128), "1.5", "1 2", "٣"])
def test_a_file_without_a_secret_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "secret").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="A folder's secret: ") as caught:
        kept_secret(tmp_path)
    assert str(tmp_path / "secret") in str(caught.value)
