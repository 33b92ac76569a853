"""Rows that single outputs of a layer are products of, and what rounding learns from them."""

from __future__ import annotations

import numpy as np
import pytest

import tfmiaq
from tfmiaq._backend import keras, tf
from tfmiaq.quantization import patches, rounding

layers = keras.layers
GENERATOR = np.random.default_rng(0)

CASES = {
    "3 x 3": (lambda: layers.Conv2D(4, 3, padding="same"), (7, 6, 3)),
    "strided, same": (lambda: layers.Conv2D(4, (3, 2), strides=2, padding="same"), (7, 6, 3)),
    "strided, valid": (lambda: layers.Conv2D(4, 3, strides=(2, 1)), (8, 6, 3)),
    "dilated": (lambda: layers.Conv2D(4, 3, dilation_rate=2, padding="same"), (9, 8, 2)),
    "1 x 1": (lambda: layers.Conv2D(5, 1), (4, 5, 6)),
    "depthwise, same": (lambda: layers.DepthwiseConv2D(3, strides=2, padding="same"), (7, 7, 3)),
    "depthwise, two for each channel": (lambda: layers.DepthwiseConv2D((2, 3), depth_multiplier=2), (5, 6, 3)),
    "dense": (lambda: layers.Dense(4), (6,)),
    "dense at each position": (lambda: layers.Dense(4), (5, 6)),
}


@pytest.mark.parametrize("most", [1000, 3])
@pytest.mark.parametrize("case", CASES)
def test_products_of_rows_are_the_layers_outputs(case, most):
    make, shape = CASES[case]
    layer = make()
    layer.build((None, *shape))
    assert patches.has_rows(layer)
    x = GENERATOR.normal(size=(5, *shape)).astype(np.float32)
    parts = [tf.constant(x[:3]), tf.constant(x[3:])]
    (rows,) = patches.sample(layer, [parts], most, np.random.default_rng(0))
    kernel = layer.depthwise_kernel if isinstance(layer, layers.DepthwiseConv2D) else layer.kernel
    found = patches.product_of(layer)(tf.constant(rows), kernel).numpy()
    outputs = layer(x).numpy().reshape(5, -1, found.shape[-1])
    found = found.reshape(5, -1, found.shape[-1])
    assert found.shape[1] == min(most, outputs.shape[1])
    # Each is the output of one position of its own record.
    distance = np.abs(found[:, :, None] - outputs[:, None]).max(-1)
    assert distance.min(2).max() < 1e-5
    assert all(len(set(nearest)) == len(nearest) for nearest in distance.argmin(2))


def test_the_same_positions_are_drawn_in_both_networks():
    layer = layers.Conv2D(4, 3, padding="same")
    layer.build((None, 8, 8, 3))
    x = tf.constant(GENERATOR.normal(size=(6, 8, 8, 3)), tf.float32)
    one, other = patches.sample(layer, [[x], [2.0 * x]], 4, np.random.default_rng(0))
    np.testing.assert_array_equal(2.0 * one, other)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 3, groups=2),
        layers.Conv2D(4, 3, data_format="channels_first"),
        layers.Conv2DTranspose(4, 3),
        layers.SeparableConv2D(4, 3),
    ],
)
def test_other_layers_learn_from_whole_records(layer):
    assert not patches.has_rows(layer)


def _model(name):
    inputs = keras.Input((6, 6, 2), name=name)
    x = layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
    x = layers.Conv2D(4, 3, activation="relu", name="second")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten(name="flat")(x)))


def test_layers_of_one_kind_are_traced_once_and_names_of_inputs_do_not_count():
    quantized = tfmiaq.quantize_model(_model("one"), tfmiaq.BitwidthPolicy.uniform(2, 8))
    x = GENERATOR.normal(size=(32, 6, 6, 2))
    before = rounding._traced_once.cache_info()
    tfmiaq.calibrate(quantized, x, iterations=3, verbose=False)
    after = rounding._traced_once.cache_info()
    # Two convolutions with a ReLU, and a dense layer without.
    assert after.misses - before.misses <= 2
    assert after.hits + after.misses - before.hits - before.misses == 3
    tfmiaq.calibrate(quantized, x, float_model=_model("other"), iterations=3, verbose=False)
    assert rounding._traced_once.cache_info().misses == after.misses
