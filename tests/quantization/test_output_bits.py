"""Quantized outputs: those of the model, those of the file, and bits that can be changed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import outputs_of, tiny_model, train

import tfmiaq
from tfmiaq import BitwidthPolicy, LayerBits, OutputBits
from tfmiaq._backend import keras


def _policy(bits, clip):
    return BitwidthPolicy.uniform(2, 4, output=OutputBits(bits, clip))


def _ending_in_softmax(model):
    return keras.Model(model.input, keras.layers.Softmax(name="probabilities")(model.output))


@pytest.fixture(scope="module")
def rounding(trained, digits):
    """A model with outputs of 3 bits, and the same model without."""
    made = []
    for output in (OutputBits(3, 6.0), None):
        keras.utils.set_random_seed(0)
        model = tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(2, 4, output=output))
        made.append(train(model, digits.x_train, digits.y_train, epochs=5))
    return made


def test_outputs_are_the_distances_to_the_largest_logit_clipped_and_rounded(rounding, digits):
    rounded, plain = (outputs_of(model, digits.x_test) for model in rounding)
    step = 6.0 / 7
    expected = np.round(np.maximum(plain - plain.max(1, keepdims=True), -6.0) / step) * step
    # The same seed and the same loss: training does not see the rounding.
    np.testing.assert_allclose(rounded, expected, atol=1e-4)
    assert len(np.unique(np.round(rounded / step))) == 8


@pytest.mark.parametrize("target", ["mobile", "edgetpu"])
def test_the_file_gives_the_same_outputs(rounding, digits, target):
    buffer = tfmiaq.convert(rounding[0], target)
    result = tfmiaq.verify(rounding[0], buffer, digits.x_test)
    assert result.agreement == 1.0
    assert result.largest_difference < 1e-5
    (row,) = (row for row in result.layers if row.tensor == "output")
    assert (row.bits, row.trained, row.stored, row.exact) == (3, 8, 8, True)
    if target == "edgetpu":
        assert all(operation.mapped for operation in tfmiaq.edgetpu.check(buffer).operations)


def test_logits_under_a_softmax_are_rounded_in_the_file_too(digits):
    keras.utils.set_random_seed(0)
    model = tfmiaq.quantize_model(_ending_in_softmax(tiny_model()), _policy(2, 4.0))
    tfmiaq.TrainingRecipe(epochs=4, learning_rate=0.05).fit(model, digits.x_train, digits.y_train)
    outputs = outputs_of(model, digits.x_test)
    np.testing.assert_allclose(outputs.sum(1), 1, atol=1e-5)
    # Relative to the largest, a probability has one of four values.
    ratios = np.unique(np.round(np.log(outputs / outputs.max(1, keepdims=True)), 3))
    np.testing.assert_allclose(ratios, [-4, -8 / 3, -4 / 3, 0], atol=2e-3)
    result = tfmiaq.verify(model, tfmiaq.convert(model), digits.x_test)
    assert result.exact
    assert result.agreement == 1.0
    # The int8 softmax gives steps of 1/256.
    assert result.largest_difference < 1 / 128


def test_bits_and_clip_change_in_place_and_are_saved(rounding, digits, tmp_path):
    model = rounding[0]
    before = outputs_of(model, digits.x_test)
    policy = tfmiaq.get_policy(model)
    assert policy.output == OutputBits(3, 6.0)
    assert "outputs: 8 levels, from the largest logit to 6 below it" in str(tfmiaq.summary(model))
    try:
        tfmiaq.set_policy(model, dataclasses.replace(policy, output=OutputBits(1, 2.0)))
        assert set(np.unique(outputs_of(model, digits.x_test))) == {-2.0, 0.0}
        assert tfmiaq.get_policy(model).output == OutputBits(1, 2.0)
        with pytest.raises(ValueError, match="the model's outputs, which have bits of their own"):
            tfmiaq.set_policy(model, dataclasses.replace(policy, output=None))
    finally:
        tfmiaq.set_policy(model, policy)
    with pytest.raises(ValueError, match="the model's outputs, which do not have bits"):
        tfmiaq.set_policy(rounding[1], policy)
    path = str(tmp_path / "rounding.keras")
    model.save(path)
    np.testing.assert_array_equal(outputs_of(tfmiaq.load_model(path), digits.x_test), before)


def test_one_bit_leaves_the_label_alone(rounding, digits):
    """An attacker sees fewer output values; the label is the same, but for ties."""
    members, non_members = (digits.x_train, digits.y_train), (digits.x_test, digits.y_test)
    plain = tfmiaq.audit(rounding[1], members, non_members, ["confidence", "gap"], verbose=False)
    policy = tfmiaq.get_policy(rounding[0])
    try:
        tfmiaq.set_policy(rounding[0], dataclasses.replace(policy, output=OutputBits(1, 0.5)))
        masked = tfmiaq.audit(rounding[0], members, non_members, ["confidence", "gap"], verbose=False)
    finally:
        tfmiaq.set_policy(rounding[0], policy)
    assert abs(masked.non_member_accuracy - plain.non_member_accuracy) < 0.02
    assert len(np.unique(np.round(masked["confidence"].member_scores, 6))) < 25


@pytest.mark.parametrize(
    ("ending", "policy", "message"),
    [
        ({"units": 1}, _policy(4, 8.0), r"needs a score for each class. Output 'end' has shape \(None, 1\)"),
        ({"units": 3, "activation": "sigmoid"}, _policy(4, 8.0), "Output '.*' ends in neither"),
        (
            {"units": 3},
            BitwidthPolicy(layers={"end": LayerBits(None, None)}, output=OutputBits()),
            "Output 'end' stays float",
        ),
    ],
)
def test_what_has_no_logits_to_round_is_refused(ending, policy, message):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(**ending, name="end")])
    with pytest.raises(ValueError, match=message):
        tfmiaq.quantize_model(model, policy)
