"""From a trained quantized model to a .tflite, and the proof that it is the same network."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any, Optional, Union

import numpy as np

from tfmiaq import quantizers
from tfmiaq._backend import QuantizeLayer, activation_quantizers, tf, weight_quantizers
from tfmiaq.layer_summary import format_table, quantized_layers

TARGETS = ("mobile", "edgetpu")
_IDENTIFIER = b"TFL3"
TFLiteModel = Union[bytes, str, "os.PathLike[str]"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's notes on what it always does."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check_ranges_seen(model: Any) -> None:
    unseen = [
        layer.name
        for layer in model.layers
        if isinstance(layer, QuantizeLayer) or hasattr(layer, "quantize_config")
        for _, variables in activation_quantizers(layer)
        if "seen" in variables and float(variables["seen"]) < 0.5
    ]
    if unseen:
        raise ValueError(
            f"convert: The activation ranges of {', '.join(unseen)} have seen no data. Train the quantized model for "
            "at least one step with fit before it is converted."
        )


def convert(model: Any, target: str = "mobile") -> bytes:
    """Converts a trained quantized model to TFLite.

    Every weight becomes an int8 code that is exactly one of its bit-width's levels; no kernel but TFLite's own int8
    kernels is needed.

    Example:
        >>> pathlib.Path("model.tflite").write_bytes(tfmiaq.convert(quantized, target="edgetpu"))

    Args:
        model: A model from `quantize_model`, trained for at least one step.
        target: "mobile" for float input and output, "edgetpu" for int8 input and output.

    Returns:
        The flatbuffer.

    Raises:
        ValueError: An unknown target, a model that is not quantized or has seen no data, or, for "edgetpu", a model
            with layers that stay float.
    """
    if target not in TARGETS:
        raise ValueError(f"convert: Unknown target {target!r}. Expected one of {', '.join(map(repr, TARGETS))}.")
    list(quantized_layers(model))
    _check_ranges_seen(model)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if target == "edgetpu":
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    with _quiet():
        buffer: bytes = converter.convert()
    if target == "edgetpu":
        _check_integer_only(buffer)
    return buffer


def _check_integer_only(buffer: bytes) -> None:
    floats = [
        str(tensor["name"])
        for tensor in Interpreter(buffer).tensor_details()
        if np.issubdtype(tensor["dtype"], np.floating)
    ]
    if floats:
        raise ValueError(
            f"convert: The Edge TPU takes integer tensors only, and {len(floats)} are float: {', '.join(floats[:5])}. "
            "Give the layers that the policy leaves float 8 bits, or convert with target='mobile'."
        )


def read_model(model: TFLiteModel) -> bytes:
    """The bytes of a .tflite given as bytes or as a path.

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
    if data[4:8] != _IDENTIFIER:
        raise ValueError(f"{name} is no TFLite model: its identifier is {data[4:8]!r}, not {_IDENTIFIER!r}.")
    return data


class Interpreter:
    """A .tflite that takes and gives float arrays, whatever its own types.

    Args:
        model: Bytes or path of a .tflite with one input and one output.
        keep_tensors: Keep every intermediate tensor for `tensor`.

    Raises:
        ValueError: No TFLite model, or one that the interpreter refuses.
    """

    def __init__(self, model: TFLiteModel, keep_tensors: bool = False) -> None:
        data = read_model(model)
        try:
            with _quiet():
                self._interpreter = tf.lite.Interpreter(
                    model_content=data, experimental_preserve_all_tensors=keep_tensors
                )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"The TFLite interpreter refuses the model: {error}") from error
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def tensor_details(self) -> list[dict[str, Any]]:
        """Name, shape, type and quantization of every tensor."""
        return list(self._interpreter.get_tensor_details())

    def tensor(self, index: int) -> np.ndarray:
        """The value of one tensor, as stored."""
        return self._interpreter.get_tensor(index)

    def predict(self, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """The outputs for records of shape (n, ...), dequantized, as float32 of shape (n, ...)."""
        outputs = [self._run(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
        return np.concatenate(outputs)

    def _run(self, x: np.ndarray) -> np.ndarray:
        if list(self._interpreter.get_input_details()[0]["shape"]) != list(x.shape):
            self._interpreter.resize_tensor_input(self._input["index"], list(x.shape))
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._input["index"], _quantize(x, self._input))
        self._interpreter.invoke()
        return _dequantize(self._interpreter.get_tensor(self._output["index"]), self._output)


def _quantize(x: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    dtype = details["dtype"]
    if not np.issubdtype(dtype, np.integer) or not details["quantization"][0]:
        return x.astype(dtype)
    scale, zero_point = details["quantization"]
    limits = np.iinfo(dtype)
    return np.clip(np.round(x / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantize(x: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    scale, zero_point = details["quantization"]
    return ((x.astype(np.float32) - zero_point) * scale if scale else x).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class LayerLevels:
    """Levels of one tensor, as trained and as stored.

    Attributes:
        name: Layer name.
        tensor: "weight" or "activation".
        bits: Its bit-width.
        trained: Number of distinct levels of the trained tensor; for activations, the most that the bits allow.
        stored: Number of distinct levels in the .tflite; for activations, those that the records reached.
        exact: Weights: every stored code is the trained one. Activations: no code outside the trained levels.
    """

    name: str
    tensor: str
    bits: int
    trained: int
    stored: int
    exact: bool


@dataclasses.dataclass(frozen=True)
class Verification:
    """How far a .tflite is the trained model; prints as a table.

    Attributes:
        agreement: Share of records on which both choose the same class, 0 to 1.
        largest_difference: Largest absolute difference between any two outputs.
        layers: Levels of each quantized weight and ReLU output.
    """

    agreement: float
    largest_difference: float
    layers: tuple[LayerLevels, ...]

    @property
    def exact(self) -> bool:
        """Whether every tensor has exactly the trained levels."""
        return all(layer.exact for layer in self.layers)

    def __str__(self) -> str:
        rows = [
            (f"{row.name} {row.tensor}", str(row.bits), str(row.trained), str(row.stored), "yes" if row.exact else "NO")
            for row in self.layers
        ]
        return (
            f"{format_table(('tensor', 'bits', 'trained levels', 'stored levels', 'exact'), rows)}\n"
            f"labels agree on {self.agreement:.2%} of records, largest output difference {self.largest_difference:.4g}"
        )


def verify(model: Any, tflite: TFLiteModel, x: np.ndarray) -> Verification:
    """Compares a .tflite with the quantized model that it was converted from.

    Args:
        model: The trained model from `quantize_model`.
        tflite: What `convert` returned, or the path of a file with it.
        x: Records, shape (n, ...), n >= 1.

    Returns:
        Agreement of labels, largest difference of outputs, and each layer's levels.

    Raises:
        ValueError: A model that is not quantized, no TFLite model, or no records.
    """
    wrappers = list(quantized_layers(model))
    x = np.asarray(x, np.float32)
    if not len(x):
        raise ValueError("verify: Expected at least one record. Received none.")
    interpreter = Interpreter(tflite, keep_tensors=True)
    stored = interpreter.predict(x)
    trained = model.predict(x, verbose=0)
    layers = [*_compare_weights(wrappers, interpreter), *_compare_activations(wrappers, interpreter)]
    return Verification(
        agreement=float(np.mean(stored.argmax(-1) == trained.argmax(-1))),
        largest_difference=float(np.abs(stored - trained).max()),
        layers=tuple(layers),
    )


def _as_stored(codes: np.ndarray, depthwise: bool, dense: bool) -> np.ndarray:
    if dense:
        return codes.T
    if depthwise:
        return codes.reshape(1, *codes.shape[:2], -1)
    return np.transpose(codes, (3, 0, 1, 2))


def _up_to_sign(codes: np.ndarray, axis: int) -> np.ndarray:
    """Codes with the sign of each channel's sum fixed: a BatchNormalization of negative scale flips a channel."""
    axes = tuple(i for i in range(codes.ndim) if i != axis)
    flat = np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1)
    first = np.array([row[np.flatnonzero(row)[0]] if row.any() else 1 for row in flat])
    return codes * np.expand_dims(np.sign(first), axes)


def _compare_weights(wrappers: list[Any], interpreter: Interpreter) -> Iterator[LayerLevels]:
    constants = {
        tensor["index"]: tensor
        for tensor in interpreter.tensor_details()
        if tensor["dtype"] == np.int8 and tensor["shape"].size in (2, 4) and _is_kernel(tensor)
    }
    for wrapper in wrappers:
        for kernel, quantizer, variables in weight_quantizers(wrapper):
            bits = round(float(variables["bits"]))
            codes = quantizers.weight_codes(kernel, float(bits), quantizer.per_channel)[0].numpy()
            depthwise = "depthwise" in wrapper.quantize_config.kernel
            codes = _as_stored(codes, depthwise, dense=codes.ndim == 2) * float(quantizers.int8_refinement(bits))
            axis = 3 if depthwise else 0
            expected = _up_to_sign(codes, axis)
            best: Optional[int] = None
            best_share, best_codes = -1.0, np.zeros(0)
            for index, tensor in constants.items():
                if list(tensor["shape"]) != list(codes.shape):
                    continue
                found = interpreter.tensor(index).astype(np.float32)
                share = float(np.mean(_up_to_sign(found, axis) == expected))
                if share > best_share:
                    best, best_share, best_codes = index, share, found
            if best is not None and best_share == 1.0:
                del constants[best]
            yield LayerLevels(
                name=wrapper.layer.name,
                tensor="weight",
                bits=bits,
                trained=len(np.unique(codes)),
                stored=len(np.unique(best_codes)),
                exact=best_share == 1.0,
            )


def _is_kernel(tensor: dict[str, Any]) -> bool:
    return bool(np.all(tensor["quantization_parameters"]["zero_points"] == 0))


def _compare_activations(wrappers: list[Any], interpreter: Interpreter) -> Iterator[LayerLevels]:
    details = [tensor for tensor in interpreter.tensor_details() if tensor["dtype"] == np.int8]
    for wrapper in wrappers:
        for quantizer, variables in activation_quantizers(wrapper):
            if not isinstance(quantizer, quantizers.ReluQuantizer):
                continue
            bits = round(float(variables["bits"]))
            levels = 2**bits
            scale, zero_point = float(variables["max"]) / (levels - 1), 128 - levels
            codes = [
                interpreter.tensor(tensor["index"])
                for tensor in details
                if tensor["quantization"][1] == zero_point
                and np.isclose(tensor["quantization"][0], scale, rtol=1e-5, atol=0)
            ]
            found = np.unique(np.concatenate([c.ravel() for c in codes])) if codes else np.zeros(0)
            yield LayerLevels(
                name=wrapper.layer.name,
                tensor="activation",
                bits=bits,
                trained=levels,
                stored=len(found),
                exact=bool(len(found)) and bool(found.min() >= zero_point),
            )
