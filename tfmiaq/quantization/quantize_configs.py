"""tfmot QuantizeConfigs: which tensors of a layer are quantized, and by which quantizer.

Each layer gets an instance of its own, made from its `LayerPlan`; a shared one would carry one layer's bits to the
next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from tfmiaq._backend import QuantizeConfig, keras
from tfmiaq.quantization import quantizers
from tfmiaq.quantization.plan import FIXED_RANGE, LINEAR_RANGE, NO_RANGE, RELU_RANGE, LayerPlan

_register = keras.utils.register_keras_serializable("tfmiaq")


class LayerQuantizeConfig(QuantizeConfig):
    """Quantizes nothing; the base of the others.

    Args:
        aliases: Other names of the layer that a policy may use.
    """

    def __init__(self, aliases: Sequence[str] = ()) -> None:
        self.aliases = tuple(aliases)

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        pass

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        pass

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return []

    def quantizers(self, layer: Any) -> list[Any]:
        """Returns all quantizers of a layer: those of its weights, then those of its outputs."""
        pairs = [*self.get_weights_and_quantizers(layer), *self.get_activations_and_quantizers(layer)]
        return [quantizer for _, quantizer in pairs] + self.get_output_quantizers(layer)

    def get_config(self) -> dict[str, Any]:
        return {"aliases": list(self.aliases)}


@_register
class PassThroughQuantizeConfig(LayerQuantizeConfig):
    """For layers whose output needs no range of its own: they keep codes, or fuse into the next layer."""


@_register
class KernelQuantizeConfig(LayerQuantizeConfig):
    """For layers with a kernel.

    Args:
        kernel: Attribute that holds the kernel.
        weight_bits: Bits of the kernel, 1 to 8, or None for float.
        per_channel: One step for each index of the kernel's last axis.
        output: Range of the output: that of the layer's own ReLU, a linear one, or none where a following layer fuses
            into this one and carries the range.
        activation_bits: Bits of the range, or None without one.
        fixed: The kernel is a constant, whose bits no policy changes.
        aliases: Other names of the layer that a policy may use.
    """

    def __init__(
        self,
        kernel: str,
        weight_bits: Optional[int],
        per_channel: bool,
        output: str = NO_RANGE,
        activation_bits: Optional[int] = None,
        fixed: bool = False,
        aliases: Sequence[str] = (),
    ) -> None:
        super().__init__(aliases)
        self.kernel = kernel
        self.weight_bits = weight_bits
        self.per_channel = per_channel
        self.output = output
        self.activation_bits = activation_bits
        self.fixed = fixed

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        if self.weight_bits is None:
            return []
        return [(getattr(layer, self.kernel), quantizers.WeightQuantizer(self.weight_bits, self.per_channel))]

    def _range(self) -> list[Any]:
        if self.output == NO_RANGE or self.activation_bits is None:
            return []
        return [
            quantizers.ReluQuantizer(self.activation_bits)
            if self.output == RELU_RANGE
            else quantizers.LinearQuantizer()
        ]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        return [(layer.activation, quantizer) for quantizer in self._range() if hasattr(layer, "activation")]

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [] if hasattr(layer, "activation") else self._range()

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        for value in quantize_weights:
            setattr(layer, self.kernel, value)

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        for value in quantize_activations:
            layer.activation = value

    def get_config(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "weight_bits": self.weight_bits,
            "per_channel": self.per_channel,
            "output": self.output,
            "activation_bits": self.activation_bits,
            "fixed": self.fixed,
            **super().get_config(),
        }


@_register
class ReluQuantizeConfig(LayerQuantizeConfig):
    """For ReLU layers, and layers that join only ReLU outputs.

    Args:
        bits: Bits of the output, 1 to 8.
        aliases: Other names of the layer that a policy may use.
    """

    def __init__(self, bits: int, aliases: Sequence[str] = ()) -> None:
        super().__init__(aliases)
        self.bits = bits

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [quantizers.ReluQuantizer(self.bits)]

    def get_config(self) -> dict[str, Any]:
        return {"bits": self.bits, **super().get_config()}


@_register
class LinearQuantizeConfig(LayerQuantizeConfig):
    """For layers whose 8-bit output has a range of its own."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [quantizers.LinearQuantizer()]


@_register
class FixedRangeQuantizeConfig(LayerQuantizeConfig):
    """For activations whose int8 output range TFLite fixes.

    Args:
        low: Lower end of the range.
        high: Upper end.
        aliases: Other names of the layer that a policy may use.
    """

    def __init__(self, low: float, high: float, aliases: Sequence[str] = ()) -> None:
        super().__init__(aliases)
        self.low = low
        self.high = high

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [quantizers.FixedRangeQuantizer(self.low, self.high)]

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, **super().get_config()}


def from_plan(plan: LayerPlan) -> LayerQuantizeConfig:
    """Returns the QuantizeConfig that does what a layer's plan says."""
    if plan.kernel:
        return KernelQuantizeConfig(
            plan.kernel,
            plan.weight_bits,
            plan.per_channel,
            plan.output,
            plan.activation_bits,
            plan.fixed,
            plan.aliases,
        )
    if plan.output == RELU_RANGE:
        assert plan.activation_bits is not None
        return ReluQuantizeConfig(plan.activation_bits, plan.aliases)
    if plan.output == LINEAR_RANGE:
        return LinearQuantizeConfig(plan.aliases)
    if plan.output == FIXED_RANGE:
        assert plan.limits is not None
        return FixedRangeQuantizeConfig(*plan.limits, aliases=plan.aliases)
    return PassThroughQuantizeConfig(plan.aliases)
