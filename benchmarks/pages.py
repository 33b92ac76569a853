"""Parts of documents that a benchmark writes."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence


def write_part(path: pathlib.Path, name: str, lines: Sequence[str]) -> None:
    """Writes lines between the comments `name` and `end of name` of a page.

    Raises:
        ValueError: A page without these comments.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(f"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{path} has no part between {begin!r} and {end!r}.")
    part = "\n".join(lines)
    path.write_text(pattern.sub(lambda _: f"\n{part}\n\n", text, count=1), encoding="utf-8")
