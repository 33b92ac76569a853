"""tfmot QuantizeConfigs: which tensors of a layer are quantized, and by which quantizer.

Each layer gets an instance of its own; a shared one would carry one layer's bits to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from tfmiaq._backend import QuantizeConfig
from tfmiaq.quantization import quantizers
from tfmiaq.quantization.transformations.functional import activation_name


class _LayerQuantizeConfig(QuantizeConfig):
    """Quantizes nothing; the base of the others.

    Attributes:
        aliases: Other names of the layer that a policy may use.
    """

    aliases: Sequence[str] = ()

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
        """All quantizers of a layer: those of its weights, then those of its outputs."""
        pairs = [*self.get_weights_and_quantizers(layer), *self.get_activations_and_quantizers(layer)]
        return [quantizer for _, quantizer in pairs] + self.get_output_quantizers(layer)

    def get_config(self) -> dict[str, Any]:
        return {"aliases": list(self.aliases)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _LayerQuantizeConfig:
        """The config that `get_config` describes."""
        arguments = {key: value for key, value in config.items() if key != "aliases"}
        made = cls(**arguments)
        made.aliases = config.get("aliases", ())
        return made


class PassThroughQuantizeConfig(_LayerQuantizeConfig):
    """For layers whose output needs no range of its own: they keep codes, or fuse into the next layer."""


class KernelQuantizeConfig(_LayerQuantizeConfig):
    """For Dense, Conv2D and DepthwiseConv2D.

    Args:
        kernel: Attribute that holds the kernel.
        weight_bits: Bits of the kernel, 1 to 8, or None for float.
        activation_bits: Bits of a ReLU that is the layer's own activation, or None for a float output.
        per_channel: One step for each index of the kernel's last axis.
        quantize_activation: False where a following layer fuses into this one and carries the range.
        fixed: The kernel is a constant, whose bits no policy changes.
    """

    def __init__(
        self,
        kernel: str,
        weight_bits: Optional[int],
        activation_bits: Optional[int],
        per_channel: bool,
        quantize_activation: bool,
        fixed: bool = False,
    ) -> None:
        self.kernel = kernel
        self.weight_bits = weight_bits
        self.activation_bits = activation_bits
        self.per_channel = per_channel
        self.quantize_activation = quantize_activation
        self.fixed = fixed

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        if self.weight_bits is None:
            return []
        return [(getattr(layer, self.kernel), quantizers.WeightQuantizer(self.weight_bits, self.per_channel))]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        if not self.quantize_activation or self.activation_bits is None:
            return []
        quantizer = (
            quantizers.ReluQuantizer(self.activation_bits)
            if activation_name(layer) == "relu"
            else quantizers.LinearQuantizer()
        )
        return [(layer.activation, quantizer)]

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
            "activation_bits": self.activation_bits,
            "per_channel": self.per_channel,
            "quantize_activation": self.quantize_activation,
            "fixed": self.fixed,
            **super().get_config(),
        }


class ReluQuantizeConfig(_LayerQuantizeConfig):
    """For ReLU layers, and layers that join only ReLU outputs.

    Args:
        bits: Bits of the output, 1 to 8.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [quantizers.ReluQuantizer(self.bits)]

    def get_config(self) -> dict[str, Any]:
        return {"bits": self.bits, **super().get_config()}


class LinearQuantizeConfig(_LayerQuantizeConfig):
    """For layers whose 8-bit output has a range of its own."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [quantizers.LinearQuantizer()]


class FixedRangeQuantizeConfig(_LayerQuantizeConfig):
    """For activations whose int8 output range TFLite fixes.

    Args:
        low: Lower end of the range.
        high: Upper end.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [quantizers.FixedRangeQuantizer(self.low, self.high)]

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, **super().get_config()}
