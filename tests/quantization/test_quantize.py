"""quantize_model: the models that it takes, what it keeps of them, and its errors."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import outputs_of, tiny_model, train

import tfmiaq
from tfmiaq import BitwidthPolicy, LayerBits
from tfmiaq._backend import keras, tf

layers = keras.layers


def _bits(model):
    return {row.name: (row.weight_bits, row.activation_bits) for row in tfmiaq.summary(model).layers}


def test_the_default_policy_has_low_bits_inside_and_8_at_both_ends():
    bits = _bits(tfmiaq.quantize_model(tiny_model()))
    assert bits["conv"] == (8, None)
    assert bits["conv_relu"] == (None, 8)
    assert bits["depthwise"] == (2, None)
    assert bits["depthwise_relu"] == (None, 4)
    assert bits["pointwise"] == (2, 8)
    assert bits["sum_relu"] == (None, 4)
    assert bits["hidden"] == (2, 4)
    assert bits["logits"] == (8, 8)


def test_weights_are_kept_and_the_model_passed_is_untouched(trained):
    before = trained.get_weights()
    quantized = tfmiaq.quantize_model(trained)
    kernels = {layer.layer.name: layer.layer for layer in quantized.layers if hasattr(layer, "layer")}
    np.testing.assert_array_equal(kernels["hidden"].get_weights()[-1], trained.get_layer("hidden").get_weights()[-1])
    assert quantized.count_params() > trained.count_params()
    for old, new in zip(before, trained.get_weights()):
        np.testing.assert_array_equal(old, new)
    tfmiaq.quantize_model(trained)  # A second time works as the first.


def test_8_bits_everywhere_predict_as_the_float_model(trained, digits):
    quantized = train(
        tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(8, 8)), digits.x_train, digits.y_train, rate=1e-5
    )
    expected = outputs_of(trained, digits.x_test).argmax(1)
    assert (outputs_of(quantized, digits.x_test).argmax(1) == expected).mean() > 0.98


def test_fit_learns_at_low_bits(trained, digits):
    quantized = tfmiaq.quantize_model(trained)
    train(quantized, digits.x_train, digits.y_train, epochs=10)
    assert (outputs_of(quantized, digits.x_test).argmax(1) == digits.y_test).mean() > 0.9


def test_sequential_models_are_taken(digits):
    model = keras.Sequential([layers.Flatten(), layers.Dense(8), layers.ReLU(), layers.Dense(10), layers.Softmax()])
    model.build((None, 8, 8, 1))
    quantized = tfmiaq.quantize_model(model, BitwidthPolicy.uniform(2, 3, first=None, last=None))
    names = {row.kind: (row.weight_bits, row.activation_bits) for row in tfmiaq.summary(quantized).layers}
    assert names["ReLU"] == (None, 3)
    outputs = outputs_of(train(quantized, digits.x_train[:64], digits.y_train[:64]), digits.x_test[:4])
    np.testing.assert_allclose(outputs.sum(1), 1, atol=1e-5)


def test_an_unbuilt_model_is_refused():
    with pytest.raises(ValueError, match=r"is not built. Call model.build"):
        tfmiaq.quantize_model(keras.Sequential([layers.Dense(2)]))


@pytest.mark.parametrize("thing", [None, "model.h5", 3])
def test_things_that_are_no_model_are_refused(thing):
    with pytest.raises(TypeError, match=r"Expected a keras.Model"):
        tfmiaq.quantize_model(thing)


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="subclassed"):
        tfmiaq.quantize_model(model)


def test_a_quantized_model_is_refused():
    quantized = tfmiaq.quantize_model(tiny_model())
    with pytest.raises(ValueError, match="quantized already"):
        tfmiaq.quantize_model(quantized)


def test_every_layer_that_cannot_be_quantized_is_listed():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    x = keras.Sequential([layers.Conv2D(4, 3), layers.ELU(name="inner")], name="nested")(x)
    x = layers.Dense(2, activation="elu", name="head")(layers.Flatten()(x))
    model = keras.Model(inputs, x)
    with pytest.raises(ValueError, match="cannot quantize") as error:
        tfmiaq.quantize_model(model, strict=True)
    for text in ("norm (LayerNormalization)", "inner (ELU)", "head_elu (Activation): activation elu"):
        assert text in str(error.value)
    assert "Leave a layer float" in str(error.value)
    with pytest.warns(UserWarning, match=r"3 layers stay float: norm .*strict=True"):
        tfmiaq.quantize_model(model)


def test_a_layer_left_float_lets_the_rest_be_quantized(digits):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.LeakyReLU(name="leaky")(x)
    x = layers.Dense(10, name="logits")(layers.Flatten()(x))
    policy = BitwidthPolicy(LayerBits(4, 4), {"leaky": LayerBits(None, None)})
    quantized = train(tfmiaq.quantize_model(keras.Model(inputs, x), policy), digits.x_train[:64], digits.y_train[:64])
    assert _bits(quantized)["logits"] == (4, 8)
    assert tfmiaq.verify(quantized, tfmiaq.convert(quantized), digits.x_test[:50]).exact


def test_a_policy_that_names_no_layer_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"'hiden'. Did you mean 'hidden'"):
        tfmiaq.quantize_model(tiny_model(), BitwidthPolicy(layers={"hiden": LayerBits(2, 2)}))


@pytest.mark.parametrize(
    ("name", "reason"), [("pool", "neither weights nor a ReLU"), ("logits", "no ReLU follows"), ("sum", "neither")]
)
def test_a_rule_that_cannot_be_honoured_is_refused(name, reason):
    with pytest.raises(ValueError, match=reason):
        tfmiaq.quantize_model(tiny_model(), BitwidthPolicy(layers={name: LayerBits(2, 2)}))


def test_a_policy_that_leaves_all_float_is_refused():
    with pytest.raises(ValueError, match="every layer float"):
        tfmiaq.quantize_model(tiny_model(), BitwidthPolicy(LayerBits(None, None)))


def test_something_else_as_policy_is_refused():
    with pytest.raises(TypeError, match="Expected a BitwidthPolicy"):
        tfmiaq.quantize_model(tiny_model(), {"default": 2})


def test_nan_weights_are_refused_by_layer(digits):
    model = tiny_model()
    weights = model.get_layer("hidden").get_weights()
    weights[0][3, 3] = np.nan
    model.get_layer("hidden").set_weights(weights)
    with pytest.raises(ValueError, match=r"quantize_model: NaN or infinite weights in hidden"):
        tfmiaq.quantize_model(model)
    quantized = train(tfmiaq.quantize_model(tiny_model()), digits.x_train[:32], digits.y_train[:32])
    inner = quantized.get_layer("quant_logits").layer
    inner.bias.assign([np.inf] * 10)
    with pytest.raises(ValueError, match=r"convert: NaN or infinite weights in quant_logits"):
        tfmiaq.convert(quantized)


def test_saving_and_loading_gives_the_same_outputs(tmp_path, digits):
    quantized = train(tfmiaq.quantize_model(tiny_model()), digits.x_train[:64], digits.y_train[:64])
    path = str(tmp_path / "quantized.h5")
    quantized.save(path)
    x = digits.x_test[:20]
    loaded = tfmiaq.load_model(path)
    np.testing.assert_array_equal(outputs_of(loaded, x), outputs_of(quantized, x))
    assert _bits(loaded) == _bits(quantized)


def test_summary_counts_sizes_and_multiply_adds():
    rows = {row.name: row for row in tfmiaq.summary(tfmiaq.quantize_model(tiny_model())).layers}
    assert (rows["conv"].weights, rows["conv"].multiply_adds) == (72, 72 * 64)
    assert (rows["depthwise"].weights, rows["depthwise"].multiply_adds) == (72, 72 * 64)
    hidden = rows["hidden"]
    assert (hidden.weights, hidden.multiply_adds) == (4 * 4 * 8 * 32, 4 * 4 * 8 * 32)
    assert (hidden.stored_bytes, hidden.packed_bytes) == (4096 + 4 * 32, 4096 * 2 // 8 + 4 * 32)


def test_summary_tells_before_what_quantize_model_does():
    before, after = tfmiaq.summary(tiny_model()), tfmiaq.summary(tfmiaq.quantize_model(tiny_model()))
    assert before == after
    with pytest.raises(ValueError, match="set_policy"):
        tfmiaq.summary(tfmiaq.quantize_model(tiny_model()), BitwidthPolicy())


def test_a_summary_is_short_in_a_shell_and_a_table_in_a_notebook():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a" * 300), layers.ELU(name="bent")])
    found = tfmiaq.summary(model, BitwidthPolicy.uniform(2, 4, output=None))
    assert repr(found) == "<ModelSummary: 2 layers, 24 B stored, 24 B packed, 12 multiply-adds>"
    assert repr(found.layers[1]) == "<LayerSummary 'bent' (ELU): w- a-, 0 B>"
    assert all(len(repr(row)) < 200 and "\n" not in repr(row) for row in found.layers)
    assert "<td>float: layer type</td>" in found._repr_html_()
    assert found._repr_html_().count("<tr>") == len(found.layers) + 2
    row = dataclasses.replace(found.layers[1], name="<script>")
    assert "&lt;script&gt;" in row._repr_html_()
    assert "<script>" not in row._repr_html_()


_CLONE = """
import tfmiaq
from tfmiaq._backend import keras, tf
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)])
tfmiaq.quantize_model(model)
"""


def test_child_processes_get_the_keras_of_their_parent():
    """tfmot sets TF_USE_LEGACY_KERAS whatever the version; on TensorFlow 2.15 a child would have the other Keras 2."""
    built_in = int(tf.__version__.split(".")[1]) < 16
    assert ("TF_USE_LEGACY_KERAS" in os.environ) == (not built_in)
    assert ("tf_keras" in sys.modules) == (not built_in)
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    subprocess.run([sys.executable, "-c", _CLONE], check=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import tensorflow_model_optimization", "import tensorflow; tensorflow.keras.Model"])
def test_any_order_of_imports_works(first):
    """On TensorFlow 2.15 tfmot makes tf.keras the Keras 2 of tf_keras, unless that of TensorFlow was used before."""
    code = (
        f"import tfmiaq\n{first}\nimport tensorflow as tf\nimport tensorflow_model_optimization\n"
        "layers = tf.keras.layers\n"
        "model = tf.keras.Sequential([tf.keras.Input((4,)), layers.Dense(3, activation='relu'), layers.Dense(2)])\n"
        "tf.keras.models.clone_model(model)\n"
        "assert tfmiaq.summary(tfmiaq.quantize_model(model))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    if int(tf.__version__.split(".")[1]) >= 16 and "keras.Model" in first:
        # There tf.keras is Keras 3 from its first use on, unless tfmiaq or the variable comes in front.
        environment["TF_USE_LEGACY_KERAS"] = "1"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
