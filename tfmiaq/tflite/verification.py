"""Compares a .tflite with the trained network: levels of weights and activations, and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfmiaq._backend import activation_quantizers, number, weight_quantizers
from tfmiaq._tables import format_table, html_table
from tfmiaq.quantization import quantizers
from tfmiaq.quantization.inspection import quantized_layers, quantized_outputs
from tfmiaq.quantization.layer_graph import LayerGraph, ends_in_softmax
from tfmiaq.quantization.layer_specs import spec_of
from tfmiaq.quantization.transformations.folding import norm_as_affine
from tfmiaq.quantization.transformations.functional import called_layers, input_keys, input_layers
from tfmiaq.tflite.agreement import OutputAgreement, compare_outputs, predict
from tfmiaq.tflite.flatbuffer import TFLiteModel, unpack
from tfmiaq.tflite.interpreter import Interpreter
from tfmiaq.tflite.packing import stored_codes
from tfmiaq.tflite.steps import constants, steps_of_outputs


@dataclasses.dataclass(frozen=True)
class LayerLevels:
    """Levels of one tensor, as trained and as stored.

    Attributes:
        name: Layer name.
        tensor: "weight", "activation", or "output" for the quantized outputs of the model.
        bits: Its bit-width.
        trained: Number of distinct levels of the trained tensor; for activations, the most that the bits allow.
        stored: Number of distinct levels in the .tflite; for activations, those that the records reached.
        exact: Weights: every stored code times its scale is the trained weight. Activations: no code outside the
            trained levels.
    """

    name: str
    tensor: str
    bits: int
    trained: int
    stored: int
    exact: bool


@dataclasses.dataclass(frozen=True, repr=False)
class Verification:
    """How closely a .tflite agrees with the trained model; prints as a table.

    Attributes:
        agreement: Share of records on which both choose the same class, 0 to 1, as `OutputAgreement.agreement` defines
            it for each output; the mean over the outputs.
        largest_difference: Largest absolute difference between any two outputs.
        layers: Levels of each quantized weight and ReLU output.
        outputs: How closely each output of the file agrees with the model's.
    """

    agreement: float
    largest_difference: float
    layers: tuple[LayerLevels, ...]
    outputs: tuple[OutputAgreement, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether every tensor has exactly the trained levels, and rounding explains how outputs differ."""
        return all(layer.exact for layer in self.layers) and all(output.agrees for output in self.outputs)

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        rows: list[tuple[str, ...]] = [
            (f"{row.name} {row.tensor}", str(row.bits), str(row.trained), str(row.stored), "yes" if row.exact else "NO")
            for row in self.layers
        ]
        return ("tensor", "bits", "trained levels", "stored levels", "exact"), rows

    def _agreement_line(self) -> str:
        return (
            f"labels agree on {self.agreement:.2%} of records, largest output difference {self.largest_difference:.4g}"
        )

    def _faults(self) -> list[str]:
        return [str(output) for output in self.outputs if not output.agrees]

    def __str__(self) -> str:
        return "\n".join([format_table(*self._table()), *self._faults(), self._agreement_line()])

    def __repr__(self) -> str:
        exact = sum(row.exact for row in self.layers)
        outputs = f" {len(self._faults())} outputs are others," if self._faults() else ""
        return f"<Verification: {exact} of {len(self.layers)} tensors exact,{outputs} {self._agreement_line()}>"

    def _repr_html_(self) -> str:
        return html_table(*self._table(), note="; ".join([*self._faults(), self._agreement_line()]))


def verify(model: Any, tflite: TFLiteModel, x: Any) -> Verification:
    """Compares a .tflite with the quantized model that it was converted from.

    A file is exact when every stored level is a trained one and every output agrees with the model's within what
    rounding explains: `OutputAgreement` says how far that is. Kernels are matched by the names of their layers. Packed
    files are compared in the same way.

    Args:
        model: The trained model from `quantize_model`.
        tflite: What `convert` returned, or the path of a file with it.
        x: Records, shape (n, ...), n >= 1; a list, or a dictionary by input name, for a model of several inputs.

    Returns:
        Agreement of labels, largest difference of outputs, each layer's levels, and each output's difference in steps.

    Raises:
        ValueError: A model that is not quantized, no TFLite model, one of other inputs or outputs, or no records.
    """
    wrappers = list(quantized_layers(model))
    x = _by_name(model, x)
    if not all(np.ndim(array) and len(array) for array in x.values()):
        raise ValueError("verify: Expected at least one record. Received none.")
    interpreter = Interpreter(tflite)
    arrays = _for_file(x, interpreter)
    found = interpreter.predict(arrays)
    stored = dict(zip(interpreter.output_names, found if isinstance(found, list) else [found]))
    unpacked = unpack(tflite)
    steps = steps_of_outputs(unpacked)
    outputs = compare_outputs(
        model,
        predict(model, list(x.values())),
        stored,
        {n: steps.get(i) for n, i in interpreter.output_indices.items()},
    )
    # With its tensors kept, an interpreter runs TFLite's reference kernels, whose sums round twice: only levels count.
    interpreter = Interpreter(tflite, keep_tensors=True)
    codes = _Codes(interpreter, constants(unpacked))
    for _ in interpreter.runs(arrays):
        codes.update()
    layers = [
        *_compare_weights(model, wrappers, _Kernel.all_of(unpacked)),
        *_compare_activations(wrappers, codes),
        *_compare_outputs(model, codes),
    ]
    return Verification(
        agreement=float(np.mean([output.agreement for output in outputs])),
        largest_difference=max(output.largest_difference for output in outputs),
        layers=tuple(layers),
        outputs=tuple(outputs),
    )


def _for_file(x: dict[str, np.ndarray], interpreter: Interpreter) -> list[np.ndarray]:
    """Returns the arrays in the order of a file's inputs.

    Raises:
        ValueError: A file of other inputs.
    """
    names = interpreter.input_names
    if len(x) == 1 == len(names):
        return list(x.values())
    if set(names) != set(x):
        raise ValueError(
            f"verify: The file has the inputs {', '.join(names)}, and the model {', '.join(x)}: it is of another model."
        )
    return [x[name] for name in names]


class _Codes:
    """Which codes the int8 tensors of a file have taken in all runs."""

    def __init__(self, interpreter: Interpreter, constants: set[int]) -> None:
        self._interpreter = interpreter
        self._seen: dict[tuple[float, int], np.ndarray] = {}
        details = [tensor for tensor in interpreter.tensor_details() if tensor["dtype"] == np.int8]
        self._tensors = [tensor for tensor in details if tensor["index"] not in constants]

    def update(self) -> None:
        """Adds the codes of the last run."""
        for tensor in self._tensors:
            scale, zero_point = tensor["quantization"]
            codes = self._interpreter.tensor(tensor["index"])
            seen = self._seen.setdefault((scale, zero_point), np.zeros(256, bool))
            seen[np.unique(codes).astype(int) + 128] = True

    def of(self, scale: float, zero_point: int) -> np.ndarray:
        """Returns the codes that tensors of a scale and a zero point have taken."""
        masks = [
            seen
            for (other, zero), seen in self._seen.items()
            if zero == zero_point and np.isclose(other, scale, rtol=1e-5, atol=0)
        ]
        return np.flatnonzero(np.any(masks, axis=0)) - 128 if masks else np.zeros(0)


def _compare_outputs(model: Any, codes: _Codes) -> Iterator[LayerLevels]:
    """Yields the levels of quantized outputs: codes from -128 on, the largest logit at the top one.

    Under a softmax, whose kernel writes over them, there is only their scale and zero point to compare.
    """
    under_softmax = ends_in_softmax(model)
    for layer in quantized_outputs(model):
        ((quantizer, variables),) = activation_quantizers(layer)
        bits = round(number(variables["bits"]))
        scale, top = float(quantizer.scale(variables)), 2**bits - 129
        found = codes.of(scale, top)
        yield LayerLevels(
            name=layer.name,
            tensor="output",
            bits=bits,
            trained=2**bits,
            stored=2**bits if under_softmax and len(found) else len(found),
            exact=bool(len(found)) and bool(under_softmax or found.max() == top),
        )


def _by_name(model: Any, x: Any) -> dict[str, np.ndarray]:
    """Returns one array for each input of a Keras model, by the input's name, in the model's order."""
    names = input_keys(model)
    if isinstance(x, dict):
        # Keras takes the names of layers too, where the model was not defined by a dictionary.
        own = dict(zip(names, (layer.name for layer in input_layers(model))))
        missing = [name for name in names if name not in x and own[name] not in x]
        if missing:
            raise ValueError(f"verify: Expected records of {', '.join(names)}. Received none of {', '.join(missing)}.")
        arrays = [x[name] if name in x else x[own[name]] for name in names]
    else:
        arrays = list(x) if isinstance(x, (list, tuple)) else [x]
    if len(arrays) != len(names):
        raise ValueError(f"verify: The model has {len(names)} inputs ({', '.join(names)}). Received {len(arrays)}.")
    return {
        name: np.asarray(array, tensor.dtype.as_numpy_dtype) for name, array, tensor in zip(names, arrays, model.inputs)
    }


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """A constant tensor of a file."""

    name: str
    codes: np.ndarray
    scale: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The weights, float64. They are computed anew each time: all at once would take a model's size twice."""
        values: np.ndarray = self.codes * self.scale
        return values

    @classmethod
    def all_of(cls, unpacked: Any) -> list[_Kernel]:
        """Returns the constant int8 and INT4 tensors of a ModelT that have scales."""
        kernels = []
        for tensor in unpacked.subgraphs[0].tensors:
            codes, quantization = stored_codes(unpacked, tensor), tensor.quantization
            if codes is None or quantization is None or quantization.scale is None:
                continue
            scale = np.asarray(quantization.scale, np.float64)
            if scale.size > 1:
                scale = scale.reshape(
                    [-1 if axis == quantization.quantizedDimension else 1 for axis in range(codes.ndim)]
                )
            kernels.append(cls(tensor.name.decode(), codes, scale))
        return kernels

    def is_of(self, layer: str) -> bool:
        """Returns whether the name, which joins the names of operations, has that of a layer as a part of a path."""
        return any(layer in operation.split("/") for operation in self.name.split(";"))

    def has_shape(self, shape: tuple[int, ...]) -> bool:
        """Returns whether the tensor may hold a kernel; packed, a 1 x 1 kernel has lost its two axes of the image."""
        return self.codes.shape == shape or (shape[1:-1] == (1, 1) and self.codes.shape == (shape[0], shape[-1]))


def _folded(layer_graph: LayerGraph, layer: Any, kernel: np.ndarray, axis: int) -> np.ndarray:
    """Returns a kernel as stored: with the factors of a BatchNormalization that folds into it."""
    norm = layer_graph.norm_behind(layer)
    if norm is None:
        return kernel
    folded: np.ndarray = kernel * np.expand_dims(
        norm_as_affine(norm)[1], tuple(i for i in range(kernel.ndim) if i != axis)
    )
    return folded


def _compare_weights(model: Any, wrappers: list[Any], kernels: list[_Kernel]) -> Iterator[LayerLevels]:
    layer_graph = LayerGraph.of_quantized(model)
    calls = [id(layer) for layer in called_layers(model)]
    for wrapper in wrappers:
        for kernel, quantizer, variables in weight_quantizers(wrapper):
            bits = round(number(variables["bits"]))
            codes, steps = (
                array.numpy().astype(np.float64)
                for array in quantizers.weight_codes(kernel, float(bits), quantizer.per_channel)
            )
            spec = spec_of(wrapper.layer)
            steps = spec.stored(np.broadcast_to(steps, codes.shape))
            steps = _folded(layer_graph, wrapper.layer, steps, spec.stored_channel_axis)
            expected = spec.stored(codes) * steps
            alike = [found for found in kernels if found.has_shape(expected.shape)]
            # Of another tool's file, or where the converter has merged equal kernels, no tensor has the layer's name.
            own = [found for found in alike if found.is_of(wrapper.name)]
            candidates = own or alike
            shares = [_share_of_equal(found.values, expected, steps) for found in candidates]
            # A layer that is called several times may have a tensor for each call: all of them are its own. One that is
            # called once has one of them; the converter joins the names of operations that were equal at first.
            is_shared = own and calls.count(id(wrapper)) > 1
            pick = int(np.argmin(shares) if is_shared else np.argmax(shares)) if shares else None
            yield LayerLevels(
                name=wrapper.layer.name,
                tensor="weight",
                bits=bits,
                trained=_levels(codes),
                stored=0 if pick is None else _levels(candidates[pick].codes),
                exact=pick is not None and shares[pick] == 1.0,
            )


def _levels(codes: np.ndarray) -> int:
    """Returns how many distinct codes of -128 to 127 there are."""
    return int(np.count_nonzero(np.bincount(codes.astype(np.int8).view(np.uint8).reshape(-1))))


# Levels are a whole step apart; scales are float32, and the converter folds a BatchNormalization in float32.
_OF_A_STEP = 1e-3


def _share_of_equal(stored: np.ndarray, trained: np.ndarray, steps: np.ndarray) -> float:
    """Returns the share of stored weights that are the trained ones, up to the precision of their scale."""
    difference = np.abs(stored.reshape(trained.shape) - trained)
    return float(np.mean(difference <= _OF_A_STEP * np.abs(steps)))


def _compare_activations(wrappers: list[Any], codes: _Codes) -> Iterator[LayerLevels]:
    for wrapper in wrappers:
        for quantizer, variables in activation_quantizers(wrapper):
            if not isinstance(quantizer, quantizers.ReluQuantizer):
                continue
            bits = round(number(variables["bits"]))
            levels = 2**bits
            scale, zero_point = float(quantizer.scale(variables)), 128 - levels
            found = codes.of(scale, zero_point)
            yield LayerLevels(
                name=wrapper.layer.name,
                tensor="activation",
                bits=bits,
                trained=levels,
                stored=len(found),
                exact=bool(len(found)) and bool(found.min() >= zero_point),
            )
