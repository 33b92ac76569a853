"""Two ways to pack further that `convert` does not take: INT2 weights, and 3 x 3 convolutions by im2col.

    python benchmarks/packed_trials.py --dataset=cifar10.npz --location=location30.npz

INT2: the perceptron of benchmarks/packed.py with weights of 2 and of 1 bits everywhere. Its int8 codes are put on a
grid of 64 codes between levels, of which INT4 holds the sixteenth and INT2 the 64th; biases are aligned to that. INT2
packs four weights of a channel into a byte; its 446 inputs are taken as they are, and with a PAD to 448.

im2col: ResNet-8 with weights of 4 bits. The nine values of a window are laid beside one another, and an INT4
FULLY_CONNECTED takes the place of the convolution. Two ways: a DEPTHWISE_CONV_2D of depth multiplier 9, whose kernel
has a single one for each output; and a PAD, nine STRIDED_SLICEs and a CONCATENATION.

Outputs are compared with those of the int8 file, record by record, on the runtimes installed; times are processor times
of one thread, the files in turns. 3 minutes of one processor.
"""

from __future__ import annotations

import copy
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags
from packed import fit, float_model, installed_runtimes, records_of, times, zipped
from tensorflow.lite.python import schema_py_generated as schema

import tfmiaq
from tfmiaq.tflite import bias_alignment, packing
from tfmiaq.tflite.flatbuffer import operation_names, pack, unpack
from tfmiaq.tflite.runtimes import interpreter_type

TRIALS_RESULTS = flags.DEFINE_string("trials_results", "benchmarks/packed_trials.json", "Result file.")
_BETWEEN = 64
_WEIGHTS, _BIAS = 1, 2


def _add_tensor(model: Any, like: Any, kind: int, shape: tuple[int, ...], data: Any, scale: Any, zero: int = 0) -> int:
    """Adds a tensor to the first graph of a ModelT, constant with `data`; returns its number."""
    graph, tensor = model.subgraphs[0], copy.deepcopy(like)
    buffer = schema.BufferT()
    buffer.data = None if data is None else np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    model.buffers.append(buffer)
    tensor.buffer, tensor.type, tensor.shape = len(model.buffers) - 1, kind, np.array(shape, np.int32)
    tensor.name = f"trial{len(graph.tensors)}"
    tensor.shapeSignature = None
    tensor.quantization = None
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
        tensor.quantization.zeroPoint = np.full(np.size(scale), zero, np.int64)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(model: Any, code: int, inputs: list[int], output: int, kind: int, options: Any, version: int = 1) -> Any:
    entry = schema.OperatorCodeT()
    entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
    model.operatorCodes.append(entry)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
    operator.builtinOptionsType, operator.builtinOptions = kind, options
    return operator


def _codes(model: Any, tensor: Any) -> np.ndarray:
    codes = packing.stored_codes(model, tensor)
    assert codes is not None
    return codes


def _on_grid_of_64(file: bytes) -> bytes:
    """Returns an int8 file of ternary or binary weights with 64 codes between levels, biases on multiples of 64."""
    model = unpack(file)
    graph = model.subgraphs[0]
    for _, operator, weights, _ in packing.weighted_operations(model):
        codes = _codes(model, weights)
        top = int(np.abs(codes).max())
        model.buffers[weights.buffer].data = (codes // top * _BETWEEN).astype(np.int8).view(np.uint8).reshape(-1)
        weights.quantization.scale = np.asarray(weights.quantization.scale, np.float32) * np.float32(top / _BETWEEN)
        bias = graph.tensors[operator.inputs[_BIAS]]
        known = np.asarray(model.buffers[bias.buffer].data, np.uint8).view(np.int32)
        moved = np.round(known * (_BETWEEN / top) / _BETWEEN).astype(np.int32) * _BETWEEN
        model.buffers[bias.buffer].data = moved.view(np.uint8)
        bias.quantization.scale = np.asarray(bias.quantization.scale, np.float32) * np.float32(top / _BETWEEN)
    return pack(model)


def _pack_int2(codes: np.ndarray) -> np.ndarray:
    """Returns codes of -2 to 1, shape (channels, inputs), as bytes of four, the first in the lowest bits."""
    quarters = codes.astype(np.int8).reshape(-1).view(np.uint8) & 3
    quarters = np.append(quarters, np.zeros(-quarters.size % 4, np.uint8)).reshape(-1, 4)
    packed: np.ndarray = quarters[:, 0] | quarters[:, 1] << 2 | quarters[:, 2] << 4 | quarters[:, 3] << 6
    return packed


def _as_int2(file: bytes, padded: bool) -> bytes:
    """Returns a packed file on the grid of 64 with INT2 weights in the place of INT4."""
    model = unpack(file)
    graph = model.subgraphs[0]
    operators = []
    for name, operator in zip(operation_names(model), graph.operators):
        if name == "FULLY_CONNECTED":
            weights, bias = (graph.tensors[operator.inputs[place]] for place in (_WEIGHTS, _BIAS))
            codes: np.ndarray = _codes(model, weights) // (_BETWEEN // packing.UPPER_HALF)
            missing = -codes.shape[1] % 4
            if padded and missing:
                codes = np.pad(codes, ((0, 0), (0, missing)))
                data = graph.tensors[operator.inputs[0]]
                added = np.array([[0, 0]] * (len(data.shape) - 1) + [[0, missing]], np.int32)
                sizes = _add_tensor(model, data, schema.TensorType.INT32, added.shape, added, None)
                q = data.quantization
                wider = (*map(int, data.shape[:-1]), codes.shape[1])
                output = _add_tensor(model, data, data.type, wider, None, q.scale, int(q.zeroPoint[0]))
                kind = schema.BuiltinOptions.PadOptions
                inputs = [int(operator.inputs[0]), sizes]
                code = schema.BuiltinOperator.PAD
                operators.append(_operator(model, code, inputs, output, kind, schema.PadOptionsT(), 2))
                operator.inputs = np.array([output, *operator.inputs[1:]], np.int32)
            weights.type, weights.shape = schema.TensorType.INT2, np.array(codes.shape, np.int32)
            model.buffers[weights.buffer].data = _pack_int2(codes)
            factor = _BETWEEN // packing.UPPER_HALF
            known = np.asarray(model.buffers[bias.buffer].data, np.uint8).view(np.int32)
            model.buffers[bias.buffer].data = (known // factor).view(np.uint8)
            for tensor in (weights, bias):
                tensor.quantization.scale = np.asarray(tensor.quantization.scale, np.float32) * np.float32(factor)
        operators.append(operator)
    graph.operators = operators
    return pack(model)


def _with_biases_of_16(file: bytes) -> bytes:
    """Returns an int8 file whose biases are multiples of 16, as packed weights take them."""
    model = unpack(file)
    for name, operator in zip(operation_names(model), model.subgraphs[0].operators):
        if name == "CONV_2D":
            buffer = model.buffers[model.subgraphs[0].tensors[operator.inputs[_BIAS]].buffer]
            codes = np.asarray(buffer.data, np.uint8).view(np.int32)
            buffer.data = (np.round(codes / packing.UPPER_HALF).astype(np.int32) * packing.UPPER_HALF).view(np.uint8)
    return pack(model)


def _by_depthwise(model: Any, operator: Any, shape: tuple[int, ...]) -> tuple[list[Any], int]:
    """Returns an operation that lays windows of a convolution out, channel by channel, and its output."""
    data = model.subgraphs[0].tensors[operator.inputs[0]]
    _, height, width, channels = shape
    window = height * width
    ones: np.ndarray = np.zeros((1, height, width, channels * window), np.int8)
    for place in range(window):
        ones[0, place // width, place % width, place::window] = 1
    types, scale = schema.TensorType, float(data.quantization.scale[0])
    kernel = _add_tensor(model, data, types.INT8, ones.shape, ones, 1.0)
    bias = _add_tensor(model, data, types.INT32, (channels * window,), np.zeros(channels * window, np.int32), scale)
    windows = _windows(model, operator, channels * window)
    options, old = schema.DepthwiseConv2DOptionsT(), operator.builtinOptions
    options.padding, options.strideW, options.strideH = old.padding, old.strideW, old.strideH
    options.depthMultiplier, options.dilationWFactor, options.dilationHFactor = window, 1, 1
    kind, code = schema.BuiltinOptions.DepthwiseConv2DOptions, schema.BuiltinOperator.DEPTHWISE_CONV_2D
    return [_operator(model, code, [int(operator.inputs[0]), kernel, bias], windows, kind, options, 3)], windows


def _windows(model: Any, operator: Any, channels: int, sizes: Any = None) -> int:
    """Adds a tensor of some channels, with the scale of an operation's input and the positions of its output."""
    graph = model.subgraphs[0]
    q = graph.tensors[operator.inputs[0]].quantization
    height, width = graph.tensors[operator.outputs[0]].shape[1:3] if sizes is None else sizes
    shape = (1, int(height), int(width), channels)
    like = graph.tensors[operator.outputs[0]]
    number = _add_tensor(model, like, schema.TensorType.INT8, shape, None, q.scale, int(q.zeroPoint[0]))
    graph.tensors[number].shapeSignature = np.array([-1, *shape[1:]], np.int32)
    return number


def _by_slices(model: Any, operator: Any, shape: tuple[int, ...]) -> tuple[list[Any], int]:
    """Returns a PAD, a STRIDED_SLICE for each place of a window, and a CONCATENATION, and its output."""
    graph, types, codes = model.subgraphs[0], schema.TensorType, schema.BuiltinOperator
    _, height, width, channels = shape
    stride = int(operator.builtinOptions.strideH)
    inputs = graph.tensors[operator.inputs[0]].shape[1:3]
    outputs = graph.tensors[operator.outputs[0]].shape[1:3]
    missing = [max((int(o) - 1) * stride + k - int(i), 0) for i, o, k in zip(inputs, outputs, (height, width))]
    around = np.array([[0, 0], *([m // 2, m - m // 2] for m in missing), [0, 0]], np.int32)
    amounts = _add_tensor(model, graph.tensors[operator.inputs[0]], types.INT32, (4, 2), around, None)
    padded = _windows(model, operator, channels, [int(i) + m for i, m in zip(inputs, missing)])
    kind = schema.BuiltinOptions.PadOptions
    made = [_operator(model, codes.PAD, [int(operator.inputs[0]), amounts], padded, kind, schema.PadOptionsT(), 2)]
    parts = []
    for place in range(height * width):
        begin = (place // width, place % width)
        end = [b + (int(o) - 1) * stride + 1 for b, o in zip(begin, outputs)]
        rows = ([0, *begin, 0], [0, *end, 0], [1, stride, stride, 1])
        like = graph.tensors[operator.inputs[0]]
        limits = [_add_tensor(model, like, types.INT32, (4,), np.array(row, np.int32), None) for row in rows]
        options = schema.StridedSliceOptionsT()
        options.beginMask = options.endMask = 0b1001
        parts.append(_windows(model, operator, channels))
        kind = schema.BuiltinOptions.StridedSliceOptions
        made.append(_operator(model, codes.STRIDED_SLICE, [padded, *limits], parts[-1], kind, options, 2))
    options = schema.ConcatenationOptionsT()
    options.axis = 3
    together = _windows(model, operator, channels * height * width)
    kind = schema.BuiltinOptions.ConcatenationOptions
    made.append(_operator(model, codes.CONCATENATION, parts, together, kind, options, 2))
    return made, together


def _by_im2col(file: bytes, lay_out: Callable[..., tuple[list[Any], int]], transposed: bool) -> tuple[bytes, int]:
    """Returns an int8 file whose 3 x 3 convolutions read windows laid out beforehand, and how many do."""
    model = unpack(file)
    graph = model.subgraphs[0]
    operators, count = [], 0
    for name, operator in zip(operation_names(model), graph.operators):
        is_convolution = name == "CONV_2D"
        weights = graph.tensors[operator.inputs[_WEIGHTS if is_convolution else 0]]
        codes = _codes(model, weights) if is_convolution else np.zeros((1, 1, 1, 1), np.int8)
        if codes.shape[1] > 1 and codes.shape[3] % 2 == 0:
            made, windows = lay_out(model, operator, codes.shape)
            # Then it is a 1 x 1 convolution of stride 1, which packs as any other.
            operator.builtinOptions.strideW = operator.builtinOptions.strideH = 1
            flat = np.transpose(codes, (0, 3, 1, 2)) if transposed else codes
            flat = np.ascontiguousarray(flat).reshape(len(codes), 1, 1, -1)
            buffer = schema.BufferT()
            buffer.data = flat.view(np.uint8).reshape(-1)
            model.buffers.append(buffer)
            weights.buffer, weights.shape = len(model.buffers) - 1, np.array(flat.shape, np.int32)
            operator.inputs = np.array([windows, *operator.inputs[1:]], np.int32)
            operators += made
            count += 1
        operators.append(operator)
    graph.operators = operators
    return pack(model), count


def _predict(file: bytes, runtime: str, x: np.ndarray) -> np.ndarray:
    runner = interpreter_type(runtime)(model_content=file, num_threads=1)
    runner.allocate_tensors()
    index, output = (details()[0]["index"] for details in (runner.get_input_details, runner.get_output_details))
    found = []
    for record in x:
        runner.set_tensor(index, record[None])
        runner.invoke()
        found.append(runner.get_tensor(output)[0].copy())
    return np.array(found)


def _compared(files: dict[str, bytes], x: np.ndarray) -> dict[str, Any]:
    """Returns for each file, of which the last is int8, its size, and per runtime its outputs and times beside it."""
    *_, last = files
    found: dict[str, Any] = {
        kind: {"bytes": len(file), "zipped_bytes": zipped(file), "records": len(x)} for kind, file in files.items()
    }
    for runtime in installed_runtimes():
        expected = _predict(files[last], runtime, x)
        ran = {}
        for kind, file in files.items():
            try:
                outputs = _predict(file, runtime, x)
            except (RuntimeError, ValueError) as error:
                found[kind][runtime] = {"refused": str(error).splitlines()[0][:200]}
                continue
            ran[kind] = file
            found[kind][runtime] = {
                "identical_records": int((outputs == expected).all(axis=1).sum()),
                "labels_agree": float((outputs.argmax(1) == expected.argmax(1)).mean()),
            }
        seconds = times(list(ran.values()), runtime)
        for place, kind in enumerate(ran):
            found[kind][runtime]["time_of_int8"] = float(np.median(seconds[:, place] / seconds[:, -1]))
    return found


def _quantized(name: str, bits: int) -> tuple[Any, np.ndarray]:
    x_train, y_train, x, _ = records_of(name)
    model = float_model(name, x_train, y_train)
    quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(bits, 4, first=bits, last=bits))
    fit(quantized, x_train, y_train, 1, 0.01)
    bias_alignment.align(quantized, packed=True)
    return quantized, x


def _int2(bits: int) -> dict[str, Any]:
    quantized, x = _quantized("mlp", bits)
    own = tfmiaq.convert(quantized, check=False)
    plain = _on_grid_of_64(own)
    packed = packing.pack_weights(plain)
    found = _compared(
        {"INT2": _as_int2(packed, False), "INT2, padded": _as_int2(packed, True), "INT4": packed, "int8": plain}, x
    )
    runtime = next(iter(installed_runtimes()))
    labels = [_predict(file, runtime, x).argmax(1) for file in (own, plain)]
    found["labels_kept_by_alignment_to_levels"] = float((labels[0] == labels[1]).mean())
    return found


def _im2col() -> dict[str, Any]:
    quantized, x = _quantized("resnet8", 4)
    plain = _with_biases_of_16(tfmiaq.convert(quantized, check=False))
    by_depthwise, count = _by_im2col(plain, _by_depthwise, True)
    by_slices, _ = _by_im2col(plain, _by_slices, False)
    files = {
        "windows by DEPTHWISE_CONV_2D": packing.pack_weights(by_depthwise),
        "windows by STRIDED_SLICE": packing.pack_weights(by_slices),
        "packed": packing.pack_weights(plain),
        "int8": plain,
    }
    return {"convolutions_by_im2col": count, **_compared(files, x[:500])}


def main(argv: list[str]) -> None:
    del argv
    path = pathlib.Path(TRIALS_RESULTS.value)
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found["command"] = "python benchmarks/packed_trials.py --dataset=cifar10.npz --location=location30.npz"
    found["seed"], found["runtimes"] = 0, installed_runtimes()
    trials = {"int2_w2": lambda: _int2(2), "int2_w1": lambda: _int2(1), "im2col_resnet8_w4": _im2col}
    for name, trial in trials.items():
        if name not in found:
            found[name] = trial()
            print(name, json.dumps(found[name], indent=1), flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
