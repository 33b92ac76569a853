"""What the examples share: flags of the records, the two sets, and tables of text."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from tfmiaq import datasets

# TensorFlow's notes on the machine would drown the progress bars.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

DATASET = flags.DEFINE_string("dataset", "digits", f"One of {', '.join(datasets.NAMES)}, or the path of an .npz file.")
MEMBERS = flags.DEFINE_integer("members", 300, "Records to train on; as many others are the non-members.", 24)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the split, of initial weights and of audits.", 0)

flags.register_validator(
    "dataset",
    datasets.check_name,
    message=f"expected one of {', '.join(datasets.NAMES)}, or the path of an .npz file that exists",
)
Records = tuple[Any, Any]


def load_sets() -> tuple[datasets.Dataset, Records, Records]:
    """Returns the data set of the flags, its members and as many non-members."""
    data = datasets.load(DATASET.value, SEED.value)
    count, available = MEMBERS.value, min(len(data.x_train), len(data.x_test))
    if available < count:
        raise app.UsageError(f"--members={count}, but {data.name} has {available} records on each side.")
    return data, (data.x_train[:count], data.y_train[:count]), (data.x_test[:count], data.y_test[:count])


def start(argv: Sequence[str]) -> None:
    """Raises UsageError for words of the command line that are no flags, and quiets what libraries log."""
    # absl lets each library's own notes through.
    logging.set_verbosity(logging.ERROR)
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")


def accuracy(model: Any, x: Any, y: Any) -> float:
    """Returns the part of the records that a model of classes, or an interpreter of a .tflite, labels right."""
    return float((predict(model, x).argmax(1) == y).mean())


def predict(model: Any, x: Any) -> Any:
    """Returns the outputs of a Keras model, or of an interpreter of a .tflite."""
    return model.predict(x, verbose=0) if hasattr(model, "layers") else model.predict(x)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(folder: str, name: str, content: Any) -> pathlib.Path:
    """Writes text or bytes into a folder, which is made if need be, and returns the path."""
    path = pathlib.Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
    return path
