"""Outputs keep the user's names, and models their own class."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import outputs_of

import tfmiaq
from tfmiaq import BitwidthPolicy, LayerBits
from tfmiaq._backend import keras, tf

layers = keras.layers
X = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
Y = {"cls": np.random.default_rng(1).integers(0, 3, 32), "reg": np.random.default_rng(2).normal(size=(32, 1))}


def _two_ends(kind=keras.Model, **kwargs):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="vector")
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    ends = [layers.Dense(3, activation="softmax", name="cls")(x), layers.Dense(1, name="reg")(x)]
    return kind(inputs, ends, **kwargs)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_losses_and_weights_go_by_the_names_of_outputs(tmp_path, suffix):
    model = tfmiaq.quantize_model(_two_ends())
    assert model.output_names == ["cls", "reg"]
    model.compile(
        "adam",
        {"cls": "sparse_categorical_crossentropy", "reg": "mse"},
        loss_weights={"cls": 1.0, "reg": 0.1},
        metrics={"cls": "accuracy"},
        run_eagerly=True,
    )
    weights = {name: np.ones(32) for name in Y}
    logs = model.fit(X, Y, sample_weight=weights, epochs=2, verbose=0).history
    assert {"cls_loss", "reg_loss", "cls_accuracy"} <= set(logs)
    path = str(tmp_path / f"model{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
        loaded = tfmiaq.load_model(path)
    assert loaded.output_names == ["cls", "reg"]
    for one, other in zip(outputs_of(model, X), outputs_of(loaded, X)):
        np.testing.assert_array_equal(one, other)
    buffer = tfmiaq.convert(loaded, check=False)
    assert tfmiaq.tflite.Interpreter(buffer).output_names == ["cls", "reg"]
    assert tfmiaq.verify(model, buffer, X).exact


def test_a_name_is_no_operation_of_the_file():
    model = tfmiaq.quantize_model(_two_ends())
    model(X, training=True)
    names = [row.operation for row in tfmiaq.edgetpu.check(tfmiaq.convert(model, "edgetpu")).operations]
    assert sorted(names) == ["FULLY_CONNECTED", "FULLY_CONNECTED", "FULLY_CONNECTED", "SOFTMAX"]


def test_a_float_layer_gives_way_to_the_name_of_an_output():
    policy = BitwidthPolicy(LayerBits(8, 8), {"cls": LayerBits(None, None)})
    model = tfmiaq.quantize_model(_two_ends(), policy)
    assert model.output_names == ["cls", "reg"]
    reference = _two_ends()
    model(X, training=True)
    np.testing.assert_allclose(outputs_of(model, X)[0], outputs_of(reference, X)[0], atol=0.05)


@keras.utils.register_keras_serializable("names")
class Weighted(keras.Model):
    """Multiplies the loss by a factor of its own."""

    def __init__(self, *args, factor=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.factor = factor

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.factor * self.compiled_loss(y, self(x, training=True))
        self.optimizer.minimize(loss, self.trainable_variables, tape)
        return {"weighted": loss}

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def test_a_train_step_of_its_own_is_kept():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = tfmiaq.quantize_model(_two_ends(Weighted, factor=3.0), BitwidthPolicy.uniform(8, 8))
    assert isinstance(model, Weighted)
    assert model.factor == 3.0
    model.compile("adam", ["sparse_categorical_crossentropy", "mse"], run_eagerly=True)
    assert set(model.fit(X, [Y["cls"], Y["reg"]], verbose=0).history) == {"weighted"}
    assert tfmiaq.verify(model, tfmiaq.convert(model), X).exact


class Closed(keras.Model):
    """Makes its graph by itself."""

    def __init__(self, units):
        inputs = keras.Input((6,))
        super().__init__(inputs, layers.Dense(units, name="logits")(inputs))

    def test_step(self, data):
        return {}


def test_a_class_that_cannot_be_made_again_is_told():
    with pytest.warns(UserWarning, match=r"plain functional model, without what Closed does by itself \(test_step\)"):
        model = tfmiaq.quantize_model(Closed(3))
    assert type(model) is not Closed


def test_strings_and_states_are_refused_before_any_training():
    text = keras.Input((), dtype="string", name="text")
    vectorize = layers.TextVectorization(10, output_sequence_length=4, vocabulary=["good", "bad"], name="vectorize")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(10, 4)(vectorize(text)))
    with pytest.raises(ValueError, match=r"'vectorize' \(TextVectorization\) reads the string input 'text'.*tf.data"):
        tfmiaq.quantize_model(keras.Model(text, layers.Dense(3)(x)))
    inputs = keras.Input((8, 3), batch_size=4)
    for layer in (layers.GRU(4, stateful=True, name="gru"), layers.Bidirectional(layers.LSTM(2, stateful=True))):
        with pytest.raises(ValueError, match=rf"'{layer.name}' .* is stateful.*stateful=False"):
            tfmiaq.quantize_model(keras.Model(inputs, layers.Dense(3)(layer(inputs))))


def test_states_between_recurrent_layers_are_kept():
    source, target = keras.Input((8, 3), name="source"), keras.Input((8, 3), name="target")
    _, h, c = layers.LSTM(4, return_state=True, name="encoder")(source)
    x = layers.LSTM(4, name="decoder")(target, initial_state=[h, c])
    with pytest.warns(UserWarning, match="encoder"):
        model = tfmiaq.quantize_model(keras.Model([source, target], layers.Dense(3, name="logits")(x)))
    records = [np.random.default_rng(i).normal(size=(16, 8, 3)).astype(np.float32) for i in range(2)]
    model(records, training=True)
    assert tfmiaq.verify(model, tfmiaq.convert(model), records).exact
