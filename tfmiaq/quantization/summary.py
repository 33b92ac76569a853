"""Bits, size and multiply-adds of a model, layer by layer, before and after quantization."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Optional

from tfmiaq._tables import format_table, html_table
from tfmiaq.policy import BitwidthPolicy, OutputBits
from tfmiaq.quantization.inspection import current_bits, is_quantized, output_bits, quantized_layers
from tfmiaq.quantization.layer_specs import spec_for_counts
from tfmiaq.quantization.packable import fits_int4
from tfmiaq.quantization.plan import LayerPlan, plan_model

_HEAD = (
    "layer",
    "type",
    "weight bits",
    "activation bits",
    "weights",
    "stored B",
    "INT4 B",
    "packed B",
    "multiply-adds",
)


def _shown(bits: Optional[int]) -> str:
    return "-" if bits is None else str(bits)


@dataclasses.dataclass(frozen=True, repr=False)
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
        int4_bytes: The same as `convert(pack=True)` stores it: two weights in a byte where a kernel reads them so.
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
    int4_bytes: int
    packed_bytes: int
    multiply_adds: int
    note: str = ""

    def row(self) -> tuple[str, ...]:
        """Returns the cells of the layer's row in a `ModelSummary`, without its note."""
        counts = (self.weights, self.stored_bytes, self.int4_bytes, self.packed_bytes, self.multiply_adds)
        bits = (_shown(self.weight_bits), _shown(self.activation_bits))
        return self.name, self.kind, *bits, *(f"{count:,}" for count in counts)

    def __repr__(self) -> str:
        return (
            f"<LayerSummary {self.name[-60:]!r} ({self.kind[:40]}): w{_shown(self.weight_bits)} "
            f"a{_shown(self.activation_bits)}, {self.stored_bytes:,} B>"
        )

    def _repr_html_(self) -> str:
        return html_table((*_HEAD, "note"), [(*self.row(), self.note)])


@dataclasses.dataclass(frozen=True, repr=False)
class ModelSummary:
    """The layers of a model in order, and the bits of its outputs if they have any; prints as a table."""

    layers: tuple[LayerSummary, ...]
    output: Optional[OutputBits] = None

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights and biases as stored."""
        return sum(layer.stored_bytes for layer in self.layers)

    @property
    def int4_bytes(self) -> int:
        """Bytes of all weights and biases as `convert(pack=True)` stores them."""
        return sum(layer.int4_bytes for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        """Bytes of all weights and biases with each weight at its own bit-width."""
        return sum(layer.packed_bytes for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-accumulate operations of the model for one record."""
        return sum(layer.multiply_adds for layer in self.layers)

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        weights = sum(layer.weights for layer in self.layers)
        counts = (weights, self.stored_bytes, self.int4_bytes, self.packed_bytes, self.multiply_adds)
        total = ("total", "", "", "", *(f"{count:,}" for count in counts))
        if not any(layer.note for layer in self.layers):
            return _HEAD, [*(layer.row() for layer in self.layers), total]
        notes = [f"float: {layer.note}" if layer.note else "" for layer in self.layers]
        return (*_HEAD, "note"), [*((*layer.row(), note) for layer, note in zip(self.layers, notes)), (*total, "")]

    def _output_line(self) -> str:
        if self.output is None:
            return ""
        return f"outputs: {2**self.output.bits} levels, from the largest logit to {self.output.clip:g} below it"

    def __str__(self) -> str:
        text = format_table(*self._table())
        return f"{text}\n{self._output_line()}" if self.output is not None else text

    def __repr__(self) -> str:
        return (
            f"<ModelSummary: {len(self.layers)} layers, {self.stored_bytes:,} B stored, {self.packed_bytes:,} B "
            f"packed, {self.multiply_adds:,} multiply-adds>"
        )

    def _repr_html_(self) -> str:
        return html_table(*self._table(), note=self._output_line())


def _summarize(
    layer: Any,
    shapes: tuple[Any, Any],
    weight_bits: Optional[int],
    activation_bits: Optional[int],
    note: str = "",
) -> LayerSummary:
    """Returns the summary of a layer, from the shapes of its input and output and its bits."""
    spec = spec_for_counts(layer)
    kernel = getattr(layer, spec.kernel, None) if spec.kernel else None
    count = 0 if kernel is None else math.prod(kernel.shape)
    bias_bytes = 4 * int(layer.bias.shape[0]) if getattr(layer, "use_bias", False) and count else 0
    stored = bias_bytes + (count if weight_bits else 4 * count)
    return LayerSummary(
        name=layer.name,
        kind=type(layer).__name__,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weights=count,
        stored_bytes=stored,
        int4_bytes=bias_bytes + math.ceil(count / 2) if fits_int4(layer, weight_bits) else stored,
        packed_bytes=bias_bytes + (math.ceil(count * weight_bits / 8) if weight_bits else 4 * count),
        multiply_adds=spec.multiply_adds(tuple(kernel.shape), *shapes) if kernel is not None else 0,
        note=note,
    )


def _shapes(layer: Any) -> tuple[Any, Any]:
    return layer.get_input_shape_at(0), layer.get_output_shape_at(0)


def summary(model: Any, policy: Optional[BitwidthPolicy] = None) -> ModelSummary:
    """Returns bits, size in an int8 file, in a packed one and by bits alone, and multiply-adds of each layer.

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
    if not is_quantized(model):
        return _summary_of_plan(model, policy)
    if policy is not None:
        raise ValueError("summary: The model is quantized already; change its bits with tfmiaq.set_policy.")
    rows = []
    for wrapper in quantized_layers(model):
        bits = current_bits(wrapper)
        rows.append(_summarize(wrapper.layer, _shapes(wrapper), bits.weight, bits.activation))
    return ModelSummary(tuple(rows), output_bits(model))


def _summary_of_plan(model: Any, policy: Optional[BitwidthPolicy]) -> ModelSummary:
    flat, plan = plan_model(model, policy)
    rows = []
    for layer in flat.model.layers:
        if layer.name in plan.layers or layer.name in plan.floats:
            bits = plan.layers.get(layer.name, LayerPlan())
            note = plan.floats.get(layer.name, "")
            rows.append(_summarize(layer, _shapes(layer), bits.weight_bits, bits.activation_bits, note))
    return ModelSummary(tuple(rows), plan.output)
