"""Arrays from outside: sizes are checked before memory is taken, and nothing is unpickled."""

from __future__ import annotations

import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from tfmiaq import datasets
from tfmiaq.loading.arrays import NpzFile, open_npy, read_npz
from tfmiaq.loading.json_text import parse_json


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("something was unpickled",)


def header(shape, descr="<f8"):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text = text + " " * (117 - len(text)) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("dtype", ["f4", "u1", "i8", "U3", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were(dtype, order, tmp_path):
    array = np.asarray(np.arange(24).reshape(2, 3, 4).astype(dtype), order=order)
    np.savez_compressed(tmp_path / "a.npz", a=array, b=array[:0], c=array[0, 0, 0])
    found = read_npz(tmp_path / "a.npz")
    for name, value in {"a": array, "b": array[:0], "c": array[0, 0, 0]}.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(open_npy(tmp_path / "a.npy"), array)


def test_a_bomb_costs_no_memory(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x_train=np.zeros(50_000_000, np.uint8), y_train=[0], x_test=[0], y_test=[0])
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"declares .* of [\d,]+ bytes in memory, above the limit.*--max_bytes"):
        datasets.load(str(path), max_bytes=10_000_000)
    # As bytes they would be within the limit, as float32 they are not.
    with pytest.raises(ValueError, match=r"declares records, as float32, of 200,000,004 bytes"):
        datasets.load(str(path), max_bytes=100_000_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_conversion_takes_the_memory_of_its_result(tmp_path):
    path = tmp_path / "bytes.npz"
    x = np.random.default_rng(0).integers(0, 256, (40_000, 100), np.uint8)
    np.savez(path, x_train=x, y_train=np.zeros(len(x), int), x_test=x[:1], y_test=[0])
    tracemalloc.start()
    data = datasets.load(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(data.x_train, x)
    # The 16 MB of float32 and what one piece takes; with a copy of the bytes it would be 20 MB and more.
    assert peak < 16e6 + 12e6


def test_a_header_that_declares_too_much_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", header((10**12,)))
    with pytest.raises(ValueError, match=r"declares 8,000,000,000,000 bytes of values, and has 0"):
        NpzFile(tmp_path / "x.npz")
    (tmp_path / "x.npy").write_bytes(header((10**12,)))
    with pytest.raises(ValueError, match=r"declares arrays of 8,000,000,000,000 bytes"):
        open_npy(tmp_path / "x.npy")


def test_pickles_are_refused(tmp_path):
    objects = np.array([Harmful()], object)
    np.savez(tmp_path / "x.npz", x=objects)
    np.save(tmp_path / "x.npy", objects)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match="holds Python objects"):
        read_npz(tmp_path / "x.npz")
    for name in ("x.npy", "raw.npy"):
        with pytest.raises(ValueError, match=r"holds Python objects|is damaged"):
            open_npy(tmp_path / name)


def test_broken_files_cost_one_line(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", x=np.arange(1000))
    np.save(tmp_path / "whole.npy", np.arange(1000))
    generator = np.random.default_rng(0)
    outcomes = []
    for name, read in (("whole.npz", read_npz), ("whole.npy", open_npy)):
        whole = (tmp_path / name).read_bytes()
        for _ in range(150):
            data = np.frombuffer(whole, np.uint8).copy()
            places = generator.integers(0, min(len(data), 400), 3)
            data[places] = generator.integers(0, 256, 3)
            path = tmp_path / f"broken{name[-4:]}"
            path.write_bytes(data.tobytes()[: generator.integers(1, len(data))])
            try:
                read(path)
            except ValueError as error:
                outcomes.append(str(error))
    assert len(outcomes) > 200 and all("\n" not in text and len(text) < 500 for text in outcomes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[" * 10**5, "nested too deep"), ("[" * 300 + "]" * 300, "nested too deep"), ("{", "not JSON"), ("", "not JSON")],
)
def test_json_that_is_none(text, expected):
    with pytest.raises(ValueError, match=f"^a report: {expected}"):
        parse_json(text, "a report")
    assert parse_json("[" * 150 + "]" * 150, "a report") is not None
