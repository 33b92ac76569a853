"""Rounding of trained weights to few bits: steps of least squared error, and rounding up or down that is learned.

Weights that are codes times step are a fixed point of `quantizers.weight_codes`, so that a rounded kernel needs no
variable of its own to be exact in the file. For 1 and 2 bits that holds for every choice of codes. From 3 bits on the
rule takes the step from the largest weight of a channel, which is therefore held at the top code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfmiaq._backend import tf

# The rectified sigmoid reaches 0 and 1: it is stretched to these ends and clipped (Louizos et al. 2018, section 2.2).
_LOW, _HIGH = -0.1, 1.1
_CANDIDATES = np.linspace(0.05, 1.0, 96)
# Share of the iterations before the regularizer begins, its exponent at the beginning and at the end, and its weight.
_WARMUP = 0.2
_FIRST_BETA, _LAST_BETA = 20.0, 2.0
_WEIGHT = 1.0
# How far a free variable travels in one training, whatever the number of iterations.
_TRAVEL = 20.0
_DEAD = 1e-12


def top_code(bits: int) -> int:
    """Returns the largest code of weights: 2^(b-1) - 1, or 1 for 1 and 2 bits."""
    return max(2 ** (bits - 1) - 1, 1)


def _axes(kernel: np.ndarray, per_channel: bool) -> tuple[int, ...]:
    return tuple(range(kernel.ndim - 1)) if per_channel else tuple(range(kernel.ndim))


def nearest_codes(kernel: np.ndarray, step: np.ndarray, bits: int) -> np.ndarray:
    """Returns the code of the level nearest to each weight.

    Args:
        kernel: Weights.
        step: Broadcastable to them.
        bits: 1 to 8.

    Returns:
        Codes, float integers; a channel of zeros has codes 0.
    """
    top = top_code(bits)
    signs = np.where(kernel < 0, -1.0, 1.0)
    codes = signs if bits == 1 else np.clip(np.round(kernel / np.maximum(step, _DEAD)), -top, top)
    return np.where(step > _DEAD, codes, 0.0)


def least_squares_step(kernel: np.ndarray, bits: int, per_channel: bool) -> np.ndarray:
    """Returns the step for which weights rounded to the nearest level have the least squared error.

    For 1 bit it is the mean magnitude (Rastegari et al. 2016, section 3.1). Otherwise 96 parts of max|w| / top are
    tried. A step is never longer than max|w| / top, so that the largest weight keeps the top code.

    Args:
        kernel: Weights.
        bits: 1 to 8.
        per_channel: One step for each index of the last axis.

    Returns:
        The step, broadcastable to the kernel; 0 for a channel of zeros.
    """
    axes = _axes(kernel, per_channel)
    magnitude = np.abs(kernel.astype(np.float64))
    if bits == 1:
        return magnitude.mean(axes, keepdims=True)
    longest = magnitude.max(axes, keepdims=True) / top_code(bits)
    best, least = longest, np.full_like(longest, np.inf)
    for part in _CANDIDATES:
        step = np.maximum(part * longest, _DEAD)
        error = np.square(kernel - step * nearest_codes(kernel, step, bits)).sum(axes, keepdims=True)
        best, least = np.where(error < least, step, best), np.minimum(error, least)
    return np.where(longest > _DEAD, best, 0.0)


class _Choices:
    """Between which two neighbouring levels each weight is rounded.

    From 2 bits on these are floor and ceiling of weight over step, so that a weight beyond the outermost level has no
    choice; ternary weights are 0 or the step of their own sign. Binary weights choose between the two signs.

    Args:
        kernel: Weights.
        step: Broadcastable to them.
        bits: 1 to 8.
        per_channel: One step for each index of the last axis.
    """

    def __init__(self, kernel: np.ndarray, step: np.ndarray, bits: int, per_channel: bool) -> None:
        top = top_code(bits)
        scaled = kernel / np.maximum(step, _DEAD)
        self.gap = 2.0 if bits == 1 else 1.0
        self.floor = np.full(kernel.shape, -1.0) if bits == 1 else np.clip(np.floor(scaled), -top, top)
        ceiling = np.minimum(self.floor + self.gap, top)
        self.part = np.clip((scaled - self.floor) / self.gap, 0.0, 1.0)
        self.nearest = nearest_codes(kernel, step, bits)
        largest = np.abs(kernel).max(_axes(kernel, per_channel), keepdims=True)
        held = (np.abs(kernel) == largest) & (bits > 2)
        held |= (ceiling == self.floor) | (np.abs(scaled) >= top) & (bits > 1) | (step <= _DEAD)
        if bits > 2:
            self.nearest = np.where(np.abs(kernel) == largest, np.sign(kernel) * top, self.nearest)
        self.held = held

    def tensors(self) -> tuple[Any, ...]:
        """Returns what `_codes` takes behind `up`."""
        return tuple(tf.constant(part, tf.float32) for part in (self.held, self.nearest, self.floor, self.gap))


def _codes(up: Any, held: Any, nearest: Any, floor: Any, gap: Any) -> Any:
    """Returns the codes if weights are rounded up by `up`, 0 to 1; those without a choice keep the nearest."""
    return held * nearest + (1.0 - held) * (floor + gap * up)


def _rectified_sigmoid(free: Any) -> Any:
    return tf.clip_by_value(tf.sigmoid(free) * (_HIGH - _LOW) + _LOW, 0.0, 1.0)


def _schedule(iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the regularizer's exponent, which falls along a cosine after the warm-up, and its weight; by step."""
    progress = np.arange(iterations) / iterations
    later = np.maximum(progress - _WARMUP, 0.0) / (1.0 - _WARMUP)
    beta = _LAST_BETA + 0.5 * (_FIRST_BETA - _LAST_BETA) * (1.0 + np.cos(np.pi * later))
    return beta, np.where(progress < _WARMUP, 0.0, _WEIGHT)


def learn_codes(
    kernel: np.ndarray,
    step: np.ndarray,
    bits: int,
    per_channel: bool,
    error: Callable[..., Any],
    count: int,
    iterations: int,
    batch_size: int,
    generator: np.random.Generator,
    data: Sequence[Any] = (),
) -> np.ndarray:
    """Returns codes whose rounding up or down is learned (AdaRound, Nagel et al. 2020, section 3.2 and 3.3).

    Each weight is floor + h(V) steps, where h is a rectified sigmoid and V is learned with Adam. The loss is the error
    of the layer's outputs, as a part of that of the nearest codes, plus a regularizer 1 - |2 h(V) - 1|^beta whose beta
    falls from 20 to 2, so that h ends at 0 or 1.

    Args:
        kernel: Float weights.
        step: Broadcastable to them.
        bits: 1 to 8.
        per_channel: One step for each index of the last axis.
        error: Called with weights, indices of records, and `data`; returns the squared error of the layer's outputs,
            scalar. Where there are data, it depends on nothing else that changes: it is traced once, for all kernels
            and data of as many axes.
        count: Number of records.
        iterations: Steps of Adam; 0 for the nearest codes.
        batch_size: Records in each.
        generator: Draws the records.
        data: Float tensors.

    Returns:
        Codes, float integers; the nearest ones if their error is lower.
    """
    choices = _Choices(kernel, step, bits, per_channel)
    if choices.held.all() or not iterations:
        return choices.nearest
    batch_size = min(batch_size, count)
    step = tf.constant(step, tf.float32)
    fixed = choices.tensors()
    # Both roundings are compared on the same records: all, or some of very many.
    compared = generator.permutation(count)[: max(2 * batch_size, 512)]
    nearest_error = _mean_error(error, tf.constant(choices.nearest, tf.float32) * step, compared, batch_size, data)
    if not nearest_error > 0.0:
        return choices.nearest
    free = np.log((choices.part - _LOW) / (_HIGH - choices.part))
    chosen = np.stack([generator.choice(count, batch_size, replace=False) for _ in range(iterations)])
    beta, weight = _schedule(iterations)
    scalars = np.array([nearest_error, _TRAVEL / iterations])
    floats = [tf.constant(part, tf.float32) for part in (free, scalars, beta, weight)]
    arguments = [tf.constant(chosen, tf.int64), *floats, step, *fixed, *data]
    # A concrete function: a plain one warns where it is traced again and again.
    if data:
        learn = _traced_once(error, tuple(len(tensor.shape) for tensor in arguments))
    else:
        learn = _traced(error, [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in arguments])
    up = _rectified_sigmoid(learn(*arguments)).numpy() >= 0.5
    codes = _codes(tf.constant(up, tf.float32), *fixed)
    learned_error = _mean_error(error, codes * step, compared, batch_size, data)
    return codes.numpy() if learned_error < nearest_error else choices.nearest


def _traced(error: Callable[..., Any], signature: Sequence[Any]) -> Any:
    """Returns all steps of Adam as one traced function, which returns the free variables."""

    def learn(
        chosen: Any, start: Any, scalars: Any, betas: Any, weights: Any, step: Any, held: Any, *others: Any
    ) -> Any:
        fixed, data = (held, *others[:3]), others[3:]
        nearest_error, rate = scalars[0], scalars[1]
        some = 1.0 - held
        number = tf.reduce_sum(some)

        def update(index: Any, free: Any, first: Any, second: Any) -> tuple[Any, ...]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(free)
                up = _rectified_sigmoid(free)
                undecided = tf.reduce_sum(some * (1.0 - tf.abs(2.0 * up - 1.0) ** betas[index])) / number
                loss = error(_codes(up, *fixed) * step, chosen[index], *data) / nearest_error
                loss += weights[index] * undecided
            gradient = tape.gradient(loss, free)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * tf.square(gradient)
            time = tf.cast(index + 1, tf.float32)
            mean, square = first / (1.0 - 0.9**time), second / (1.0 - 0.999**time)
            return index + 1, free - rate * mean / (tf.sqrt(square) + 1e-10), first, second

        return tf.while_loop(
            lambda index, *_: index < tf.shape(chosen)[0],
            update,
            (tf.constant(0), start, tf.zeros_like(start), tf.zeros_like(start)),
            parallel_iterations=1,
        )[1]

    return tf.function(learn, autograph=False).get_concrete_function(*signature)


@functools.lru_cache(maxsize=32)
def _traced_once(error: Callable[..., Any], ranks: tuple[int, ...]) -> Any:
    specs = [tf.TensorSpec([None] * rank, tf.float32 if index else tf.int64) for index, rank in enumerate(ranks)]
    return _traced(error, specs)


def _mean_error(
    error: Callable[..., Any], weights: Any, records: np.ndarray, batch_size: int, data: Sequence[Any]
) -> float:
    batch_size, total = max(batch_size, 64), 0.0
    for start in range(0, len(records), batch_size):
        chosen = records[start : start + batch_size]
        total += float(error(weights, tf.constant(chosen, tf.int64), *data)) * len(chosen)
    return total / len(records)
