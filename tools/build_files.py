"""Writes the Bazel files beside the code from what each module imports.

python tools/build_files.py
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator
from typing import Optional

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = {
    "tfmiaq": "Quantization of Keras models against membership inference.",
    "tfmiaq/auditing": "Membership inference audits.",
    "tfmiaq/auditing/attacks": "Membership inference attacks, a module each.",
    "benchmarks": "Scripts behind the figures of the documentation.",
    "examples": "Experiments as scripts.",
    "tests": "Tests.",
    "tools": "Helpers of the Makefile.",
}


# Files that a module reads at run time.
_DATA = {"tfmiaq/auditing/page.py": 'glob(["templates/*.html"])'}


def _target(path: pathlib.Path) -> str:
    return path.parent.name if path.stem == "__init__" else path.stem.lstrip("_")


def _label(path: pathlib.Path, package: str) -> str:
    home = path.parent.relative_to(ROOT).as_posix()
    name = _target(path)
    if home == package:
        return f":{name}"
    return f"//{home}" if name == path.parent.name else f"//{home}:{name}"


def _module(dotted: str, beside: pathlib.Path) -> Optional[pathlib.Path]:
    """The file of a module of this project."""
    homes = [ROOT] if dotted.split(".")[0] == "tfmiaq" else [beside, ROOT / "examples"]
    for home in homes:
        path = home.joinpath(*dotted.split("."))
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _imports(path: pathlib.Path) -> Iterator[pathlib.Path]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # What is imported for type checkers alone is not needed to run.
    unneeded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unneeded:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if _module(name, path.parent) else node.module for name in submodules]
        for name in names:
            found = _module(name, path.parent)
            # What is inside the package needs its modules, not the names that it hands out.
            inside = path.is_relative_to(ROOT / "tfmiaq") and found == ROOT / "tfmiaq" / "__init__.py"
            if found and found != path and not inside:
                yield found


def _rule(kind: str, path: pathlib.Path, labels: set[str]) -> str:
    lines = [f"{kind}(", f'    name = "{_target(path)}",', f'    srcs = ["{path.name}"],']
    if kind != "py_library":
        lines.append('    python_version = "PY3",')
    data = _DATA.get(path.relative_to(ROOT).as_posix())
    if data:
        lines.append(f"    data = {data},")
    if labels:
        ordered = sorted(labels, key=lambda label: (not label.startswith("//"), label))
        lines += ["    deps = [", *(f'        "{label}",' for label in ordered), "    ],"]
    return "\n".join([*lines, ")"])


def build_file(package: str) -> str:
    """The text of a package's BUILD file."""
    folder = ROOT / package
    sources = sorted(folder.glob("*.py"), key=lambda path: (path.stem != "__init__", _target(path)))
    rules = []
    for source in sources:
        imported = set(_imports(source))
        if source.stem == "__init__":
            # The package hands its modules out by name.
            imported |= {path for path in sources if path != source}
            imported |= set(folder.glob("*/__init__.py"))
        kind = "py_binary" if '__name__ == "__main__"' in source.read_text(encoding="utf-8") else "py_library"
        kind = "py_test" if source.name.startswith("test_") else kind
        rules.append(_rule(kind, source, {_label(path, package) for path in imported}))
    head = (
        f'"""{PACKAGES[package]}"""\n\npackage(default_visibility = ["//visibility:public"])\n\nlicenses(["notice"])\n'
    )
    return "\n".join([head, "\n\n".join(rules), ""])


def main() -> None:
    """Writes all of them."""
    for package in PACKAGES:
        (ROOT / package / "BUILD").write_text(build_file(package), encoding="utf-8")


if __name__ == "__main__":
    main()
