"""Keras files from outside: what they name is read before Keras makes it."""

from __future__ import annotations

import json
import shutil
import sys
import types
import zipfile

import h5py
import numpy as np
import pytest

import tfmiaq
from tfmiaq import cli
from tfmiaq._backend import keras, tf
from tfmiaq.loading import keras_classes
from tfmiaq.loading.keras_files import UntrustedModelError, open_keras_model
from tfmiaq.loading.limits import TooLargeError

ENGINE = keras_classes.keras.Model.__module__.rpartition(".")[0]


@keras.utils.register_keras_serializable("test_keras_files")
class Registered(keras.layers.Dense):
    """A user's layer, by registration."""


class Own(keras.layers.Dense):
    """A user's layer that nothing but this module knows."""


class OwnModel(keras.Model):
    """A user's kind of model, as one with a training step of its own."""


def linear(*layers):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="first"), *layers])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small model in both forms, with operations of TensorFlow as layers."""
    folder = tmp_path_factory.mktemp("files")
    inputs = keras.Input((4,))
    x = tf.nn.relu(tf.math.multiply(keras.layers.Dense(3, activation="relu")(inputs), 2.0))[:, :2]
    model = keras.Model(inputs, keras.layers.Dense(2, kernel_regularizer="l2")(x))
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    model.save(folder / "good.keras")
    model.save(folder / "good.h5")
    return folder


def rewrite(source, target, change):
    """Copies a .keras file, with its configuration changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                content = json.dumps(change(config) or config).encode()
            new.writestr(name, content)
    return target


def rewrite_h5(source, target, change):
    """Copies an .h5 file, with its configuration changed."""
    shutil.copyfile(source, target)
    with h5py.File(target, "a") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(change(config) or config)
    return target


def function(module, name, **more):
    return {"class_name": "function", "module": module, "config": name, "registered_name": name, **more}


def operation(name, *constants, **kwargs):
    """A layer that Keras calls with constants while it opens the file."""
    node = [["_CONSTANT_VALUE", -1, constant, kwargs] for constant in constants]
    return {
        "class_name": "TFOpLambda",
        "module": "keras.src.layers.core.tf_op_layer",
        "config": {"name": "operation", "function": name},
        "registered_name": "TFOpLambda",
        "name": "operation",
        "inbound_nodes": node,
    }


def layer(kind, module="keras.layers", **config):
    return {"class_name": kind, "module": module, "config": config, "registered_name": None, "name": "x"}


BAD_OBJECTS = {
    "a function of another module": (function("posix", "system"), "the function posix.system"),
    "one behind a part of Keras": (function("keras.src.utils.data_utils", "os.system"), "os.system"),
    "a tool of Keras": (function("keras.utils", "get_file"), "keras.utils.get_file"),
    "the maker of objects": (function("keras.losses", "deserialize"), "keras.losses.deserialize"),
    "a function without a name": (function("keras.losses", None), "a function without a name"),
    "a class of another module": (layer("Popen", "subprocess"), "subprocess.Popen, which is of no package"),
    "one of Keras that is no layer": (layer("LambdaCallback", "keras.callbacks"), "is no layer, model"),
    "a Lambda": (layer("Lambda", function="code"), "keras.layers.Lambda, which runs code that the file holds"),
    "a Lambda of the older form": ({"class_name": "Lambda", "config": {}}, "Lambda, which runs code"),
    "a lambda": (layer("__lambda__", "builtins", value="code"), "__lambda__"),
    "another name than the class's": ({**layer("Dense"), "registered_name": "os"}, "under the name 'os'"),
    "a list as class": ({**layer("Dense"), "class_name": ["Dense"]}, "of class ['Dense']"),
    "a number as module": ({**layer("Dense"), "module": 3}, "in module 3"),
    "a type of another module": ({**layer("__typespec__", "os"), "spec_name": "system"}, "the type os.'system'"),
    "writing a file": (operation("io.write_file", "there", contents="x"), "TensorFlow 'io.write_file'"),
    "loading a library": (operation("load_library", "there.so"), "'load_library'"),
    "loading a model": (operation("saved_model.load", "there"), "'saved_model.load'"),
    "a raw operation": (operation("raw_ops.WriteFile", "there"), "'raw_ops.WriteFile'"),
    "an old name": (operation("compat.v1.py_func", "there"), "'compat.v1.py_func'"),
    "a node of a graph": (layer("TensorFlowOpLayer"), "TensorFlowOpLayer"),
    "a file with words": (layer("StringLookup", vocabulary="/etc/passwd"), "the file '/etc/passwd'"),
    "a call on constants alone": (
        operation("fill", [2**20, 2**20], value=1.0),
        "on constants alone, which runs at once",
    ),
    "a list of thresholds": (layer("AUC", "keras.metrics", num_thresholds=10**9), "num_thresholds=1000000000 of AUC"),
    "a list of classes": (layer("MeanIoU", "keras.metrics", num_classes=10**10), "num_classes=10000000000 of MeanIoU"),
    "a list of n-grams": (layer("TextVectorization", ngrams=10**10), "ngrams=10000000000 of TextVectorization"),
    "a list of words": (layer("StringLookup", num_oov_indices=10**10), "num_oov_indices=10000000000 of StringLookup"),
    "the command line": (layer("main", "tfmiaq.__main__"), "tfmiaq.__main__.main, which is no class"),
    "a test of Keras": (layer("TestCase", f"{ENGINE}.training_test"), "training_test.TestCase, which is no class"),
    "a misspelled layer": (layer("Dens"), "did the file mean 'Dense'?"),
}


@pytest.mark.parametrize("form", ["keras", "h5"])
@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_what_may_not_be_named_is_named_in_the_error(case, form, files, tmp_path):
    bad, expected = BAD_OBJECTS[case]
    change = {"keras": rewrite, "h5": rewrite_h5}[form]

    def add(config):
        config["config"]["layers"][-1]["config"]["activity_regularizer"] = {"inside": [bad]}

    path = change(files / f"good.{form}", tmp_path / f"bad.{form}", add)
    with pytest.raises(keras_classes.ForbiddenObjectError) as raised:
        tfmiaq.load_model(path)
    assert expected in str(raised.value) and "trust=True (--trust)" in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


@pytest.mark.parametrize("trust", [False, True])
def test_a_file_writes_no_other_file(trust, files, tmp_path):
    there = tmp_path / "there"

    def add(config):
        config["config"]["layers"].append(operation("io.write_file", str(there), contents="x"))

    path = rewrite(files / "good.keras", tmp_path / "bad.keras", add)
    with pytest.raises(ValueError, match=r"io\.write_file|damaged"):
        tfmiaq.load_model(path, trust=trust)
    # The null: with trust Keras opens it, and it writes.
    assert there.exists() == trust


def test_compile_settings_and_training_settings_are_read_too(files, tmp_path):
    def add(config):
        config["compile_config"]["loss"] = function("posix", "system")

    with pytest.raises(ValueError, match=r"posix\.system"):
        tfmiaq.load_model(rewrite(files / "good.keras", tmp_path / "bad.keras", add))
    shutil.copyfile(files / "good.h5", tmp_path / "bad.h5")
    with h5py.File(tmp_path / "bad.h5", "a") as file:
        file.attrs["training_config"] = json.dumps({"loss": function("posix", "system")})
    with pytest.raises(ValueError, match=r"posix\.system"):
        tfmiaq.load_model(tmp_path / "bad.h5")


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_models_of_keras_are_opened(form, files):
    x = np.ones((2, 4), np.float32)
    opened = tfmiaq.load_model(files / f"good.{form}")
    trusted = tfmiaq.load_model(files / f"good.{form}", trust=True)
    np.testing.assert_array_equal(opened.predict(x, verbose=0), trusted.predict(x, verbose=0))
    assert opened.optimizer is not None and opened.loss is not None


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_quantized_models_are_opened(form, tmp_path):
    model = tfmiaq.quantize_model(linear(keras.layers.ReLU()), tfmiaq.BitwidthPolicy.uniform(2, 4))
    model.save(tmp_path / f"model.{form}")
    tfmiaq.load_model(tmp_path / f"model.{form}")


def test_a_users_layer_takes_registration_or_custom_objects(tmp_path):
    linear(Registered(2)).save(tmp_path / "registered.keras")
    assert isinstance(tfmiaq.load_model(tmp_path / "registered.keras").layers[-1], Registered)
    linear(Own(2)).save(tmp_path / "own.keras")
    with pytest.raises(ValueError, match=r"Own, which is of no package that may be named"):
        tfmiaq.load_model(tmp_path / "own.keras")
    opened = tfmiaq.load_model(tmp_path / "own.keras", custom_objects={"Own": Own})
    assert isinstance(opened.layers[-1], Own)


def test_a_cache_holds_models_of_classes_that_are_there_already(tmp_path):
    inputs = keras.Input((4,))
    OwnModel(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "own.keras")
    with pytest.raises(ValueError, match="OwnModel, which is of no package"):
        tfmiaq.load_model(tmp_path / "own.keras")
    assert isinstance(open_keras_model(tmp_path / "own.keras", imported=True), OwnModel)


def test_a_cache_names_no_function_and_no_module_that_is_not_there(files, tmp_path, monkeypatch):
    module = types.ModuleType("there_already")
    module.Own, module.run = type("Own", (keras.layers.Dense,), {"__module__": "there_already"}), print
    monkeypatch.setitem(sys.modules, "there_already", module)
    for bad in (function("there_already", "run"), layer("run", "there_already"), layer("Own", "not_there")):
        path = rewrite(
            files / "good.keras", tmp_path / "bad.keras", lambda config, bad=bad: config["config"].update(more=bad)
        )
        with pytest.raises(ValueError, match="is not opened"):
            open_keras_model(path, imported=True)
    assert "not_there" not in sys.modules


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_lambdas_and_saved_models_take_trust(form, tmp_path):
    path = tmp_path / f"model.{form}"
    linear(keras.layers.Lambda(lambda x: x * 2)).save(path)
    with pytest.raises(ValueError, match="Lambda, which runs code"):
        tfmiaq.load_model(path)
    assert len(tfmiaq.load_model(path, trust=True).layers) == 2


def test_a_saved_model_takes_trust(tmp_path):
    path = tmp_path / "saved"
    linear().save(path)
    with pytest.raises(UntrustedModelError, match=r"is a SavedModel.*--trust"):
        tfmiaq.load_model(str(path))
    assert len(tfmiaq.load_model(str(path), trust=True).layers) == 1


def test_zip_and_hdf5_keep_within_limits(files, tmp_path):
    with pytest.raises(ValueError, match=r"members of [\d,]+ bytes in memory, above the limit of 1,000.*--max_bytes"):
        tfmiaq.load_model(files / "good.keras", max_bytes=1000)
    with pytest.raises(ValueError, match=r"declares arrays of [\d,]+ bytes"):
        tfmiaq.load_model(files / "good.h5", max_bytes=50)
    path = tmp_path / "bomb.h5"
    shutil.copyfile(files / "good.h5", path)
    with h5py.File(path, "a") as file:
        file.create_dataset("bomb", (2**20, 2**20), chunks=(2**10, 2**10), compression="gzip")
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"declares arrays of 4,[\d,]+ bytes"):
        tfmiaq.load_model(path)


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_layers_of_a_configuration_keep_within_the_limit(form, files, tmp_path):
    def widen(config):
        dense = next(part for part in config["config"]["layers"] if part["class_name"] == "Dense")
        dense["config"]["units"] = 10**9

    change = {"keras": rewrite, "h5": rewrite_h5}[form]
    path = change(files / f"good.{form}", tmp_path / f"wide.{form}", widen)
    with pytest.raises(
        TooLargeError, match=r"declares variables of 16,000,000,000 bytes .* 4,294,967,296. Raise max_b"
    ):
        tfmiaq.load_model(path)


@pytest.mark.parametrize("kind", ["link", "storage"])
def test_arrays_lie_in_the_file_itself(kind, files, tmp_path):
    path = tmp_path / "bad.h5"
    shutil.copyfile(files / "good.h5", path)
    with h5py.File(path, "a") as file:
        if kind == "link":
            file["other"] = h5py.ExternalLink("/etc/passwd", "/")
        else:
            file.create_dataset("other", (4,), "u1", external=[("/etc/passwd", 0, 4)])
    with pytest.raises(UntrustedModelError, match="reads another file"):
        tfmiaq.load_model(path)


def test_files_that_are_no_models(files, tmp_path):
    whole = (files / "good.keras").read_bytes()
    bad = {
        "empty.keras": b"",
        "cut.keras": whole[: len(whole) // 2],
        "text.h5": b"no model",
        "cut.h5": (files / "good.h5").read_bytes()[:3000],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"^load_model: .*damaged"):
            tfmiaq.load_model(tmp_path / name)
    with pytest.raises(ValueError, match=r"No model at 'none\.keras'"):
        tfmiaq.load_model("none.keras")
    with pytest.raises(TypeError, match="Expected the path of a model"):
        tfmiaq.load_model(5)
    deep = json.loads("[" * 500 + "]" * 500)
    path = rewrite(files / "good.keras", tmp_path / "deep.keras", lambda config: {"config": deep})
    with pytest.raises(ValueError, match="nested too deep"):
        tfmiaq.load_model(path)


def test_the_command_line_goes_through_the_same_door(files, tmp_path, capsys):
    path = rewrite(
        files / "good.keras",
        tmp_path / "bad.keras",
        lambda config: config["config"].update(x=function("posix", "system")),
    )
    for line in (f"summary {path}", f"convert {path} {tmp_path / 'out.tflite'}"):
        with pytest.raises(SystemExit) as left:
            cli.main(line.split())
        printed = capsys.readouterr()
        assert left.value.code == 2 and printed.err.count("\n") == 1 and "posix.system" in printed.err
    with pytest.raises(SystemExit) as left:
        cli.main(["summary", str(path), "--trust"])
    assert left.value.code == 0
