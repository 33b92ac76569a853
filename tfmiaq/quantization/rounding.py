"""Rounding of trained weights to few bits: steps of least squared error, and rounding up or down that is learned.

Weights that are codes times step are a fixed point of `quantizers.weight_codes`, so that a rounded kernel needs no
variable of its own to be exact in the file. For 1 and 2 bits that holds for every choice of codes. From 3 bits on the
rule takes the step from the largest weight of a channel, which is therefore held at the top code.
"""

from __future__ import annotations

from collections.abc import Callable
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

    def codes(self, up: Any) -> Any:
        """Returns the codes if weights are rounded up by `up`, 0 to 1; those without a choice keep the nearest."""
        return self.held * self.nearest + (1.0 - self.held) * (self.floor + self.gap * up)


def _rectified_sigmoid(free: Any) -> Any:
    return tf.clip_by_value(tf.sigmoid(free) * (_HIGH - _LOW) + _LOW, 0.0, 1.0)


def _beta(progress: float) -> float:
    """Returns the regularizer's exponent, which falls along a cosine after the warm-up."""
    later = max(progress - _WARMUP, 0.0) / (1.0 - _WARMUP)
    return _LAST_BETA + 0.5 * (_FIRST_BETA - _LAST_BETA) * (1.0 + np.cos(np.pi * later))


def learn_codes(
    kernel: np.ndarray,
    step: np.ndarray,
    bits: int,
    per_channel: bool,
    error: Callable[[Any, Any], Any],
    count: int,
    iterations: int,
    batch_size: int,
    generator: np.random.Generator,
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
        error: Called with weights and indices of records; returns the squared error of the layer's outputs, scalar.
        count: Number of records.
        iterations: Steps of Adam; 0 for the nearest codes.
        batch_size: Records in each.
        generator: Draws the records.

    Returns:
        Codes, float integers; the nearest ones if their error on all records is lower.
    """
    choices = _Choices(kernel, step, bits, per_channel)
    fixed = {name: getattr(choices, name).astype(np.float32) for name in ("floor", "held", "nearest")}
    part, step = choices.part.astype(np.float32), step.astype(np.float32)
    vars(choices).update(fixed)
    if choices.held.all() or not iterations:
        return choices.nearest
    batch_size = min(batch_size, count)
    free = tf.Variable(np.log((part - _LOW) / (_HIGH - part)))
    first, second = tf.Variable(tf.zeros_like(free)), tf.Variable(tf.zeros_like(free))
    some = tf.constant(1.0 - choices.held)
    nearest_error = _whole_error(error, choices.nearest * step, count, batch_size)
    if not nearest_error > 0.0:
        return choices.nearest
    number = tf.reduce_sum(some)
    rate = _TRAVEL / iterations

    def update(chosen: Any, beta: Any, weight: Any, time: Any) -> None:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(free)
            up = _rectified_sigmoid(free)
            undecided = tf.reduce_sum(some * (1.0 - tf.abs(2.0 * up - 1.0) ** beta)) / number
            loss = error(choices.codes(up) * step, chosen) / nearest_error + weight * undecided
        gradient = tape.gradient(loss, free)
        first.assign(0.9 * first + 0.1 * gradient)
        second.assign(0.999 * second + 0.001 * tf.square(gradient))
        mean, square = first / (1.0 - 0.9**time), second / (1.0 - 0.999**time)
        free.assign_sub(rate * mean / (tf.sqrt(square) + 1e-10))

    scalar = tf.TensorSpec([], tf.float32)
    # A concrete function: called for layer after layer, a plain one warns that it is traced again and again.
    traced = tf.function(update, autograph=False).get_concrete_function(
        tf.TensorSpec([batch_size], tf.int64), scalar, scalar, scalar
    )
    for iteration in range(iterations):
        progress = iteration / iterations
        chosen = generator.choice(count, batch_size, replace=False)
        weight = 0.0 if progress < _WARMUP else _WEIGHT
        traced(
            tf.constant(chosen, tf.int64),
            tf.constant(_beta(progress), tf.float32),
            tf.constant(weight, tf.float32),
            tf.constant(iteration + 1.0, tf.float32),
        )
    codes = choices.codes((_rectified_sigmoid(free).numpy() >= 0.5).astype(np.float32))
    learned_error = _whole_error(error, codes * step, count, batch_size)
    return codes if learned_error < nearest_error else choices.nearest


def _whole_error(error: Callable[[Any, Any], Any], weights: np.ndarray, count: int, batch_size: int) -> float:
    """Returns the mean error over all records."""
    weights, total = tf.constant(weights, tf.float32), 0.0
    batch_size = max(batch_size, 64)
    for start in range(0, count, batch_size):
        chosen = tf.range(start, min(start + batch_size, count), dtype=tf.int64)
        total += float(error(weights, chosen)) * len(chosen)
    return total / count
