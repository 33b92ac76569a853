"""Prints the licence of each package in the lists of requirements/, as the installed packages tell it.

    python tools/print_licences.py
    python tools/print_licences.py --write

With --write the table goes into docs/installing.md. Packages that this environment has not are left out, so run it
where the lists are installed.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
from collections.abc import Iterator
from importlib import metadata

LISTS = ("default", "suite")
PAGE = pathlib.Path("docs/installing.md")
_BEGIN, _END = "<!-- licences: begin -->", "<!-- licences: end -->"
# What classifiers and older fields call a licence, by its SPDX name. The first that is found counts.
_NAMES = (
    (r"apache.*2|apache software|apache-2", "Apache-2.0"),
    (r"bsd.3|3-clause|new bsd|modified bsd", "BSD-3-Clause"),
    (r"bsd.2|2-clause|simplified bsd", "BSD-2-Clause"),
    (r"mozilla|mpl", "MPL-2.0"),
    (r"\bmit\b", "MIT"),
    (r"python software|psf|python-2", "PSF-2.0"),
    (r"hpnd|mit-cmu", "MIT-CMU"),
    (r"bsd", "BSD"),
)


def packages(folder: pathlib.Path) -> list[str]:
    """Returns the names in the lists, sorted."""
    texts = [(folder / f"{name}.txt").read_text(encoding="utf-8") for name in LISTS]
    lines = [line for text in texts for line in text.splitlines() if "==" in line and not line.startswith("#")]
    # One package is written in several ways: ml_dtypes and ml-dtypes.
    return sorted({re.sub(r"[-_.]+", "-", line.split("==")[0].strip()).lower() for line in lines})


def licence(name: str) -> str:
    """Returns the licence of an installed package, by its SPDX name where that is known; empty if it is not there."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    for expression in about.get_all("License-Expression") or ():
        return str(expression)
    classifiers = [text.rpartition("::")[2].strip() for text in about.get_all("Classifier") or ()]
    licences = [text for text in classifiers if "License" in text and text != "OSI Approved"]
    told = [*licences, *(text.strip().splitlines()[0] for text in about.get_all("License") or () if text.strip())]
    for text in told:
        for pattern, spdx in _NAMES:
            if re.search(pattern, text, re.IGNORECASE):
                return spdx
    return told[0][:60] if told else "not told by the package"


def rows(folder: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Yields each licence and the packages that have it, those of most packages first."""
    by_licence: dict[str, list[str]] = {}
    for name in packages(folder):
        found = licence(name)
        if found:
            by_licence.setdefault(found, []).append(name)
    yield from sorted(by_licence.items(), key=lambda item: (-len(item[1]), item[0]))


def main() -> None:
    """Prints the table, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/installing.md")
    given = parser.parse_args()
    lines = ["| licence | packages |", "| --- | --- |"]
    lines += [f"| {name} | {', '.join(of_it)} |" for name, of_it in rows(pathlib.Path("requirements"))]
    if not given.write:
        print("\n".join(lines))
        return
    text = PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        sys.exit(f"{PAGE} has no place for the table: {_BEGIN} and {_END}.")
    PAGE.write_text("\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"]), encoding="utf-8")


if __name__ == "__main__":
    main()
