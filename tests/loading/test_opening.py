"""Small files that ask Keras for work without end: one line, soon."""

from __future__ import annotations

import json
import threading
import time
import zipfile

import numpy as np
import pytest

import tfmiaq
from tfmiaq import cli
from tfmiaq._backend import keras, tf
from tfmiaq.loading import opening
from tfmiaq.loading.limits import RefusedFileError

layers = keras.layers


def parts(config):
    """Every dictionary of a configuration."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        waiting.extend(part if isinstance(part, list) else part.values() if isinstance(part, dict) else ())
        if isinstance(part, dict):
            yield part


def changed(model, path, kind=None, shape=None, **settings):
    """Saves a model with other settings of its layers of a class, and another shape of its input."""
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    for part in list(parts(config)):
        if shape is not None and "build_config" in part:
            part["build_config"] = {}
        if shape is not None and "batch_input_shape" in part:
            part["batch_input_shape"] = shape
        if kind is not None and part.get("class_name") == kind:
            part["config"].update(settings)
    content["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def stack(*parts_of_it, shape=(8, 4)):
    return keras.Sequential([keras.Input(shape), *parts_of_it])


def apart(function):
    inputs = keras.Input((8, 1))
    return keras.Model(inputs, function(inputs))


# A model, what is changed, and a part of the error.
BOMBS = {
    "unrolled steps": (
        lambda: stack(layers.LSTM(2, unroll=True)),
        {"shape": [None, 10**6, 4]},
        "more than 20,000 calls of layers and unrolled steps in the layer 'lstm",
    ),
    "unrolled both ways": (
        lambda: stack(layers.Bidirectional(layers.SimpleRNN(2, unroll=True))),
        {"shape": [None, 10**6, 4]},
        "in the layer 'forward_simple_rnn",
    ),
    "unrolled, behind repeats": (
        lambda: stack(layers.RepeatVector(3), layers.GRU(2, unroll=True), shape=(4,)),
        {"kind": "RepeatVector", "n": 10**6},
        "in the layer 'gru",
    ),
    "repeats": (
        lambda: stack(layers.RepeatVector(3), shape=(4,)),
        {"kind": "RepeatVector", "n": 10**10},
        "a tensor of 40,000,000,000 elements for one record in the layer 'repeat_vector",
    ),
    "a list of slices": (
        lambda: stack(layers.UpSampling1D(2)),
        {"kind": "UpSampling1D", "size": 10**9},
        "taken apart into 8,000,000,000, above 1,000,000, in the layer 'up_sampling1d",
    ),
    "one in space": (
        lambda: stack(layers.UpSampling3D(2), shape=(2, 2, 2, 1)),
        {"kind": "UpSampling3D", "size": [10**8, 1, 1]},
        "taken apart into 200,000,000",
    ),
    "a large picture": (
        lambda: stack(layers.UpSampling2D(2), shape=(2, 2, 1)),
        {"kind": "UpSampling2D", "size": [10**8, 10**8]},
        "elements for one record",
    ),
    "a wide border": (
        lambda: stack(layers.ZeroPadding1D(2)),
        {"kind": "ZeroPadding1D", "padding": [10**12, 1]},
        "elements for one record",
    ),
    "arrays of an input's size": (
        lambda: stack(layers.Normalization(mean=0.0, variance=1.0), shape=(4,)),
        {"shape": [None, 10**9]},
        "a tensor of 1,000,000,000 elements",
    ),
    "a tensor for each step": (
        lambda: apart(lambda x: tf.unstack(x, axis=1)[0]),
        {"shape": [None, 10**8, 1]},
        "taken apart into 100,000,000",
    ),
    "pieces of a tensor": (
        lambda: apart(lambda x: tf.split(x, 2, axis=1)[0]),
        {"shape": [None, 10**8, 1]},
        "taken apart into 100,000,000",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_work_without_end_is_one_line_soon(case, tmp_path):
    make, change, expected = BOMBS[case]
    model = make()
    path = changed(model, tmp_path / "bomb.keras", **change)
    started = time.monotonic()
    with pytest.raises(opening.TooMuchWorkError) as raised:
        tfmiaq.load_model(path)
    assert time.monotonic() - started < 10
    told = str(raised.value)
    assert expected in told and "--trust" in told and "\n" not in told and len(told) < 400
    # The same model as it was.
    model.save(path)
    tfmiaq.load_model(path)


def test_models_inside_models_are_called_so_many_times(tmp_path, monkeypatch):
    model = stack(layers.Dense(4), shape=(4,))
    for _ in range(4):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, model(model(inputs)))
    model.save(tmp_path / "nested.keras")
    tfmiaq.load_model(tmp_path / "nested.keras")
    monkeypatch.setattr(opening, "MAX_CALLS", 50)
    with pytest.raises(ValueError, match="more than 50 calls of layers"):
        tfmiaq.load_model(tmp_path / "nested.keras")
    # What is trusted has no limits.
    tfmiaq.load_model(tmp_path / "nested.keras", trust=True)


def _deep(path):
    stack(*[layers.Dense(4) for _ in range(15)], shape=(4,)).save(path)
    return path


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_time_has_a_limit(form, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(opening, "_SECONDS_BETWEEN_LOOKS", 0.01)
    path = _deep(tmp_path / f"deep.{form}")
    with pytest.raises(opening.TooMuchWorkError, match=r"takes more than 0.02 seconds. Raise max_seconds \(--max_sec"):
        tfmiaq.load_model(path, max_seconds=0.02)
    with pytest.raises(SystemExit) as left:
        cli.main(["summary", str(path), "--max_seconds=0.02"])
    printed = capsys.readouterr()
    assert left.value.code == 2 and printed.err.count("\n") == 1 and "--max_seconds" in printed.err
    # Nothing of it is left behind: layers are called, and files opened, as before.
    assert not hasattr(keras.layers.Layer.add_weight, "__wrapped__")
    tfmiaq.load_model(path)


def test_memory_has_a_limit(tmp_path, monkeypatch):
    if not opening._resident_bytes():
        pytest.skip("the memory of a process is read on Linux alone")
    path = _deep(tmp_path / "deep.keras")
    monkeypatch.setattr(opening, "_SECONDS_BETWEEN_LOOKS", 0.01)
    grown = iter([0, *[10**6 * step for step in range(2000, 10**6)]])
    monkeypatch.setattr(opening, "_resident_bytes", lambda: next(grown))
    with pytest.raises(ValueError, match=r"takes more than 1,073,741,824 bytes of memory. Raise max_bytes"):
        tfmiaq.load_model(path, max_bytes=10**7)


def test_wrong_limits_of_time_are_told_at_once(tmp_path):
    for wrong in (0, -1, float("nan"), float("inf"), "5", True):
        with pytest.raises(ValueError, match="max_seconds"):
            tfmiaq.load_model(tmp_path / "none.keras", max_seconds=wrong)


def test_an_error_that_is_caught_on_its_way_still_counts():
    with pytest.raises(opening.TooMuchWorkError), opening.limited("x", keras.layers.Layer, (2**30, 0.05)):
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                break


def test_other_threads_are_not_watched(monkeypatch):
    monkeypatch.setattr(opening, "MAX_CALLS", 0)
    found = []
    dense = layers.Dense(2)

    def call():
        found.append(dense(np.ones((1, 2), np.float32)).shape)

    with opening.limited("x", keras.layers.Layer, (2**30, 10.0)):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert found == [(1, 2)]


def test_large_random_values_are_not_drawn(tmp_path, monkeypatch):
    model = stack(layers.Dense(600, kernel_initializer="orthogonal"), shape=(600,))
    model.save(tmp_path / "model.keras")

    def refuse(*args, **kwargs):
        raise AssertionError("drawn")

    monkeypatch.setattr(keras.initializers.Orthogonal, "__call__", refuse)
    opened = tfmiaq.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(opened.get_weights()[0], model.get_weights()[0])
    # The null: without the limits Keras draws them.
    with pytest.raises((AssertionError, ValueError), match="drawn"):
        tfmiaq.load_model(tmp_path / "model.keras", trust=True)
    # The initializer is the file's, for who begins anew.
    assert isinstance(opened.layers[-1].kernel_initializer, keras.initializers.Orthogonal)


def test_a_refusal_within_a_layer_is_one_line():
    class Inner(layers.Layer):
        def call(self, x):
            return layers.RepeatVector(10**10)(x)

    with pytest.raises(RefusedFileError) as raised, opening.limited("x", keras.layers.Layer, (2**30, 10.0)):
        Inner()(keras.Input((4,)))
    assert "\n" not in str(raised.value)
