"""What `verify` calls exact: trained levels, each in its own layer's tensor, and outputs that rounding explains."""

from __future__ import annotations

import numpy as np
import pytest
from twins import file_of_changed, negate, swap, variable

import tfmiaq
from tfmiaq import BitwidthPolicy
from tfmiaq._backend import keras
from tfmiaq.tflite import agreement

layers = keras.layers
X = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)


def _model(outputs=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="vector")
    x = layers.Dense(6, name="first")(inputs)
    x = layers.Dense(6, name="second")(layers.LeakyReLU(name="leaky")(x))
    x = layers.ReLU(name="relu")(x)
    model = keras.Model(inputs, outputs(x) if outputs else layers.Dense(4, name="logits")(x))
    model = tfmiaq.quantize_model(model, BitwidthPolicy.uniform(8, 8))
    model(X, training=True)
    return model


def test_layers_of_one_shape_that_are_swapped_are_found_by_their_own_tensors():
    model = _model()

    other = file_of_changed(model, lambda: swap(model, "first", "second", kinds=("kernel",)))
    result = tfmiaq.verify(model, other, X)
    assert {row.name: row.exact for row in result.layers if row.tensor == "weight"} == {
        "first": False,
        "second": False,
        "logits": True,
    }


@pytest.mark.parametrize("units", [1, 2, 3])
@pytest.mark.parametrize("normed", [False, True])
def test_a_small_head_that_is_negated_is_found_by_its_signs(units, normed):
    # Near-equal weights, and records near zero: outputs differ by no more than rounding explains.
    def head(x):
        kernel = keras.initializers.Constant(0.5 + 0.01 * np.random.default_rng(0).normal(size=(6, units)))
        x = layers.Dense(units, kernel_initializer=kernel, name="logits")(x)
        scale = keras.initializers.Constant(-1.0)
        return layers.BatchNormalization(gamma_initializer=scale, name="norm")(x) if normed else x

    model = _model(head)
    records = X * 1e-3
    own = tfmiaq.verify(model, tfmiaq.convert(model, check=False), records)
    assert own.exact, str(own)
    result = tfmiaq.verify(model, file_of_changed(model, lambda: negate(model, "logits")), records)
    assert all(output.agrees for output in result.outputs), str(result)
    assert [row.name for row in result.layers if not row.exact] == ["logits"], str(result)


def test_a_wrong_range_between_right_levels_is_found():
    model = _model()

    def narrow():
        for name in ("min", "max"):
            variable = next(v for v in model.get_layer("quant_leaky").variables if v.name.endswith(f"{name}:0"))
            variable.assign(variable / 4)

    result = tfmiaq.verify(model, file_of_changed(model, narrow), X)
    assert all(row.exact for row in result.layers if row.tensor == "weight")
    assert not result.exact, str(result)
    assert "output logits differs by" in str(result)
    assert "1 outputs are others" in repr(result)


def test_its_own_file_differs_by_no_more_than_rounding_explains():
    model = _model()
    result = tfmiaq.verify(model, tfmiaq.convert(model), X)
    assert result.exact, str(result)
    (output,) = result.outputs
    assert output.name == "logits"
    assert output.mean_allowed == agreement.MEAN_STEPS
    assert output.largest_allowed == agreement.LARGEST_STEPS
    assert output.largest_steps <= 2.01
    assert output.largest_steps * output.step == pytest.approx(result.largest_difference)


@pytest.mark.parametrize(("target", "slope"), [("mobile", 0.25), ("edgetpu", 0.25)])
def test_steps_behind_a_sigmoid_are_those_of_its_input(target, slope):
    model = _model(lambda x: layers.Dense(1, activation="sigmoid", name="score")(x))
    kernel = variable(model, "score/kernel")
    kernel.assign(kernel * 20)
    for other in model.variables:
        if "seen" in other.name:
            other.assign(0.0)
    model(X, training=True)
    result = tfmiaq.verify(model, tfmiaq.convert(model, target), X)
    (output,) = result.outputs
    low, high = (
        float(next(v for v in model.get_layer("quant_score").variables if v.name.endswith(f"{end}:0")))
        for end in ("min", "max")
    )
    assert output.step == pytest.approx(max(1 / 256, slope * (high - low) / 255), rel=1e-4)
    assert result.exact, str(result)


def test_few_bits_are_allowed_the_next_level():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu")(inputs)
    x = layers.Dense(8, activation="relu", name="few_levels")(x)
    model = tfmiaq.quantize_model(keras.Model(inputs, layers.Dense(3)(x)), BitwidthPolicy.uniform(2, 2))
    model(X, training=True)
    (output,) = tfmiaq.verify(model, tfmiaq.convert(model), X).outputs
    assert output.largest_allowed == agreement.LARGEST_STEPS + 85
    assert output.mean_allowed == pytest.approx(agreement.MEAN_STEPS + 0.02 * 85)


def test_regression_agrees_where_the_error_is_within_rounding():
    model = _model(lambda x: layers.Dense(1, name="value")(x))
    model.compile("sgd", "mse")
    bias = variable(model, "value/bias")
    own = tfmiaq.verify(model, tfmiaq.convert(model), X)
    assert own.agreement == 1.0
    shifted = file_of_changed(model, lambda: bias.assign(bias + 0.5))
    result = tfmiaq.verify(model, shifted, X)
    assert result.agreement < 0.5, str(result)
    assert not result.exact


def test_outputs_and_inputs_go_by_the_keys_of_dictionaries():
    keras.utils.set_random_seed(0)
    one, two = keras.Input((6,), name="one"), keras.Input((6,), name="two")
    x = layers.Dense(6, activation="relu")(layers.Concatenate()([one, two]))
    outputs = {"z": layers.Dense(3, activation="softmax", name="cls")(x), "a": layers.Dense(1, name="reg")(x)}
    model = tfmiaq.quantize_model(keras.Model({"left": one, "right": two}, outputs), BitwidthPolicy.uniform(8, 8))
    records = {"left": X, "right": X[::-1].copy()}
    assert set(model(records, training=True)) == {"a", "z"}
    buffer = tfmiaq.convert(model)
    interpreter = tfmiaq.tflite.Interpreter(buffer)
    assert sorted(interpreter.input_names) == ["left", "right"]
    assert sorted(interpreter.output_names) == ["a", "z"]
    result = tfmiaq.verify(model, buffer, records)
    assert result.exact, str(result)
    assert {output.name for output in result.outputs} == {"a", "z"}
    with pytest.raises(ValueError, match=r"Expected records of left, right. Received none of right"):
        tfmiaq.verify(model, buffer, {"left": X})


def test_a_file_of_other_outputs_is_told():
    model = _model(lambda x: [layers.Dense(2, name="one")(x), layers.Dense(2, name="two")(x)])
    other = _model(lambda x: [layers.Dense(2, name="one")(x), layers.Dense(2, name="three")(x)])
    with pytest.raises(ValueError, match=r"The file has the outputs .*three.*: it is of another model"):
        tfmiaq.verify(model, tfmiaq.convert(other, check=False), X)
