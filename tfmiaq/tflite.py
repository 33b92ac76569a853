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

from tfmiaq import biases, graph, quantizers
from tfmiaq._backend import QuantizeLayer, activation_quantizers, keras, tf, weight_quantizers
from tfmiaq.layer_summary import format_table, quantized_layers

_layers = keras.layers
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
    kernels is needed. The model's biases are moved to the int32 codes that TFLite stores, by less than half of one, so
    that the model and the file stay one network.

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
    biases.align(model)
    converter = tf.lite.TFLiteConverter.from_keras_model(_unrolled(model))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if target == "edgetpu":
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    with _quiet():
        buffer: bytes = converter.convert()
    if target == "edgetpu":
        _check_integer_only(buffer)
    return buffer


def _unrolled(model: Any) -> Any:
    """The model with its recurrent layers unrolled: the converter fails on loops beside int8 codes."""
    if not any(_is_recurrent(layer) for layer in model.layers):
        return model
    copies: dict[str, Any] = {}

    def call(layer: Any, args: tuple, kwargs: dict, path: tuple) -> Any:
        if not _is_recurrent(layer):
            return layer(*args, **kwargs)
        if layer.name not in copies:
            config = layer.get_config()
            inner = config["layer"]["config"] if isinstance(layer, _layers.Bidirectional) else config
            inner["unroll"] = True
            copies[layer.name] = type(layer).from_config(config)
            graph.build(copies[layer.name], args[0].shape)
            copies[layer.name].set_weights(layer.get_weights())
        return copies[layer.name](*args, **kwargs)

    return graph.rebuild(model, call)


def _is_recurrent(layer: Any) -> bool:
    return isinstance(layer, (_layers.RNN, _layers.Bidirectional))


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
        model: Bytes or path of a .tflite.
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
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._inputs = {details["name"]: details for details in inputs}
        self._outputs = {details["name"]: details for details in outputs}
        if self._interpreter.get_signature_list():
            # Only the signature keeps the names of the Keras model.
            runner = self._interpreter.get_signature_runner()
            by_index = {details["index"]: details for details in (*inputs, *outputs)}
            self._inputs = {name: by_index[d["index"]] for name, d in runner.get_input_details().items()}
            self._outputs = {name: by_index[d["index"]] for name, d in runner.get_output_details().items()}

    def tensor_details(self) -> list[dict[str, Any]]:
        """Name, shape, type and quantization of every tensor."""
        return list(self._interpreter.get_tensor_details())

    def tensor(self, index: int) -> np.ndarray:
        """The value of one tensor, as stored."""
        return self._interpreter.get_tensor(index)

    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """The outputs for records.

        Args:
            x: Array of shape (n, ...); for a model of several inputs a list of them in the order of `input_names`, or
                a dictionary by those names.
            batch_size: Records in one run.

        Returns:
            Dequantized float32 array of shape (n, ...), or a list of them in the order of `output_names`.
        """
        arrays = self._arrays(x)
        runs = [
            self._run([array[start : start + batch_size] for array in arrays])
            for start in range(0, len(arrays[0]), batch_size)
        ]
        outputs = [np.concatenate(parts) for parts in zip(*runs)]
        return outputs[0] if len(outputs) == 1 else outputs

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs of the Keras model."""
        return list(self._inputs)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs of the Keras model."""
        return list(self._outputs)

    def _arrays(self, x: Any) -> list[np.ndarray]:
        if isinstance(x, dict):
            x = [x[name] for name in self._inputs]
        arrays = list(x) if isinstance(x, (list, tuple)) else [x]
        if len(arrays) != len(self._inputs):
            raise ValueError(f"The model has {len(self._inputs)} inputs. Received {len(arrays)} arrays.")
        return arrays

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        stale = False
        shapes = {details["index"]: list(details["shape"]) for details in self._interpreter.get_input_details()}
        for details, array in zip(self._inputs.values(), arrays):
            if shapes[details["index"]] != list(array.shape):
                self._interpreter.resize_tensor_input(details["index"], list(array.shape))
                stale = True
        if stale:
            self._interpreter.allocate_tensors()
        for details, array in zip(self._inputs.values(), arrays):
            self._interpreter.set_tensor(details["index"], _quantize(array, details))
        self._interpreter.invoke()
        return [_dequantize(self._interpreter.get_tensor(d["index"]), d) for d in self._outputs.values()]


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


def verify(model: Any, tflite: TFLiteModel, x: Any) -> Verification:
    """Compares a .tflite with the quantized model that it was converted from.

    Args:
        model: The trained model from `quantize_model`.
        tflite: What `convert` returned, or the path of a file with it.
        x: Records, shape (n, ...), n >= 1; a list, or a dictionary by input name, for a model of several inputs.

    Returns:
        Agreement of labels, largest difference of outputs, and each layer's levels.

    Raises:
        ValueError: A model that is not quantized, no TFLite model, or no records.
    """
    wrappers = list(quantized_layers(model))
    x = _by_name(model, x)
    if not len(next(iter(x.values()))):
        raise ValueError("verify: Expected at least one record. Received none.")
    interpreter = Interpreter(tflite)
    arrays = [x[name] for name in interpreter.input_names] if len(x) > 1 else list(x.values())
    stored = dict(zip(interpreter.output_names, _listed(interpreter.predict(arrays))))
    trained = dict(zip(model.output_names, _listed(model.predict(list(x.values()), verbose=0))))
    pairs = (
        [(stored[name], trained[name]) for name in trained]
        if len(trained) > 1
        else [(*stored.values(), *trained.values())]
    )
    # What keeps its tensors runs on TFLite's reference kernels, whose sums round twice: only the levels are read there.
    interpreter = Interpreter(tflite, keep_tensors=True)
    interpreter.predict(arrays)
    layers = [*_compare_weights(wrappers, interpreter), *_compare_activations(wrappers, interpreter)]
    return Verification(
        agreement=float(np.mean([np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in pairs])),
        largest_difference=max(float(np.abs(a - b).max()) for a, b in pairs),
        layers=tuple(layers),
    )


def _listed(outputs: Any) -> list[np.ndarray]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _by_name(model: Any, x: Any) -> dict[str, np.ndarray]:
    """One array for each input of a Keras model, by the input's name, in its order."""
    names = [tensor._keras_history.layer.name for tensor in model.inputs]
    arrays = [x[name] for name in names] if isinstance(x, dict) else _listed(x)
    if len(arrays) != len(names):
        raise ValueError(f"verify: The model has {len(names)} inputs ({', '.join(names)}). Received {len(arrays)}.")
    return {
        name: np.asarray(array, tensor.dtype.as_numpy_dtype) for name, array, tensor in zip(names, arrays, model.inputs)
    }


def _as_stored(codes: np.ndarray, kind: str) -> np.ndarray:
    """Codes of a kernel in TFLite's order of axes."""
    if kind == "Dense":
        return codes.T
    if kind == "DepthwiseConv2D":
        return codes.reshape(1, *codes.shape[:2], -1)
    orders = {"Conv2D": (3, 0, 1, 2), "Conv2DTranspose": (2, 0, 1, 3)}
    return np.transpose(codes, orders[kind]) if kind in orders else codes


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
            kind = type(wrapper.layer).__name__
            codes = _as_stored(codes, kind) * float(quantizers.int8_refinement(bits))
            axis = 3 if kind == "DepthwiseConv2D" else 0
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
            scale, zero_point = float(quantizer.scale(variables)), 128 - levels
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
