"""Converts a trained quantized model to a .tflite."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Protocol

import numpy as np

from tfmiaq._backend import QuantizeLayer, activation_quantizers, keras, number, tf, weight_quantizers
from tfmiaq._checks import check_choice
from tfmiaq._version import __version__
from tfmiaq.quantization.export import exporting
from tfmiaq.quantization.inspection import get_policy, quantized_layers
from tfmiaq.quantization.plan import check_finite
from tfmiaq.quantization.transformations import copying
from tfmiaq.quantization.transformations.functional import (
    input_keys,
    input_layers,
    output_keys,
    pack_inputs,
    rebuild,
)
from tfmiaq.tflite import bias_alignment
from tfmiaq.tflite.flatbuffer import declare_own, operation_names, unpack
from tfmiaq.tflite.front import normalized_inside, without_front
from tfmiaq.tflite.interpreter import is_accepted
from tfmiaq.tflite.metadata import write_metadata
from tfmiaq.tflite.packed_runtime import check_runs_packed
from tfmiaq.tflite.packing import pack_weights
from tfmiaq.tflite.quiet import quiet
from tfmiaq.tflite.standard_metadata import write_standard_metadata
from tfmiaq.tflite.verification import verify

_layers = keras.layers
TARGETS = ("mobile", "edgetpu")
# Sizes of random records where the model leaves them open, the first that every window fits in.
_OPEN_SIZES = (32, 64, 128, 256)
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
    input_shape: Any = None,
    pack: bool = False,
) -> bytes:
    """Converts a trained quantized model to TFLite.

    Every weight becomes an int8 code that is exactly one of its bit-width's levels; no kernel but TFLite's own int8
    kernels is needed. The model's biases are moved to the int32 codes that TFLite stores, by less than half of one, so
    that the model and the file stay one network. A layer that is called on inputs of several scales keeps its biases,
    which the file rounds for each call; its outputs may then differ by a code here and there.

    With integer ends (`io_type`, and always for the Edge TPU), preprocessing in front of the network (Rescaling,
    Normalization) is left out of the file and written into its metadata; `audit`, `verify` and
    `tfmiaq.tflite.Interpreter` apply it. Readers of TensorFlow Lite's standard metadata find it too, and the labels, in
    the file labels.txt (docs/android.md).

    A file for the Edge TPU takes one record in a run, as its compiler wants sizes that are constants. A mobile file
    takes any number, unless its graph would have to compute with that number, as those of Conv2DTranspose, dilated
    convolutions and recurrent layers would: then it takes one too. A batch that the model's Input fixes is kept. Sizes
    that the model leaves open stay open in a mobile file. `tfmiaq.tflite.Interpreter` runs them all on any number of
    records.

    With `pack`, weights of 1 to 4 bits take half a byte where TFLite has a kernel that computes with them exactly: in
    Dense layers, and in 1 x 1 convolutions of stride 1. The others stay int8; `tfmiaq.tflite.stored_weights` tells
    which, and why. The biases of packed layers are moved further: at 4 bits by up to half of input scale times weight
    step, at 3 bits by half of that, at 2 and 1 by a seventh. The model takes them over, so that files converted from it
    afterwards, packed or not, give the same outputs, bit by bit. Packed files run on XNNPACK, from TensorFlow 2.21 or
    LiteRT 2.1 on (docs/packed.md).

    Example:
        >>> pathlib.Path("model.tflite").write_bytes(tfmiaq.convert(quantized, target="edgetpu"))
        >>> print(tfmiaq.tflite.stored_weights(tfmiaq.convert(quantized, pack=True)))

    Args:
        model: A model from `quantize_model`, trained for at least one step or calibrated (`tfmiaq.calibrate`).
        target: "mobile" for float input and output, unless `io_type` says otherwise; "edgetpu" for integer input and
            output and no float in between.
        io_type: Type of input and output: "int8" or "uint8". None for "int8" for "edgetpu", and float for "mobile".
        labels: Names of the classes, for the metadata. A model of one unit has two; labels.txt, which has a line for
            each output, then holds that of class 1.
        audit: A report of `tfmiaq.audit`, whose headline figures go into the metadata.
        check: Compare levels and outputs of the file with the trained ones, as `verify` does, on random records.
        input_shape: Shape of one record, for a model that leaves sizes open; for several inputs a dictionary by name.
            "edgetpu" needs it for such a model.
        pack: Two weights of up to 4 bits in a byte; for "mobile".

    Returns:
        The flatbuffer; `tfmiaq.tflite.read_metadata` reads its metadata.

    Raises:
        ValueError: An unknown target or type, labels that are not one for each class, a model that is not quantized or
            has seen no data; an `io_type` of ends that stay float; for "edgetpu", a model with layers that stay float,
            or with open sizes and no `input_shape`; a file whose levels or outputs are not the trained ones; `pack` for
            "edgetpu", or with `check` where this TensorFlow does not run packed files.
    """
    _check_arguments(model, target, io_type, labels, audit)
    _check_packing(pack, target, check)
    shapes = _shapes(model, target, input_shape)
    _check_lengths(model, shapes)
    _check_ranges_seen(model)
    check_finite(model, "convert")
    bias_alignment.align(model, packed=pack)
    io_type = io_type or ("int8" if target == "edgetpu" else None)
    shipped, normalization = without_front(model) if io_type else (model, {})
    buffer = _converted(_unrolled(shipped, shapes), io_type, shapes)
    if io_type:
        _check_ends(buffer, io_type)
    if target == "edgetpu":
        _check_integer_only(buffer)
    buffer = write_metadata(
        pack_weights(buffer) if pack else buffer,
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
    buffer = write_standard_metadata(
        buffer,
        name=model.name,
        version=__version__,
        labels=None if labels is None else labels[-model.outputs[0].shape[-1] :],
        normalization=normalization or normalized_inside(shipped),
    )
    declare_own(buffer)
    if check:
        _check_levels(model, buffer, shapes)
    return buffer


def _shapes(model: Any, target: str, input_shape: Any) -> dict[str, tuple[Optional[int], ...]]:
    """Returns the shape of each input, the batch in front; sizes are None where they stay open.

    Raises:
        ValueError: Shapes that are not the model's, or open sizes for the Edge TPU.
    """
    keys = input_keys(model)
    given = {} if input_shape is None else input_shape if isinstance(input_shape, dict) else {keys[0]: input_shape}
    if set(given) - set(keys) or (given and not isinstance(input_shape, dict) and len(keys) > 1):
        raise ValueError(
            f"convert: Expected input_shape by the names of inputs, {', '.join(keys)}. Received {input_shape!r:.200}."
        )
    batches = {tensor.shape[0] for tensor in model.inputs} - {None}
    batch = batches.pop() if batches else 1 if target == "edgetpu" else None
    shapes = {}
    for key, tensor in zip(keys, model.inputs):
        own = tuple(tensor.shape[1:])
        shape = tuple(given.get(key, own))
        if len(shape) != len(own) or any(size not in (None, wanted) for size, wanted in zip(own, shape)):
            raise ValueError(f"convert: Input {key!r} takes records of shape {own}. Received input_shape {shape}.")
        if target == "edgetpu" and None in shape:
            raise ValueError(
                f"convert: The Edge TPU takes constant sizes, and input {key!r} takes records of shape {own}. Pass "
                f"input_shape, the shape of one record, or convert with target='mobile'."
            )
        shapes[key] = (batch, *shape)
    return shapes


def _converted(model: Any, io_type: Optional[str], shapes: dict[str, tuple[Optional[int], ...]]) -> bytes:
    """Returns the file of a model, for any number of records where that costs no operation."""

    def once(batch: Optional[int]) -> bytes:
        with tempfile.TemporaryDirectory() as folder, quiet():
            _save_function(model, folder, {key: (batch, *shape[1:]) for key, shape in shapes.items()})
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if io_type is not None:
                converter.inference_input_type = converter.inference_output_type = _INTEGERS[io_type]
            return bytes(converter.convert())

    batch = next(iter(shapes.values()))[0]
    buffer = once(batch)
    if batch is None and _computes_with_batch(buffer):
        of_one = once(1)
        # Open sizes may take these operations, whatever the batch.
        if len(operation_names(unpack(of_one))) < len(operation_names(unpack(buffer))) and is_accepted(of_one):
            return of_one
    return buffer


def _computes_with_batch(buffer: bytes) -> bool:
    """Returns whether operations of a file read the shape of a tensor, or move what is dilated into the batch."""
    return bool({"SHAPE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"} & set(operation_names(unpack(buffer))))


def _save_function(model: Any, folder: str, shapes: dict[str, tuple[Optional[int], ...]]) -> None:
    """Saves the function of a model for inputs of the given shapes, and nothing else.

    `TFLiteConverter.from_keras_model` saves the model itself first, with functions for every layer in it, which takes
    most of the time of a conversion.
    """

    def serve(*tensors: Any) -> dict[str, Any]:
        outputs = model(pack_inputs(model, tensors), training=False)
        return dict(zip(output_keys(model), tf.nest.flatten(outputs)))

    keys = input_keys(model)
    specs = [tf.TensorSpec(shapes[key], tensor.dtype, key) for key, tensor in zip(keys, model.inputs)]
    # Without the function itself, which TensorFlow would trace once more for the file.
    module = tf.Module()
    kernels = [found for wrapper in quantized_layers(model) for found in weight_quantizers(wrapper)]
    with exporting(kernels) as export:
        traced = tf.function(serve, autograph=False).get_concrete_function(*specs)
    module.weights, module.variables_read = export.variables, list(traced.graph.variables)
    tf.saved_model.save(module, folder, signatures=traced)


def numbers_of_labels(units: int) -> tuple[int, ...]:
    """Returns how many names the classes of a model may have: one unit tells two classes apart, or names one."""
    return (2, 1) if units == 1 else (units,)


def _check_arguments(model: Any, target: str, io_type: Optional[str], labels: Any, audit: Any) -> None:
    if target == "int16x8":
        raise ValueError(
            "convert: A file of 16-bit activations would be another network than the trained one: activations of few "
            "bits take thousands of values in it, and weights of 3 to 7 bits other values (docs/how_it_works.md). Use "
            "target 'mobile' or 'edgetpu'; both hold every level exactly."
        )
    check_choice("convert", "target", target, TARGETS)
    if io_type is not None:
        check_choice("convert", "io_type", io_type, tuple(_INTEGERS))
    list(quantized_layers(model))
    units = model.outputs[0].shape[-1]
    if labels is not None and (isinstance(labels, str) or len(labels) not in numbers_of_labels(units)):
        expected = " or ".join(map(str, numbers_of_labels(units)))
        raise ValueError(f"convert: Expected {expected} labels, one for each class. Received {labels!r:.80}.")
    if labels is not None and any("\n" in str(label) for label in labels):
        raise ValueError(f"convert: Expected labels of one line each. Received {labels!r:.80}.")
    if audit is not None and not callable(getattr(audit, "headline", None)):
        raise TypeError(f"convert: Expected audit to be a report of tfmiaq.audit, or None. Received {audit!r:.80}.")


def _check_packing(pack: bool, target: str, check: bool) -> None:
    if pack and target != "mobile":
        raise ValueError(
            f"convert: pack=True goes with target 'mobile'. Received {target!r}, which takes int8 weights."
        )
    if pack and check:
        check_runs_packed(
            "convert", "tensorflow", "; or pass check=False for a file that is not compared with the model"
        )


def _check_levels(model: Any, buffer: bytes, shapes: dict[str, tuple[Optional[int], ...]]) -> None:
    """Raises ValueError if the file's levels or outputs are not the trained ones, on random records: any show them."""
    result = verify(model, buffer, _random_records(model, shapes))
    if not result.exact:
        what = "outputs" if all(layer.exact for layer in result.layers) else "levels"
        raise ValueError(
            f"convert: The file's {what} are not the trained ones:\n{result}\n"
            "Pass check=False to get the file nevertheless, and please report the model."
        )


def _random_records(model: Any, shapes: dict[str, tuple[Optional[int], ...]], count: int = 4) -> dict[str, np.ndarray]:
    """Returns random records; what the model and the file leave open takes a size that no window is larger than."""
    generator = np.random.default_rng(0)
    size = _OPEN_SIZES[0]
    if any(None in shape[1:] for shape in shapes.values()):
        size = next((size for size in _OPEN_SIZES if _holds(model, shapes, size)), _OPEN_SIZES[-1])
    records: dict[str, np.ndarray] = {}
    for key, tensor in zip(input_keys(model), model.inputs):
        # Never fewer: a single record leaves nothing to the second device of a distributed model.
        shape = (max(count, shapes[key][0] or 0), *[known or size for known in shapes[key][1:]])
        if tensor.dtype.is_integer:
            records[key] = generator.integers(0, 256 if tensor.dtype == tf.uint8 else 2, shape)
        else:
            records[key] = generator.normal(size=shape)
    return records


def _holds(model: Any, shapes: dict[str, tuple[Optional[int], ...]], size: int) -> bool:
    """Returns whether records whose open sizes are `size` leave an output."""
    filled = [
        tf.zeros((count or 1, *[known or size for known in shape]), tensor.dtype)
        for (count, *shape), tensor in zip(shapes.values(), model.inputs)
    ]
    try:
        outputs = model(pack_inputs(model, filled), training=False)
    except (ValueError, tf.errors.InvalidArgumentError):
        return False
    return all(0 not in output.shape for output in tf.nest.flatten(outputs))


def _check_lengths(model: Any, shapes: Mapping[str, Sequence[Optional[int]]]) -> None:
    """Raises ValueError if a recurrent layer, which is unrolled, reads sequences of any length."""
    open_sizes = any(None in shape[1:] for shape in shapes.values())
    endless = [layer.name for layer in model.layers if _is_recurrent(layer) and _length(layer) is None]
    if endless and open_sizes:
        raise ValueError(
            f"convert: {', '.join(map(repr, endless))} reads sequences of any length, and is unrolled in the file. "
            "Pass input_shape, the shape of one record."
        )


def _length(layer: Any) -> Optional[int]:
    shape = layer.input_shape
    length: Optional[int] = (shape[0] if isinstance(shape, list) else shape)[1]
    return length


def _unrolled(model: Any, shapes: Mapping[str, Sequence[Optional[int]]]) -> Any:
    """Returns the model with its recurrent layers unrolled: the converter fails on loops beside int8 codes."""
    if not any(_is_recurrent(layer) for layer in model.layers):
        return model
    names = [layer.name for layer in input_layers(model)]
    sizes = {
        name: {"batch_input_shape": (tensor.shape[0], *shapes[key][1:])}
        for name, key, tensor in zip(names, input_keys(model), model.inputs)
    }
    copies: dict[str, Any] = {}

    def call(layer: Any, args: tuple, kwargs: dict, path: tuple) -> Any:
        if not _is_recurrent(layer):
            return layer(*args, **kwargs)
        if layer.name not in copies:
            config = layer.get_config()
            inner = config["layer"]["config"] if isinstance(layer, _layers.Bidirectional) else config
            inner["unroll"] = True
            copies[layer.name] = type(layer).from_config(config)
            copying.build(copies[layer.name], copying.shapes_of(args[0]))
            copies[layer.name].set_weights(layer.get_weights())
        return tf.nest.map_structure(_kept_float, copies[layer.name](*args, **kwargs))

    return rebuild(model, call, input_configs=sizes)


def _kept_float(outputs: Any) -> Any:
    """Returns the outputs of a float layer, through an operation that the converter takes no int8 range back through.

    It would round the last step of a layer that is unrolled, and with a mask every state, to the range behind it.
    """
    return tf.reverse(outputs[..., None], [-1])[..., 0]


def _is_recurrent(layer: Any) -> bool:
    return isinstance(layer, (_layers.RNN, _layers.Bidirectional))


def _check_ends(buffer: bytes, io_type: str) -> None:
    """Raises ValueError if an input or output of a file stays float."""
    from tensorflow.lite.python import schema_py_generated as schema

    graph, floats = unpack(buffer).subgraphs[0], schema.TensorType.FLOAT32
    names = [t.name.decode() for t in (graph.tensors[i] for i in (*graph.inputs, *graph.outputs)) if t.type == floats]
    if names:
        raise ValueError(
            f"convert: Layers that stay float read or make {', '.join(names[:5])}, which cannot be {io_type}. Give "
            "these layers 8 bits, or convert with io_type=None."
        )


def _check_integer_only(buffer: bytes) -> None:
    from tensorflow.lite.python import schema_py_generated as schema

    kinds = (schema.TensorType.FLOAT16, schema.TensorType.FLOAT32, schema.TensorType.FLOAT64)
    floats = [tensor.name.decode() for tensor in unpack(buffer).subgraphs[0].tensors if tensor.type in kinds]
    if floats:
        raise ValueError(
            f"convert: The Edge TPU takes integer tensors only, and {len(floats)} are float: {', '.join(floats[:5])}. "
            "Give the layers that the policy leaves float 8 bits, or convert with target='mobile'."
        )
