"""The BUILD files, the Python check and the demo, as a user meets them."""

from __future__ import annotations

import ast
import configparser
import graphlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import tfmiaq

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import build_files  # noqa: E402
from imports import read_imports  # noqa: E402


def _targets(build):
    """Name, sources and dependencies of each rule of a BUILD file, which is also Python."""
    for statement in ast.parse(build.read_text()).body:
        call = statement.value
        if not isinstance(call, ast.Call):
            continue
        arguments = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg in ("name", "srcs", "deps")}
        yield call.func.id, arguments


@pytest.mark.parametrize("package", build_files.packages())
def test_the_build_files_are_what_the_imports_say(package):
    assert (ROOT / package / "BUILD").read_text() == build_files.build_file(package), "Run tools/build_files.py."


def test_each_source_has_one_target_of_its_own():
    listed = [
        (ROOT / package / source).relative_to(ROOT).as_posix()
        for package in build_files.packages()
        for _, arguments in _targets(ROOT / package / "BUILD")
        for source in arguments.get("srcs", [])
    ]
    tops = [
        path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in ("build", "out")
    ]
    there = {path.relative_to(ROOT).as_posix() for top in tops for path in top.rglob("*.py*")}
    assert len(listed) == len(set(listed))
    assert {name for name in there if name.endswith((".py", ".pyi"))} == set(listed)
    for package in build_files.packages():
        names = [arguments["name"] for _, arguments in _targets(ROOT / package / "BUILD") if "name" in arguments]
        assert len(names) == len(set(names)), package


def test_no_target_needs_itself():
    needs = {
        f"//{package}:{arguments['name']}": [
            dependency if ":" in dependency else f"{dependency}:{dependency.rpartition('/')[2]}"
            for label in arguments.get("deps", [])
            for dependency in [label if label.startswith("//") else f"//{package}{label}"]
        ]
        for package in build_files.packages()
        for _, arguments in _targets(ROOT / package / "BUILD")
        if "name" in arguments
    }
    graphlib.TopologicalSorter(needs).prepare()


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.json")), ids=lambda path: path.name)
def test_result_files_are_json_that_other_readers_take(path):
    def refuse(constant):
        raise AssertionError(f"{path.name} holds {constant}, which is no JSON")

    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("examples", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if "app.run(main)" in path.read_text()
)


# Each script in a process of its own, forked from one that has imported what takes long.
_LIST_FLAGS = """
import json, os, runpy, sys, traceback
import tfmiaq, tfmiaq._backend
found = {}
for script in sys.argv[1:]:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(write, 1), os.dup2(write, 2)
        sys.argv, sys.path[0], status = [script, "--help"], os.path.dirname(script), 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as left:
            status = left.code
        except BaseException:
            status = traceback.print_exc() or 2
        sys.stdout.flush()
        os._exit(status)
    os.close(write)
    with open(read, errors="replace") as pipe:
        text = pipe.read()
    found[script] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def listed():
    """The exit status and the text of each script with --help, by its path."""
    paths = [str(ROOT / script) for script in SCRIPTS]
    command = [sys.executable, "-c", _LIST_FLAGS, *paths]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_can_be_imported_and_lists_its_flags(listed, script):
    status, text = listed[str(ROOT / script)]
    # absl's own status after --help.
    assert status == 1, text
    assert "Traceback" not in text
    assert "--[no]help" in text or "--helpfull" in text


def _demo(*arguments, script="defend_digits.py", **kwargs):
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


@pytest.mark.slow
def test_the_demo_prints_its_table_and_writes_its_files(tmp_path):
    sizes = ("--epochs=2", "--quantized_epochs=1", "--members=60", "--reference_models=2", "--output_bits=2")
    chosen = {"RMIA", "shadow models", "LiRA on augmented queries"}
    result = _demo(*sizes, f"--attacks={','.join(chosen)}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = result.stdout.split("TPR at 1 % FPR")[1]
    assert all(f"\n{name} " in table for name in ("float", "quantized", ".tflite"))
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"float.h5", "quantized.h5", "policy.json", "model.tflite", "comparison.html", "table.txt"} <= written
    assert "reports/tflite/report.html" in written
    policy = tfmiaq.BitwidthPolicy.from_json((tmp_path / "out" / "policy.json").read_text())
    assert policy.output == tfmiaq.OutputBits(2, 0.2)
    assert {f"reports/{name}/report.json" for name in ("float", "quantized", "tflite")} <= written
    report = json.loads((tmp_path / "out" / "reports" / "tflite" / "report.json").read_text())
    assert report["attacks"].keys() == chosen


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dataset=digit", "expected one of digits"),
        ("--policy=none.json", "no such policy"),
        ("--members=3", "members"),
        ("--reference_models=1", "expected 0, or at least 2"),
    ],
)
def test_the_demo_refuses_bad_flags_before_it_starts(flag, message):
    result = _demo(flag)
    assert result.returncode != 0
    assert message in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--augment", "--copies=2", "--student_epochs=4")], ids=["records", "copies"])
def test_the_example_of_cross_distillation_goes_on_where_it_was(more, tmp_path):
    sizes = ("--members=60", "--epochs=2", "--folds=2", "--repeats=1", "--output_bits=1", "--output_clip=0.2", *more)
    arguments = (*sizes, "--reference_models=0", f"--folder={tmp_path}")
    first, again = (_demo(*arguments, script="cross_distill.py", cwd=tmp_path) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert "| label-only |" in first.stdout
    assert again.stdout == first.stdout
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 2


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dataset=digit", "expected one of digits"),
        ("--folds=1", "expected 0, or at least 2"),
        ("--output_bits=9", "output_bits"),
        ("--output_clip=0.2", "expected both or neither"),
        ("--folds=0 --copies=4", "expected folds beside copies or student_epochs"),
        ("--copies=3", "expected copies that divide the quantized model's epochs"),
        ("--members=5000", "but digits has 898 training records"),
    ],
)
def test_the_example_of_cross_distillation_refuses_bad_flags(flag, message):
    result = _demo(*flag.split(), script="cross_distill.py")
    assert result.returncode != 0
    assert message in result.stderr + result.stdout


@pytest.mark.parametrize(("first", "last", "suits"), [("3.0", "3.99", True), ("3.0", "3.1", False)])
def test_an_unsuitable_python_gets_one_line(first, last, suits):
    command = [sys.executable, str(ROOT / "tools" / "check_python.py"), first, last, "demo"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert (result.returncode == 0) == suits
    assert len(result.stderr.splitlines()) == (0 if suits else 1)
    assert suits or "make demo PYTHON=python3.1" in result.stderr


def test_the_citation_names_this_version_and_the_paper():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    # What version 1.2 of the format requires.
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == tfmiaq.__version__
    assert citation["license"] == "Apache-2.0"
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["doi"] == "10.3390/s23187722"


def test_the_hooks_run_what_is_installed_and_download_nothing():
    yaml = pytest.importorskip("yaml")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [source["repo"] for source in hooks["repos"]] == ["local"]
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


def test_each_target_of_the_makefile_is_explained():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (targets,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    told = re.findall(r"^([a-z-]+):.*## \w", text, re.MULTILINE)
    assert sorted(told) == sorted(targets.split())


def test_both_ways_of_integration_run_the_targets_of_the_makefile():
    yaml = pytest.importorskip("yaml")
    told = set(re.findall(r"^([a-z-]+):.*## \w", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    needed = {"lint", "test", "test-fast", "test-legacy", "docs", "wheel"}
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]["make"]
    assert {row["target"] for row in job["strategy"]["matrix"]["include"]} == needed <= told
    assert "make ${{ matrix.target }} PYTHON=python" in [step.get("run") for step in job["steps"]]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(re.findall(r"make ([a-z-]+) PYTHON=", script)) == needed


def test_the_package_itself_needs_no_flag_library():
    for path in (ROOT / "tfmiaq").rglob("*.py"):
        assert not any(found.module.split(".")[0] == "absl" for found in read_imports(path)), path
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert "absl-py" not in config["options"]["install_requires"]
    assert "absl-py" in config["options.extras_require"]["examples"]
