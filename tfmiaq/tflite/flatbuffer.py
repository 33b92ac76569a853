"""The .tflite as bytes and as a data structure."""

from __future__ import annotations

import os
import pathlib
from typing import Any, Union

import flatbuffers

IDENTIFIER = b"TFL3"
TFLiteModel = Union[bytes, str, "os.PathLike[str]"]


def read_model(model: TFLiteModel) -> bytes:
    """Returns the bytes of a .tflite given as bytes or as a path.

    Raises:
        ValueError: No such file, or what it holds is no TFLite model.
    """
    if isinstance(model, (str, os.PathLike)):
        path = pathlib.Path(model)
        if not path.is_file():
            raise ValueError(f"No .tflite file at {str(path)!r}.")
        data, name = path.read_bytes(), repr(str(path))
    else:
        data, name = bytes(model), f"The buffer of {len(model):,} bytes"
    if data[4:8] != IDENTIFIER:
        raise ValueError(f"{name} is no TFLite model: its identifier is {data[4:8]!r}, not {IDENTIFIER!r}.")
    return data


def unpack(model: TFLiteModel) -> Any:
    """Returns the model as the schema's ModelT.

    Raises:
        ValueError: As `read_model`.
    """
    # Imported late: the bytes alone need no TensorFlow.
    from tensorflow.lite.python import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(read_model(model), 0))


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
