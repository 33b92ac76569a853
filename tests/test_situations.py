"""The table of situations in the docs: its tests exist, and what it quotes is what the code says."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "situations.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "---" not in line and not line.startswith("| situation")
]
SOURCES = "".join(
    re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in sorted((ROOT / "tfmiaq").rglob("*.py"))
)


def test_the_table_is_there():
    assert len(ROWS) >= 17 and all(len(row) == 4 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_situation_has_a_test_and_quotes_the_code(row):
    path, _, name = row[3].strip("`").partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    for quote in re.findall(r'"([^"]+)"', row[2]):
        assert quote in SOURCES
