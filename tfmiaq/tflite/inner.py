"""The logits inside a .tflite: the tensor that its output is rounded, squashed or chosen from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

import numpy as np

from tfmiaq.tflite.flatbuffer import TFLiteModel, operation_names, pack, unpack
from tfmiaq.tflite.interpreter import Interpreter
from tfmiaq.tflite.steps import constants

# Operations that tell less than what they read, of one tensor and constants.
_SQUASHING = frozenset(("ARG_MAX", "CAST", "LOGISTIC", "LOG_SOFTMAX", "ONE_HOT", "QUANTIZE", "SOFTMAX", "TANH")) | {
    *("CEIL", "FLOOR", "FLOOR_DIV", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "SIGN")
}
# The same, of two tensors or of one and a constant: the rounding of `policy.output` is a SUB of the largest logit.
_CLIPPING = frozenset(("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")) | {
    *("MAXIMUM", "MINIMUM", "SELECT", "SELECT_V2")
}
_SHIFTING = frozenset(("DIV", "SUB"))
# Operations that tell as much as what they read, with constants beside it.
_KEEPING = frozenset(("ADD", "DEQUANTIZE", "EXP", "EXPAND_DIMS", "LOG", "MUL", "NEG", "RESHAPE", "SQUEEZE"))
# What a rounding or a softmax that is written out takes of the logits beside themselves.
_REDUCING = frozenset(("MEAN", "REDUCE_MAX", "REDUCE_MIN", "SUM"))
_WEIGHTED = frozenset(("BATCH_MATMUL", "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")) | {
    *("RNN", "SVDF", "TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN")
}
# What may stand between the last weights and the logits: it rounds nothing but to a tensor's own codes.
_BETWEEN = (_KEEPING | _REDUCING | _SHIFTING) | {
    *("AVERAGE_POOL_2D", "CONCATENATION", "GATHER", "L2_NORMALIZATION", "MAX_POOL_2D", "PACK", "PAD"),
    *("SLICE", "SPLIT", "STRIDED_SLICE", "TRANSPOSE", "UNPACK"),
}
_REAL = (np.float16, np.float32, np.float64)


class NoLogitsError(ValueError):
    """The logits of a model cannot be found."""


class _Graph:
    """The first graph of a file, read from its end to its beginning; each operation is read once."""

    def __init__(self, model: Any) -> None:
        graph = model.subgraphs[0]
        self.operators = list(enumerate(zip(operation_names(model), graph.operators)))
        self._constants = constants(model)

    def read_by(self, operator: Any) -> set[int]:
        """Returns the tensors that an operation reads, without constants."""
        return {int(index) for index in _indices(operator.inputs) if index >= 0} - self._constants


def _indices(found: Any) -> list[int]:
    return [] if found is None else [int(index) for index in found]


def _passes(name: str, read: set[int], frontier: set[int]) -> Optional[bool]:
    """Returns whether an operation tells less than what it reads, or None where it makes the logits."""
    if name in _SQUASHING or name in _CLIPPING:
        return True
    if name in _SHIFTING:
        return len(read) > 1
    if name in _KEEPING and len(read) == 1:
        return False
    return True if name in _REDUCING and len(frontier) > 1 else None


# The activation whose logits a tensor is.
_ACTIVATIONS = {"LOGISTIC": "sigmoid", "LOG_SOFTMAX": "softmax", "SOFTMAX": "softmax"}


def find_logits(model: Any) -> int:
    """Returns the index of the tensor that holds the logits behind the output of a ModelT.

    The graph is walked back from its output. Operations that tell less than what they read are passed, by the one
    tensor that all of their inputs come from: roundings (that of `policy.output` among them), clips, QUANTIZE, SOFTMAX
    and LOGISTIC, ARG_MAX. The tensor in front of the last of them holds the logits. It is the output itself where there
    is none. Nothing is concluded from names.

    Args:
        model: A ModelT.

    Raises:
        NoLogitsError: Several outputs; or operations in front of the logits that are not known to lead to weights.
    """
    return _logits_and_activation(model)[0]


def _logits_and_activation(model: Any) -> tuple[int, Optional[str]]:
    """Returns what `find_logits` does, and "softmax" or "sigmoid" where the file takes that of it, else None."""
    graph = _Graph(model)
    outputs = _indices(model.subgraphs[0].outputs)
    if len(outputs) != 1:
        raise NoLogitsError(f"the file has {len(outputs)} outputs")
    frontier, found, tells_less = set(outputs), outputs[0], False
    activation: Optional[str] = None
    passed: list[str] = []
    for _, (name, operator) in reversed(graph.operators):
        written = frontier & set(_indices(operator.outputs))
        if not written:
            continue
        read = graph.read_by(operator)
        passes = _passes(name, read, frontier)
        if passes is None or not read:
            break
        tells_less = tells_less or passes
        passed.append(name)
        frontier = (frontier - written) | read
        if len(frontier) == 1 and tells_less:
            (found,), tells_less = frontier, False
            # Of several the one next to the logits.
            activation = next((_ACTIVATIONS[one] for one in reversed(passed) if one in _ACTIVATIONS), None)
    _check_weights(graph, found)
    return found, activation


def find_hidden(model: Any) -> Optional[int]:
    """Returns the index of the tensor that the last weights read, which holds the last hidden layer of a ModelT.

    Returns:
        The index; None where the last weights are no FULLY_CONNECTED, or read what the file reads.

    Raises:
        NoLogitsError: As `find_logits`.
    """
    graph, frontier = _Graph(model), {find_logits(model)}
    for _, (name, operator) in reversed(graph.operators):
        written = frontier & set(_indices(operator.outputs))
        if not written:
            continue
        if name in _WEIGHTED:
            read = int(operator.inputs[0])
            is_input = read in _indices(model.subgraphs[0].inputs)
            return read if name == "FULLY_CONNECTED" and not is_input else None
        frontier = (frontier - written) | graph.read_by(operator)
    return None


def _check_weights(graph: _Graph, logits: int) -> None:
    """Raises NoLogitsError unless an operation with weights makes the logits, or known ones behind such operations."""
    frontier = {logits}
    for _, (name, operator) in reversed(graph.operators):
        written = frontier & set(_indices(operator.outputs))
        if not written:
            continue
        if name in _WEIGHTED:
            return
        if name not in _BETWEEN:
            raise NoLogitsError(f"operation {name} stands between the file's last weights and its output")
        frontier = (frontier - written) | graph.read_by(operator)
    raise NoLogitsError("no operation with weights leads to the file's output")


def _with_outputs(model: Any, indices: Iterable[int]) -> bytes:
    """Returns the bytes of a ModelT that gives further tensors of its graph as outputs, behind its own."""
    graph = model.subgraphs[0]
    graph.outputs = np.array([*_indices(graph.outputs), *indices], np.int32)
    return pack(model)


class OpenFile:
    """A .tflite whose holder reads its logits.

    The tensor becomes one more output of the file in memory, so that the same kernels run as on a device: with
    `experimental_preserve_all_tensors` they would be TFLite's reference kernels, which are slow and round otherwise.

    Args:
        model: Bytes or path of a .tflite.
        threads: Threads of the interpreter; None for its default.

    Attributes:
        is_hidden: Whether the logits are another tensor than the output.
        activation: "softmax" or "sigmoid" where the file takes that of the logits, else None.

    Raises:
        NoLogitsError: The logits cannot be found: as `find_logits`, or a tensor of a type or shape that no logits have.
        ValueError: As `Interpreter`.
    """

    def __init__(self, model: TFLiteModel, threads: Optional[int] = None) -> None:
        self._given, self._threads = model, threads
        # The interpreter checks the file before it is read here.
        self._interpreter = Interpreter(model, threads=threads)
        unpacked = unpack(model)
        logits, self.activation = _logits_and_activation(unpacked)
        (output,) = self._interpreter.output_indices.values()
        self._classes = _classes(self._interpreter, logits, output)
        self.is_hidden = logits != output
        if self.is_hidden:
            # The signature, by which the interpreter knows a file's own outputs, stays as it is.
            try:
                where = self._interpreter.isolated
                opened = _with_outputs(unpacked, [logits])
                self._interpreter = Interpreter(opened, threads=threads, also=[logits], isolated=where)
            except ValueError as error:
                raise NoLogitsError(f"the interpreter does not show the tensor: {error}") from error

    def predict(self, x: Any, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """Returns the outputs of the file, as `Interpreter.predict`, and the logits behind them, shape (n, classes).

        Args:
            x: Records of shape (n, ...).
            batch_size: As `Interpreter.predict`.

        Raises:
            ValueError: As `Interpreter.predict`.
        """
        if not self.is_hidden:
            outputs = self._interpreter.predict(x, batch_size)
            return outputs, outputs
        outputs, (logits,) = self._interpreter.predict_also(x, batch_size)
        return outputs, logits.reshape(len(logits), self._classes)

    def hidden(self, x: Any, batch_size: int = 256) -> Optional[np.ndarray]:
        """Returns the values of the last hidden layer, shape (n, width), or None where there is none (`find_hidden`).

        Args:
            x: As for `predict`.
            batch_size: As for `predict`.

        Raises:
            ValueError: As `predict`.
        """
        model = unpack(self._given)
        index = find_hidden(model)
        if index is None:
            return None
        try:
            interpreter = Interpreter(_with_outputs(model, [index]), threads=self._threads, also=[index])
        except ValueError:
            # As for the logits: not every tensor can be shown.
            return None
        values = interpreter.predict_also(x, batch_size)[1][0]
        return values.reshape(len(values), -1)


def _classes(interpreter: Interpreter, logits: int, output: int) -> int:
    """Returns the number of logits of a record."""
    details = {tensor["index"]: tensor for tensor in interpreter.tensor_details()}
    tensor, own = details[logits], details[output]
    if tensor["dtype"] not in _REAL and not tensor["quantization"][0]:
        raise NoLogitsError(f"the tensor in front of the output has type {np.dtype(tensor['dtype'])} and no scale")
    sizes = [int(np.prod(found["shape_signature"][1:])) for found in (tensor, own)]
    are_labels = len(own["shape_signature"]) < 2 or sizes[1] == 1
    is_one_unit = sizes == [1, 1] and np.dtype(own["dtype"]) not in (np.int32, np.int64)
    if not is_one_unit and (sizes[0] < 2 or (sizes[0] != sizes[1] and not are_labels)):
        raise NoLogitsError(
            f"the tensor in front of the output has shape {tuple(map(int, tensor['shape_signature']))}, and the output "
            f"{tuple(map(int, own['shape_signature']))}"
        )
    return sizes[0]
