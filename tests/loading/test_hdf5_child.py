"""HDF5 reads files from outside in a process of its own, because its C code can crash or never end on a damaged one."""

from __future__ import annotations

import os
import sys

import h5py
import numpy as np
import pytest

import tfmiaq
from tfmiaq._backend import keras
from tfmiaq.loading import hdf5_child, keras_files
from tfmiaq.loading.keras_files import open_keras_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    for form in ("keras", "h5"):
        model.save(place / f"model.{form}")
    return place


def test_whole_files_are_read_to_their_end(folder):
    limits = (2**20, 60.0)
    assert hdf5_child.check_hdf5(str(folder / "model.h5"), None, 1000, *limits) == ""
    assert hdf5_child.check_hdf5(str(folder / "model.keras"), "model.weights.h5", 1000, *limits) == ""


def test_a_file_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    if not hasattr(os, "mkfifo"):
        pytest.skip("a pipe with a name stands in the place of such a file")
    os.mkfifo(tmp_path / "endless.h5")
    # The time that a caller gives is the caller's; the other one is the file's fault.
    with pytest.raises(TimeoutError):
        hdf5_child.check_hdf5(str(tmp_path / "endless.h5"), None, 0, 2**20, 0.5)
    monkeypatch.setattr(hdf5_child, "_SECONDS", 1.0)
    told = hdf5_child.check_hdf5(str(tmp_path / "endless.h5"), None, 0, 2**20, 60.0)
    assert told == "HDF5 does not come to its end in 1 seconds"


def test_a_process_that_dies_is_told(tmp_path, monkeypatch):
    dies = tmp_path / "dies.py"
    dies.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(hdf5_child, "__file__", str(dies))
    assert hdf5_child.check_hdf5("x.h5", None, 0, 2**20, 60.0) == "HDF5 died of signal 11 on it"


def test_damaged_files_are_told_in_one_line(folder, tmp_path):
    cut = tmp_path / "cut.h5"
    cut.write_bytes((folder / "model.h5").read_bytes()[:3000])
    told = hdf5_child.check_hdf5(str(cut), None, 3000, 2**20, 60.0)
    assert told.startswith("OSError: ") and "\n" not in told


def test_it_reads_no_other_file_and_no_more_than_the_limit(tmp_path):
    path = tmp_path / "outside.h5"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("none.h5", "/")
        file.create_dataset("storage", (4,), "u1", external=[("/none", 0, 4)])
        file.create_dataset("bomb", (2**20, 2**20), chunks=(2**10, 2**10), compression="gzip")
        file["again"] = file["/"]
        file.attrs["text"] = "x"
    assert hdf5_child.check_hdf5(str(path), None, 0, 2**20, 60.0) == ""


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_models_from_outside_go_through_it_and_those_of_a_cache_do_not(form, folder, monkeypatch):
    path = folder / f"model.{form}"
    x = np.ones((2, 4), np.float32)
    expected = tfmiaq.load_model(path).predict(x, verbose=0)
    monkeypatch.setattr(keras_files, "check_hdf5", lambda *given: "HDF5 does not come to its end in 60 seconds")
    with pytest.raises(ValueError, match=r"^load_model: .* is damaged \(HDF5 does not come to its end in 60 seconds\)"):
        tfmiaq.load_model(path)
    for more in ({"imported": True}, {"trust": True}):
        np.testing.assert_array_equal(open_keras_model(path, **more).predict(x, verbose=0), expected)


def test_the_child_imports_neither_tensorflow_nor_this_package():
    loaded = f"import runpy, sys; runpy.run_path({hdf5_child.__file__!r}); print('tfmiaq' in sys.modules)"
    assert os.popen(f'{sys.executable} -c "{loaded}"').read().strip() == "False"
