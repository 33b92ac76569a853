"""Executes the sources of the tutorials and writes them as notebooks with their outputs.

    make notebooks
    python tools/build_notebooks.py docs/tutorials/images.py

What goes to standard error, and TensorFlow's own notes, are left out. Cells are numbered, so that a notebook changes
where its source or its outputs do.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import tempfile
from typing import Any, Optional

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "docs" / "tutorials"
_NOTE = re.compile(r"^(INFO|WARNING):tensorflow:.*\n?", re.MULTILINE)


def _shown(output: Any) -> Optional[Any]:
    """Returns an output as the page has it, or None."""
    if output.output_type == "stream":
        output.text = _NOTE.sub("", output.text)
        if output.name == "stderr" or not output.text.strip():
            return None
    return output


def build(source: pathlib.Path) -> pathlib.Path:
    """Writes the notebook of a source beside it, and returns its path."""
    notebook = jupytext.read(source)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [shown for output in cell.outputs if (shown := _shown(output)) is not None]
    # The kernel adds its own version of Python.
    notebook.metadata.pop("language_info", None)
    path = source.with_suffix(".ipynb")
    nbformat.write(notebook, path)
    return path


def main() -> None:
    """Builds the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=pathlib.Path, default=sorted(FOLDER.glob("*.py")))
    for source in parser.parse_args().sources:
        path = build(source)
        print(f"{path}: {path.stat().st_size:,} B")


if __name__ == "__main__":
    main()
