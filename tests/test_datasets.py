from __future__ import annotations

import numpy as np
import pytest

from tfmiaq import datasets


def test_digits_are_split_in_halves_without_overlap(digits):
    assert digits.x_train.shape[1:] == (8, 8, 1)
    assert (digits.x_train.min(), digits.x_train.max()) == (0, 1)
    assert len(digits.x_train) + len(digits.x_test) == 1797
    assert digits.classes == 10


def test_an_npz_is_scaled_and_flattened_labels(tmp_path):
    path = str(tmp_path / "own.npz")
    x = np.full((4, 5, 5), 255, np.uint8)
    np.savez(path, x_train=x, y_train=np.arange(4)[:, None], x_test=x, y_test=np.eye(4))
    data = datasets.load(path)
    assert data.x_train.shape == (4, 5, 5, 1)
    assert data.x_train.max() == 1
    assert datasets.load(path, rescale=False).x_test.max() == 255
    np.testing.assert_array_equal(data.y_train, data.y_test)


def test_an_npz_without_the_arrays_raises(tmp_path):
    path = str(tmp_path / "own.npz")
    np.savez(path, x_train=np.zeros(1), images=np.zeros(1))
    with pytest.raises(ValueError, match=r"lacks y_train, x_test, y_test"):
        datasets.load(path)


@pytest.mark.parametrize(("name", "message"), [("cifar", "Unknown data set 'cifar'"), ("no.npz", "No .npz file")])
def test_unknown_names_raise(name, message):
    assert not datasets.check_name(name)
    with pytest.raises(ValueError, match=message):
        datasets.load(name)


def test_a_seed_out_of_range_raises():
    assert len(datasets.load("digits", np.int64(3)).x_test) == 899
    with pytest.raises(ValueError, match="load: Expected seed to be an integer from 0 to"):
        datasets.load("digits", -1)


def test_an_npz_may_have_groups(tmp_path):
    path, x, y = str(tmp_path / "own.npz"), np.zeros((4, 3)), np.arange(4)
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    np.savez(path, **arrays, groups_train=[*"aabb"], groups_test=[*"ccdd"])
    data = datasets.load(path)
    assert (*data.groups_train, *data.groups_test) == tuple("aabbccdd")
    np.savez(path, **arrays)
    assert datasets.load(path).groups_train is None
    np.savez(path, **arrays, groups_test=y)
    with pytest.raises(ValueError, match="has one of groups_train and groups_test"):
        datasets.load(path)
