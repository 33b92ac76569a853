"""Writes the table of conformance rows into docs/layers.md, from tests/conformance/situations.py; runs no model.

python tools/conformance_table.py
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/layers.md"
BEGIN, END = "<!-- conformance: begin -->\n", "<!-- conformance: end -->\n"
# Columns: the heading and the properties that it stands for.
_COLUMNS = {
    "outputs": ("outputs",),
    "loss": ("loss",),
    "training": ("trainable", "training"),
    "names": ("names",),
    "reload": ("reload_keras", "reload_h5"),
    "mobile": ("file_mobile",),
    "Edge TPU": ("file_edgetpu",),
}


def _cell(row: Any, has: set[str], properties: tuple[str, ...], reasons: dict[tuple[str, str], int]) -> str:
    notes = [reasons[row.name, name] for name in properties if (row.name, name) in reasons]
    if notes:
        return "open " + ", ".join(f"[{note}]" for note in notes)
    if row.refuses:
        return "holds or refused"
    return "holds" if has & set(properties) else ""


def table() -> str:
    """Returns the table in Markdown, with the reasons of what does not hold yet below it."""
    sys.path.insert(0, str(ROOT / "tests/conformance"))
    import open_rows
    import properties
    import situations

    known = {**open_rows.EVERYWHERE, **open_rows.KERAS_3_THERE}
    texts = list(dict.fromkeys(known.values()))
    reasons = {key: texts.index(reason) + 1 for key, reason in known.items()}
    lines = ["| situation | Keras 3 too | " + " | ".join(_COLUMNS) + " | also |", "|" + " --- |" * (len(_COLUMNS) + 3)]
    for row in (*situations.TRAINING, *situations.MODELS):
        has = {check.__name__ for check in properties.properties_of(row, properties.keras2)}
        cells = [_cell(row, has, names, reasons) for names in _COLUMNS.values()]
        also = " ".join((check.__doc__ or "").splitlines()[0].replace("|", "/") for check in row.checks)
        lines.append("| " + " | ".join([row.name, "yes" if row.k3 else "", *cells, also]) + " |")
    notes = [f"[{number}] {reason[0].upper()}{reason[1:]}." for number, reason in enumerate(texts, 1)]
    return "\n".join([*lines, "", *notes, ""])


def written(page: str) -> str:
    """Returns the page with the table of now between its markers.

    Raises:
        ValueError: A page without the markers.
    """
    if BEGIN not in page or END not in page:
        raise ValueError(f"{PAGE.name} has no lines {BEGIN.strip()!r} and {END.strip()!r} around the table.")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
