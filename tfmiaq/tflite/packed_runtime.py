"""Whether a TFLite runtime computes with packed weights, found out with a file of one operation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tfmiaq._backend import tf
from tfmiaq.tflite.flatbuffer import pack
from tfmiaq.tflite.packing import FULLY_CONNECTED_VERSION, pack_int4
from tfmiaq.tflite.quiet import quiet
from tfmiaq.tflite.runtimes import interpreter_type

_CHANNELS, _INPUTS = 6, 10
_SCALES = np.linspace(0.01, 0.06, _CHANNELS, dtype=np.float32)
_INPUT_SCALE, _OUTPUT_SCALE = np.float32(0.5), np.float32(0.9)
_WEIGHTS: np.ndarray = (np.arange(_CHANNELS * _INPUTS).reshape(_CHANNELS, _INPUTS) * 5) % 15 - 7
_BIAS: np.ndarray = np.arange(_CHANNELS, dtype=np.int32) * 3 - 7
_RECORD: np.ndarray = ((np.arange(_INPUTS) * 37) % 256 - 128).astype(np.int8)


def _expected() -> np.ndarray:
    """Returns the output codes of the file, as an int8 kernel with one rounding computes them."""
    sums = _WEIGHTS @ _RECORD.astype(np.int64) + _BIAS
    scales = _INPUT_SCALE * _SCALES / _OUTPUT_SCALE
    return np.clip(np.round(sums.astype(np.float32) * scales), -128, 127).astype(np.int8)


def _file() -> bytes:
    """Returns a .tflite of one FULLY_CONNECTED whose INT4 weights have a scale for each channel."""
    from tensorflow.lite.python import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers = 3, [schema.BufferT()]

    def tensor(kind: int, shape: tuple[int, ...], scales: Any, data: Any = None) -> Any:
        made = schema.TensorT()
        made.type, made.shape, made.name = kind, np.array(shape, np.int32), f"tensor{len(model.buffers)}"
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = np.atleast_1d(np.asarray(scales, np.float32))
        made.quantization.zeroPoint = np.zeros(np.size(scales), np.int64)
        buffer = schema.BufferT()
        buffer.data = None if data is None else data.view(np.uint8)
        model.buffers.append(buffer)
        made.buffer = len(model.buffers) - 1
        return made

    types = schema.TensorType
    graph.tensors = [
        tensor(types.INT8, (1, _INPUTS), _INPUT_SCALE),
        tensor(types.INT4, _WEIGHTS.shape, _SCALES, pack_int4(_WEIGHTS)),
        tensor(types.INT32, (_CHANNELS,), _INPUT_SCALE * _SCALES, _BIAS),
        tensor(types.INT8, (1, _CHANNELS), _OUTPUT_SCALE),
    ]
    operator, code = schema.OperatorT(), schema.OperatorCodeT()
    operator.inputs, operator.outputs = np.array([0, 1, 2], np.int32), np.array([3], np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    wanted = schema.BuiltinOperator.FULLY_CONNECTED
    code.builtinCode, code.deprecatedBuiltinCode, code.version = wanted, wanted, FULLY_CONNECTED_VERSION
    graph.inputs, graph.outputs = np.array([0], np.int32), np.array([3], np.int32)
    graph.operators, model.operatorCodes, model.subgraphs = [operator], [code], [graph]
    return pack(model)


@functools.cache
def runs_packed(interpreter: Any) -> bool:
    """Returns whether a runtime accepts packed weights, and computes the right codes from them.

    Args:
        interpreter: Its class, such as `tf.lite.Interpreter`.
    """
    with quiet():
        try:
            runner = interpreter(model_content=_file())
            runner.allocate_tensors()
        except (ValueError, RuntimeError):
            return False
        runner.set_tensor(runner.get_input_details()[0]["index"], _RECORD[None])
        runner.invoke()
        found = runner.get_tensor(runner.get_output_details()[0]["index"])
    return bool(np.array_equal(found[0], _expected()))


def check_runs_packed(caller: str, runtime: str, way_out: str) -> None:
    """Raises ValueError if a runtime refuses packed weights, or computes something else from them.

    Args:
        caller: What the error begins with.
        runtime: As for `Interpreter`.
        way_out: What its last sentence ends with.
    """
    if runs_packed(interpreter_type(runtime)):
        return
    name = f"TensorFlow {tf.__version__}" if runtime == "tensorflow" else "the installed ai-edge-litert"
    raise ValueError(
        f"{caller}: {name} does not run packed files, whose weights are INT4 with a scale for each channel. Use "
        f"TensorFlow 2.21, or tfmiaq.tflite.Interpreter(file, runtime='litert') with ai-edge-litert 2.1{way_out}."
    )
