"""The pages of the documentation: links, names and examples are what is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pathlib
import re

import conftest
import numpy as np
import pytest

import tfmiaq
from tfmiaq.quantization import layer_specs

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
keras = tfmiaq.keras


def _text(path):
    """A page without its code, or what the cells of a notebook say."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def _blocks(path, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def _block(name, words):
    (block,) = (block for block in _blocks(DOCS / name) if words in block)
    return block


@pytest.mark.parametrize("page", [*PAGES, *sorted(DOCS.rglob("*.ipynb"))], ids=lambda page: page.stem)
def test_links_lead_to_pages_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _text(page)):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", _text(path), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_are_python_and_their_names_are_there(page):
    for block in _blocks(page):
        ast.parse(block)
    named = re.findall(r"\btfmiaq((?:\.[A-Za-z_]\w*)+)", "\n".join(_blocks(page)))
    named += re.findall(r"^::: tfmiaq((?:\.\w+)+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    for chain in named:
        found = tfmiaq
        for name in chain[1:].split("."):
            if not (inspect.ismodule(found) or inspect.isclass(found)) or found is keras:
                break
            # A module that no other one has imported yet is no attribute.
            module = f"{found.__name__}.{name}"
            found = getattr(found, name) if hasattr(found, name) else importlib.import_module(module)


def test_every_public_name_is_in_the_reference():
    listed = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    modules = {name for name in tfmiaq.__all__ if inspect.ismodule(getattr(tfmiaq, name))}
    for name in set(tfmiaq.__all__) - modules - {"__version__"}:
        assert re.search(rf"^::: tfmiaq(\.\w+)*\.{name}$", listed, re.MULTILINE), name


def test_each_figure_is_shown_and_drawn_by_a_script():
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    scripts = "".join(
        path.read_text(encoding="utf-8") for folder in ("tools", "benchmarks") for path in (ROOT / folder).glob("*.py")
    )
    for figure in (DOCS / "figures").iterdir():
        assert f"figures/{figure.name})" in pages
        assert figure.name in scripts


def test_the_lines_of_the_first_page_run(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    )
    arrays = {name: getattr(digits, name)[:60] for name in ("x_train", "y_train", "x_test", "y_test")}
    block = _block("index.md", "quantize_model(keras_model)")
    assert len([line for line in block.splitlines() if line and line[0] != "#"]) <= 12
    names = {"keras_model": model, **arrays}
    exec(block, names)
    assert names["quantized"].history.epoch == list(range(20))
    assert tfmiaq.AuditReport.load("report").members == 60
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_policy_and_a_layer_of_ones_own():
    """The attack of one's own is in tests/attacks."""
    names = {"model": conftest.tiny_model()}
    exec(_block("extending.md", "def wide_ends"), names)
    weights = {row.name: row.weight_bits for row in tfmiaq.summary(names["quantized"]).layers}
    assert [weights[name] for name in ("conv", "depthwise", "pointwise", "hidden", "logits")] == [8, 2, 8, 2, 8]
    example = _block("extending.md", "register_layer")
    definitions, _, uses = example.partition("quantized =")
    names = {"policy": tfmiaq.BitwidthPolicy.uniform(2, 4, first=2, last=2)}
    try:
        exec(definitions, names)
        shaped = names["MyReshape"]((64,), name="shaped")
        names["model"] = keras.Sequential([keras.Input((8, 8, 1)), shaped, names["MyDense"](3, name="own")])
        exec(f"quantized ={uses}", names)
        assert {row.name: row.weight_bits for row in tfmiaq.summary(names["quantized"]).layers}["own"] == 2
    finally:
        for name in ("MyDense", "MyReshape"):
            layer_specs._SPECS.pop(names[name], None)


def test_what_a_microcontroller_registers_is_read_from_the_file(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(2, 4))
    tfmiaq.calibrate(quantized, digits.x_test[:50], rounding="nearest", verbose=False)
    exec(_block("microcontrollers.md", "operations ="), {"quantized": quantized, "tfmiaq": tfmiaq})
    assert "'FULLY_CONNECTED'" in capsys.readouterr().out
    details = tfmiaq.tflite.Interpreter("model.tflite").predict(digits.x_test[:2])
    assert np.shape(details) == (2, 10)
