"""Rewrites an int8 .tflite so that weights of up to 4 bits take half a byte, and every code of every tensor stays.

The int8 codes of such weights are multiples of 16 (`packable.int8_refinement`). A packed file holds the sixteenth of
each, as INT4, at 16 times the scale; so do its biases, which are multiples of 16 too (`bias_alignment.align`). Sums are
then the same numbers up to a power of two, which float32 keeps: the kernels round to the same codes.

Of TFLite's INT4 kernels only FULLY_CONNECTED with a scale for each channel computes as the int8 kernel does (XNNPACK,
qs8_qc4w). A 1 x 1 convolution of stride 1 is that operation at each position, and becomes it.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Optional

import numpy as np

from tfmiaq.quantization.packable import BYTES_OF_SCALE
from tfmiaq.tflite.associated_files import append_files, read_files
from tfmiaq.tflite.flatbuffer import (
    TFLiteModel,
    declare_own,
    is_own,
    is_packed,
    operation_names,
    pack,
    read_model,
    unpack,
)

# An INT4 code is the upper half of an int8 code.
UPPER_HALF = 16
# The first version of FULLY_CONNECTED that reads INT4; earlier runtimes refuse it by this number.
FULLY_CONNECTED_VERSION = 10
_DATA, _WEIGHTS, _BIAS = 0, 1, 2


def pack_int4(codes: np.ndarray) -> np.ndarray:
    """Returns codes of -8 to 7 as bytes, two in each, the first in the lower half.

    Args:
        codes: Integers of any shape.

    Returns:
        A uint8 array of one axis; of an odd number of codes the last byte has a half of zeros.
    """
    halves = codes.astype(np.int8).reshape(-1).view(np.uint8) & 0x0F
    halves = np.append(halves, np.zeros(halves.size % 2, np.uint8))
    packed: np.ndarray = halves[0::2] | (halves[1::2] << 4)
    return packed


def unpack_int4(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the int8 codes, -8 to 7, of bytes that `pack_int4` returned.

    Args:
        data: Bytes.
        shape: Shape of the codes.
    """
    data = np.asarray(data, np.uint8)
    halves = np.stack([data & 0x0F, data >> 4], axis=-1).reshape(-1)[: math.prod(shape)]
    # The upper one of four bits is the sign.
    codes: np.ndarray = ((halves ^ 8).astype(np.int8) - np.int8(8)).reshape(shape)
    return codes


def stored_codes(model: Any, tensor: Any) -> Optional[np.ndarray]:
    """Returns the codes of a constant tensor of a ModelT as int8, or None for one of another type, or no constant."""
    from tensorflow.lite.python import schema_py_generated as schema

    data = model.buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    shape = tuple(int(size) for size in (() if tensor.shape is None else tensor.shape))
    if tensor.type == schema.TensorType.INT4:
        return unpack_int4(data, shape)
    if tensor.type == schema.TensorType.INT8:
        return np.asarray(data, np.uint8).view(np.int8).reshape(shape)
    return None


class _Graph:
    """The first graph of a ModelT, and which of its operations can be packed."""

    def __init__(self, model: Any) -> None:
        from tensorflow.lite.python import schema_py_generated as schema

        self.schema, self.model, self.graph = schema, model, model.subgraphs[0]
        self.operators = list(zip(operation_names(model), self.graph.operators))

    def tensor(self, operator: Any, place: int) -> Optional[Any]:
        """Returns the tensor at a place of an operation's inputs, or None where there is none."""
        if place >= len(operator.inputs) or operator.inputs[place] < 0:
            return None
        return self.graph.tensors[operator.inputs[place]]

    def bias(self, operator: Any) -> Optional[np.ndarray]:
        """Returns the int32 codes of an operation's bias, or None without a constant one."""
        tensor = self.tensor(operator, _BIAS)
        if tensor is None or tensor.type != self.schema.TensorType.INT32:
            return None
        data = self.model.buffers[tensor.buffer].data
        return None if data is None or not len(data) else np.asarray(data, np.uint8).view(np.int32)

    def fault(self, name: str, operator: Any) -> str:
        """Returns why the weights of an operation cannot be packed, or an empty string."""
        if name not in ("FULLY_CONNECTED", "CONV_2D"):
            return f"the INT4 kernel of {name} rounds otherwise, or there is none"
        weights = self.tensor(operator, _WEIGHTS)
        assert weights is not None
        codes = stored_codes(self.model, weights)
        data, output = self.tensor(operator, _DATA), self.graph.tensors[operator.outputs[0]]
        if codes is None or data is None or {data.type, output.type} != {self.schema.TensorType.INT8}:
            return "it computes in float"
        shape_fault = self._fault_of_shape(name, operator, codes)
        if shape_fault:
            return shape_fault
        if np.any(codes % UPPER_HALF):
            return "its levels take more than 4 bits"
        bias = self.bias(operator)
        if bias is not None and np.any(bias % UPPER_HALF):
            return "its bias is not a multiple of 16: the layer is called on inputs of several scales"
        return self._fault_of_size(operator, codes)

    def _fault_of_size(self, operator: Any, codes: np.ndarray) -> str:
        tensors = [self.tensor(operator, place) for place in (_WEIGHTS, _BIAS)]
        known = [tensor for tensor in tensors if tensor is not None and tensor.quantization is not None]
        scales = sum(codes.shape[0] - np.size(tensor.quantization.scale) for tensor in known)
        return "" if scales * BYTES_OF_SCALE < codes.size // 2 else "a scale for each channel takes more than is saved"

    def _fault_of_shape(self, name: str, operator: Any, codes: np.ndarray) -> str:
        options = operator.builtinOptions
        if name == "CONV_2D":
            window = codes.shape[1:3]
            if window != (1, 1):
                return f"a {window[0]} x {window[1]} convolution: its INT4 kernel rounds otherwise"
            if (options.strideH, options.strideW) != (1, 1):
                return f"a 1 x 1 convolution of stride {options.strideH}"
            data = self.tensor(operator, _DATA)
            assert data is not None
            if data.shape is not None and len(data.shape) == 4 and int(data.shape[3]) != codes.shape[3]:
                return "a convolution in groups"
        elif options.weightsFormat:
            return "a weights format that is not the default"
        inputs = codes.shape[-1]
        return f"an odd number of inputs, {inputs}" if inputs % 2 else ""


def weighted_operations(model: Any) -> list[tuple[str, Any, Any, str]]:
    """Returns name, operator, tensor of weights, and why it cannot be packed, of each operation with weights.

    Weights are constants of int8, INT4 or float of at least two axes. The reason is empty for those that are packed,
    and for those that `pack_weights` would pack.

    Args:
        model: A ModelT.
    """
    graph = _Graph(model)
    found = []
    for name, operator in graph.operators:
        place = _place_of_weights(graph, operator)
        if place is not None:
            weights = graph.graph.tensors[operator.inputs[place]]
            is_int4 = weights.type == graph.schema.TensorType.INT4
            found.append((name, operator, weights, "" if is_int4 else graph.fault(name, operator)))
    return found


def _place_of_weights(graph: _Graph, operator: Any) -> Optional[int]:
    types = graph.schema.TensorType
    for place, index in enumerate(() if operator.inputs is None else operator.inputs):
        tensor = graph.graph.tensors[index] if index >= 0 else None
        if tensor is None or tensor.shape is None or len(tensor.shape) < 2:
            continue
        data = graph.model.buffers[tensor.buffer].data
        if tensor.type in (types.INT4, types.INT8, types.FLOAT32) and data is not None and len(data):
            return place
    return None


def pack_weights(file: TFLiteModel) -> bytes:
    """Returns a copy of an int8 .tflite whose weights take half a byte where an exact kernel reads them so.

    Which those are, and why others are not, says `stored_weights` of the file. A file with none comes back as it is.

    Args:
        file: Bytes or path of a .tflite from `convert`.

    Raises:
        ValueError: No such file, or what it holds is no TFLite model.
    """
    model = unpack(file)
    operators = [operator for _, operator, _, fault in weighted_operations(model) if not fault]
    if not operators or is_packed(file):
        return read_model(file)
    packer = _Packer(model, operators)
    for operator in operators:
        packer.pack(operator)
    _empty_unread_buffers(model)
    packed = append_files(pack(model), read_files(read_model(file)))
    if is_own(read_model(file)):
        declare_own(packed)
    return packed


class _Packer:
    """Turns operations of a ModelT into FULLY_CONNECTED of INT4 weights, in place."""

    def __init__(self, model: Any, operators: list[Any]) -> None:
        self._graph = _Graph(model)
        packed = {id(operator) for operator in operators}
        # What an operation reads that stays int8 is copied before it is changed.
        self._kept = {
            int(index)
            for _, operator in self._graph.operators
            if id(operator) not in packed and operator.inputs is not None
            for index in operator.inputs
        }
        self._tensors: dict[int, int] = {}
        self._buffers: dict[tuple[int, int], int] = {}

    def pack(self, operator: Any) -> None:
        """Packs the weights of an operation, and its bias."""
        weights = self._graph.tensor(operator, _WEIGHTS)
        assert weights is not None
        codes = stored_codes(self._graph.model, weights)
        if codes is not None:
            bias = self._graph.bias(operator)
            operator.inputs = np.array(operator.inputs, np.int32)
            channels = codes.shape[0]
            if bias is not None:
                self._change(operator, _BIAS, bias // UPPER_HALF, channels)
            changed = self._change(operator, _WEIGHTS, pack_int4(codes // UPPER_HALF), channels)
            if changed is not None:
                changed.type = self._graph.schema.TensorType.INT4
                changed.shape = np.array([channels, codes.size // channels], np.int32)
                changed.shapeSignature = None
        self._as_fully_connected(operator)

    def _change(self, operator: Any, place: int, data: np.ndarray, channels: int) -> Optional[Any]:
        """Gives an input of an operation other data at 16 times the scale; returns None if that is done already."""
        index = int(operator.inputs[place])
        if index in self._tensors:
            operator.inputs[place] = self._tensors[index]
            return None
        tensors, buffers = self._graph.graph.tensors, self._graph.model.buffers
        tensor = tensors[index]
        self._tensors[index] = index
        if index in self._kept:
            tensor = copy.deepcopy(tensor)
            tensors.append(tensor)
            operator.inputs[place] = self._tensors[index] = len(tensors) - 1
        # Calls of one layer have tensors of their own, and one buffer.
        key = (int(tensor.buffer), place)
        if key not in self._buffers:
            buffer = self._graph.schema.BufferT()
            buffer.data = data.view(np.uint8)
            buffers.append(buffer)
            self._buffers[key] = len(buffers) - 1
        tensor.buffer = self._buffers[key]
        quantization = tensor.quantization
        scale = np.asarray(quantization.scale, np.float32) * np.float32(UPPER_HALF)
        # XNNPACK takes INT4 weights with a scale for each channel alone, and such a bias with them.
        quantization.scale = np.broadcast_to(scale, (channels,)).copy()
        quantization.zeroPoint = np.zeros(channels, np.int64)
        quantization.quantizedDimension = 0
        return tensor

    def _as_fully_connected(self, operator: Any) -> None:
        schema, codes = self._graph.schema, self._graph.model.operatorCodes
        if not isinstance(operator.builtinOptions, schema.FullyConnectedOptionsT):
            options = schema.FullyConnectedOptionsT()
            options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
            options.keepNumDims = True
            operator.builtinOptions = options
            operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        wanted = schema.BuiltinOperator.FULLY_CONNECTED
        known = [
            index
            for index, code in enumerate(codes)
            if (code.builtinCode, code.version) == (wanted, FULLY_CONNECTED_VERSION)
        ]
        if not known:
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = wanted, wanted, FULLY_CONNECTED_VERSION
            codes.append(code)
        operator.opcodeIndex = known[0] if known else len(codes) - 1


def _empty_unread_buffers(model: Any) -> None:
    """Drops the data of buffers that nothing refers to; their places stay, as others go by number."""
    read = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    read |= {entry.buffer for entry in model.metadata or ()} | set(map(int, model.metadataBuffer or ()))
    for index, buffer in enumerate(model.buffers):
        if index not in read:
            buffer.data = None
