"""Biases on the int32 grid that TFLite rounds them to, so that the trained model and the file add the same numbers.

TFLite stores a bias in units of input scale times weight scale. Left to the converter, that rounding moves sums across
the thresholds of activations of few bits, where one code is a large part of the range.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from tfmiaq._backend import QuantizeLayer, QuantizeWrapperV2, activation_quantizers, number, weight_quantizers
from tfmiaq.quantization import quantizers
from tfmiaq.quantization.inspection import current_bits, quantized_layers
from tfmiaq.quantization.layer_graph import LayerGraph, inner
from tfmiaq.quantization.layer_specs import keeps_codes, spec_of
from tfmiaq.quantization.packable import fits_int4, int8_refinement
from tfmiaq.quantization.transformations.folding import norm_as_affine
from tfmiaq.quantization.transformations.functional import sources
from tfmiaq.tflite.packing import UPPER_HALF


def output_scale(layer: Any) -> Optional[float]:
    """Returns the int8 scale of a layer's output, or None where it is not known."""
    if isinstance(layer, (QuantizeLayer, QuantizeWrapperV2)) and activation_quantizers(layer):
        quantizer, variables = activation_quantizers(layer)[-1]
        return float(quantizer.scale(variables))
    wrapped = inner(layer)
    if spec_of(wrapped).outputs_weights and weight_quantizers(layer):
        return float(_weight_scale(layer)[0])
    if keeps_codes(wrapped):
        scales = {output_scale(source) for source in sources(layer)}
        return scales.pop() if len(scales) == 1 else None
    return None


def _weight_scale(wrapper: Any) -> np.ndarray:
    """Returns the value of one int8 weight code for each channel of the output."""
    kernel, quantizer, variables = weight_quantizers(wrapper)[0]
    bits = number(variables["bits"])
    _, step = quantizers.weight_codes(kernel, bits, quantizer.per_channel)
    scale = (step / int8_refinement(bits)).numpy()
    return spec_of(wrapper.layer).of_channels(kernel.shape, scale)


def _on_grid(bias: np.ndarray, unit: np.ndarray) -> np.ndarray:
    unit = np.where(unit > 0, unit, 1.0)
    return np.round(bias / unit) * unit


def align(model: Any, packed: bool = False) -> None:
    """Moves each bias, and each offset of a BatchNormalization that folds into one, to the nearest int32 code.

    No bias moves by more than half of input scale times weight scale. Doing it twice changes nothing more. A packed
    file has a weight scale 16 times as large, and what lies on its grid lies on the other too: aligned for packing, a
    model keeps its biases in an int8 file.

    Args:
        model: A trained quantized model; its biases are set in place.
        packed: Take the scale of a packed file, for the layers whose weights it holds as INT4.
    """
    layer_graph = LayerGraph.of_quantized(model)
    for wrapper in quantized_layers(model):
        if not weight_quantizers(wrapper):
            continue
        scales = {output_scale(source) for source in sources(wrapper)}
        if len(scales) != 1 or None in scales:
            continue
        unit = np.float64(scales.pop()) * _weight_scale(wrapper).astype(np.float64)
        if packed and fits_int4(wrapper.layer, current_bits(wrapper).weight):
            unit = unit * UPPER_HALF
        bias = wrapper.layer.bias if getattr(wrapper.layer, "use_bias", False) else None
        norm = layer_graph.norm_behind(wrapper.layer)
        if norm is not None:
            _align_norm(norm, bias, unit)
        elif bias is not None:
            bias.assign(_on_grid(bias.numpy().astype(np.float64), unit))


def _align_norm(norm: Any, bias: Any, unit: np.ndarray) -> None:
    mean, factor, offset = norm_as_affine(norm)
    kernel_bias = 0.0 if bias is None else bias.numpy().astype(np.float64)
    folded = offset + (kernel_bias - mean) * factor
    shift = _on_grid(folded, unit * np.abs(factor)) - folded
    if norm.center:
        norm.beta.assign(offset + shift)
    else:
        norm.moving_mean.assign(mean - shift / np.where(factor == 0, 1.0, factor))
