"""Runs a .tflite on float arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._checks import AT_LEAST_ONE, Where, check, check_choice, integer, real
from tfmiaq.tflite.flatbuffer import TFLiteModel, is_own, is_packed, read_model
from tfmiaq.tflite.metadata import read_metadata
from tfmiaq.tflite.packed_runtime import check_runs_packed
from tfmiaq.tflite.runtimes import RUNTIMES, InChild, InProcess

_ISOLATED = Where(lambda value: value is None or isinstance(value, bool), "True, False or None")
_THREADS = integer(1, or_none=True, none_means="the runtime's default")


class Interpreter:
    """Runs a .tflite on float arrays, whatever its own types, normalized as its metadata says.

    Args:
        model: Bytes or path of a .tflite.
        keep_tensors: Keep every intermediate tensor for `tensor`.
        runtime: "tensorflow", or "litert" for the runtime that Android ships (package ai-edge-litert).
        threads: Threads of the interpreter; None for its default.
        also: Indices of further outputs of the file's graph, for `predict_also`.
        isolated: Run the file in a child process, which dies in the place of this one if the interpreter does. None for
            all files but those that this process has converted.
        timeout: Seconds that one run in a child process may take, above 0. A child that takes longer is ended.

    Raises:
        ValueError: No TFLite model, a damaged one, one that the interpreter refuses or dies of, an unknown runtime,
            numbers out of their ranges, or packed weights that the runtime does not compute with.
        ImportError: The runtime is not installed.
    """

    def __init__(
        self,
        model: TFLiteModel,
        keep_tensors: bool = False,
        runtime: str = "tensorflow",
        threads: Optional[int] = None,
        also: Sequence[int] = (),
        isolated: Optional[bool] = None,
        timeout: float = 600.0,
    ) -> None:
        check_choice("Interpreter", "runtime", runtime, RUNTIMES)
        numbers = {"threads": (threads, _THREADS), "timeout": (timeout, real(0, closed="neither"))}
        checked = check("Interpreter", isolated=(isolated, _ISOLATED), **numbers)
        data = read_model(model)
        if is_packed(data):
            check_runs_packed("Interpreter", runtime, "; or convert without pack=True")
        self.isolated = not is_own(data) if isolated is None else isolated
        """Whether the file runs in a child process."""
        kind = InChild if self.isolated else InProcess
        try:
            self._runtime: Any = kind(data, runtime, keep_tensors, checked["threads"], checked["timeout"])
            known = self._runtime.details()
        except (ValueError, RuntimeError) as error:
            if str(error).startswith("damaged .tflite"):
                raise
            raise ValueError(f"The TFLite interpreter refuses the model: {error}") from error
        self._normalization = _normalization(read_metadata(data) or {})
        inputs, outputs, self._tensors = known["inputs"], known["outputs"], known["tensors"]
        self._inputs = {details["name"]: details for details in inputs}
        self._also = [details for details in outputs if details["index"] in also]
        self._outputs = {details["name"]: details for details in outputs if details["index"] not in also}
        if known["signature"] is not None:
            # Only the signature keeps the names of the Keras model.
            by_index = {details["index"]: details for details in (*inputs, *outputs)}
            self._inputs, self._outputs = (
                {name: by_index[details["index"]] for name, details in side.items()} for side in known["signature"]
            )
        self._shapes = {details["index"]: [int(size) for size in details["shape"]] for details in inputs}
        self._own_batch = self._fixed_batch()

    def _normalized(self, name: str, array: np.ndarray) -> np.ndarray:
        """Returns the records as the file takes them: it has no float layer of its own that scales them."""
        if name not in self._normalization:
            return array
        known = self._normalization[name]
        return array * known["scale"] + known["offset"]

    def tensor_details(self) -> list[dict[str, Any]]:
        """Returns name, shape, type and quantization of every tensor."""
        return list(self._tensors)

    def tensor(self, index: int) -> np.ndarray:
        """Returns the value of one tensor, as stored."""
        return self._runtime.tensor(index)

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
        arrays = [np.concatenate(parts) for parts in zip(*self._runs(x, batch_size, together=True))]
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
        return self._runs(x, batch_size, together=False)

    def _runs(self, x: Any, batch_size: int, together: bool) -> Iterator[list[np.ndarray]]:
        """Yields outputs as `runs`; those of a batch come together where no tensor is read between them."""
        batch_size = check("predict", batch_size=(batch_size, AT_LEAST_ONE))["batch_size"]
        arrays = self._arrays(x)
        for start in range(0, len(arrays[0]), batch_size):
            try:
                yield from self._run([array[start : start + batch_size] for array in arrays], together)
            except RuntimeError as error:
                raise ValueError(f"The TFLite interpreter cannot run the model: {error}") from error

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
        if 0 in sizes or any(self._shapes[details["index"]][:1] == [0] for details in self._inputs.values()):
            raise ValueError("damaged .tflite: an input takes no records.")
        return sizes.pop() if sizes else None

    def _arrays(self, x: Any) -> list[np.ndarray]:
        if isinstance(x, dict):
            missing = [name for name in self._inputs if name not in x]
            if missing:
                raise ValueError(
                    f"predict: Expected records of {', '.join(self._inputs)}. Received none of {', '.join(missing)}."
                )
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
        if not len(arrays[0]) or len({len(array) for array in arrays}) > 1:
            counts = ", ".join(str(len(array)) for array in arrays)
            raise ValueError(f"predict: Expected at least one record, as many for each input. Received {counts}.")
        return arrays

    def _run(self, arrays: list[np.ndarray], together: bool) -> Iterator[list[np.ndarray]]:
        """Yields the outputs of one run, or of several of the file's own batch size if it takes no other."""
        given = [
            _quantize(self._normalized(name, array), details)
            for (name, details), array in zip(self._inputs.items(), arrays)
        ]
        count = len(given[0])
        if self._own_batch is None:
            shape = self._shapes[next(iter(self._inputs.values()))["index"]]
            try:
                (outputs,) = self._invoke([given])
                if count == shape[0] or all(len(output) == count for output in outputs):
                    yield outputs
                    return
            except RuntimeError:
                if count == shape[0]:
                    raise
            # The signature says any number, but a constant of the graph says one.
            self._own_batch = shape[0]
        size = self._own_batch
        missing = -count % size
        if missing:
            given = [np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in given]
        pieces = [[array[start : start + size] for array in given] for start in range(0, count, size)]
        for some in [pieces] if together else [[piece] for piece in pieces]:
            for outputs in self._invoke(some):
                left = count = count - size
                yield [output[: size + left] for output in outputs] if left < 0 else outputs

    def _invoke(self, runs: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
        """Returns the outputs of runs on inputs of the same shapes."""
        stale = False
        for details, array in zip(self._inputs.values(), runs[0]):
            index, shape = details["index"], list(array.shape)
            if self._shapes[index] != shape:
                self._runtime.resize(index, shape)
                self._shapes[index], stale = shape, True
        if stale:
            self._runtime.allocate()
        indices = [details["index"] for details in self._inputs.values()]
        return self._runtime.run([list(zip(indices, arrays)) for arrays in runs], [d["index"] for d in self._read])


def _normalization(metadata: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Returns scale and offset of each input that the file does not normalize itself.

    Raises:
        ValueError: Others than numbers.
    """
    found = metadata.get("normalization") or {}
    try:
        return {
            name: {part: np.asarray(known[part], np.float32) for part in ("scale", "offset")}
            for name, known in found.items()
        }
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"damaged .tflite: the normalization in its metadata is {found!r:.80}.") from error


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
    """Returns whether TFLite's interpreter accepts a file that the converter wrote here: it refuses some of them."""
    try:
        Interpreter(buffer, isolated=False)
    except ValueError:
        return False
    return True
