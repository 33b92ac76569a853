"""The registry of layer types: what a user adds is quantized, counted, converted and verified as Keras's own layers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import train

import tfmiaq
from tfmiaq import BitwidthPolicy, LayerBits, LayerSpec
from tfmiaq.quantization import layer_specs
from tfmiaq.quantization.layer_graph import LayerGraph
from tfmiaq.quantization.plan import LINEAR_RANGE, NO_RANGE, RELU_RANGE, LayerPlan, plan_layers, plan_model

keras = tfmiaq.keras
layers = keras.layers


@keras.utils.register_keras_serializable("tests")
class ScaledConv(layers.Conv2D):
    """A convolution with an argument of its own."""

    def __init__(self, filters, kernel_size, gain=1.0, **kwargs):
        super().__init__(filters, kernel_size, **kwargs)
        self.gain = gain

    def get_config(self):
        return {**super().get_config(), "gain": self.gain}


@keras.utils.register_keras_serializable("tests")
class OwnDense(layers.Dense):
    pass


@keras.utils.register_keras_serializable("tests")
class Projection(layers.Layer):
    """A kernel without an `activation`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.matrix = self.add_weight("matrix", shape=(input_shape[-1], self.units))

    def call(self, x):
        return keras.backend.dot(x, self.matrix)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.utils.register_keras_serializable("tests")
class SpaceToColumns(layers.Layer):
    """Moves values and computes none."""

    def call(self, x):
        return keras.backend.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))

    def compute_output_shape(self, input_shape):
        return input_shape[0], input_shape[1] * input_shape[2], input_shape[3]


CONV = LayerSpec(kernel="kernel", per_channel=True, folds_normalization=True, fuses_relu=True)


@pytest.fixture
def registered(monkeypatch):
    """The four types, for one test."""
    monkeypatch.setattr(layer_specs, "_SPECS", dict(layer_specs._SPECS))
    tfmiaq.register_layer(ScaledConv, CONV)
    tfmiaq.register_layer(OwnDense, LayerSpec(kernel="kernel", fuses_relu=True))
    tfmiaq.register_layer(Projection, LayerSpec(kernel="matrix"))
    tfmiaq.register_layer(SpaceToColumns, LayerSpec(keeps_codes=True))


def _model():
    inputs = keras.Input((8, 8, 1), name="image")
    x = ScaledConv(8, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="conv_relu")(layers.BatchNormalization(momentum=0.9, name="norm")(x))
    x = SpaceToColumns(name="columns")(x)
    x = Projection(6, name="projection")(layers.Flatten(name="flatten")(x))
    x = OwnDense(16, activation="tanh", name="bent")(x)
    x = OwnDense(16, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def test_types_of_a_user_go_all_the_way(registered, digits, tmp_path):
    keras.utils.set_random_seed(0)
    policy = BitwidthPolicy(LayerBits(2, 4))
    model = _model()
    before = tfmiaq.summary(model, policy)
    quantized = tfmiaq.quantize_model(model, policy, strict=True)
    assert tfmiaq.summary(quantized) == before
    rows = {row.name: row for row in before.layers}
    bits = {name: (row.weight_bits, row.activation_bits) for name, row in rows.items()}
    assert bits["conv"] == (2, None)
    assert bits["conv_relu"] == (None, 4)
    assert bits["columns"] == (None, None)
    assert bits["projection"] == (2, 8)
    assert bits["bent_tanh"] == (None, 8)
    assert bits["hidden"] == (2, 4)
    assert rows["conv"].multiply_adds == 9 * 8 * 36
    assert (rows["projection"].weights, rows["projection"].multiply_adds) == (36 * 8 * 6, 36 * 8 * 6)
    train(quantized, digits.x_train[:256], digits.y_train[:256], epochs=3)
    buffer = tfmiaq.convert(quantized, "edgetpu")
    result = tfmiaq.verify(quantized, buffer, digits.x_test[:200])
    assert result.exact, str(result)
    assert {row.name for row in result.layers if row.tensor == "weight"} >= {"conv", "projection", "hidden", "logits"}
    assert result.agreement > 0.97
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert tfmiaq.get_policy(loaded) == tfmiaq.get_policy(quantized)
    tfmiaq.set_policy(loaded, BitwidthPolicy(LayerBits(3, 3)))
    assert tfmiaq.get_policy(loaded).named(["projection"]) == LayerBits(3, 8)


def test_a_type_that_is_not_registered_stays_float():
    notes = {row.name: row.note for row in tfmiaq.summary(_model()).layers}
    assert notes["conv"] == notes["columns"] == notes["hidden"] == "layer type"
    assert notes["logits"] == ""


def test_a_fault_of_a_type_is_told(registered, monkeypatch):
    spec = dataclasses.replace(CONV, fault=lambda layer: "a gain" if layer.gain != 1 else None)
    monkeypatch.setitem(layer_specs._SPECS, ScaledConv, spec)
    inputs = keras.Input((8, 8, 1))
    x = ScaledConv(2, 3, gain=1.0, name="plain")(inputs)
    x = ScaledConv(2, 3, gain=2.0, name="gained")(x)
    notes = {row.name: row.note for row in tfmiaq.summary(keras.Model(inputs, x)).layers}
    assert (notes["plain"], notes["gained"]) == ("", "a gain")


@pytest.mark.parametrize("thing", [3, "Dense", LayerSpec, layers.ReLU(), keras.Model])
def test_what_is_no_layer_type_is_refused(thing):
    with pytest.raises(TypeError, match="register_layer: Expected a"):
        tfmiaq.register_layer(thing, LayerSpec())


def test_what_is_no_spec_is_refused():
    with pytest.raises(TypeError, match=r"Expected a tfmiaq.LayerSpec. Received \{'kernel'"):
        tfmiaq.register_layer(OwnDense, {"kernel": "kernel"})


@pytest.mark.parametrize("kind", [layers.Dense, layers.Flatten, layers.Rescaling])
def test_a_type_that_is_taken_is_refused(kind):
    with pytest.raises(ValueError, match=rf"Layer type {kind.__name__} is registered already"):
        tfmiaq.register_layer(kind, LayerSpec())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel": "kernel", "folds_normalization": True}, "folds_normalization takes per_channel"),
        ({"per_channel": True}, "take a kernel"),
        ({"keeps_codes": True, "kernel": "kernel"}, "keeps_codes has neither"),
        ({"keeps_codes": True, "has_range": True}, "keeps_codes has neither"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LayerSpec(**fields)


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        (layers.Dense, (3, 5), lambda k: k.T),
        (layers.Conv2D, (2, 4, 3, 5), lambda k: np.transpose(k, (3, 0, 1, 2))),
        (layers.Conv2DTranspose, (2, 4, 5, 3), lambda k: np.transpose(k, (2, 0, 1, 3))),
        (layers.DepthwiseConv2D, (2, 4, 3, 2), lambda k: k.reshape(1, 2, 4, 6)),
        (layers.Embedding, (7, 3), lambda k: k),
    ],
)
def test_kernels_are_stored_as_tflite_does(kind, shape, expected):
    spec = layer_specs._SPECS[kind]
    kernel = np.arange(np.prod(shape)).reshape(shape)
    stored = spec.stored(kernel)
    np.testing.assert_array_equal(stored, expected(kernel))
    steps = np.arange(1, shape[-1] + 1).reshape((1,) * (len(shape) - 1) + (-1,))
    found = spec.of_channels(shape, steps)
    assert found.shape == (stored.shape[spec.stored_channel_axis],)
    if kind is layers.DepthwiseConv2D:
        np.testing.assert_array_equal(found, [1, 2] * 3)
    elif kind is not layers.Conv2DTranspose:
        np.testing.assert_array_equal(found, steps.ravel())


def test_plans_are_values(registered):
    policy = BitwidthPolicy.uniform(2, 4)
    (flat, plan), (_, again) = (plan_model(_model(), policy) for _ in range(2))
    assert plan == again
    assert plan != plan_model(_model(), BitwidthPolicy.uniform(2, 3))[1]
    assert plan.layers["conv"] == LayerPlan(
        NO_RANGE, kernel="kernel", weight_bits=8, per_channel=True, aliases=plan.layers["conv"].aliases
    )
    assert (plan.layers["hidden"].output, plan.layers["hidden"].activation_bits) == (RELU_RANGE, 4)
    with pytest.raises(TypeError):
        plan.layers["conv"] = LayerPlan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.layers["conv"].weight_bits = 3
    # A quantized model has the same plan as the flat one.
    quantized = tfmiaq.quantize_model(_model(), policy)
    assert plan_layers(LayerGraph.of_quantized(quantized), policy).layers == plan.layers
    assert {layer.name for layer in flat.model.layers} >= set(plan.layers)


def test_one_range_behind_a_concatenation_serves_its_inputs():
    inputs = keras.Input((6,))
    sides = [layers.Dense(4, activation="relu", name=name)(inputs) for name in ("left", "right")]
    x = layers.Concatenate(name="join")(sides)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    policy = BitwidthPolicy(LayerBits(2, 4), {"left": LayerBits(2, 3)})
    plans = plan_model(model, policy)[1].layers
    assert (plans["left"].output, plans["right"].output) == (NO_RANGE, NO_RANGE)
    assert (plans["join"].output, plans["join"].activation_bits) == (RELU_RANGE, 4)
    assert plans["logits"].output == LINEAR_RANGE
