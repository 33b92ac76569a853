"""The tutorials: their sources run and say what the text says, and the notebooks are those of the sources."""

from __future__ import annotations

import json
import pathlib
import re
import runpy

import pytest

from tfmiaq._backend import tf

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "tutorials"
SOURCES = sorted(FOLDER.glob("*.py"))
LARGEST = 100_000


def _images(found):
    assert found["verification"].exact
    assert len(found["comparison"].reports) == 2
    assert found["after"].query is not None


def _health_table(found):
    assert found["verification"].exact
    assert found["memorized"].auc > 0.9
    assert found["found"]["8 epochs"].auc.high < found["memorized"].auc
    assert found["found"]["DP-SGD"].auc.high < found["found"]["8 epochs"].auc
    assert found["final"].reference_models == 4


def _foreign_file(found):
    assert found["outputs"].shape == (300, 10)
    assert found["report"].access == "file"
    assert found["report"].query is not None
    assert found["report"].leaks


def _release_gate(found):
    assert (found["passed"], found["failed"]) == (0, 1)


CHECKS = {
    "images": _images,
    "health_table": _health_table,
    "foreign_file": _foreign_file,
    "release_gate": _release_gate,
}


def _cells(source):
    """Kind and text of each cell of a source in percent format."""
    for marker, text in re.findall(
        r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", source.read_text(encoding="utf-8"), re.MULTILINE
    ):
        if marker.strip() == "[markdown]":
            yield "markdown", "\n".join(line[2:] for line in text.strip().splitlines())
        else:
            yield "code", text.strip()


@pytest.mark.slow
@pytest.mark.skipif(tf.__version__ < "2.16", reason="The tutorials are run on the default lane.")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_tutorial_runs_and_finds_what_it_says(source, capsys):
    CHECKS[source.stem](runpy.run_path(str(source), run_name="__main__"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_is_that_of_its_source_and_small(source):
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert len(text) < LARGEST
    cells = json.loads(text)["cells"]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == list(_cells(source)), "make notebooks"
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not re.search(r"/(home|root|tmp|work)/", text)


def test_each_notebook_has_a_source():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES} == set(CHECKS)
