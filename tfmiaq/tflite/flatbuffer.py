"""The .tflite as bytes and as a data structure."""

from __future__ import annotations

import hashlib
import os
import pathlib
import struct
from typing import Any, Union

import flatbuffers

from tfmiaq.loading.tflite_files import IDENTIFIER, check_tflite

TFLiteModel = Union[bytes, str, "os.PathLike[str]"]


# Hashes of the files that this process has converted: what they do is known.
_OWN: set[bytes] = set()


def declare_own(data: bytes) -> None:
    """Remembers a file as one that this process has converted, which may run in it."""
    _OWN.add(hashlib.sha256(data).digest())


def is_own(data: bytes) -> bool:
    """Returns whether this process has converted a file."""
    return hashlib.sha256(data).digest() in _OWN


def read_model(model: TFLiteModel) -> bytes:
    """Returns the bytes of a .tflite given as bytes or as a path, whole and with operations that can run in order.

    Raises:
        TypeError: Neither bytes nor a path.
        ValueError: No such file, what it holds is no TFLite model, or a damaged one.
    """
    if isinstance(model, (str, os.PathLike)):
        path = pathlib.Path(model)
        if not path.is_file():
            raise ValueError(f"No .tflite file at {str(path)!r}.")
        data, name = path.read_bytes(), repr(str(path))
    elif isinstance(model, (bytes, bytearray, memoryview)):
        data, name = bytes(model), f"The buffer of {len(model):,} bytes"
    else:
        raise TypeError(f"Expected the bytes or the path of a .tflite. Received {type(model).__name__}.")
    try:
        check_tflite(data)
    except ValueError as error:
        raise ValueError(f"{name}{' ' if str(error).startswith('is no') else ': '}{error}.") from error
    return data


def unpack(model: TFLiteModel) -> Any:
    """Returns the model as the schema's ModelT.

    Raises:
        TypeError, ValueError: As `read_model`.
    """
    # Imported late: the bytes alone need no TensorFlow.
    from tensorflow.lite.python import schema_py_generated as schema

    data = read_model(model)
    try:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, struct.error) as error:
        # What the options of an operation point at is read here for the first time.
        raise ValueError(f"damaged .tflite: the options of an operation cannot be read ({error}).") from error


def operation_names(model: Any) -> list[str]:
    """Returns TFLite's name of each operation of a ModelT's first graph, in order."""
    from tensorflow.lite.python import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return [names.get(codes[o.opcodeIndex], f"operation {codes[o.opcodeIndex]}") for o in model.subgraphs[0].operators]


def is_packed(model: TFLiteModel) -> bool:
    """Returns whether a .tflite holds weights of half a byte, as those of `convert(pack=True)`.

    Raises:
        ValueError: As `read_model`.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    root = schema.Model.GetRootAs(read_model(model), 0)
    graphs = [root.Subgraphs(index) for index in range(root.SubgraphsLength())]
    return any(g.Tensors(i).Type() == schema.TensorType.INT4 for g in graphs for i in range(g.TensorsLength()))


def pack(model: Any) -> bytes:
    """Returns the bytes of a ModelT."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())
