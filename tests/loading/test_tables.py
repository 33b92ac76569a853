"""Tables of records that are cut short or are no text."""

from __future__ import annotations

import pytest

from tfmiaq import datasets


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a,label\n1,0\n2\n", "has no label in record 1: its line is too short"),
        (b"a,label\n\xff\xfe,0\n", "is damaged, or no .csv in UTF-8"),
        (b"\xff\xfe\n", "is damaged, or no .csv in UTF-8"),
        (b'a,label\n"' + b"x" * 200_000 + b'",0\n', "is damaged, or no .csv in UTF-8"),
        (b"a,label\n" + b"x" * 1000 + b",0\n", "has text in the column 'a'"),
        (b"", "has the columns"),
    ],
)
def test_a_damaged_table_costs_one_line(content, expected, tmp_path):
    path = tmp_path / "records.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=expected.replace(".", r"\.")) as raised:
        datasets.load_files(str(path), str(path), "label")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 700
