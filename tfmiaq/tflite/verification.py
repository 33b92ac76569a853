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
from tfmiaq.quantization.layer_graph import ends_in_softmax
from tfmiaq.quantization.layer_specs import spec_of
from tfmiaq.quantization.transformations.functional import input_layers
from tfmiaq.tflite.flatbuffer import TFLiteModel
from tfmiaq.tflite.interpreter import Interpreter


@dataclasses.dataclass(frozen=True)
class LayerLevels:
    """Levels of one tensor, as trained and as stored.

    Attributes:
        name: Layer name.
        tensor: "weight", "activation", or "output" for the quantized outputs of the model.
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


@dataclasses.dataclass(frozen=True, repr=False)
class Verification:
    """How closely a .tflite agrees with the trained model; prints as a table.

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

    def __str__(self) -> str:
        return f"{format_table(*self._table())}\n{self._agreement_line()}"

    def __repr__(self) -> str:
        exact = sum(row.exact for row in self.layers)
        return f"<Verification: {exact} of {len(self.layers)} tensors exact, {self._agreement_line()}>"

    def _repr_html_(self) -> str:
        return html_table(*self._table(), note=self._agreement_line())


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
    # With its tensors kept, an interpreter runs TFLite's reference kernels, whose sums round twice: only levels count.
    interpreter = Interpreter(tflite, keep_tensors=True)
    interpreter.predict(arrays)
    layers = [
        *_compare_weights(wrappers, interpreter),
        *_compare_activations(wrappers, interpreter),
        *_compare_outputs(model, interpreter),
    ]
    return Verification(
        agreement=float(np.mean([np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in pairs])),
        largest_difference=max(float(np.abs(a - b).max()) for a, b in pairs),
        layers=tuple(layers),
    )


def _compare_outputs(model: Any, interpreter: Interpreter) -> Iterator[LayerLevels]:
    """Yields the levels of quantized outputs: codes from -128 on, the largest logit at the top one.

    Under a softmax, whose kernel writes over them, there is only their scale and zero point to compare.
    """
    under_softmax = ends_in_softmax(model)
    for layer in quantized_outputs(model):
        ((quantizer, variables),) = activation_quantizers(layer)
        bits = round(number(variables["bits"]))
        scale, top = float(quantizer.scale(variables)), 2**bits - 129
        found = _codes_of(interpreter, scale, top)
        yield LayerLevels(
            name=layer.name,
            tensor="output",
            bits=bits,
            trained=2**bits,
            stored=2**bits if under_softmax and len(found) else len(found),
            exact=bool(len(found)) and bool(under_softmax or found.max() == top),
        )


def _codes_of(interpreter: Interpreter, scale: float, zero_point: int) -> np.ndarray:
    """Returns the codes in the int8 tensors of a scale and a zero point."""
    codes = [
        interpreter.tensor(tensor["index"])
        for tensor in interpreter.tensor_details()
        if tensor["dtype"] == np.int8
        and tensor["quantization"][1] == zero_point
        and np.isclose(tensor["quantization"][0], scale, rtol=1e-5, atol=0)
    ]
    return np.unique(np.concatenate([c.ravel() for c in codes])) if codes else np.zeros(0)


def _listed(outputs: Any) -> list[np.ndarray]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _by_name(model: Any, x: Any) -> dict[str, np.ndarray]:
    """Returns one array for each input of a Keras model, by the input's name, in the model's order."""
    names = [layer.name for layer in input_layers(model)]
    arrays = [x[name] for name in names] if isinstance(x, dict) else _listed(x)
    if len(arrays) != len(names):
        raise ValueError(f"verify: The model has {len(names)} inputs ({', '.join(names)}). Received {len(arrays)}.")
    return {
        name: np.asarray(array, tensor.dtype.as_numpy_dtype) for name, array, tensor in zip(names, arrays, model.inputs)
    }


def _up_to_sign(codes: np.ndarray, axis: int) -> np.ndarray:
    """Returns codes with each channel's first sign made positive: a BatchNormalization of negative scale flips it."""
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
            bits = round(number(variables["bits"]))
            codes = quantizers.weight_codes(kernel, float(bits), quantizer.per_channel)[0].numpy()
            spec = spec_of(wrapper.layer)
            codes, axis = spec.stored(codes) * float(quantizers.int8_refinement(bits)), spec.stored_channel_axis
            expected = _up_to_sign(codes, axis)
            best_share, best_codes = -1.0, np.zeros(0)
            for index, tensor in constants.items():
                if list(tensor["shape"]) != list(codes.shape):
                    continue
                found = interpreter.tensor(index).astype(np.float32)
                share = float(np.mean(_up_to_sign(found, axis) == expected))
                if share > best_share:
                    best_share, best_codes = share, found
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
    for wrapper in wrappers:
        for quantizer, variables in activation_quantizers(wrapper):
            if not isinstance(quantizer, quantizers.ReluQuantizer):
                continue
            bits = round(number(variables["bits"]))
            levels = 2**bits
            scale, zero_point = float(quantizer.scale(variables)), 128 - levels
            found = _codes_of(interpreter, scale, zero_point)
            yield LayerLevels(
                name=wrapper.layer.name,
                tensor="activation",
                bits=bits,
                trained=levels,
                stored=len(found),
                exact=bool(len(found)) and bool(found.min() >= zero_point),
            )
