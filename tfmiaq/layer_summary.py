"""Bits, size and multiply-adds of a quantized model, layer by layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import QuantizeWrapperV2, activation_quantizers, weight_quantizers


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
    """

    name: str
    kind: str
    weight_bits: Optional[int]
    activation_bits: Optional[int]
    weights: int
    stored_bytes: int
    packed_bytes: int
    multiply_adds: int


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """The layers of a model in order; prints as a table."""

    layers: tuple[LayerSummary, ...]

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
        head = ("layer", "type", "weight bits", "activation bits", "weights", "stored B", "packed B", "multiply-adds")
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
            )
            for layer in self.layers
        ]
        total = (f"{self.stored_bytes:,}", f"{self.packed_bytes:,}", f"{self.multiply_adds:,}")
        rows.append(("total", "", "", "", f"{sum(layer.weights for layer in self.layers):,}", *total))
        return format_table(head, rows)


def format_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A plain-text table; the first column flush left, the others flush right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(head), line(tuple("-" * width for width in widths)), *map(line, rows)])


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


def _bits(variables: dict[str, Any]) -> int:
    return round(float(variables["bits"])) if "bits" in variables else 8


def _kernel(layer: Any) -> Optional[Any]:
    kernel = getattr(layer, "depthwise_kernel", None)
    return getattr(layer, "kernel", None) if kernel is None else kernel


def _summarize(wrapper: Any) -> LayerSummary:
    layer = wrapper.layer
    kernel = _kernel(layer)
    quantized = weight_quantizers(wrapper)
    ranges = activation_quantizers(wrapper)
    bits = _bits(quantized[0][2]) if quantized else None
    count = 0 if kernel is None else int(np.prod(kernel.shape))
    bias_bytes = 4 * int(layer.bias.shape[0]) if getattr(layer, "use_bias", False) else 0
    # Each weight is used once at each position of the output.
    positions = int(np.prod(wrapper.output_shape[1:-1], dtype=int)) if count else 0
    return LayerSummary(
        name=layer.name,
        kind=type(layer).__name__,
        weight_bits=bits,
        activation_bits=_bits(ranges[-1][1]) if ranges else None,
        weights=count,
        stored_bytes=bias_bytes + (count if bits else 4 * count),
        packed_bytes=bias_bytes + (math.ceil(count * bits / 8) if bits else 4 * count),
        multiply_adds=count * positions,
    )


def summary(model: Any) -> ModelSummary:
    """Bits, stored size, packed size and multiply-adds of each layer.

    Example:
        >>> print(tfmiaq.summary(quantized))

    Args:
        model: A model from `quantize_model`.

    Returns:
        The summary; print it, or read its `layers`.

    Raises:
        ValueError: The model has no quantized layer.
    """
    return ModelSummary(tuple(_summarize(layer) for layer in quantized_layers(model)))
