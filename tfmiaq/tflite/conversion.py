"""Converts a trained quantized model to a .tflite."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from typing import Any, Optional, Protocol

import numpy as np

from tfmiaq._backend import QuantizeLayer, activation_quantizers, keras, number, tf
from tfmiaq._checks import check_choice
from tfmiaq._version import __version__
from tfmiaq.quantization import quantizers
from tfmiaq.quantization.inspection import get_policy, quantized_layers
from tfmiaq.quantization.layer_graph import LayerGraph
from tfmiaq.quantization.plan import check_finite
from tfmiaq.quantization.transformations import copying
from tfmiaq.quantization.transformations.functional import input_layers, layer_of, pack_inputs, rebuild
from tfmiaq.tflite import bias_alignment
from tfmiaq.tflite.interpreter import Interpreter, quiet
from tfmiaq.tflite.metadata import write_metadata
from tfmiaq.tflite.verification import verify

_layers = keras.layers
TARGETS = ("mobile", "edgetpu")
_INTEGERS = {"int8": tf.int8, "uint8": tf.uint8}


class HasHeadline(Protocol):
    """A report whose headline figures a file's metadata can hold, such as `tfmiaq.AuditReport`."""

    def headline(self) -> dict[str, Any]:
        """Returns the figures as JSON values."""


def _check_ranges_seen(model: Any) -> None:
    unseen = [
        layer.name
        for layer in model.layers
        if isinstance(layer, QuantizeLayer) or hasattr(layer, "quantize_config")
        for _, variables in activation_quantizers(layer)
        if "seen" in variables and number(variables["seen"]) < 0.5
    ]
    if unseen:
        raise ValueError(
            f"convert: The activation ranges of {', '.join(unseen)} have seen no data. Train the quantized model for "
            "at least one step with fit, or calibrate it with tfmiaq.calibrate, before it is converted."
        )


def convert(
    model: Any,
    target: str = "mobile",
    *,
    io_type: Optional[str] = None,
    labels: Optional[Sequence[str]] = None,
    audit: Optional[HasHeadline] = None,
    check: bool = True,
) -> bytes:
    """Converts a trained quantized model to TFLite.

    Every weight becomes an int8 code that is exactly one of its bit-width's levels; no kernel but TFLite's own int8
    kernels is needed. The model's biases are moved to the int32 codes that TFLite stores, by less than half of one, so
    that the model and the file stay one network. A layer that is called on inputs of several scales keeps its biases,
    which the file rounds for each call; its outputs may then differ by a code here and there.

    For the Edge TPU, preprocessing in front of the network (Rescaling, Normalization) is left out of the file, which
    must be all integer, and written into its metadata; `audit`, `verify` and `tfmiaq.tflite.Interpreter` apply it.

    Example:
        >>> pathlib.Path("model.tflite").write_bytes(tfmiaq.convert(quantized, target="edgetpu"))

    Args:
        model: A model from `quantize_model`, trained for at least one step or calibrated (`tfmiaq.calibrate`).
        target: "mobile" for float input and output, "edgetpu" for integer input and output and no float in between.
        io_type: Type of input and output for "edgetpu": "int8" (the default) or "uint8".
        labels: Names of the classes, for the metadata.
        audit: A report of `tfmiaq.audit`, whose headline figures go into the metadata.
        check: Compare the levels of the file with the trained ones.

    Returns:
        The flatbuffer; `tfmiaq.tflite.read_metadata` reads its metadata.

    Raises:
        ValueError: An unknown target or type, labels that are not one for each class, a model that is not quantized or
            has seen no data; for "edgetpu", a model with layers that stay float; a file whose levels are not the
            trained ones.
    """
    _check_arguments(model, target, io_type, labels)
    _check_ranges_seen(model)
    check_finite(model, "convert")
    bias_alignment.align(model)
    shipped, normalization = _without_front(model) if target == "edgetpu" else (model, {})
    with tempfile.TemporaryDirectory() as folder, quiet():
        _save_function(_unrolled(shipped), folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if target == "edgetpu":
            converter.inference_input_type = converter.inference_output_type = _INTEGERS[io_type or "int8"]
        buffer: bytes = converter.convert()
    if target == "edgetpu":
        _check_integer_only(buffer)
    buffer = write_metadata(
        buffer,
        {
            "version": __version__,
            "target": target,
            # Without blanks: it is in every file.
            "policy": json.dumps(json.loads(get_policy(model).to_json()), separators=(",", ":")),
            "labels": None if labels is None else list(labels),
            "normalization": normalization,
            "audit": None if audit is None else audit.headline(),
        },
    )
    if check:
        _check_levels(model, buffer)
    return buffer


def _save_function(model: Any, folder: str) -> None:
    """Saves the function of a model, and nothing else.

    `TFLiteConverter.from_keras_model` saves the model itself first, with functions for every layer in it, which takes
    most of the time of a conversion.
    """

    def serve(*tensors: Any) -> dict[str, Any]:
        outputs = model(pack_inputs(model, tensors), training=False)
        return dict(zip(model.output_names, tf.nest.flatten(outputs)))

    specs = [tf.TensorSpec(t.shape, t.dtype, name) for t, name in zip(model.inputs, model.input_names)]
    module = tf.Module()
    module.variables_of_model = model.variables
    module.serve = tf.function(serve, autograph=False)
    with quantizers.exporting():
        traced = module.serve.get_concrete_function(*specs)
    tf.saved_model.save(module, folder, signatures=traced)


def _check_arguments(model: Any, target: str, io_type: Optional[str], labels: Optional[Sequence[str]]) -> None:
    if target == "int16x8":
        raise ValueError(
            "convert: A file of 16-bit activations would be another network than the trained one: activations of few "
            "bits take thousands of values in it, and weights of 3 to 7 bits other values (docs/layers.md). Use target "
            "'mobile' or 'edgetpu'; both hold every level exactly."
        )
    check_choice("convert", "target", target, TARGETS)
    if io_type is not None:
        check_choice("convert", "io_type", io_type, tuple(_INTEGERS))
        if target != "edgetpu":
            raise ValueError(
                f"convert: io_type 'int8' or 'uint8' goes with target 'edgetpu'. Received {io_type!r} with {target!r}."
            )
    list(quantized_layers(model))
    classes = model.outputs[0].shape[-1]
    if labels is not None and len(labels) != classes:
        raise ValueError(f"convert: Expected {classes} labels, one for each class. Received {len(labels)}.")


def _check_levels(model: Any, buffer: bytes, count: int = 4) -> None:
    """Raises ValueError if the file's levels are not the trained ones, on random records: any show them."""
    generator = np.random.default_rng(0)
    records = {
        layer_of(tensor).name: (
            generator.integers(0, 2, (count, *[size or 1 for size in tensor.shape[1:]]))
            if tensor.dtype.is_integer
            else generator.normal(size=(count, *[size or 1 for size in tensor.shape[1:]]))
        )
        for tensor in model.inputs
    }
    result = verify(model, buffer, records)
    if not result.exact:
        raise ValueError(
            f"convert: The file's levels are not the trained ones:\n{result}\n"
            "Pass check=False to get the file nevertheless, and please report the model."
        )


def _without_front(model: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Returns the model without its preprocessing, and by input the scale and the offset that replace it.

    Raises:
        ValueError: Preprocessing that is no scale and offset.
    """
    layer_graph = LayerGraph.of_quantized(model)
    inputs = {layer.name for layer in input_layers(model)}
    if layer_graph.front <= inputs:
        return model, {}
    normalization = {name: {"scale": 1.0, "offset": 0.0} for name in inputs}
    for layer in layer_graph.layers:
        if layer.name not in layer_graph.front - inputs:
            continue
        scale, offset = _scale_and_offset(layer)
        origin = _origin(layer, layer_graph)
        if layer.name not in (c.name for c in layer_graph.consumers[origin]) and len(layer_graph.consumers[origin]) > 1:
            raise ValueError(f"convert: Input {origin!r} is preprocessed in several ways; do that before the model.")
        known = normalization[origin]
        known["offset"] = np.add(np.multiply(known["offset"], scale), offset).tolist()
        known["scale"] = np.multiply(known["scale"], scale).tolist()

    def call(layer: Any, args: tuple, kwargs: dict, path: tuple) -> Any:
        return args[0] if layer.name in layer_graph.front else layer(*args, **kwargs)

    return rebuild(model, call), normalization


def _origin(layer: Any, layer_graph: LayerGraph) -> str:
    while layer_graph.inputs[layer.name]:
        layer = layer_graph.inputs[layer.name][0]
    return str(layer.name)


def _scale_and_offset(layer: Any) -> tuple[Any, Any]:
    if isinstance(layer, _layers.Rescaling):
        return np.asarray(layer.scale, float), np.asarray(layer.offset, float)
    if isinstance(layer, _layers.Normalization) and not layer.invert:
        deviation = np.maximum(np.sqrt(np.asarray(layer.variance)), keras.backend.epsilon())
        return (1.0 / deviation).reshape(-1), (-np.asarray(layer.mean) / deviation).reshape(-1)
    if type(layer).__name__.startswith("Random"):
        return 1.0, 0.0
    raise ValueError(
        f"convert: {layer.name!r} ({type(layer).__name__}) in front of the network is no scale and offset, and an Edge "
        "TPU file holds no float operation. Do it before the model, or convert with target='mobile'."
    )


def _unrolled(model: Any) -> Any:
    """Returns the model with its recurrent layers unrolled: the converter fails on loops beside int8 codes."""
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
            copying.build(copies[layer.name], args[0].shape)
            copies[layer.name].set_weights(layer.get_weights())
        return copies[layer.name](*args, **kwargs)

    return rebuild(model, call)


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
