"""A layer with a kernel and what runs fused with it, reconstructed: quantized, it gives the float layer's outputs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import keras, number, tf, weight_quantizers
from tfmiaq.quantization import rounding
from tfmiaq.quantization.layer_specs import spec_of
from tfmiaq.quantization.transformations.functional import takes_training

# Variances below this part of a normalization's epsilon are those of a constant.
_CONSTANT = 1e-3
# How far least squares over the outputs may move a step.
_SHORTEST, _LONGEST = 0.5, 2.0
_CHUNK = 64


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and variance of each channel of a BatchNormalization's input; tensors or arrays."""

    mean: Any
    variance: Any


def corrected(norm: Any, known: Statistics, of_float: Statistics, of_quantized: Statistics) -> Statistics:
    """Returns the moving statistics with which a BatchNormalization has the float outputs' mean and variance again.

    Both networks see the same records, and the moving statistics change by their difference alone: how the records
    differ from the training set, and chance, cancels out.

    Args:
        norm: The BatchNormalization.
        known: Its moving statistics in the float network.
        of_float: Statistics of its input in the float network, over some records.
        of_quantized: The same in the quantized network, over the same records.
    """
    tiny = _CONSTANT * norm.epsilon
    ratio = (of_quantized.variance + tiny) / (of_float.variance + tiny)
    variance = (known.variance + norm.epsilon) * ratio - norm.epsilon
    return Statistics(known.mean + of_quantized.mean - of_float.mean, tf.maximum(variance, 0.0))


def statistics(values: Any) -> Statistics:
    """Returns mean and variance of a tensor over all but the last axis."""
    return Statistics(*tf.nn.moments(values, list(range(len(values.shape) - 1))))


def statistics_of_parts(parts: list[Any]) -> Statistics:
    """Returns mean and variance over all but the last axis of several tensors together."""
    flat = np.concatenate([part.numpy().reshape(-1, part.shape[-1]) for part in parts]).astype(np.float64)
    return Statistics(flat.mean(0).astype(np.float32), flat.var(0).astype(np.float32))


class Unit:
    """A quantized layer with a kernel, the BatchNormalization that folds into it, and its ReLU.

    Args:
        wrapper: The wrapped layer.
        norm: The BatchNormalization behind it, or None.
        relu: The ReLU layer behind both, or None.
    """

    def __init__(self, wrapper: Any, norm: Optional[Any], relu: Optional[Any]) -> None:
        self.wrapper, self.norm, self.relu = wrapper, norm, relu
        self.kernel, quantizer, variables = weight_quantizers(wrapper)[0]
        self.bits = round(number(variables["bits"]))
        self.per_channel = bool(quantizer.per_channel)
        layer = wrapper.layer
        self.bias = layer.bias if getattr(layer, "use_bias", False) else None
        activation = getattr(layer, "activation", keras.activations.linear)
        # tfmot puts its own object around the activation of a wrapped layer.
        self.activation = getattr(activation, "activation", activation)

    def _nearest(self) -> tuple[np.ndarray, np.ndarray]:
        kernel = self.kernel.numpy()
        step = rounding.least_squares_step(kernel, self.bits, self.per_channel)
        return rounding.nearest_codes(kernel, step, self.bits), step

    def _set(self, codes: np.ndarray, step: np.ndarray) -> None:
        self.kernel.assign((codes * step).astype(np.float32))

    @contextlib.contextmanager
    def _bare(self) -> Iterator[None]:
        """Within it the layer has no activation."""
        layer = self.wrapper.layer
        if not hasattr(layer, "activation"):
            yield
            return
        before, layer.activation = layer.activation, keras.activations.linear
        try:
            yield
        finally:
            layer.activation = before

    def _sums(self, kernel: Any, x: Any) -> Any:
        """Returns what the layer computes with a kernel, in front of its activation."""
        layer = self.wrapper.layer
        self.wrapper.quantize_config.set_quantize_weights(layer, [kernel])
        return layer.call(x, training=False) if takes_training(layer) else layer.call(x)

    def _known(self) -> Statistics:
        assert self.norm is not None
        return Statistics(*map(tf.convert_to_tensor, (self.norm.moving_mean, self.norm.moving_variance)))

    def _activated(self, sums: Any) -> Any:
        outputs = self.activation(sums)
        return outputs if self.relu is None else self.relu.call(outputs)

    def _normalized(self, sums: Any, found: Statistics) -> Any:
        norm = self.norm
        assert norm is not None
        return tf.nn.batch_normalization(
            sums,
            found.mean,
            found.variance,
            norm.beta if norm.center else None,
            norm.gamma if norm.scale else None,
            norm.epsilon,
        )

    def _pair(self, sums: Any, float_sums: Any) -> tuple[Any, Any]:
        """Returns the outputs of the quantized and of the float layer; the first with mean and variance corrected."""
        if self.norm is not None:
            known = self._known()
            of_float = statistics(float_sums)
            now = corrected(self.norm, known, of_float, statistics(sums))
            return (
                self._activated(self._normalized(sums, now)),
                self._activated(self._normalized(float_sums, known)),
            )
        if self.bias is not None:
            sums += statistics(float_sums).mean - statistics(sums).mean
        return self._activated(sums), self._activated(float_sums)

    def learn(
        self,
        x: Optional[Any],
        float_x: Optional[Any],
        iterations: int,
        batch_size: int,
        generator: np.random.Generator,
    ) -> None:
        """Sets the kernel to codes times step, where rounding up or down is learned.

        Without a BatchNormalization, step and bias are then fitted to the float outputs by least squares. What is only
        looked up (an embedding) is rounded to nearest.

        Args:
            x: Inputs of the layer in the quantized network, shape (n, ...); None to round to nearest.
            float_x: The same in the float network.
            iterations: Steps of Adam; 0 to round to nearest.
            batch_size: Records in each.
            generator: Draws the records.
        """
        codes, step = self._nearest()
        if x is None or spec_of(self.wrapper.layer).outputs_weights:
            self._set(codes, step)
            return
        kernel = self.kernel.numpy()
        with self._bare():
            float_sums = self._sums_of_all(kernel, float_x)

            def error(weights: Any, chosen: Any) -> Any:
                outputs, wanted = self._pair(self._sums(weights, tf.gather(x, chosen)), tf.gather(float_sums, chosen))
                return tf.reduce_mean(tf.square(outputs - wanted))

            codes = rounding.learn_codes(
                kernel, step, self.bits, self.per_channel, error, len(x), iterations, batch_size, generator
            )
            if self.norm is None:
                step = self._fitted(codes, step, x, float_sums)
        self._set(codes, step)

    def _sums_of_all(self, kernel: Any, x: Any) -> Any:
        kernel = tf.constant(kernel, tf.float32)
        parts = [self._sums(kernel, x[start : start + _CHUNK]) for start in range(0, len(x), _CHUNK)]
        return tf.concat(parts, 0)

    def _fitted(self, codes: np.ndarray, step: np.ndarray, x: Any, float_sums: Any) -> np.ndarray:
        """Returns the step of least squared error over the outputs, and moves the bias by what is left of the mean."""
        sums = self._sums_of_all(codes * step, x)
        bias = 0.0 if self.bias is None else self.bias.numpy()
        found, wanted = (tf.reshape(t, [-1, t.shape[-1]]).numpy().astype(np.float64) - bias for t in (sums, float_sums))
        found_mean, wanted_mean = (t.mean(0) if self.bias is not None else 0.0 for t in (found, wanted))
        above = ((found - found_mean) * (wanted - wanted_mean)).sum(0)
        below = np.square(found - found_mean).sum(0)
        # A step serves all channels, one, or (in a depthwise kernel) one of each input channel.
        above, below = (total.reshape(-1, step.size).sum(0) for total in (above, below))
        factor = np.where(below > 0.0, above / np.where(below > 0.0, below, 1.0), 1.0)
        factor = np.clip(factor, _SHORTEST, _LONGEST)
        if self.bias is not None:
            moved = np.tile(factor, found.shape[1] // step.size) * found_mean
            self.bias.assign((bias + wanted_mean - moved).astype(np.float32))
        return step * factor.reshape(step.shape)
