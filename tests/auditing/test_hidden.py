"""Who holds the file reads the size of the last hidden layer, of a Keras model and of its .tflite alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tfmiaq
from tfmiaq import metrics, signals
from tfmiaq._backend import keras, tf
from tfmiaq.attacks import ATTACKS, Evidence
from tfmiaq.signals import access, reference_training

_X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


def _network(*ends, units=8):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    inputs = keras.Input((6,))
    hidden = layers.Dense(units, "relu", name="hidden")(layers.Dense(7, "relu", name="first")(inputs))
    x = hidden
    for layer in ends or (layers.Dense(3, name="logits"),):
        x = layer(x)
    return keras.Model(inputs, x), keras.Model(inputs, hidden)


def _expected(hidden):
    values = hidden.predict(_X, verbose=0).astype(np.float64)
    lengths = np.sqrt((values**2).sum(1)), abs(values).sum(1)
    return np.column_stack([*(np.log(length + 1e-6) for length in lengths), (values > 0).mean(1)])


def _file(model):
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


_LAYERS = keras.layers
_ENDS = {
    "logits": lambda: (),
    "softmax in the layer": lambda: (_LAYERS.Dense(3, "softmax"),),
    "softmax behind": lambda: (_LAYERS.Dense(3), _LAYERS.Softmax()),
    "a model of its own": lambda: (keras.Sequential([keras.Input((8,)), _LAYERS.Dense(3), _LAYERS.Softmax()]),),
}


@pytest.mark.parametrize("ends", list(_ENDS))
def test_the_size_of_the_last_hidden_layer(ends, monkeypatch):
    model, hidden = _network(*_ENDS[ends]())
    monkeypatch.setattr(access, "_MOST_HIDDEN", 15)
    if ends != "a model of its own":
        np.testing.assert_allclose(signals.HeldModel(model).hidden(_X), _expected(hidden), atol=1e-5)
    np.testing.assert_allclose(signals.HeldModel(_file(model)).hidden(_X), _expected(hidden), atol=1e-4)


def test_a_quantized_model_and_its_file_have_about_the_same():
    """Behind the rounding of outputs the hidden layer is read as it is."""
    model, _ = _network()
    policy = tfmiaq.BitwidthPolicy.uniform(4, 4, output=tfmiaq.OutputBits(1, 0.2))
    quantized = tfmiaq.quantize_model(model, policy)
    tfmiaq.calibrate(quantized, _X)
    seen = [signals.HeldModel(form).hidden(_X) for form in (quantized, tfmiaq.convert(quantized))]
    assert seen[0].std(0).min() > 0.01
    np.testing.assert_allclose(*seen, atol=0.1)
    assert np.median(abs(seen[0] - seen[1])) < 1e-3


@pytest.mark.parametrize("form", ["keras", "file"])
@pytest.mark.parametrize("ends", ["a layer of the records", "a convolution"])
def test_without_a_hidden_layer_there_is_none(form, ends):
    inputs, x = keras.Input((6,)), _X
    model = keras.Model(inputs, _LAYERS.Dense(3)(inputs))
    if ends == "a convolution":
        inputs, x = keras.Input((2, 3, 1)), _X.reshape(40, 2, 3, 1)
        pooled = _LAYERS.GlobalAveragePooling2D()(_LAYERS.Conv2D(3, 1)(inputs))
        model = keras.Model(inputs, pooled)
    assert signals.HeldModel(model if form == "keras" else _file(model)).hidden(x).shape == (40, 0)


def test_reference_models_have_it_where_the_file_is_held(monkeypatch, tmp_path):
    model, _ = _network()
    trained = []
    monkeypatch.setattr(reference_training, "_train", lambda job, x, y: trained.append(0) or model)
    pool = _X, np.arange(40) % 3
    options = tfmiaq.ReferenceModels(lambda x, y: None, 2, cache=tmp_path)
    for _ in range(2):
        found = signals.train_references(options, pool, access="file")
        np.testing.assert_allclose(found.hidden, np.stack([signals.HeldModel(model).hidden(_X)] * 2))
        assert found.query.hidden is None
    assert len(trained) == 2
    assert found.of_records([0, 1]).hidden.shape == (2, 2, 3)
    monkeypatch.undo()
    functions = tfmiaq.ReferenceModels(lambda x, y: lambda x: np.zeros((len(x), 3)), 2)
    assert signals.train_references(functions, pool, access="file").hidden.shape == (2, 40, 0)


def _evidence(leak, width=3):
    """Outputs that tell nothing, and a hidden layer that is larger by `leak` of a record that was trained on."""
    generator = np.random.default_rng(3)
    count, models = 600, 8
    trained_on = np.concatenate([signals.half_splits(count, models, 0), [np.arange(count) < count // 2]])
    own = generator.normal(size=(count, width))
    hidden = own + leak * trained_on[..., None] + 0.5 * generator.normal(size=(models + 1, count, width))
    labels = generator.integers(0, 4, count)
    found = [signals.from_scores(generator.normal(size=(count, 4)), labels, False) for _ in range(models + 1)]
    references = signals.ReferenceSignals(
        np.stack([one.features for one in found[:-1]]),
        trained_on[:-1],
        outputs=np.stack([one.outputs for one in found[:-1]]),
        hidden=hidden[:-1].astype(np.float32),
    )
    target = dataclasses.replace(found[-1], hidden=hidden[-1].astype(np.float32))
    return Evidence(target, trained_on[-1], reference_signals=references)


@pytest.mark.parametrize(("leak", "low", "high"), [(0.0, 0.44, 0.56), (1.0, 0.9, 1.0)])
def test_the_whole_output_attack_reads_it(leak, low, high):
    evidence = _evidence(leak)
    scores = ATTACKS["whole output"].scores(evidence)
    assert low < float(metrics.auc_estimate(scores[evidence.is_member], scores[~evidence.is_member])) <= high


def test_of_who_can_only_ask_it_is_not_read():
    evidence = _evidence(1.0)
    asked = dataclasses.replace(evidence, target=dataclasses.replace(evidence.target, hidden=None))
    scores = ATTACKS["whole output"].scores(asked)
    assert float(metrics.auc_estimate(scores[asked.is_member], scores[~asked.is_member])) < 0.56
