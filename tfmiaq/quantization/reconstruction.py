"""A layer with a kernel and what runs fused with it, reconstructed: quantized, it gives the float layer's outputs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import keras, number, tf, weight_quantizers
from tfmiaq.quantization import patches, rounding
from tfmiaq.quantization.layer_specs import spec_of
from tfmiaq.quantization.transformations.functional import takes_training

# Variances below this part of a normalization's epsilon are those of a constant.
_CONSTANT = 1e-3
# How far least squares over the outputs may move a step.
_SHORTEST, _LONGEST = 0.5, 2.0
_CHUNK = 64
# Positions of each record's outputs that rounding is learned from.
_POSITIONS = 32


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and variance of each channel of a BatchNormalization's input; tensors or arrays."""

    mean: Any
    variance: Any


def corrected(epsilon: Any, known: Statistics, of_float: Statistics, of_quantized: Statistics) -> Statistics:
    """Returns the moving statistics with which a BatchNormalization has the float outputs' mean and variance again.

    Both networks see the same records, and the moving statistics change by their difference alone: how the records
    differ from the training set, and chance, cancels out.

    Args:
        epsilon: That of the BatchNormalization.
        known: Its moving statistics in the float network.
        of_float: Statistics of its input in the float network, over some records.
        of_quantized: The same in the quantized network, over the same records.
    """
    tiny = _CONSTANT * epsilon
    ratio = (of_quantized.variance + tiny) / (of_float.variance + tiny)
    variance = (known.variance + epsilon) * ratio - epsilon
    return Statistics(known.mean + of_quantized.mean - of_float.mean, tf.maximum(variance, 0.0))


def statistics(values: Any) -> Statistics:
    """Returns mean and variance of a tensor over all but the last axis."""
    return Statistics(*tf.nn.moments(values, list(range(len(values.shape) - 1))))


def statistics_of_parts(parts: list[Any]) -> Statistics:
    """Returns mean and variance over all but the last axis of several tensors together."""
    found = [statistics(part) for part in parts]
    means, variances = (np.array([getattr(each, name) for each in found], np.float64) for name in ("mean", "variance"))
    weights = np.array([float(tf.size(part)) for part in parts])[:, None]
    weights /= weights.sum()
    mean = (weights * means).sum(0)
    variance = (weights * (variances + np.square(means - mean))).sum(0)
    return Statistics(mean.astype(np.float32), variance.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Following:
    """What runs behind the sums of a layer, without any variables: equal for layers of one kind.

    Attributes:
        normalizes: Whether a BatchNormalization does.
        has_bias: Whether the layer has a bias of its own.
        activations: Functions that do, in their order.
    """

    normalizes: bool
    has_bias: bool
    activations: tuple[Callable[[Any], Any], ...]

    def outputs(self, sums: Any, float_sums: Any, norm: Sequence[Any]) -> tuple[Any, Any]:
        """Returns the outputs of the quantized and of the float layer; the first with mean and variance corrected.

        Args:
            sums: Of the quantized layer.
            float_sums: Of the float layer, for the same records.
            norm: Moving mean, moving variance, gamma, beta and epsilon of the BatchNormalization, if there is one.
        """
        if self.normalizes:
            mean, variance, gamma, beta, epsilon = norm
            known = Statistics(mean, variance)
            now = corrected(epsilon, known, statistics(float_sums), statistics(sums))
            sums, float_sums = (
                tf.nn.batch_normalization(each, found.mean, found.variance, beta, gamma, epsilon)
                for each, found in ((sums, now), (float_sums, known))
            )
        elif self.has_bias:
            sums += statistics(float_sums).mean - statistics(sums).mean
        for activation in self.activations:
            sums, float_sums = activation(sums), activation(float_sums)
        return sums, float_sums


@dataclasses.dataclass(frozen=True)
class _ErrorOfRows:
    """The squared error of outputs that are products of rows; the same function for all layers of one kind."""

    product: Callable[[Any, Any], Any]
    following: Following

    def __call__(self, weights: Any, chosen: Any, rows: Any, float_sums: Any, *norm: Any) -> Any:
        sums = self.product(tf.gather(rows, chosen), weights)
        outputs, wanted = self.following.outputs(sums, tf.gather(float_sums, chosen), norm)
        return tf.reduce_mean(tf.square(outputs - wanted))


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
        activations = [getattr(activation, "activation", activation)]
        if relu is not None:
            # A layer of the types ReLU and Activation is a ReLU or a ReLU6.
            activations.append(tf.nn.relu if getattr(relu, "max_value", None) is None else tf.nn.relu6)
        self.following = Following(norm is not None, self.bias is not None, tuple(activations))

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

    def _norm(self) -> tuple[Any, ...]:
        """Returns what `Following.outputs` takes of the BatchNormalization."""
        norm = self.norm
        if norm is None:
            return ()
        mean, variance = norm.moving_mean, norm.moving_variance
        gamma = norm.gamma if norm.scale else tf.ones_like(mean)
        beta = norm.beta if norm.center else tf.zeros_like(mean)
        return tuple(tf.convert_to_tensor(value, tf.float32) for value in (mean, variance, gamma, beta, norm.epsilon))

    def learn(
        self,
        x: Optional[Sequence[Any]],
        float_x: Optional[Sequence[Any]],
        iterations: int,
        batch_size: int,
        generator: np.random.Generator,
    ) -> None:
        """Sets the kernel to codes times step, where rounding up or down is learned.

        Without a BatchNormalization, step and bias are then fitted to the float outputs by least squares. What is only
        looked up (an embedding) is rounded to nearest.

        Args:
            x: Inputs of the layer in the quantized network: tensors (n, ...), which together are all records; None to
                round to nearest.
            float_x: The same in the float network.
            iterations: Steps of Adam; 0 to round to nearest.
            batch_size: Records in each; of a convolution's outputs as many times 32 positions.
            generator: Draws the records.
        """
        codes, step = self._nearest()
        if x is None or float_x is None or spec_of(self.wrapper.layer).outputs_weights:
            self._set(codes, step)
        elif patches.has_rows(self.wrapper.layer):
            self._learn_from_rows(step, x, float_x, iterations, batch_size, generator)
        else:
            self._learn_from_records(step, tf.concat(x, 0), tf.concat(float_x, 0), iterations, batch_size, generator)

    def _learn_from_rows(
        self,
        step: np.ndarray,
        x: Sequence[Any],
        float_x: Sequence[Any],
        iterations: int,
        batch_size: int,
        generator: np.random.Generator,
    ) -> None:
        layer, kernel = self.wrapper.layer, self.kernel.numpy()
        rows, float_rows = patches.sample(layer, (x, float_x), _POSITIONS, generator)
        product = patches.product_of(layer)
        bias = 0.0 if self.bias is None else self.bias.numpy()
        float_sums = product(tf.constant(float_rows), tf.constant(kernel)) + bias
        del float_rows
        rows, error = tf.constant(rows), _ErrorOfRows(product, self.following)
        batch_size *= len(rows) // sum(map(len, x))
        codes = rounding.learn_codes(
            kernel,
            step,
            self.bits,
            self.per_channel,
            error,
            len(rows),
            iterations,
            batch_size,
            generator,
            (rows, float_sums, *self._norm()),
        )
        if self.norm is None:
            sums = product(rows, tf.constant(codes * step, tf.float32)) + bias
            step = self._fitted(step, sums, float_sums)
        self._set(codes, step)

    def _learn_from_records(
        self, step: np.ndarray, x: Any, float_x: Any, iterations: int, batch_size: int, generator: np.random.Generator
    ) -> None:
        kernel, norm = self.kernel.numpy(), self._norm()
        with self._bare():
            float_sums = self._sums_of_all(kernel, float_x)

            def error(weights: Any, chosen: Any) -> Any:
                sums = self._sums(weights, tf.gather(x, chosen))
                outputs, wanted = self.following.outputs(sums, tf.gather(float_sums, chosen), norm)
                return tf.reduce_mean(tf.square(outputs - wanted))

            codes = rounding.learn_codes(
                kernel, step, self.bits, self.per_channel, error, len(x), iterations, batch_size, generator
            )
            if self.norm is None:
                step = self._fitted(step, self._sums_of_all(codes * step, x), float_sums)
        self._set(codes, step)

    def _sums_of_all(self, kernel: Any, x: Any) -> Any:
        kernel = tf.constant(kernel, tf.float32)
        parts = [self._sums(kernel, x[start : start + _CHUNK]) for start in range(0, len(x), _CHUNK)]
        return tf.concat(parts, 0)

    def _fitted(self, step: np.ndarray, sums: Any, float_sums: Any) -> np.ndarray:
        """Returns the step of least squared error over the outputs, and moves the bias by what is left of the mean."""
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
