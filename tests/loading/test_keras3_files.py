"""Files of Keras 3: that Keras opens them, after the same look at what they name."""

from __future__ import annotations

import importlib.metadata
import json
import zipfile

import numpy as np
import pytest

import tfmiaq
from tfmiaq import cli

HAS_KERAS_3 = importlib.metadata.version("keras").startswith("3")
needs_keras_3 = pytest.mark.skipif(not HAS_KERAS_3, reason="Keras 3 opens its files")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A sequential and a functional model of Keras 3, saved, with their outputs on records."""
    keras = pytest.importorskip("keras", minversion="3.0")
    folder, layers = tmp_path_factory.mktemp("three"), keras.layers
    keras.utils.set_random_seed(0)
    stack = [layers.Conv2D(2, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(2)]
    sequential = keras.Sequential([keras.Input((6, 5, 1)), *stack])
    inputs = keras.Input((6, 5, 1), name="pixels")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    x = layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.01))(x)
    functional = keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.Activation("relu")(x)))
    functional.compile(keras.optimizers.AdamW(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    records = np.random.default_rng(0).uniform(0, 255, (20, 6, 5, 1)).astype(np.float32)
    for name, model in (("sequential", sequential), ("functional", functional)):
        model.save(folder / f"{name}.keras")
    np.savez(folder / "own.npz", x=records)
    return folder, records, {"sequential": sequential, "functional": functional}


def _changed(path, new, change):
    """Writes a copy of a .keras file with another configuration."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as made:
        for name in old.namelist():
            data = old.read(name)
            made.writestr(name, json.dumps(change(json.loads(data))) if name == "config.json" else data)
    return new


@needs_keras_3
@pytest.mark.parametrize("name", ["sequential", "functional"])
def test_a_file_of_keras_3_is_opened_and_quantized(saved, name, run, monkeypatch):
    folder, records, models = saved
    monkeypatch.chdir(folder)
    loaded = tfmiaq.load_model(f"{name}.keras")
    np.testing.assert_allclose(loaded.predict(records, verbose=0), models[name].predict(records, verbose=0), rtol=1e-5)
    status, printed = run(f"quantize {name}.keras --records own.npz --iterations 1 -o {name}.tflite")
    assert status == 0, printed.err
    assert "float model choose the same class" in printed.out


def _object(module, kind, **config):
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _with_layer(layer):
    return lambda config: {**config, "config": {**config["config"], "layers": [*config["config"]["layers"], layer]}}


@needs_keras_3
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (_object("keras.layers", "Lambda", name="l", function="x"), "Lambda, which runs code that the file holds"),
        (_object("keras.layers", "TFSMLayer", name="l", filepath="x"), "TFSMLayer"),
        (_object("keras.src.layers", "Dense", name="l", units=2), "names 'keras.src.layers'"),
        (_object("os", "system", name="l"), "names 'os'"),
        ({**_object("builtins", "function"), "config": "eval"}, "the function builtins.eval"),
        (_object("keras.utils", "get_file", name="l"), "names 'keras.utils'"),
        (_object("keras.layers", "Dense", name="l", units=2**40), "variables of"),
    ],
)
def test_what_runs_or_is_too_large_is_not_opened(saved, tmp_path, layer, message):
    path = _changed(saved[0] / "sequential.keras", tmp_path / "bad.keras", _with_layer(layer))
    with pytest.raises(ValueError, match=message):
        tfmiaq.load_model(path)


@needs_keras_3
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (_object("keras.layers", "RepeatVector", name="l", n=10**10), "20,000,000,000 elements for one record"),
        (_object("keras.layers", "UpSampling1D", name="l", size=10**9), "taken apart into"),
    ],
)
def test_work_without_end_is_one_line(saved, tmp_path, layer, message):
    repeated = _with_layer(_object("keras.layers", "RepeatVector", name="r", n=3))
    change = repeated if layer["class_name"] == "UpSampling1D" else lambda config: config

    def both(config):
        return _with_layer(layer)(change(config))

    with pytest.raises(ValueError, match=message):
        tfmiaq.load_model(_changed(saved[0] / "sequential.keras", tmp_path / "bad.keras", both))


@needs_keras_3
def test_large_initial_values_are_not_drawn(tmp_path, monkeypatch):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((600,)), keras.layers.Dense(600, kernel_initializer="orthogonal")])
    model.save(tmp_path / "model.keras")
    monkeypatch.setattr(keras.initializers.Orthogonal, "__call__", lambda *args, **kwargs: 1 / 0)
    opened = tfmiaq.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(opened.get_weights()[0], model.get_weights()[0])


@needs_keras_3
def test_a_refused_file_leaves_nothing_to_be_made_later(saved, tmp_path):
    """Keras 3 keeps a list of variables without values, and gives them some when the next model is built."""
    keras = pytest.importorskip("keras")
    large = _with_layer(_object("keras.layers", "Dense", name="l", units=2**40))
    with pytest.raises(ValueError, match="variables of"):
        tfmiaq.load_model(_changed(saved[0] / "sequential.keras", tmp_path / "bad.keras", large))

    class Own(keras.layers.Layer):
        def call(self, x):
            return x + 1.0

    assert Own()(keras.Input((3,))).shape == (None, 3)


@needs_keras_3
@pytest.mark.filterwarnings("ignore")
def test_the_older_format_of_keras_3_has_a_way_out(saved, tmp_path):
    saved[2]["sequential"].save(tmp_path / "three.h5")
    with pytest.raises(ValueError, match=r"by Keras 3.* in the older format\. Save it as \.keras"):
        tfmiaq.load_model(tmp_path / "three.h5")


@needs_keras_3
def test_a_cut_file_is_told(saved, tmp_path, capsys):
    whole = (saved[0] / "sequential.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit) as left:
        cli.main(["summary", str(tmp_path / "cut.keras")])
    assert left.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(HAS_KERAS_3, reason="without Keras 3")
def test_without_keras_3_its_file_is_named_as_such(tmp_path):
    path = tmp_path / "three.keras"
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("config.json", json.dumps(_object("keras", "Sequential", layers=[])))
        new.writestr("metadata.json", json.dumps({"keras_version": "3.12.0"}))
    with pytest.raises(ValueError, match=r"was saved by Keras 3\.12\.0"):
        tfmiaq.load_model(path)
