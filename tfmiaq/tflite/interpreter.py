"""Runs a .tflite on float arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import tf
from tfmiaq._checks import AT_LEAST_ONE, check, check_choice, integer
from tfmiaq.tflite.flatbuffer import TFLiteModel, is_packed, read_model
from tfmiaq.tflite.metadata import read_metadata
from tfmiaq.tflite.packed_runtime import runs_packed
from tfmiaq.tflite.quiet import quiet

_THREADS = integer(1, or_none=True, none_means="the runtime's default")


def _interpreter_type(runtime: str) -> Any:
    check_choice("Interpreter", "runtime", runtime, ("tensorflow", "litert"))
    if runtime == "tensorflow":
        return tf.lite.Interpreter
    try:
        from ai_edge_litert.interpreter import Interpreter as LiteRt
    except ImportError as error:
        raise ImportError("Interpreter: runtime='litert' takes the package ai-edge-litert: pip install it.") from error
    return LiteRt


def check_runs_packed(caller: str, runtime: str, way_out: str) -> None:
    """Raises ValueError if a runtime refuses packed weights, or computes something else from them.

    Args:
        caller: What the error begins with.
        runtime: As for `Interpreter`.
        way_out: What its last sentence ends with.
    """
    if runs_packed(_interpreter_type(runtime)):
        return
    name = f"TensorFlow {tf.__version__}" if runtime == "tensorflow" else "the installed ai-edge-litert"
    raise ValueError(
        f"{caller}: {name} does not run packed files, whose weights are INT4 with a scale for each channel. Use "
        f"TensorFlow 2.21, or tfmiaq.tflite.Interpreter(file, runtime='litert') with ai-edge-litert 2.1{way_out}."
    )


class Interpreter:
    """Runs a .tflite on float arrays, whatever its own types, normalized as its metadata says.

    Args:
        model: Bytes or path of a .tflite.
        keep_tensors: Keep every intermediate tensor for `tensor`.
        runtime: "tensorflow", or "litert" for the runtime that Android ships (package ai-edge-litert).
        threads: Threads of the interpreter; None for its default.
        also: Indices of further outputs of the file's graph, for `predict_also`.

    Raises:
        ValueError: No TFLite model, one that the interpreter refuses, an unknown runtime, or threads below 1; packed
            weights that the runtime does not compute with.
        ImportError: The runtime is not installed.
    """

    def __init__(
        self,
        model: TFLiteModel,
        keep_tensors: bool = False,
        runtime: str = "tensorflow",
        threads: Optional[int] = None,
        also: Sequence[int] = (),
    ) -> None:
        threads = check("Interpreter", threads=(threads, _THREADS))["threads"]
        data = read_model(model)
        kind = _interpreter_type(runtime)
        if is_packed(data):
            check_runs_packed("Interpreter", runtime, "; or convert without pack=True")
        try:
            with quiet():
                self._interpreter = kind(
                    model_content=data, experimental_preserve_all_tensors=keep_tensors, num_threads=threads
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"The TFLite interpreter refuses the model: {error}") from error
        self._normalization = (read_metadata(data) or {}).get("normalization", {})
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._inputs = {details["name"]: details for details in inputs}
        self._also = [details for details in outputs if details["index"] in also]
        self._outputs = {details["name"]: details for details in outputs if details["index"] not in also}
        if self._interpreter.get_signature_list():
            # Only the signature keeps the names of the Keras model.
            runner = self._interpreter.get_signature_runner()
            by_index = {details["index"]: details for details in (*inputs, *outputs)}
            self._inputs = {name: by_index[d["index"]] for name, d in runner.get_input_details().items()}
            self._outputs = {name: by_index[d["index"]] for name, d in runner.get_output_details().items()}
        self._shapes = {details["index"]: [int(size) for size in details["shape"]] for details in inputs}
        self._own_batch = self._fixed_batch()

    def _normalized(self, name: str, array: np.ndarray) -> np.ndarray:
        """Returns the records as the file takes them: it has no float layer of its own that scales them."""
        if name not in self._normalization:
            return array
        known = self._normalization[name]
        return array * np.asarray(known["scale"], np.float32) + np.asarray(known["offset"], np.float32)

    def tensor_details(self) -> list[dict[str, Any]]:
        """Returns name, shape, type and quantization of every tensor."""
        return list(self._interpreter.get_tensor_details())

    def tensor(self, index: int) -> np.ndarray:
        """Returns the value of one tensor, as stored."""
        return self._interpreter.get_tensor(index)

    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """Returns the outputs for records.

        A file of a fixed batch is run in batches of that size, the last one filled up with copies of its last record.

        Args:
            x: Array of shape (n, ...); for a model of several inputs a list of them in the order of `input_names`, or
                a dictionary by those names.
            batch_size: Records in one run of a file that takes any number, at least 1.

        Returns:
            Dequantized float32 array of shape (n, ...), or a list of them in the order of `output_names`. Labels, of a
            file that ends in an ARG_MAX, stay integers.

        Raises:
            ValueError: Arrays that are not one for each input, records of another shape than the input's, or a batch
                size below 1.
        """
        return self.predict_also(x, batch_size)[0]

    def predict_also(self, x: Any, batch_size: int = 256) -> tuple[Any, list[np.ndarray]]:
        """Returns what `predict` does, and the values of the tensors of `also`, dequantized, in their order.

        Args:
            x: As for `predict`.
            batch_size: As for `predict`.

        Raises:
            ValueError: As `predict`.
        """
        arrays = [np.concatenate(parts) for parts in zip(*self.runs(x, batch_size))]
        values = [_dequantize(array, details) for array, details in zip(arrays, self._read)]
        outputs = values[: len(self._outputs)]
        return (outputs[0] if len(outputs) == 1 else outputs), values[len(self._outputs) :]

    @property
    def _read(self) -> list[dict[str, Any]]:
        """What is known of each tensor that a run gives."""
        return [*self._outputs.values(), *self._also]

    def runs(self, x: Any, batch_size: int = 256) -> Iterator[list[np.ndarray]]:
        """Yields the outputs of one run after the other, as stored; in between, `tensor` returns values of that run.

        Args:
            x: As for `predict`.
            batch_size: As for `predict`.

        Raises:
            ValueError: As `predict`.
        """
        batch_size = check("predict", batch_size=(batch_size, AT_LEAST_ONE))["batch_size"]
        arrays = self._arrays(x)
        for start in range(0, len(arrays[0]), batch_size):
            yield from self._run([array[start : start + batch_size] for array in arrays])

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs of the Keras model."""
        return list(self._inputs)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs of the Keras model."""
        return list(self._outputs)

    @property
    def output_indices(self) -> dict[str, int]:
        """Index of the tensor of each output, by name."""
        return {name: int(details["index"]) for name, details in self._outputs.items()}

    def _fixed_batch(self) -> Optional[int]:
        """Returns the number of records that the file takes in one run, or None where it takes any.

        Raises:
            ValueError: Inputs that take different numbers.
        """
        sizes = {int(d["shape_signature"][0]) for d in self._inputs.values() if len(d["shape_signature"])} - {-1}
        if len(sizes) > 1:
            raise ValueError(
                f"Interpreter: The file's inputs take different numbers of records, {', '.join(map(str, sizes))}, in "
                "one run."
            )
        return sizes.pop() if sizes else None

    def _arrays(self, x: Any) -> list[np.ndarray]:
        if isinstance(x, dict):
            x = [x[name] for name in self._inputs]
        arrays = list(x) if isinstance(x, (list, tuple)) else [x]
        if len(arrays) != len(self._inputs):
            raise ValueError(f"The model has {len(self._inputs)} inputs. Received {len(arrays)} arrays.")
        # The interpreter would resize its inputs, and return outputs of no meaning.
        for (name, details), array in zip(self._inputs.items(), arrays):
            wanted, received = [int(size) for size in details["shape_signature"][1:]], list(np.shape(array)[1:])
            if len(wanted) != len(received) or any(a not in (-1, b) for a, b in zip(wanted, received)):
                shape = ", ".join("any" if size == -1 else str(size) for size in wanted)
                raise ValueError(
                    f"Input {name!r} of the .tflite takes records of shape ({shape}). Received records of shape "
                    f"{tuple(received)}."
                )
        return arrays

    def _run(self, arrays: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """Yields the outputs of one run, or of several of the file's own batch size if it takes no other."""
        given = [
            _quantize(self._normalized(name, array), details)
            for (name, details), array in zip(self._inputs.items(), arrays)
        ]
        count = len(given[0])
        if self._own_batch is None:
            shape = self._shapes[next(iter(self._inputs.values()))["index"]]
            try:
                outputs = self._invoke(given)
                if count == shape[0] or all(len(output) == count for output in outputs):
                    yield outputs
                    return
            except RuntimeError:
                if count == shape[0]:
                    raise
            # The signature says any number, but a constant of the graph says one.
            self._own_batch = shape[0]
        for start in range(0, count, self._own_batch):
            pieces = [array[start : start + self._own_batch] for array in given]
            missing = self._own_batch - len(pieces[0])
            if missing:
                pieces = [np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)]) for piece in pieces]
            outputs = self._invoke(pieces)
            yield [output[: self._own_batch - missing] for output in outputs] if missing else outputs

    def _invoke(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        stale = False
        for details, array in zip(self._inputs.values(), arrays):
            index, shape = details["index"], list(array.shape)
            if self._shapes[index] != shape:
                # Strict: a size that the signature fixes stays. Resized, some kernels write where they must not.
                self._interpreter.resize_tensor_input(index, shape, strict=True)
                self._shapes[index], stale = shape, True
        if stale:
            self._interpreter.allocate_tensors()
        for details, array in zip(self._inputs.values(), arrays):
            self._interpreter.set_tensor(details["index"], array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(details["index"]) for details in self._read]


def _quantize(x: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    dtype = details["dtype"]
    if not np.issubdtype(dtype, np.integer) or not details["quantization"][0]:
        return x.astype(dtype)
    scale, zero_point = details["quantization"]
    limits = np.iinfo(dtype)
    return np.clip(np.round(x / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantize(x: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if not scale and x.dtype in (np.int32, np.int64):
        return x
    return ((x.astype(np.float32) - zero_point) * scale if scale else x).astype(np.float32)


def is_accepted(buffer: bytes) -> bool:
    """Returns whether TFLite's interpreter accepts a file: it refuses some that the converter writes."""
    try:
        Interpreter(buffer)
    except ValueError:
        return False
    return True
