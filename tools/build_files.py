"""Writes a BUILD file into each folder with Python sources, from what they import.

    python tools/build_files.py

The files are Google-style listings of sources and dependencies. Nothing builds from them, and third-party labels are
not listed.
"""

from __future__ import annotations

import ast
import json
import pathlib
from collections.abc import Iterator
from typing import Optional

from imports import read_imports

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Folders that are searched for sources, and what those say of themselves that are no packages.
_TOPS = {
    "tfmiaq": "",
    "benchmarks": "Scripts behind the figures of the documentation.",
    "docs": "Sources of the tutorials' notebooks.",
    "examples": "Experiments as scripts.",
    "tests": "Tests.",
    "tools": "Helpers of the Makefile.",
}
# Where a script or a test finds modules by their bare names, after its own folder: see setup.cfg for the tests.
_SCRIPTS = ("examples", "tests", "tools")
_NOTE = """\
A Google-style listing of sources and of what they import from this project. The project is built with setuptools,
nothing builds from this file, and third-party labels are not listed. Written by tools/build_files.py."""


def packages() -> list[str]:
    """Returns the folders with Python sources, relative to the project's."""
    return sorted({path.parent.relative_to(ROOT).as_posix() for top in _TOPS for path in (ROOT / top).rglob("*.py")})


def _target(path: pathlib.Path) -> str:
    name = path.stem.strip("_")
    if path.stem == "__init__":
        return path.parent.name
    # The folder's own name belongs to its __init__.py.
    return f"{name}_module" if name == path.parent.name and path.with_name("__init__.py").is_file() else name


def _label(path: pathlib.Path, package: str) -> str:
    home = path.parent.relative_to(ROOT).as_posix()
    name = _target(path)
    if home == package:
        return f":{name}"
    return f"//{home}" if name == path.parent.name else f"//{home}:{name}"


def _module(dotted: str, beside: pathlib.Path) -> Optional[pathlib.Path]:
    """Returns the file of a module of this project; None for any other module."""
    homes = [ROOT] if dotted.split(".")[0] == "tfmiaq" else [beside, *(ROOT / name for name in _SCRIPTS)]
    for home in homes:
        path = home.joinpath(*dotted.split("."))
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _imports(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields what a source needs when it runs, and for a package with lazy names what its stub hands out."""
    stub = path.with_suffix(".pyi")
    for source in [path, *([stub] if stub.is_file() else [])]:
        for found in read_imports(source, ".".join(path.parent.relative_to(ROOT).parts)):
            if found.type_only:
                continue
            whole = _module(f"{found.module}.{found.name}", path.parent) if found.name else None
            module = whole or _module(found.module, path.parent)
            if module and module != path:
                yield module


def _data(path: pathlib.Path) -> Iterator[str]:
    """Yields patterns of the files that a source with a template loader reads from folders beside it."""
    if "PackageLoader" not in path.read_text(encoding="utf-8"):
        return
    for folder in sorted(entry for entry in path.parent.iterdir() if entry.is_dir()):
        for ending in sorted({file.suffix for file in folder.iterdir() if file.suffix in (".html", ".css")}):
            yield f"{folder.name}/*{ending}"


def _rule(kind: str, path: pathlib.Path, labels: set[str]) -> str:
    sources = [path.name, *([f"{path.stem}.pyi"] if path.with_suffix(".pyi").is_file() else [])]
    lines = [f"{kind}(", f'    name = "{_target(path)}",']
    lines.append(f"    srcs = {json.dumps(sources)},")
    if kind != "py_library":
        lines.append('    python_version = "PY3",')
    patterns = list(_data(path))
    if patterns:
        lines.append(f"    data = glob({json.dumps(patterns)}),")
    if labels:
        ordered = sorted(labels, key=lambda label: (not label.startswith("//"), label))
        lines += ["    deps = [", *(f'        "{label}",' for label in ordered), "    ],"]
    return "\n".join([*lines, ")"])


def _title(package: str) -> str:
    """Returns the first line of a package's docstring, or what its folder holds."""
    face = ROOT / package / "__init__.py"
    if face.is_file():
        return (ast.get_docstring(ast.parse(face.read_text(encoding="utf-8"))) or package).partition("\n")[0]
    top, _, below = package.partition("/")
    return f"Tests of tfmiaq/{below}." if top == "tests" and below else _TOPS[top]


def build_file(package: str) -> str:
    """Returns the text of a folder's BUILD file."""
    folder = ROOT / package
    sources = sorted(folder.glob("*.py"), key=lambda path: (path.stem != "__init__", _target(path)))
    rules = []
    for source in sources:
        kind = "py_binary" if '__name__ == "__main__"' in source.read_text(encoding="utf-8") else "py_library"
        kind = "py_test" if source.name.startswith("test_") else kind
        rules.append(_rule(kind, source, {_label(path, package) for path in _imports(source)}))
    head = [f'"""{_title(package)}', "", f'{_NOTE}\n"""', "", 'package(default_visibility = ["//visibility:public"])']
    return "\n".join([*head, "", 'licenses(["notice"])', "", "\n\n".join(rules), ""])


def main() -> None:
    """Writes all of them."""
    for package in packages():
        (ROOT / package / "BUILD").write_text(build_file(package), encoding="utf-8")


if __name__ == "__main__":
    main()
