"""Quantizers whose every level is an int8 code, so that stock TFLite kernels run the trained network.

A value is rounded to its own b-bit grid in float, then passed through an 8-bit FakeQuant whose grid is an integer
refinement of the first. The converter sees plain int8 ranges, and each of the b-bit levels is one of their codes.
The bit-width is a variable, not an attribute of the graph.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, Optional

from tfmiaq._backend import Quantizer, keras, tf
from tfmiaq.quantization import export
from tfmiaq.quantization.packable import int8_refinement

_register = keras.utils.register_keras_serializable("tfmiaq")

# Magnitudes below this count as zero: a channel of zeros has no scale of its own.
_DEAD = 1e-12
_DEAD_STEP = 1e-3
# Until a range has seen data it is this wide.
_UNSEEN_RANGE = 6.0


def _bits_variable(layer: Any, name: str, bits: int) -> Any:
    return _scalar(layer, f"{name}_bits", float(bits))


def _scalar(layer: Any, name: str, value: float) -> Any:
    # Replicas of a distributed training see different records; they take the mean of their ranges.
    return layer.add_weight(
        name,
        initializer=keras.initializers.Constant(value),
        shape=(),
        trainable=False,
        dtype=tf.float32,
        aggregation=tf.VariableAggregation.MEAN,
    )


# Of this thread alone: others may trace models meanwhile.
_replacement: contextvars.ContextVar[Optional[Callable[..., Any]]] = contextvars.ContextVar("by", default=None)


@contextlib.contextmanager
def replaced(by: Callable[[Any, Any, dict[str, Any]], Any]) -> Iterator[None]:
    """Within it `by(quantizer, inputs, variables)` is called first for the output of each quantizer.

    Calibration sees tensors before they are rounded that way. None stands for the quantizer's own output.
    """
    token = _replacement.set(by)
    try:
        yield
    finally:
        _replacement.reset(token)


def passed_on() -> contextlib.AbstractContextManager[None]:
    """Returns a scope in which quantizers pass their inputs on, for graphs that only tell the shapes of a new model."""
    return replaced(lambda quantizer, inputs, variables: tf.identity(inputs))


def _replaceable(quantize: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(quantize)
    def call(self: Any, inputs: Any, training: Any, weights: dict[str, Any], **kwargs: Any) -> Any:
        by = _replacement.get()
        found = None if by is None else by(self, inputs, weights)
        return quantize(self, inputs, training, weights, **kwargs) if found is None else found

    return call


def _fake_quant(inputs: Any, low: Any, high: Any, step: Any, training: Any) -> Any:
    """Returns an 8-bit FakeQuant, which outside of training and export rounds as precisely as an int8 kernel does.

    FakeQuant rounds (x - low) / step in float32. With the 240 codes below zero of a 4-bit activation that offset costs
    four digits, and sums near the middle between two codes fall to the other side than in the kernel.
    """
    if not training and export.current() is None:
        inputs = _straight_through(inputs, tf.round(inputs / step) * step)
    return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high, num_bits=8)


def _straight_through(inputs: Any, quantized: Any) -> Any:
    return inputs + tf.stop_gradient(quantized - inputs)


def weight_codes(weights: Any, bits: Any, per_channel: bool) -> tuple[Any, Any]:
    """Returns the integer code of each weight and the size of one step.

    1 bit is the sign times the mean magnitude (Rastegari et al. 2016, XNOR-Net, section 3.1). 2 bits are ternary with
    threshold 0.7 times the mean magnitude and the mean of the kept magnitudes as step (Li and Liu 2016, Ternary Weight
    Networks, section 2.2). b >= 3 bits are uniform and symmetric: step = max|w| / (2^(b-1) - 1).

    Args:
        weights: Float tensor of any shape.
        bits: Scalar float tensor or number, 1 to 8.
        per_channel: One step for each index of the last axis instead of one for the whole tensor.

    Returns:
        Codes, float integers of the shape of `weights`, and the step, broadcastable to it. Weights are codes times
        step. A channel of zeros has codes 0.
    """
    bits = tf.cast(bits, weights.dtype)
    axes = list(range(len(weights.shape) - 1)) if per_channel else None
    magnitude = tf.abs(weights)
    largest = tf.reduce_max(magnitude, axis=axes, keepdims=True)
    mean = tf.reduce_mean(magnitude, axis=axes, keepdims=True)
    alive = tf.cast(largest > _DEAD, weights.dtype)
    is_low = tf.cast(bits < 2.5, weights.dtype)

    top = tf.maximum(tf.pow(tf.constant(2.0, weights.dtype), bits - 1.0) - 1.0, 1.0)
    uniform_step = largest / top
    # A threshold below zero keeps every weight: the ternary rule becomes the binary one.
    is_binary = tf.cast(bits < 1.5, weights.dtype)
    threshold = (1.0 - is_binary) * 0.7 * mean - is_binary
    # Signs, not comparisons: the converter of TensorFlow 2.21 folds no operation whose result is over twice the size of
    # its operands, as the cast of a large Boolean tensor to float is.
    kept = tf.nn.relu(tf.sign(magnitude - threshold))
    kept_step = tf.reduce_sum(magnitude * kept, axis=axes, keepdims=True) / tf.maximum(
        tf.reduce_sum(kept, axis=axes, keepdims=True), 1.0
    )
    # Arithmetic, not tf.where: the converter of TensorFlow 2.21 leaves a select of constants in the graph.
    step = alive * (is_low * kept_step + (1.0 - is_low) * uniform_step) + (1.0 - alive) * _DEAD_STEP

    sign = tf.sign(tf.sign(weights) + 0.5)
    uniform = tf.clip_by_value(tf.round(weights / step), -top, top)
    codes = alive * (is_low * sign * kept + (1.0 - is_low) * uniform)
    return codes, step


@_register
class WeightQuantizer(Quantizer):
    """Symmetric weights of 1 to 8 bits on an int8 grid, with a straight-through gradient.

    Args:
        bits: Initial bit-width, 1 to 8.
        per_channel: One step for each index of the kernel's last axis.
    """

    def __init__(self, bits: int = 8, per_channel: bool = True) -> None:
        self.bits = bits
        self.per_channel = per_channel

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        return {"bits": _bits_variable(layer, name, self.bits)}

    def rounded(self, kernel: Any, variables: dict[str, Any]) -> tuple[Any, Any]:
        """Returns the weights on their grid, and the upper end of the int8 range that has each level as a code."""
        bits = variables["bits"]
        codes, step = weight_codes(kernel, bits, self.per_channel)
        # A scale finer than the step keeps the bias, which is rounded to input scale times weight scale, precise.
        limit = 127.0 * step / int8_refinement(bits)
        return codes * step, tf.reshape(limit, [-1] if self.per_channel else [])

    @_replaceable
    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **kwargs: Any) -> Any:
        exported = export.current()
        rounded, limit = self.rounded(inputs, weights) if exported is None else exported.weights(self)
        fake_quant = (
            tf.quantization.fake_quant_with_min_max_vars_per_channel
            if self.per_channel
            else tf.quantization.fake_quant_with_min_max_vars
        )
        quantized = fake_quant(rounded, -limit, limit, num_bits=8, narrow_range=True)
        # In the exported graph the FakeQuant must be the last operation before the kernel.
        return _straight_through(inputs, quantized) if training else quantized

    def get_config(self) -> dict[str, Any]:
        return {"bits": self.bits, "per_channel": self.per_channel}


def _track(variable: Any, seen: Any, batch: Any, momentum: float) -> Any:
    averaged = momentum * variable + (1.0 - momentum) * batch
    return variable.assign(tf.where(seen > 0.5, averaged, batch))


class _RangeQuantizer(Quantizer):
    """Keeps a range of activations: taken from the first batch, then an exponential moving average."""

    # With 0.99 ranges lag behind short trainings, and clip what the network has learnt since.
    momentum = 0.9

    def _range_variable(self, layer: Any, name: str, value: float) -> Any:
        return _scalar(layer, name, value)


def relu_top(largest: Any, spread: Any, bits: Any) -> Any:
    """Returns where to clip non-negative activations: at the maximum for 8 bits, else (0.9 + 0.85 bits) times the RMS.

    The factor is a straight line through the clips of least squared error (Lloyd 1982) for a rectified Gaussian. At few
    bits a step as long as the maximum over 2^b - 1 would round most activations to zero.

    Args:
        largest: Scalar, the maximum of the activations.
        spread: Scalar, their root mean square.
        bits: Scalar, 1 to 8.

    Returns:
        A scalar.
    """
    bits = tf.convert_to_tensor(bits)
    clip = tf.minimum(largest, (0.9 + 0.85 * bits) * spread)
    is_full = tf.cast(bits > 7.5, clip.dtype)
    return tf.maximum(is_full * largest + (1.0 - is_full) * clip, _DEAD_STEP)


@_register
class ReluQuantizer(_RangeQuantizer):
    """Non-negative activations of 1 to 8 bits: exactly 2^b codes of an int8 tensor.

    With top value m (`relu_top` of the moving averages of maximum and root mean square) the step is m / (2^b - 1), and
    the 8-bit FakeQuant has range [-(256 - 2^b) step, (2^b - 1) step]: int8 saturation does the upper clip, the ReLU the
    lower one.

    Args:
        bits: Initial bit-width, 1 to 8.
    """

    def __init__(self, bits: int = 8) -> None:
        self.bits = bits

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        return {
            "bits": _bits_variable(layer, name, self.bits),
            "max": self._range_variable(layer, f"{name}_max", _UNSEEN_RANGE),
            "spread": self._range_variable(layer, f"{name}_spread", _UNSEEN_RANGE),
            "seen": self._range_variable(layer, f"{name}_seen", 0.0),
        }

    @_replaceable
    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **kwargs: Any) -> Any:
        largest, spread = weights["max"], weights["spread"]
        if training:
            batch = tf.stop_gradient(inputs)
            batch_spread = tf.sqrt(tf.reduce_mean(tf.square(batch)))
            largest = _track(largest, weights["seen"], tf.reduce_max(batch), self.momentum)
            spread = _track(spread, weights["seen"], batch_spread, self.momentum)
            with tf.control_dependencies([largest, spread]):
                largest, spread = tf.identity(largest), tf.identity(spread)
                weights["seen"].assign(1.0)
        with export.beforehand():
            levels = tf.pow(2.0, tf.convert_to_tensor(weights["bits"]))
            step = relu_top(largest, spread, weights["bits"]) / (levels - 1.0)
            low, high = -(256.0 - levels) * step, (levels - 1.0) * step
        return _fake_quant(inputs, low, high, step, training)

    def scale(self, variables: dict[str, Any]) -> Any:
        """Returns the value of one int8 code."""
        bits = tf.convert_to_tensor(variables["bits"])
        return relu_top(variables["max"], variables["spread"], bits) / (tf.pow(2.0, bits) - 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"bits": self.bits}


@_register
class LinearQuantizer(_RangeQuantizer):
    """Signed activations at 8 bits: network inputs, sums, pooled values and logits.

    Args:
        widen: Keep the widest range ever seen (network inputs) instead of a moving average.
    """

    def __init__(self, widen: bool = False) -> None:
        self.widen = widen

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        return {
            "min": self._range_variable(layer, f"{name}_min", -_UNSEEN_RANGE),
            "max": self._range_variable(layer, f"{name}_max", _UNSEEN_RANGE),
            "seen": self._range_variable(layer, f"{name}_seen", 0.0),
        }

    @_replaceable
    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **kwargs: Any) -> Any:
        low, high = weights["min"], weights["max"]
        if training:
            # TFLite wants zero inside the range, and a range that is not empty.
            batch_low = tf.minimum(tf.stop_gradient(tf.reduce_min(inputs)), 0.0)
            batch_high = tf.maximum(tf.stop_gradient(tf.reduce_max(inputs)), _DEAD_STEP)
            if self.widen:
                fresh = weights["seen"] < 0.5
                low = weights["min"].assign(tf.where(fresh, batch_low, tf.minimum(low, batch_low)))
                high = weights["max"].assign(tf.where(fresh, batch_high, tf.maximum(high, batch_high)))
            else:
                low = _track(weights["min"], weights["seen"], batch_low, self.momentum)
                high = _track(weights["max"], weights["seen"], batch_high, self.momentum)
            with tf.control_dependencies([low, high]):
                low, high = tf.identity(low), tf.identity(high)
                weights["seen"].assign(1.0)
        with export.beforehand():
            low, high = tf.convert_to_tensor(low), tf.convert_to_tensor(high)
            step = (high - low) / 255.0
        quantized = _fake_quant(inputs, low, high, step, training)
        # FakeQuant has no gradient outside its range: logits that outrun a lagging range would not come back.
        return _straight_through(inputs, quantized) if training else quantized

    def scale(self, variables: dict[str, Any]) -> Any:
        """Returns the value of one int8 code."""
        return (variables["max"] - variables["min"]) / 255.0

    def get_config(self) -> dict[str, Any]:
        return {"widen": self.widen}


@_register
class FixedRangeQuantizer(Quantizer):
    """Activations at 8 bits in a range that is known beforehand.

    Args:
        low: Lower end of the range.
        high: Upper end; (high - low) / 255 is the step.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        return {}

    @_replaceable
    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **kwargs: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_args(inputs, self.low, self.high, num_bits=8)

    def scale(self, variables: dict[str, Any]) -> Any:
        """Returns the value of one int8 code."""
        return (self.high - self.low) / 255.0

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}


@_register
class OutputQuantizer(Quantizer):
    """A classifier's outputs: each logit's distance to the largest, clipped and rounded to 2^bits levels.

    The step is clip / (2^b - 1), and the 8-bit FakeQuant has range [-clip, (256 - 2^b) step]: int8 saturation does the
    clip, and nothing lies above zero. In training logits pass as they are: a cross-entropy does not see the largest
    taken off, and rounding has no gradient. It hides from who can only ask: the logits in front of it stay a tensor of
    the .tflite, which who holds the file reads (`OutputBits`).

    Args:
        bits: Initial bit-width, 1 to 8.
        clip: Distance to the largest logit beyond which all are alike, above 0.
    """

    def __init__(self, bits: int, clip: float) -> None:
        self.bits = bits
        self.clip = clip

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        return {"bits": _bits_variable(layer, name, self.bits), "clip": _scalar(layer, f"{name}_clip", self.clip)}

    @_replaceable
    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **kwargs: Any) -> Any:
        if training:
            return inputs
        # With one more axis in between the converter does not take this for the shift that a softmax does by itself,
        # which it would leave out together with the rounding.
        below = inputs - tf.reduce_max(tf.expand_dims(inputs, -2), axis=-1)
        with export.beforehand():
            step = self.scale(weights)
            levels = tf.pow(2.0, tf.convert_to_tensor(weights["bits"]))
            low, high = -(levels - 1.0) * step, (256.0 - levels) * step
        return _fake_quant(below, low, high, step, training)

    def scale(self, variables: dict[str, Any]) -> Any:
        """Returns the value of one int8 code."""
        return tf.convert_to_tensor(variables["clip"]) / (tf.pow(2.0, tf.convert_to_tensor(variables["bits"])) - 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"bits": self.bits, "clip": self.clip}
