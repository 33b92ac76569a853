"""Biases on the int32 grid that TFLite rounds them to, so that the trained model and the file add the same numbers.

TFLite stores a bias in units of input scale times weight scale. Left to the converter, that rounding moves sums across
the thresholds of coarse activations, where one code is a large part of the range.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from tfmiaq._backend import QuantizeLayer, QuantizeWrapperV2, activation_quantizers, keras, number, weight_quantizers
from tfmiaq.quantization import quantizers
from tfmiaq.quantization.layer_graph import KEEP_CODES, KEEP_CODES_OPERATIONS, inner, operation
from tfmiaq.quantization.transformations.functional import activation_name, readers, sources

_layers = keras.layers


def output_scale(layer: Any) -> Optional[float]:
    """The int8 scale of a layer's output, or None where it is not known."""
    if isinstance(layer, (QuantizeLayer, QuantizeWrapperV2)) and activation_quantizers(layer):
        quantizer, variables = activation_quantizers(layer)[-1]
        return float(quantizer.scale(variables))
    wrapped = inner(layer)
    if type(wrapped) is _layers.Embedding and weight_quantizers(layer):
        return float(_weight_scale(layer)[0])
    if type(wrapped) in KEEP_CODES or operation(wrapped) in KEEP_CODES_OPERATIONS:
        scales = {output_scale(source) for source in sources(layer)}
        return scales.pop() if len(scales) == 1 else None
    return None


def _weight_scale(wrapper: Any) -> np.ndarray:
    kernel, quantizer, variables = weight_quantizers(wrapper)[0]
    bits = number(variables["bits"])
    _, step = quantizers.weight_codes(kernel, bits, quantizer.per_channel)
    scale = (step / quantizers.int8_refinement(bits)).numpy().reshape(-1)
    # The scales of a depthwise kernel go by its multiplier, those of its output by channel and multiplier.
    repeated = isinstance(wrapper.layer, _layers.DepthwiseConv2D)
    return np.tile(scale, kernel.shape[2]) if repeated else scale


def _norm_behind(wrapper: Any) -> Optional[Any]:
    """The BatchNormalization that folds into a kernel."""
    behind = readers(wrapper)
    if len(behind) != 1 or activation_name(wrapper.layer) not in ("", "linear"):
        return None
    folds = isinstance(wrapper.layer, (_layers.Conv2D, _layers.DepthwiseConv2D))
    reader = inner(behind[0])
    return reader if folds and type(reader) is _layers.BatchNormalization else None


def _on_grid(bias: np.ndarray, unit: np.ndarray) -> np.ndarray:
    unit = np.where(unit > 0, unit, 1.0)
    return np.round(bias / unit) * unit


def align(model: Any) -> None:
    """Moves each bias, and each offset of a BatchNormalization that folds into one, to the nearest int32 code.

    No bias moves by more than half of input scale times weight scale. Doing it twice changes nothing more.

    Args:
        model: A trained quantized model; its biases are set in place.
    """
    for wrapper in model.layers:
        if not isinstance(wrapper, QuantizeWrapperV2) or not weight_quantizers(wrapper):
            continue
        scales = {output_scale(source) for source in sources(wrapper)}
        if len(scales) != 1 or None in scales:
            continue
        unit = np.float64(scales.pop()) * _weight_scale(wrapper).astype(np.float64)
        bias = wrapper.layer.bias if getattr(wrapper.layer, "use_bias", False) else None
        norm = _norm_behind(wrapper)
        if norm is not None:
            _align_norm(norm, bias, unit)
        elif bias is not None:
            bias.assign(_on_grid(bias.numpy().astype(np.float64), unit))


def _align_norm(norm: Any, bias: Any, unit: np.ndarray) -> None:
    channels = int(norm.moving_mean.shape[0])
    mean = norm.moving_mean.numpy().astype(np.float64)
    factor = 1.0 / np.sqrt(norm.moving_variance.numpy().astype(np.float64) + norm.epsilon)
    if norm.scale:
        factor = factor * norm.gamma.numpy()
    offset = norm.beta.numpy().astype(np.float64) if norm.center else np.zeros(channels)
    kernel_bias = 0.0 if bias is None else bias.numpy().astype(np.float64)
    folded = offset + (kernel_bias - mean) * factor
    shift = _on_grid(folded, unit * np.abs(factor)) - folded
    if norm.center:
        norm.beta.assign(offset + shift)
    else:
        norm.moving_mean.assign(mean - shift / np.where(factor == 0, 1.0, factor))
