"""The arithmetic against an independent NumPy reference, for every bit-width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfmiaq._backend import keras, tf
from tfmiaq.quantization import export, quantizers

BITS = range(1, 9)


def reference_levels(channel, bits):
    """Quantized values of one channel, written from the published formulas."""
    magnitude = np.abs(channel)
    if bits == 1:
        return np.where(channel >= 0, 1, -1) * magnitude.mean()
    if bits == 2:
        kept = magnitude > 0.7 * magnitude.mean()
        return np.sign(channel) * kept * magnitude[kept].mean()
    top = 2 ** (bits - 1) - 1
    step = magnitude.max() / top
    return np.round(channel / step) * step


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (3, 3, 4, 1), (20, 5)])
def test_codes_match_the_reference_on_each_channel(bits, shape):
    weights = np.random.default_rng(bits).normal(size=shape).astype(np.float32)
    codes, step = quantizers.weight_codes(tf.constant(weights), bits, per_channel=True)
    expected = np.stack([reference_levels(weights[..., i], bits) for i in range(shape[-1])], axis=-1)
    np.testing.assert_allclose((codes * step).numpy(), expected, atol=1e-6)


def _quantize(weights, bits, per_channel=True, training=False):
    quantizer = quantizers.WeightQuantizer(bits, per_channel)
    return quantizer(weights, training, {"bits": tf.Variable(float(bits))})


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, (3, 3, 2, 2), elements=st.floats(-1e3, 1e3, width=32)),
    st.sampled_from(BITS),
    st.booleans(),
)
def test_every_value_is_an_int8_code_of_a_level(weights, bits, per_channel):
    values = _quantize(tf.constant(weights), bits, per_channel).numpy()
    codes, step = (t.numpy() for t in quantizers.weight_codes(tf.constant(weights), bits, per_channel))
    top = max(2 ** (bits - 1) - 1, 1)
    assert np.abs(codes).max() <= top
    np.testing.assert_array_equal(codes, np.round(codes))
    np.testing.assert_allclose(values, codes * step, rtol=1e-5, atol=1e-30)
    assert float(quantizers.int8_refinement(bits)) * top <= 127


def test_a_channel_of_zeros_stays_zero():
    weights = np.zeros((3, 3, 1, 2), np.float32)
    weights[..., 1] = 1
    for bits in BITS:
        values = _quantize(tf.constant(weights), bits).numpy()
        assert (values[..., 0] == 0).all()
        assert (values[..., 1] != 0).all()


@pytest.mark.parametrize("bits", BITS)
def test_the_gradient_of_weights_is_straight_through(bits):
    weights = tf.Variable(np.random.default_rng(0).normal(size=(3, 3, 2, 2)).astype(np.float32))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(_quantize(weights, bits, training=True) * 3.0)
    np.testing.assert_allclose(tape.gradient(total, weights).numpy(), 3.0, rtol=1e-6)


def test_the_error_falls_with_bits():
    weights = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32))
    errors = [float(tf.reduce_mean((_quantize(weights, bits) - weights) ** 2)) for bits in BITS]
    assert errors == sorted(errors, reverse=True)


FINITE = st.floats(-1e3, 1e3, width=32)
KERNELS = hnp.arrays(np.float32, (3, 3, 2, 2), elements=FINITE)


@settings(max_examples=30, deadline=None)
@given(KERNELS, st.sampled_from(BITS), st.booleans())
def test_quantizing_again_changes_nothing(weights, bits, per_channel):
    """Of 2 bits only the set of zeros is kept: the threshold moves with the mean of what was rounded."""
    once = _quantize(tf.constant(weights), bits, per_channel).numpy()
    twice = _quantize(tf.constant(once), bits, per_channel).numpy()
    if bits != 2:
        np.testing.assert_allclose(twice, once, rtol=1e-4, atol=1e-6 * np.abs(weights).max())
    else:
        assert not np.any(twice[once == 0])


@settings(max_examples=30, deadline=None)
@given(KERNELS.filter(lambda w: (np.abs(w) > 1e-30).all()), st.sampled_from(BITS), st.booleans())
def test_weights_are_quantized_symmetrically(weights, bits, per_channel):
    one, other = (_quantize(tf.constant(w), bits, per_channel).numpy() for w in (weights, -weights))
    np.testing.assert_allclose(other, -one, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(KERNELS, st.sampled_from([3, 4, 5, 6, 7, 8]))
def test_no_weight_of_three_bits_or_more_moves_by_over_half_a_step(weights, bits):
    values = _quantize(tf.constant(weights), bits).numpy()
    _, step = quantizers.weight_codes(tf.constant(weights), bits, per_channel=True)
    assert (np.abs(values - weights) <= 0.5001 * step.numpy() + 1e-6).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("magnitude", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_levels_scale_with_the_weights(bits, magnitude):
    weights = np.random.default_rng(0).normal(size=(3, 3, 2, 2)).astype(np.float32)
    one = _quantize(tf.constant(weights), bits).numpy()
    other = _quantize(tf.constant(weights * np.float32(magnitude)), bits).numpy()
    np.testing.assert_allclose(other, one * magnitude, rtol=1e-4, atol=1e-5 * magnitude)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [-3.0, 0.25])
def test_a_constant_is_kept(bits, value):
    values = _quantize(tf.fill((3, 3, 2, 2), value), bits).numpy()
    np.testing.assert_allclose(values, value, rtol=1e-5)


class _Host(keras.layers.Layer):
    """A layer that owns a quantizer's variables."""


@pytest.mark.parametrize("bits", BITS)
def test_relu_activations_take_all_levels_up_to_their_clip(bits):
    quantizer = quantizers.ReluQuantizer(bits)
    variables = quantizer.build(None, "post_activation", _Host())
    x = tf.linspace(0.0, 3.0, 10_000)
    top = 3.0 if bits > 2 else (0.9 + 0.85 * bits) * 3 / np.sqrt(3)
    values = quantizer(x, True, variables).numpy()
    levels = np.unique(values)
    assert len(levels) == 2**bits
    np.testing.assert_allclose(levels, np.arange(2**bits) * min(top, 3.0) / (2**bits - 1), atol=2e-4)
    np.testing.assert_array_equal(quantizer(x, False, variables).numpy(), values)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_clip_is_near_the_best_for_a_rectified_gaussian(bits):
    x = tf.nn.relu(tf.constant(np.random.default_rng(0).normal(size=20_000), tf.float32))

    def error(top):
        step = top / (2**bits - 1)
        return float(tf.reduce_mean((tf.round(tf.minimum(x, top) / step) * step - x) ** 2))

    best = min(map(error, np.linspace(0.5, 4.5, 81)))
    spread = tf.sqrt(tf.reduce_mean(x**2))
    assert error(float(quantizers.relu_top(tf.reduce_max(x), spread, float(bits)))) < 1.15 * best


def test_ranges_start_with_the_first_batch_and_then_average():
    quantizer = quantizers.ReluQuantizer(8)
    variables = quantizer.build(None, "post_activation", _Host())
    quantizer(tf.constant([0.0, 2.0]), True, variables)
    assert float(variables["max"]) == pytest.approx(2.0)
    quantizer(tf.constant([0.0, 4.0]), True, variables)
    assert float(variables["max"]) == pytest.approx(0.9 * 2 + 0.1 * 4)
    quantizer(tf.constant([0.0, 100.0]), False, variables)
    assert float(variables["max"]) == pytest.approx(2.2)


def test_network_inputs_keep_the_widest_range():
    quantizer = quantizers.LinearQuantizer(widen=True)
    variables = quantizer.build(None, "input", _Host())
    for batch in ([-1.0, 2.0], [0.0, 5.0], [-0.5, 1.0]):
        quantizer(tf.constant(batch), True, variables)
    assert (float(variables["min"]), float(variables["max"])) == (-1.0, 5.0)


def test_logits_beyond_their_range_keep_their_gradient():
    quantizer = quantizers.LinearQuantizer()
    variables = quantizer.build(None, "post_activation", _Host())
    quantizer(tf.constant([-1.0, 1.0]), True, variables)
    logits = tf.Variable([-40.0, 0.5, 80.0])
    with tf.GradientTape() as tape:
        outputs = quantizer(logits, True, variables)
        total = tf.reduce_sum(outputs)
    assert float(variables["max"]) == pytest.approx(0.9 + 8.0)
    assert outputs.numpy().max() < 9.0
    np.testing.assert_array_equal(tape.gradient(total, logits).numpy(), [1.0, 1.0, 1.0])


def test_bits_are_a_runtime_value():
    bits = tf.Variable(8.0)
    quantizer = quantizers.WeightQuantizer(8)
    weights = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 2, 1)).astype(np.float32))
    traces = []

    @tf.function
    def quantize(x):
        traces.append(1)
        return quantizer(x, False, {"bits": bits})

    assert len(np.unique(quantize(weights))) > 3
    bits.assign(1.0)
    assert len(np.unique(quantize(weights))) == 2
    assert len(traces) == 1


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float32, (40,), elements=st.floats(0, 1e3, width=32)), st.sampled_from(BITS))
def test_relu_outputs_are_kept_in_order_and_inside_their_clip(x, bits):
    quantizer = quantizers.ReluQuantizer(bits)
    variables = quantizer.build(None, "post_activation", _Host())
    values = quantizer(tf.constant(np.sort(x)), True, variables).numpy()
    top = float(quantizer.scale(variables)) * (2**bits - 1)
    assert (np.diff(values) >= 0).all()
    assert values.min() >= 0
    assert values.max() <= top * (1 + 1e-5)
    assert len(np.unique(values)) <= 2**bits


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_gradient_of_a_relu_output_stops_at_its_clip(bits):
    quantizer = quantizers.ReluQuantizer(bits)
    variables = quantizer.build(None, "post_activation", _Host())
    quantizer(tf.linspace(0.0, 1.0, 100), True, variables)
    top = float(quantizer.scale(variables)) * (2**bits - 1)
    x = tf.Variable([0.25 * top, 0.75 * top, 2.0 * top])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(quantizer(x, False, variables))
    np.testing.assert_array_equal(tape.gradient(total, x).numpy(), [1.0, 1.0, 0.0])


def test_a_value_below_the_middle_is_rounded_down_as_a_kernel_does():
    """FakeQuant by itself adds the 240 codes below zero first, and loses the difference."""
    quantizer = quantizers.ReluQuantizer(4)
    variables = quantizer.build(None, "post_activation", _Host())
    quantizer(tf.constant([0.0, 1.5]), True, variables)
    step = float(quantizer.scale(variables))
    below = tf.constant([3.499995 * step])
    assert float(quantizer(below, False, variables)) == pytest.approx(3 * step, rel=1e-5)
    with export.exporting([]):
        assert float(quantizer(below, False, variables)) == pytest.approx(4 * step, rel=1e-5)


def test_lowered_bits_take_their_clip_at_once():
    quantizer = quantizers.ReluQuantizer(8)
    variables = quantizer.build(None, "post_activation", _Host())
    x = tf.nn.relu(tf.constant(np.random.default_rng(0).normal(size=4000), tf.float32))
    quantizer(x, True, variables)
    variables["bits"].assign(2.0)
    low = quantizers.ReluQuantizer(2)
    other = low.build(None, "post_activation", _Host())
    np.testing.assert_allclose(quantizer(x, False, variables), low(x, True, other), rtol=1e-5)
