"""What arguments of the command line name: policies, functions, records, models and files."""

from __future__ import annotations

import argparse
import importlib
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any, Optional

from tfmiaq import datasets
from tfmiaq.loading.limits import read_text
from tfmiaq.policy import BitwidthPolicy

MODEL = "a .keras or .h5 file, or the folder of a SavedModel"
POLICY = (
    "bit-widths: 'default', or weights and activations between ends of 8 bits, such as w2a4, or the path of a policy's "
    "JSON"
)
FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")


def policy_of(text: str) -> BitwidthPolicy:
    """Returns a policy by name ("default"), by bits ("w2a4"), or from a JSON file.

    Raises:
        ValueError: None of these, or bits outside 1 to 8.
    """
    bits = re.fullmatch(r"w(\d)a(\d)", text)
    if bits:
        return BitwidthPolicy.uniform(int(bits[1]), int(bits[2]))
    if text == "default":
        return BitwidthPolicy.mia_default()
    if not pathlib.Path(text).is_file():
        raise ValueError(
            f"Expected 'default', bits such as w2a4, or the path of a policy's JSON as policy. Received {text!r}."
        )
    return BitwidthPolicy.from_json(read_text(text, "policy"))


def function_of(text: str) -> Callable[..., Any]:
    """Returns the function that FILE.py:NAME names.

    The file's folder is put where Python looks for modules, as for `python FILE.py`.

    Raises:
        ValueError: No such file, one that cannot be imported, or no such function in it.
    """
    found = FUNCTION.fullmatch(text)
    path = pathlib.Path(found["file"]).absolute() if found else None
    if found is None or path is None or not path.is_file():
        raise ValueError(f"Expected FILE.py:FUNCTION of a file that exists. Received {text!r}.")
    sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(path.stem)
    except Exception as error:
        # A file of the user's own may raise anything; --traceback shows where.
        raise ValueError(f"{text!r} cannot be imported ({type(error).__name__}: {error}).") from error
    if not path.samefile(module.__file__ or ""):
        raise ValueError(f"{path.name} has the name of another module ({module.__file__}). Give it a name of its own.")
    function = getattr(module, found["name"], None)
    if not callable(function):
        raise ValueError(f"{path.name} has no function {found['name']!r}.")
    return function


def load_records(given: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Returns members, non-members, and the pair of their groups or None.

    Raises:
        ValueError: As `datasets.load` and `datasets.load_files`; more members than training records; flags that do not
            go together.
    """
    are_files = given.members is not None and not given.members.isdigit()
    if are_files:
        if given.records is not None or given.non_members is None:
            raise ValueError(
                "--members=FILE.csv or --members=FOLDER goes with --non_members of the same kind, and without "
                "--records."
            )
        data = datasets.load_files(
            given.members, given.non_members, given.label, rescale=not given.raw, image_size=given.image_size
        )
    elif given.records is None or given.non_members is not None:
        raise ValueError(
            "Give the records: --records=FILE.npz, or --members and --non_members as .csv files or folders of images."
        )
    else:
        data = datasets.load(given.records, rescale=not given.raw, max_bytes=given.max_bytes)
    count = len(data.x_train) if given.members is None or are_files else int(given.members)
    if not 1 <= count <= len(data.x_train):
        raise ValueError(f"{data.name} has {len(data.x_train)} training records. Received --members={count}.")
    groups = None if data.groups_train is None else (data.groups_train[:count], data.groups_test)
    return (data.x_train[:count], data.y_train[:count]), (data.x_test, data.y_test), groups


def load_unlabelled(given: argparse.Namespace) -> tuple[Any, Any]:
    """Returns the records to calibrate a model on, and those to compare it with its file on.

    Raises:
        ValueError: As `datasets.load_unlabelled`.
    """
    return datasets.load_unlabelled(
        given.records, given.label, not given.raw, image_size=given.image_size, max_bytes=given.max_bytes
    )


def fitted(x: Any, target: Any) -> Any:
    """Returns records with a channel axis where a model takes one, and without where it takes none.

    Args:
        x: Shape (n, ...). Grey images may have an axis of one channel, or none.
        target: A Keras model or the bytes of a .tflite; for anything else the records stay as they are.
    """
    shapes = _input_shapes(target)
    if len(shapes) != 1:
        return x
    (shape,) = shapes
    if len(shape) == x.ndim + 1 and shape[-1] == 1 and x.ndim > 2:
        return x[..., None]
    return x[..., 0] if len(shape) == x.ndim - 1 and x.ndim == 4 and x.shape[-1] == 1 else x


def _input_shapes(target: Any) -> list[tuple[Any, ...]]:
    """Returns the shape of each input of a model, the batch in front."""
    if isinstance(target, bytes):
        from tfmiaq.tflite.flatbuffer import unpack

        graph = unpack(target).subgraphs[0]
        return [tuple(graph.tensors[index].shape) for index in graph.inputs]
    return [tuple(tensor.shape) for tensor in getattr(target, "inputs", None) or ()]


def load_model(path: str, given: argparse.Namespace) -> Any:
    """Returns a Keras model, quantized or not, from a file that names nothing but Keras, or is trusted.

    Raises:
        ValueError: It cannot be loaded, or names what it may not.
    """
    from tfmiaq.quantization import load_model

    return load_model(path, trust=given.trust, max_bytes=given.max_bytes, max_seconds=given.max_seconds)


def load_target(text: str, given: argparse.Namespace) -> Any:
    """Returns what `audit` takes: a .tflite, a pair of saved outputs, or a model that is loaded.

    Raises:
        ValueError: It cannot be loaded.
    """
    from tfmiaq.tflite.flatbuffer import read_model

    if "," in text:
        return tuple(text.split(","))
    return read_model(text) if text.endswith(".tflite") else load_model(text, given)


def load_labels(given: argparse.Namespace) -> Optional[list[str]]:
    """Returns the lines of the file of class names, or None if there is none."""
    return None if given.labels is None else read_text(given.labels, "--labels").splitlines()
