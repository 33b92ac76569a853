"""The order of the package's imports, the length of its modules, and who may touch private parts of other libraries."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import draw_architecture  # noqa: E402
from imports import read_imports  # noqa: E402

MODULES = sorted((ROOT / "tfmiaq").rglob("*.py"))
_MOST_LINES = 400
_LAYERS = (("_ground",), ("low", "aside"), ("middle",), ("high",))
_SOUND = {
    "__init__.py": "import lazy_loader",
    "__init__.pyi": "from . import low as low\nfrom .high import top as top",
    "_ground.py": "",
    "low.py": "from house import _ground",
    "aside.py": "from house import _ground",
    "middle/__init__.py": "from house.middle.inner import work",
    "middle/inner.py": "from house import low\nfrom house.low import thing",
    "middle/parts/__init__.py": "",
    "middle/parts/deep.py": "from ...low import thing",
    "high.py": "from house.middle import work",
}


def _house(folder, **changes):
    for name, text in {**_SOUND, **changes}.items():
        path = folder / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return draw_architecture.Architecture(folder / "house", _LAYERS)


def test_no_import_of_the_package_goes_up_or_in_a_circle():
    assert not draw_architecture.Architecture(ROOT / "tfmiaq").faults()


def test_imports_that_go_down_are_no_faults(tmp_path):
    house = _house(tmp_path)
    assert house.faults() == []
    assert str(house).splitlines()[0] == " 4  high imports middle"
    assert house.between_parts()["middle"] == {"low"}


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("low.py", "import os\nfrom house import middle", "house/low.py:2: low imports middle, which is above it"),
        ("low.py", "import house.middle.inner", "low.py:1: low imports middle.inner, which is above it"),
        (
            "middle/inner.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.high import Thing",
            "inner.py:3: middle.inner imports for types only high, which is above it",
        ),
        (
            "middle/inner.py",
            "def work():\n    from house import high",
            "inner.py:2: middle.inner imports high, which is above it",
        ),
        ("low.pyi", "from .middle import work as work", "low.pyi:1: low imports middle, which is above it"),
        ("low.py", "from house import aside", "low.py:1: low imports aside, which is beside it in the same layer"),
        (
            "middle/parts/deep.py",
            "from house.middle.inner import work\nfrom house.middle import parts",
            "deep.py:2: middle.parts.deep imports house.middle.parts, the face of the package that it is in",
        ),
        (
            "middle/inner.py",
            "from . import work",
            "inner.py:1: middle.inner imports house.middle, the face of the package that it is in",
        ),
        ("high.py", "import house", "high.py:1: high imports house, the face of the package that it is in"),
        ("high.py", "from house import top", "high.py:1: high imports house, the face of the package that it is in"),
        ("high.py", "from house.gone import top", "high.py:1: high imports gone, which does not exist"),
        ("extra.py", "", "house/extra: stands in no layer"),
    ],
)
def test_an_import_that_breaks_the_order_is_found(tmp_path, name, text, fault):
    faults = _house(tmp_path, **{name: text}).faults()
    # An import that goes up closes a circle, too, where the other end leads down.
    found = [line for line in faults if ": circle " not in line]
    assert len(found) == 1
    assert found[0].endswith(fault)


def test_a_circle_is_found_also_inside_a_package(tmp_path):
    house = _house(
        tmp_path,
        **{
            "middle/inner.py": "from house.middle import other",
            "middle/other.py": "def later():\n    from house.middle.inner import work",
        },
    )
    assert house.faults() == [
        "house/middle/inner.py:1: circle middle.inner -> middle.other -> middle.inner",
    ]


def test_the_tool_prints_its_findings_exits_with_one_and_draws(tmp_path):
    _house(tmp_path, **{"_ground.py": "from house import low"})
    command = [sys.executable, str(ROOT / "tools" / "draw_architecture.py"), f"--package={tmp_path / 'house'}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "house/low: stands in no layer" in result.stdout  # The order of layers is the project's own.
    pictures = [tmp_path / "architecture.svg", tmp_path / "again.svg"]
    for picture in pictures:
        draw_architecture.draw(_house(tmp_path), picture)
    assert "middle" in pictures[0].read_text()
    assert pictures[0].read_text() == pictures[1].read_text()


def _where(text, path):
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    return [f"{path.relative_to(ROOT).as_posix()}:{number}" for number, line in lines if text in line]


def test_no_module_is_too_long_to_read():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > _MOST_LINES} == {}


def test_a_package_face_only_exports():
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    logic = [
        f"{path.relative_to(ROOT).as_posix()}:{statement.lineno}"
        for path in MODULES
        if path.name == "__init__.py"
        for statement in ast.parse(path.read_text()).body
        if not isinstance(statement, allowed)
    ]
    assert logic == []


def test_private_paths_of_tfmot_stand_in_the_backend_alone():
    path = "tensorflow_model_optimization.python"
    found = [place for module in MODULES if module.name != "_backend.py" for place in _where(path, module)]
    assert found == []


@pytest.mark.parametrize("attribute", ["_keras_history", "_nodes_by_depth"])
def test_private_attributes_of_keras_stand_where_graphs_are_read(attribute):
    readers = {
        ROOT / "tfmiaq" / "quantization" / "transformations" / "functional.py",
        ROOT / "tfmiaq" / "quantization" / "transformations" / "keras3.py",
    }
    found = [place for module in MODULES if module not in readers for place in _where(attribute, module)]
    assert found == []


def test_examples_import_public_names_only():
    private = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        for found in read_imports(path):
            parts = [*found.module.split("."), *([found.name] if found.name else [])]
            # The public face is the package and what it holds: `tfmiaq.datasets`, not `tfmiaq.auditing.audit`.
            deep = len(found.module.split(".")) > 2
            if parts[0] == "tfmiaq" and (deep or any(part.startswith("_") for part in parts)):
                private.append(f"{path.relative_to(ROOT).as_posix()}:{found.line}: {'.'.join(parts)}")
    assert private == []


def test_what_needs_no_tensorflow_loads_none():
    modules = ("policy", "metrics", "caching", "datasets", "tflite.flatbuffer", "edgetpu", "signals", "attacks")
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"tfmiaq.{name}")
    if "tensorflow" in sys.modules:
        sys.exit(f"tfmiaq.{name} loads TensorFlow")
"""
    command = [sys.executable, "-c", code, *modules, "auditing", "cli"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_each_public_name_is_listed_once():
    for stub in (ROOT / "tfmiaq").rglob("__init__.pyi"):
        package = ".".join(stub.parent.relative_to(ROOT).parts)
        names = [found.name for found in read_imports(stub, package)]
        assert len(names) == len(set(names)), stub
