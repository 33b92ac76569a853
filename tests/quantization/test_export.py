"""Traces for the converter: rounded kernels and ranges are computed beforehand, and stand in the graph as they are."""

from __future__ import annotations

import numpy as np
import pytest

import tfmiaq
from tfmiaq import BitwidthPolicy
from tfmiaq._backend import keras, tf, weight_quantizers
from tfmiaq.quantization import export
from tfmiaq.quantization.inspection import quantized_layers

layers = keras.layers
X = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """A network that calls one layer twice."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(inputs)
    twice = layers.Conv2D(4, 3, padding="same", activation="relu", name="twice")
    x = layers.Flatten(name="flat")(twice(twice(x)))
    quantized = tfmiaq.quantize_model(keras.Model(inputs, layers.Dense(3, name="logits")(x)), BitwidthPolicy())
    quantized(X, training=True)
    return quantized


def _traced(model):
    kernels = [found for wrapper in quantized_layers(model) for found in weight_quantizers(wrapper)]
    with export.exporting(kernels) as exported:
        function = tf.function(lambda x: model(x, training=False), autograph=False)
        return function.get_concrete_function(tf.TensorSpec(X.shape)), exported


def _fake_quants(traced):
    return [operation for operation in traced.graph.get_operations() if operation.type.startswith("FakeQuant")]


def test_no_arithmetic_on_kernels_and_ranges_is_left_in_the_graph(model):
    traced, exported = _traced(model)
    read = [operation for operation in _fake_quants(traced) if operation.inputs[0].op.type == "ReadVariableOp"]
    assert len(read) == 4
    assert len(exported.variables) == 3
    assert not {"Abs", "Sign", "Pow", "Mean", "Round"} & {op.type for op in traced.graph.get_operations()}


def test_the_traced_function_computes_what_the_model_does(model):
    traced, exported = _traced(model)
    assert all(variable.shape.rank for variable in exported.variables)
    np.testing.assert_allclose(traced(tf.constant(X)), model(X, training=False), atol=1e-5)


def test_calls_of_a_shared_layer_have_ranges_one_float32_apart(model):
    traced, _ = _traced(model)
    ends = {}
    for operation in _fake_quants(traced):
        if operation.inputs[0].op.type == "ReadVariableOp":
            variable = operation.inputs[0].op.inputs[0].name
            ends.setdefault(variable, []).append(tf.get_static_value(operation.inputs[2]))
    (first, second) = next(found for found in ends.values() if len(found) == 2)
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(first, second, rtol=3e-7)


def test_bits_that_change_later_are_those_of_the_next_export(model):
    tfmiaq.set_policy(model, BitwidthPolicy.uniform(1, 8, first=1, last=1))
    _, exported = _traced(model)
    assert all(len(np.unique(np.abs(variable.numpy()[..., 0]))) == 1 for variable in exported.variables)
    assert export.current() is None
