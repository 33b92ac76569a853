"""A folder of finished work: what kills, truncations and full disks leave of it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from tfmiaq.caching import ARRAYS, VALUES, Kind, Store, keras_model, write_whole
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.store import FullDiskError, check_space

KINDS = [
    pytest.param(ARRAYS, {"a": np.arange(5000), "b": np.eye(3, dtype=np.float32)}, id="arrays"),
    pytest.param(VALUES, {"leakage": 0.5, "bits": [1, 2], "name": "é"}, id="values"),
]


def _is_same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_moved_environment_keeps_its_cache():
    def module(name, folder):
        made = types.ModuleType(name)
        made.__file__ = f"{folder}/{name}.py"
        return fingerprint({"reads": made})

    assert module("helpers", "/one") == module("helpers", "/other") != module("others", "/one")


@pytest.mark.parametrize(("kind", "value"), KINDS)
def test_a_value_is_made_once(kind, value, tmp_path):
    made = []
    for _ in range(2):
        store = Store(tmp_path / "cache")
        assert _is_same(store.get_or_make("key", lambda: made.append(1) or value, kind), value)
    assert len(made) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"key{kind.suffix}"]


@pytest.mark.parametrize("size", [0, 10, -5])
@pytest.mark.parametrize(("kind", "value"), KINDS)
def test_a_truncated_file_is_removed_and_made_again(kind, value, size, tmp_path):
    store = Store(tmp_path)
    store.put("key", value, kind)
    path = store.path("key", kind)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.warns(UserWarning, match="is broken"):
        assert store.get("key", kind) is None
    assert not path.exists()
    assert _is_same(store.get_or_make("key", lambda: value, kind), value)
    assert _is_same(store.get("key", kind), value)


def test_compressed_bytes_that_were_changed_are_no_value(tmp_path):
    store = Store(tmp_path)
    store.put("key", {"a": np.arange(5000)}, ARRAYS)
    path = store.path("key", ARRAYS)
    content = bytearray(path.read_bytes())
    content[200:260] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is broken"):
        assert store.get("key", ARRAYS) is None


def test_a_value_of_another_shape_is_made_again(tmp_path):
    store = Store(tmp_path)
    store.put("key", {"a": np.zeros(3)}, ARRAYS)
    found = store.get_or_make("key", lambda: {"a": np.ones(4)}, ARRAYS, lambda value: len(value["a"]) == 4)
    np.testing.assert_array_equal(found["a"], np.ones(4))
    np.testing.assert_array_equal(store.get("key", ARRAYS)["a"], np.ones(4))


def test_a_store_without_a_folder_keeps_nothing():
    store, made = Store(None), []
    for _ in range(2):
        store.get_or_make("key", lambda: made.append(1) or {}, VALUES)
    assert len(made) == 2
    assert not store.put("key", {}, VALUES)


class _Model:
    """A model of one number."""

    def __init__(self, number):
        self.number = number

    def save(self, path):
        if self.number is None:
            raise NotImplementedError("no get_config")
        with open(path, "w") as file:
            file.write(str(self.number))

    @classmethod
    def load(cls, path):
        with open(path) as file:
            return cls(int(file.read()))


def test_a_model_that_cannot_be_stored_is_used_with_a_warning(tmp_path):
    store, kind = Store(tmp_path), keras_model(_Model.load)
    with pytest.warns(UserWarning, match=r"could not be written \(no get_config\)"):
        assert store.get_or_make("key", lambda: _Model(None), kind).number is None
    assert not list(tmp_path.iterdir())
    assert store.get_or_make("key", lambda: _Model(3), kind).number == 3
    assert store.get("key", kind).number == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_stops_the_work_in_one_line(tmp_path, number):
    def save(path, value):
        path.write_bytes(bytes(100))
        raise OSError(number, os.strerror(number))

    with pytest.raises(FullDiskError, match=r"^No space is left to write '.*key.json' .* make the same call again"):
        Store(tmp_path).get_or_make("key", lambda: 1, Kind(".json", save, None))
    assert not list(tmp_path.iterdir())


def test_words_of_a_full_disk_are_known_without_its_number(tmp_path):
    def save(path, value):
        raise OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')")

    with pytest.raises(FullDiskError):
        Store(tmp_path).put("key", 1, Kind(".json", save, None))


def test_a_file_size_that_is_limited_is_told_before_the_work(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(FullDiskError, match="No space is left"):
            check_space(tmp_path / "cache")
        with pytest.raises(FullDiskError, match="No space is left"):
            Store(tmp_path / "cache").put("key", {"a": np.random.default_rng(0).normal(size=900)}, ARRAYS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "cache").iterdir())
    check_space(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path):
    for name, age in ((".unfinished-old", 25 * 3600), (".unfinished-new", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "it.npz").write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    check_space(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".unfinished-new"]


def test_an_exported_file_is_that_of_its_key_or_none(tmp_path):
    store, kind, path = Store(tmp_path / "cache"), keras_model(_Model.load), tmp_path / "float.keras"
    store.put("one", _Model(1), kind)
    store.put("two", _Model(2), kind)
    for key, number in (("one", 1), ("two", 2), ("one", 1)):
        assert store.export(key, kind, path)
        assert _Model.load(path).number == number
    path.write_text("")
    assert store.export("one", kind, path)
    assert _Model.load(path).number == 1
    assert not store.export("three", kind, path)
    assert not path.exists()


def test_a_file_keeps_its_old_content_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "policy.json"
    write_whole(path, lambda unfinished: unfinished.write_text("old"))

    def fail(unfinished):
        unfinished.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_it_writes_leaves_no_part_under_the_key(tmp_path):
    code = (
        "import os, pathlib\n"
        "from tfmiaq.caching import Kind, Store\n"
        "def save(path, value):\n"
        "    path.write_text('part')\n"
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
        f"Store({str(tmp_path)!r}).put('key', 1, Kind('.json', save, None))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    store = Store(tmp_path)
    assert store.get("key", VALUES) is None
    assert store.get_or_make("key", lambda: {"made": 1}, VALUES) == {"made": 1}
