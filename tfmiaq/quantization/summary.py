"""Bits, size and multiply-adds of a model, layer by layer, before and after quantization."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import QuantizeWrapperV2, activation_quantizers, number, weight_quantizers
from tfmiaq._tables import format_table
from tfmiaq.policy import BitwidthPolicy, LayerBits, OutputBits
from tfmiaq.quantization.layer_graph import is_relu
from tfmiaq.quantization.layers import QuantizedOutput
from tfmiaq.quantization.plan import plan_model


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """One layer.

    Attributes:
        name: Name in the model that was quantized.
        kind: Keras layer type.
        weight_bits: Bits of each weight; None for float weights, or where there are none.
        activation_bits: Bits of the output; None where the layer keeps its input's codes, fuses with the next layer,
            or is float.
        weights: Number of kernel weights.
        stored_bytes: Size of kernel and bias as TFLite stores them: int8 weights, int32 biases, float32 if float.
        packed_bytes: The same with weights at their own bit-width.
        multiply_adds: Multiply-accumulate operations for one record.
        note: Why the layer stays float, or an empty string.
    """

    name: str
    kind: str
    weight_bits: Optional[int]
    activation_bits: Optional[int]
    weights: int
    stored_bytes: int
    packed_bytes: int
    multiply_adds: int
    note: str = ""


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """The layers of a model in order, and the bits of its answers if they have any; prints as a table."""

    layers: tuple[LayerSummary, ...]
    output: Optional[OutputBits] = None

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights and biases as stored."""
        return sum(layer.stored_bytes for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        """Bytes of all weights and biases with each weight at its own bit-width."""
        return sum(layer.packed_bytes for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-accumulate operations of the model for one record."""
        return sum(layer.multiply_adds for layer in self.layers)

    def __str__(self) -> str:
        noted = any(layer.note for layer in self.layers)
        head: tuple[str, ...] = (
            "layer",
            "type",
            "weight bits",
            "activation bits",
            "weights",
            "stored B",
            "packed B",
            "multiply-adds",
        )
        rows = [
            (
                layer.name,
                layer.kind,
                "-" if layer.weight_bits is None else str(layer.weight_bits),
                "-" if layer.activation_bits is None else str(layer.activation_bits),
                f"{layer.weights:,}",
                f"{layer.stored_bytes:,}",
                f"{layer.packed_bytes:,}",
                f"{layer.multiply_adds:,}",
                *((f"float: {layer.note}" if layer.note else "",) if noted else ()),
            )
            for layer in self.layers
        ]
        total = (f"{self.stored_bytes:,}", f"{self.packed_bytes:,}", f"{self.multiply_adds:,}")
        count = f"{sum(layer.weights for layer in self.layers):,}"
        rows.append(("total", "", "", "", count, *total, *(("",) if noted else ())))
        head += ("note",) * noted
        text = format_table(head, rows)
        if self.output is not None:
            text += f"\nanswers: {2**self.output.bits} levels, from the largest logit to {self.output.clip:g} below it"
        return text


def quantized_layers(model: Any) -> Iterator[Any]:
    """The wrapped layers of a quantized model, in order.

    Raises:
        ValueError: The model has none.
    """
    wrappers = [layer for layer in getattr(model, "layers", []) if isinstance(layer, QuantizeWrapperV2)]
    if not wrappers:
        raise ValueError(
            f"Expected a model from tfmiaq.quantize_model. Received {type(model).__name__} "
            f"{getattr(model, 'name', '')!r}, which has no quantized layer."
        )
    yield from wrappers


def quantized_outputs(model: Any) -> Iterator[Any]:
    """The layers of a quantized model that round its answers."""
    yield from (layer for layer in model.layers if isinstance(layer, QuantizedOutput))


def _bits(variables: dict[str, Any]) -> int:
    return round(number(variables["bits"])) if "bits" in variables else 8


def _kernel(layer: Any) -> Optional[Any]:
    for attribute in ("depthwise_kernel", "embeddings", "kernel"):
        if getattr(layer, attribute, None) is not None:
            return getattr(layer, attribute)
    return None


def _elements(shape: Any) -> int:
    return int(np.prod([size or 1 for size in shape], dtype=int))


def _row(
    layer: Any, shapes: tuple[Any, Any], weight_bits: Optional[int], activation_bits: Optional[int], note: str = ""
) -> LayerSummary:
    """The row of a layer, from the shapes of its input and output and its bits."""
    kernel = _kernel(layer)
    count = 0 if kernel is None else int(np.prod(kernel.shape))
    bias_bytes = 4 * int(layer.bias.shape[0]) if getattr(layer, "use_bias", False) and count else 0
    # Each weight is used once at each position of the output; of a transposed convolution, of the input.
    positions = _elements(shapes[0 if "Transpose" in type(layer).__name__ else 1][1:-1]) if count else 0
    return LayerSummary(
        name=layer.name,
        kind=type(layer).__name__,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weights=count,
        stored_bytes=bias_bytes + (count if weight_bits else 4 * count),
        packed_bytes=bias_bytes + (math.ceil(count * weight_bits / 8) if weight_bits else 4 * count),
        multiply_adds=0 if type(layer).__name__ == "Embedding" else count * positions,
        note=note,
    )


def _quantized_row(wrapper: Any) -> LayerSummary:
    quantized, ranges = weight_quantizers(wrapper), activation_quantizers(wrapper)
    shapes = (wrapper.get_input_shape_at(0), wrapper.get_output_shape_at(0))
    return _row(
        wrapper.layer,
        shapes,
        _bits(quantized[0][2]) if quantized else None,
        _bits(ranges[-1][1]) if ranges else None,
    )


def _planned_row(layer: Any, plan: Any) -> LayerSummary:
    config = plan.configs.get(layer.name)
    quantizers = [] if config is None else config.quantizers(layer)
    weight, activation = ([q for q in quantizers if q.is_weight == is_weight] for is_weight in (True, False))
    return _row(
        layer,
        (layer.get_input_shape_at(0), layer.get_output_shape_at(0)),
        weight[0].bits if weight else None,
        activation[-1].bits if activation else None,
        plan.floats.get(layer.name, ""),
    )


def summary(model: Any, policy: Optional[BitwidthPolicy] = None) -> ModelSummary:
    """Bits, stored size, packed size and multiply-adds of each layer.

    Of a model that is not quantized yet, what `quantize_model` would make of it: which layers take which bits, which
    stay float, and why.

    Example:
        >>> print(tfmiaq.summary(model))  # before
        >>> print(tfmiaq.summary(quantized))  # after

    Args:
        model: A model from `quantize_model`, or one that it could take.
        policy: Bit-widths by layer, for a model that is not quantized yet; None for the default.

    Returns:
        The summary; print it, or read its `layers`.

    Raises:
        TypeError, ValueError: As `quantize_model`; or a policy for a model that is quantized already.
    """
    wrapped = [layer for layer in getattr(model, "layers", []) if isinstance(layer, QuantizeWrapperV2)]
    if wrapped and policy is not None:
        raise ValueError("summary: The model is quantized already; change its bits with tfmiaq.set_policy.")
    if wrapped:
        return ModelSummary(tuple(map(_quantized_row, wrapped)), output_bits(model))
    plan = plan_model(model, policy)
    layers = [layer for layer in plan.flat.model.layers if layer.name in plan.configs or layer.name in plan.floats]
    return ModelSummary(tuple(_planned_row(layer, plan) for layer in layers), plan.output)


def get_policy(model: Any) -> BitwidthPolicy:
    """The bits that a quantized model has now, each layer by name.

    Args:
        model: A model from `quantize_model`.

    Returns:
        A policy that `set_policy` and `quantize_model` take for the same architecture.

    Raises:
        TypeError: No Keras model.
        ValueError: A model that is not quantized.
    """
    wrappers = {wrapper.layer.name: wrapper for wrapper in quantized_layers(model)}
    named = {
        row.name: LayerBits(row.weight_bits, row.activation_bits or 8)
        for row in summary(model).layers
        if row.weight_bits or is_relu(wrappers[row.name].layer)
        if not getattr(wrappers[row.name].quantize_config, "fixed", False)
    }
    return BitwidthPolicy(layers=named, output=output_bits(model))


def output_bits(model: Any) -> Optional[OutputBits]:
    """The bits that a quantized model's answers have, or None where they are what the last layer gives."""
    for layer in quantized_outputs(model):
        ((_, variables),) = activation_quantizers(layer)
        # The shortest decimal that is this float32: what was asked for.
        clip = float(str(np.float32(number(variables["clip"]))))
        return OutputBits(round(number(variables["bits"])), clip)
    return None
