"""The seed that a folder keeps."""

from __future__ import annotations

import pytest

from tfmiaq.caching.seeds import secret_seed


def test_a_folder_keeps_a_seed_of_its_own(tmp_path):
    seeds = [secret_seed(tmp_path / name) for name in "abcd"]
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert len(set(seeds)) > 1
    assert [secret_seed(tmp_path / name) for name in "abcd"] == seeds


@pytest.mark.parametrize("text", ["", "seven", "-1", "4294967296", "1.5", "1 2", "٣", "7" * 40])
def test_a_file_without_a_seed_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "seed").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="A folder's seed: ") as caught:
        secret_seed(tmp_path)
    assert str(tmp_path / "seed") in str(caught.value)
