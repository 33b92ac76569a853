"""What a source file imports, read from its text: nothing is run."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Optional


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported module, or one name that is imported from it.

    Attributes:
        module: The module's absolute dotted name, also where the source has a relative one.
        name: What `from` takes from the module; None for `import module`.
        line: The line of the statement.
        type_only: Whether it stands under `if TYPE_CHECKING`.
    """

    module: str
    name: Optional[str]
    line: int
    type_only: bool


def _is_type_checking(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def read_imports(path: pathlib.Path, package: str = "") -> Iterator[Import]:
    """Yields the imports of a .py or .pyi file, those inside functions and conditions too.

    Args:
        path: The file.
        package: Dotted name of the package that holds the file, which relative imports start from.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and _is_type_checking(node)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno, node in typing_only)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = package.split(".")
                module = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [module])])
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, node in typing_only)
