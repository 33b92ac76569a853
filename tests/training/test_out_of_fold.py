"""Which records a teacher is trained on, told by teachers that know their own records."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tfmiaq
from tfmiaq.auditing.canaries import near_twins
from tfmiaq.training import out_of_fold, out_of_fold_predictions

CLASSES = 4


def _records(count=60, features=20, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, features)).astype(np.float32), np.arange(count) % CLASSES


def _knows(x, y):
    """A teacher that is sure of class 0 for records near one of its own, and of class 1 for others."""
    own = x.copy()

    def outputs(records):
        near = (((records[:, None] - own[None]) ** 2).sum(2) < 0.5).any(1)
        return np.eye(CLASSES, dtype=np.float32)[np.where(near, 0, 1)] * 0.96 + 0.01

    return outputs


def _seen(x, y, **more):
    """For each record the part of its teachers that were trained on it, or on one near to it."""
    return (out_of_fold_predictions(_knows, x, y, verbose=False, **more)[:, 0] - 0.01) / 0.96


def test_no_teacher_of_a_record_was_trained_on_it_or_on_a_near_duplicate():
    x, y = _records()
    np.testing.assert_allclose(_seen(x, y), 0, atol=1e-5)
    twins = np.concatenate([x, x[:20] + 0.01, x[:5]])
    labels = np.concatenate([y, y[:20], y[:5]])
    # So that the test can fail: twins are apart in most folds where nobody looks for them.
    apart = [
        np.isin(np.arange(20) + 60, fold) != np.isin(np.arange(20), fold) for fold in out_of_fold._folds(85, 5, 0, None)
    ]
    assert np.mean(np.any(apart, axis=0)) > 0.5
    for more in ({}, {"repeats": 3}, {"folds": 7, "left_out": 3}):
        np.testing.assert_allclose(_seen(twins, labels, **more), 0, atol=1e-5)


def test_twins_of_binary_records_are_kept_together():
    generator = np.random.default_rng(0)
    x = (generator.random((400, 446)) < 0.1).astype(np.float32)
    twins = near_twins(x[:100], generator)
    assert (twins != x[:100]).sum(1).max() == 5
    together = out_of_fold._kept_together(np.concatenate([x, twins]), None, 5)
    assert (together[:100] == together[400:]).mean() > 0.9
    assert np.bincount(together).max() == 2


def test_duplicates_join_the_groups_that_are_given():
    x, _ = _records()
    x[30] = x[0] + 0.01
    groups = np.arange(60) // 2
    joined = out_of_fold._kept_together(x, groups, 5)
    assert len(np.unique(joined)) == 29 and len(np.unique(joined[[0, 1, 30, 31]])) == 1
    for group in range(30):
        assert len(np.unique(joined[groups == group])) == 1
    assert out_of_fold._kept_together(_records()[0], groups, 5) is groups


def test_records_that_are_all_alike_are_told_of():
    x, y = np.ones((40, 20), np.float32), np.arange(40) % CLASSES
    with pytest.warns(UserWarning, match="Of 40 records 40 are chained together as near duplicates"):
        out_of_fold_predictions(_knows, x, y, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out_of_fold_predictions(_knows, *_records(), verbose=False)


@pytest.mark.parametrize("groups", [None, np.arange(60) // 3])
def test_each_record_is_left_out_of_as_many_teachers(groups):
    folds = out_of_fold._folds(60, 25, 0, groups, left_out=10)
    out = np.array([np.isin(np.arange(60), fold) for fold in folds])
    assert (out.sum(0) == 10).all()
    # Teachers have about as many records each, and other ones.
    assert np.ptp(out.sum(1)) <= (1 if groups is None else 3)
    assert len({tuple(row) for row in out}) == 25
    if groups is not None:
        assert (out.reshape(25, 20, 3).std(2) == 0).all()


@pytest.mark.parametrize(("folds", "left_out"), [(5, 5), (5, 0), (5, 1.5)])
def test_left_out_is_checked(folds, left_out):
    with pytest.raises(ValueError, match="Expected left_out to be an integer"):
        tfmiaq.CrossDistillation(folds=folds, left_out=left_out)
    with pytest.raises(ValueError, match="Expected left_out to be an integer"):
        out_of_fold_predictions(_knows, *_records(), folds=folds, left_out=left_out)
