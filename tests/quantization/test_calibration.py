"""calibrate: rounding, statistics and ranges from unlabelled records, and what of it is in the file."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from conftest import outputs_of, tiny_model

import tfmiaq
from tfmiaq import BitwidthPolicy, LayerBits
from tfmiaq._backend import activation_quantizers, keras, number, tf, weight_quantizers
from tfmiaq.quantization import quantizers, rounding
from tfmiaq.quantization.inspection import quantized_layers
from tfmiaq.quantization.ranges import least_squares_end

layers = keras.layers
IMAGE = (8, 8, 3)
GENERATOR = np.random.default_rng(0)


def _accuracy(model, digits):
    return float((outputs_of(model, digits.x_test).argmax(1) == digits.y_test).mean())


def _error(model, trained, digits):
    expected = outputs_of(trained, digits.x_test)
    return float(np.square(outputs_of(model, digits.x_test) - expected).mean() / expected.var())


@pytest.fixture(scope="module")
def calibrated(trained, digits):
    """Calibrated models by bits of weights, of activations and rounding, on 256 records outside of the training set."""
    found = {}

    def make(weight, activation, way="learned"):
        key = weight, activation, way
        if key not in found:
            quantized = tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(weight, activation))
            found[key] = tfmiaq.calibrate(quantized, digits.x_test[-256:], rounding=way, iterations=200, verbose=False)
        return found[key]

    return make


@pytest.mark.parametrize("bits", [4, 2, 1])
def test_learned_rounding_is_closer_to_the_float_model_than_nearest(calibrated, trained, digits, bits):
    learned, nearest = (_error(calibrated(bits, 8, way), trained, digits) for way in ("learned", "nearest"))
    assert learned < 0.7 * nearest


@pytest.mark.parametrize(("weight", "activation", "loss"), [(8, 8, 0.005), (4, 8, 0.01), (2, 8, 0.03)])
def test_accuracy_is_close_to_float(calibrated, trained, digits, weight, activation, loss):
    assert _accuracy(calibrated(weight, activation), digits) >= _accuracy(trained, digits) - loss


def test_accuracy_is_above_nearest_where_nearest_loses_much(calibrated, digits):
    assert _accuracy(calibrated(2, 8), digits) > _accuracy(calibrated(2, 8, "nearest"), digits)
    assert _accuracy(calibrated(1, 8), digits) > _accuracy(calibrated(1, 8, "nearest"), digits) + 0.02


@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (3, 4), (2, 8), (1, 8)])
def test_the_file_is_exact(calibrated, digits, weight, activation):
    model = calibrated(weight, activation)
    verification = tfmiaq.verify(model, tfmiaq.convert(model, check=False), digits.x_test[:100])
    assert verification.exact
    assert verification.agreement >= 0.99


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_learned_codes_are_a_fixed_point_of_the_quantizer(bits, per_channel):
    kernel = GENERATOR.normal(size=(3, 3, 4, 5)).astype(np.float32)
    kernel[..., 2] = 0.0
    step = rounding.least_squares_step(kernel, bits, per_channel)
    wanted = GENERATOR.normal(size=kernel.shape).astype(np.float32)
    codes = rounding.learn_codes(
        kernel,
        step,
        bits,
        per_channel,
        # Far from the float weights, so that many are rounded the other way.
        lambda weights, chosen: tf.reduce_mean(tf.square(weights - kernel - 0.3 * step.max() * np.sign(wanted))),
        count=16,
        iterations=50,
        batch_size=16,
        generator=np.random.default_rng(0),
    )
    if bits < 8:
        assert (codes != rounding.nearest_codes(kernel, step, bits)).any()
    for factor in (1.0, 0.77):
        found, found_step = quantizers.weight_codes(
            tf.constant((codes * step * factor).astype(np.float32)), float(bits), per_channel
        )
        np.testing.assert_array_equal(found, codes)
        alive = np.broadcast_to(step, kernel.shape) > 0 if per_channel else np.ones(kernel.shape, bool)
        steps = np.broadcast_to(found_step, kernel.shape)[alive]
        np.testing.assert_allclose(steps, np.broadcast_to(step * factor, kernel.shape)[alive], rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_weights_go_to_one_of_the_two_neighbouring_levels(trained, digits, bits):
    quantized = tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(bits, 8))
    wrapper = quantized.get_layer("quant_hidden")
    before = weight_quantizers(wrapper)[0][0].numpy()
    step = rounding.least_squares_step(before, bits, False)
    tfmiaq.calibrate(quantized, digits.x_test[:64], iterations=20, verbose=False)
    kernel, quantizer, variables = weight_quantizers(wrapper)[0]
    codes = quantizers.weight_codes(kernel, number(variables["bits"]), quantizer.per_channel)[0].numpy()
    top = rounding.top_code(bits)
    clipped = np.clip(before / step, -top, top)
    assert np.abs(codes - clipped).max() < 1.0 + 1e-6


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_least_squares_step_is_no_worse_than_the_trained_rule(bits):
    kernel = GENERATOR.normal(size=(3, 3, 8, 6)).astype(np.float32)
    step = rounding.least_squares_step(kernel, bits, True)
    own = step * rounding.nearest_codes(kernel, step, bits)
    codes, trained_step = quantizers.weight_codes(tf.constant(kernel), float(bits), True)
    rule = (codes * trained_step).numpy()
    assert np.square(kernel - own).mean() <= np.square(kernel - rule).mean() * (1 + 1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_end_of_a_relu_range_has_least_squared_error(bits):
    values = np.maximum(GENERATOR.normal(size=5000), 0.0)
    top = 2.0**bits - 1.0

    def error(end):
        return np.square(values - np.clip(np.round(values * top / end), 0, top) * end / top).mean()

    chosen = least_squares_end(values, values.max(), bits)
    rule = float(quantizers.relu_top(values.max(), np.sqrt(np.square(values).mean()), float(bits)))
    assert error(chosen) <= error(rule) * 1.02


def test_normalizations_have_the_float_outputs_mean_and_variance(trained, digits):
    x = digits.x_test[:256]
    quantized = tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(2, 8))
    tfmiaq.calibrate(quantized, x, rounding="nearest", verbose=False)
    both = [
        outputs_of(keras.Model(model.inputs, model.get_layer(name).output), x)
        for model, name in ((trained, "conv_norm"), (quantized, "quant_conv_norm"))
    ]
    for statistic in (np.mean, np.std):
        of_float, of_quantized = (statistic(outputs, axis=(0, 1, 2)) for outputs in both)
        np.testing.assert_allclose(of_quantized, of_float, atol=0.02)


def test_8_bits_leave_statistics_as_they_are_on_few_records(trained, digits):
    quantized = tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(8, 8))
    tfmiaq.calibrate(quantized, digits.x_test[:16], rounding="nearest", verbose=False)
    norm, before = quantized.get_layer("quant_depthwise_norm").layer, trained.get_layer("depthwise_norm")
    np.testing.assert_allclose(norm.moving_variance, before.moving_variance, rtol=0.05)


def test_no_labels_are_taken(trained, digits):
    assert "y" not in inspect.signature(tfmiaq.calibrate).parameters
    quantized = tfmiaq.quantize_model(trained)
    with pytest.raises(ValueError, match=r"has 1 inputs .* Received 2"):
        tfmiaq.calibrate(quantized, (digits.x_test, digits.y_test), verbose=False)


def test_the_same_seed_gives_the_same_model(trained, digits):
    weights = []
    for seed in (3, 3, 4):
        quantized = tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(2, 4))
        tfmiaq.calibrate(quantized, digits.x_test[:64], iterations=10, seed=seed, verbose=False)
        weights.append(np.concatenate([w.ravel() for w in quantized.get_weights()]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()


def test_it_returns_the_model_and_every_range_has_seen_records(calibrated):
    model = calibrated(2, 8)
    ranges = [v for layer in quantized_layers(model) for _, v in activation_quantizers(layer) if "seen" in v]
    assert ranges
    assert all(number(v["seen"]) == 1.0 for v in ranges)


def test_saved_and_loaded_it_is_the_same(calibrated, digits, tmp_path):
    model = calibrated(2, 8)
    model.save(tmp_path / "model.keras")
    loaded = tfmiaq.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(loaded, digits.x_test[:50]), outputs_of(model, digits.x_test[:50]))
    assert tfmiaq.convert(loaded, check=False) == tfmiaq.convert(model, check=False)


def test_after_set_policy_it_is_calibrated_again_with_the_float_model(trained, digits):
    quantized = tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(1, 2))
    tfmiaq.calibrate(quantized, digits.x_test[-128:], iterations=20, verbose=False)
    tfmiaq.set_policy(quantized, BitwidthPolicy.uniform(8, 8))
    # Ranges follow the bits; the weights are those of 1 bit still.
    assert _error(quantized, trained, digits) > 0.02
    x = digits.x_test[-128:]
    again = tfmiaq.calibrate(quantized, x, float_model=trained, rounding="nearest", verbose=False)
    fresh = tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(8, 8))
    tfmiaq.calibrate(fresh, x, rounding="nearest", verbose=False)
    for one, other in zip(again.get_weights(), fresh.get_weights()):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_ranges_follow_the_bits_as_in_training(trained, digits):
    quantized = tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(8, 4))
    tfmiaq.calibrate(quantized, digits.x_test[-128:], rounding="nearest", verbose=False)
    ((quantizer, variables),) = activation_quantizers(quantized.get_layer("quant_hidden"))
    ends = []
    for bits in (8, 4, 2):
        tfmiaq.set_policy(quantized, BitwidthPolicy.uniform(8, bits))
        ends.append(float(quantizer.scale(variables)) * (2**bits - 1))
    assert ends[0] == pytest.approx(number(variables["max"]))
    assert ends[0] >= ends[1] > ends[2]
    assert ends[1] / ends[2] == pytest.approx((0.9 + 0.85 * 4) / (0.9 + 0.85 * 2), rel=1e-4)


def _head(x):
    return layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x))


def _image(body):
    inputs = keras.Input(IMAGE)
    return keras.Model(inputs, _head(body(layers.Conv2D(6, 3, padding="same", activation="relu", name="stem")(inputs))))


def _shared():
    conv = layers.Conv2D(6, 3, padding="same", activation="relu", name="shared")
    return _image(lambda x: conv(conv(x)))


def _residual():
    def body(x):
        y = layers.Conv2D(6, 3, padding="same", use_bias=False, name="a")(x)
        y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
        return layers.ReLU()(layers.Add()([x, layers.Conv2D(6, 1, name="b")(y)]))

    return _image(body)


def _two_inputs():
    image, vector = keras.Input(IMAGE, name="image"), keras.Input((5,), name="vector")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu")(image))
    x = layers.Concatenate()([x, layers.Dense(6, activation="relu")(vector)])
    return keras.Model([image, vector], [layers.Dense(4, name="one")(x), layers.Dense(2, name="two")(x)])


def _embedded():
    inputs = keras.Input((12,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(20, 8, name="table")(inputs))
    return keras.Model(inputs, layers.Dense(4, name="logits")(layers.Dense(8, activation="relu")(x)))


def _recurrent():
    inputs = keras.Input((12, 3))
    x = layers.LSTM(5, name="recurrent")(layers.Conv1D(6, 3, activation="relu", name="conv")(inputs))
    return keras.Model(inputs, layers.Dense(4, name="logits")(x))


def _fixed_batch():
    inputs = keras.Input(IMAGE, batch_size=4)
    return keras.Model(inputs, _head(layers.Conv2D(6, 3, activation="relu", name="conv")(inputs)))


SITUATIONS = {
    "Conv2DTranspose": lambda: _image(layers.Conv2DTranspose(5, 3, strides=2, activation="relu", name="up")),
    "DepthwiseConv2D, two for each channel": lambda: _image(
        lambda x: layers.ReLU()(layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x))
    ),
    "SeparableConv2D": lambda: _image(layers.SeparableConv2D(5, 3, activation="relu", name="separable")),
    "a layer called twice": _shared,
    "residual": _residual,
    "two inputs": _two_inputs,
    "Embedding": _embedded,
    "LSTM": _recurrent,
    "AveragePooling2D": lambda: _image(layers.AveragePooling2D(2)),
    "a lone BatchNormalization": lambda: _image(lambda x: layers.BatchNormalization()(layers.MaxPooling2D()(x))),
    "a sigmoid": lambda: _image(layers.Conv2D(4, 1, activation="sigmoid", name="gate")),
    "nested": lambda: _image(keras.Sequential([keras.Input((8, 8, 6)), layers.Conv2D(6, 3, name="in")], name="inner")),
    "a fixed batch": _fixed_batch,
}


def _records(model, count=48):
    generator = np.random.default_rng(1)
    arrays = [
        generator.integers(0, 20, (count, *t.shape[1:]))
        if t.dtype.is_integer
        else generator.normal(size=(count, *t.shape[1:]))
        for t in model.inputs
    ]
    return arrays if len(arrays) > 1 else arrays[0]


@pytest.mark.filterwarnings("ignore:.*stay float")
@pytest.mark.parametrize("situation", SITUATIONS)
def test_layers_and_graphs(situation):
    keras.utils.set_random_seed(0)
    model = SITUATIONS[situation]()
    x = _records(model)
    size = 4 if situation == "a fixed batch" else len(tf.nest.flatten(x)[0])

    def outputs(model):
        count = len(tf.nest.flatten(x)[0])
        batches = [tf.nest.map_structure(lambda a, i=i: a[i : i + size], x) for i in range(0, count, size)]
        parts = [tf.nest.flatten(model(batch, training=False)) for batch in batches]
        return [np.concatenate(arrays) for arrays in zip(*parts)]

    expected = outputs(model)
    errors = {}
    for bits in (8, 2):
        quantized = tfmiaq.quantize_model(model, BitwidthPolicy.uniform(bits, 8))
        way = "learned" if bits == 2 else "nearest"
        tfmiaq.calibrate(quantized, x, rounding=way, iterations=10, batch_size=16, verbose=False)
        errors[bits] = max(np.square(a - b).mean() / b.var() for a, b in zip(outputs(quantized), expected))
        for name in ("recurrent",) if situation == "LSTM" else ():
            for one, other in zip(quantized.get_layer(name).get_weights(), model.get_layer(name).get_weights()):
                np.testing.assert_array_equal(one, other)
        if bits == 2 and situation != "a fixed batch":  # Its files are another area's.
            assert tfmiaq.verify(quantized, tfmiaq.convert(quantized, check=False), x).exact
    assert errors[8] < 0.02
    assert errors[2] < 0.8


def test_records_by_name_and_layers_that_the_policy_leaves_float():
    keras.utils.set_random_seed(0)
    model = _two_inputs()
    image, vector = _records(model)
    policy = BitwidthPolicy.uniform(2, 4, first=8, last=8)
    one, other = (tfmiaq.quantize_model(model, policy) for _ in range(2))
    tfmiaq.calibrate(one, {"vector": vector, "image": image}, iterations=5, verbose=False)
    tfmiaq.calibrate(other, [image, vector], iterations=5, verbose=False)
    for a, b in zip(one.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)
    floats = tfmiaq.quantize_model(
        model, BitwidthPolicy.uniform(2, 4, layers={"two": LayerBits(weight=None, activation=None)})
    )
    tfmiaq.calibrate(floats, [image, vector], iterations=5, verbose=False)
    np.testing.assert_array_equal(floats.get_layer("two").kernel, model.get_layer("two").kernel)


@pytest.fixture(scope="module")
def untouched():
    return tfmiaq.quantize_model(tiny_model())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((32, 9, 8, 1))}, r"takes records of shape \(8, 8, 1\).*\(32, 9, 8, 1\)"),
        ({"x": np.zeros((8, 8, 8, 1))}, "at least 16 records. Received 8"),
        ({"x": np.full((32, 8, 8, 1), np.nan)}, "NaN or infinity in 32 records"),
        ({"x": {"images": np.zeros((32, 8, 8, 1))}}, "inputs are"),
        ({"rounding": "nearst"}, "Did you mean 'nearest'"),
        ({"iterations": 0}, "iterations"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"verbose": 1}, "verbose"),
        ({"float_model": "other"}, "not the model"),
        ({"quantized": "float"}, "model from tfmiaq.quantize_model"),
    ],
)
def test_faults_are_told(untouched, change, message):
    given = {"quantized": untouched, "x": np.zeros((32, 8, 8, 1)), "verbose": False, **change}
    if change.get("quantized"):
        given["quantized"] = tiny_model()
    if change.get("float_model"):
        inputs = keras.Input((8, 8, 1))
        given["float_model"] = keras.Model(
            inputs, layers.Dense(10, name="logits")(layers.Flatten(name="flatten")(inputs))
        )
    with pytest.raises(ValueError, match=message):
        tfmiaq.calibrate(given.pop("quantized"), given.pop("x"), **given)


def test_strings_are_refused(untouched):
    with pytest.raises(TypeError, match="Expected records as numbers"):
        tfmiaq.calibrate(untouched, np.full((32, 8, 8, 1), "a"), verbose=False)
