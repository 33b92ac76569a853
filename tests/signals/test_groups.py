"""Groups of records stay whole, and duplicates are told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmiaq
from tfmiaq import attacks, signals
from tfmiaq.auditing import evaluation
from tfmiaq.signals import duplicates


def _is_whole(groups, parts):
    return all(len(set(parts[groups == group])) == 1 for group in np.unique(groups))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=30, max_size=60), st.integers(2, 4), st.integers(0, 99))
def test_folds_split_no_group_and_are_as_even_as_the_largest_group_lets_them(groups, folds, seed):
    groups = np.array(groups)
    if len(np.unique(groups)) < folds:
        return
    fold = signals.group_folds(groups, folds, np.random.default_rng(seed))
    assert _is_whole(groups, fold)
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.max() - sizes.min() <= np.bincount(groups).max()


def test_half_splits_by_group_are_halves_of_two_neighbouring_models():
    groups = np.repeat(np.arange(50), 2)
    chosen = signals.half_splits(100, 5, 0, groups)
    assert all(_is_whole(groups, row) for row in chosen)
    assert set(chosen.sum(1)) == {50}
    np.testing.assert_array_equal(chosen[0], ~chosen[1])
    assert (chosen[0] != chosen[2]).any()


def test_halves_of_attacks_and_of_the_report_split_no_group():
    generator = np.random.default_rng(0)
    is_member = np.arange(90) < 50
    groups = np.concatenate([generator.integers(0, 12, 50), 12 + generator.integers(0, 9, 40)])
    target = signals.from_scores(generator.normal(size=(90, 3)), np.zeros(90, int), False)
    evidence = attacks.Evidence(target, is_member, groups=groups)
    for known, scored in evidence.halves():
        assert not set(groups[known]) & set(groups[scored])
        assert sorted([*known, *scored]) == list(range(90))
        assert min(is_member[known].sum(), (~is_member[scored]).sum()) > 10
    one, other = evaluation._halves(evidence)
    assert not set(groups[one.members]) & set(groups[other.members])
    assert not set(groups[50 + one.non_members]) & set(groups[50 + other.non_members])
    assert len(one.members) + len(other.members) == 50


def _records(count, features=40):
    x = np.random.default_rng(0).normal(size=(count, features)).astype(np.float32)
    return x, np.arange(count) % 2


def test_reference_models_split_no_group_and_hand_groups_to_stages_that_take_them(tmp_path):
    members, non_members = _records(60), (_records(120)[0][60:], np.arange(60) % 2)
    groups = np.repeat(np.arange(30), 2)
    index = {record.tobytes(): group for record, group in zip(members[0], groups)}
    index.update({record.tobytes(): 100 + group for record, group in zip(non_members[0], groups)})
    seen = []

    def train(x, y):
        found = [index[record.tobytes()] for record in x]
        assert set(np.unique(found, return_counts=True)[1]) == {2}
        return lambda records: records[:, :2]

    def second(model, x, y, groups=None):
        seen.append(len(np.unique(groups)) if len(groups) == len(x) else None)
        return model

    report = tfmiaq.audit(
        lambda x: x[:, :2],
        members,
        non_members,
        ["LiRA", "confidence"],
        reference_models=tfmiaq.ReferenceModels([train, second], 2),
        groups=(groups.astype(str), 100 + groups),
        verbose=False,
    )
    assert seen == [30, 30]
    assert report.groups == (30, 30)
    assert "60 members of 30 groups" in str(report)
    assert any("No group is split" in line for line in report.assumptions)
    # Halves may be uneven; what is saved has their sizes.
    assert tfmiaq.AuditReport.load(report.save(tmp_path)).to_json() == report.to_json()


def test_a_report_of_uneven_halves_is_saved_and_loaded(tmp_path):
    members, non_members = _records(50), (_records(100)[0][50:], np.arange(50) % 2)
    groups = np.repeat(np.arange(4), [23, 13, 8, 6])
    report = tfmiaq.audit(lambda x: x[:, :2], members, non_members, ["confidence"], groups=(groups, 10 + groups))
    assert {size for size, _ in report.half_sizes} == {23, 27}
    assert report.resolution == 23
    loaded = tfmiaq.AuditReport.load(report.save(tmp_path))
    assert loaded.to_json() == report.to_json()
    np.testing.assert_allclose(loaded.curves[0], report.curves[0])


def test_disjoint_splits_keep_the_populations_groups_whole():
    population, groups = _records(40), np.repeat(np.arange(10), 4)
    index = {record.tobytes(): group for record, group in zip(population[0], groups)}
    seen = []

    def train(x, y):
        seen.append(np.unique([index[record.tobytes()] for record in x], return_counts=True)[1])
        return lambda records: records[:, :2]

    options = tfmiaq.ReferenceModels(train, 2, "disjoint", population, population_groups=groups)
    signals.train_references(options, _records(30))
    assert all(set(counts) == {4} for counts in seen)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((np.arange(30), np.arange(29, 59)), "Group '29' has 1 records in members and 1 in non_members; 1 groups are"),
        ((["a"] * 30, ["b"] * 29 + ["a"]), "Group 'a' has 30 records in members and 1 in non_members"),
        ((np.arange(29), np.arange(30, 60)), r"Expected groups of members to be one value .* Received shape \(29,\)"),
        (np.arange(60), "Expected groups as a pair"),
        (([None] * 30, np.arange(30)), "lacks a value for 30 records, the first at index 0"),
        ((np.zeros(30), np.ones(30)), "audit: Expected members to be of at least 2 groups"),
    ],
)
def test_group_errors(groups, message):
    with pytest.raises(ValueError, match=message):
        others = _records(60)[0][30:], np.arange(30) % 2
        tfmiaq.audit(lambda x: x[:, :2], _records(30), others, ["confidence"], groups=groups)


@pytest.mark.parametrize("features", [446, 3072])
def test_duplicates_are_found_within_members_and_across(features):
    generator = np.random.default_rng(0)
    # Records of 30 kinds, as people and images have: neighbours lie nearer than records of other kinds.
    centers = generator.random((30, features)) < 0.2
    x = (centers[generator.integers(0, 30, 1000)] ^ (generator.random((1000, features)) < 0.1)).astype(np.float32)
    members, non_members = x[:500].copy(), x[500:].copy()
    members[10] = members[20]
    non_members[:3] = members[30:33]
    twins = members[100:200].copy()
    for twin in twins:
        places = generator.choice(features, features // 90, replace=False)
        twin[places] = 1 - twin[places]
    non_members[300:400] = twins
    found = signals.find_duplicates(members, non_members)
    assert found.counts(found.exact) == (2, 3)
    within, across = found.counts(found.near)
    assert within == 0
    assert across >= 90
    with pytest.warns(UserWarning, match="found 2 with exact duplicates among the members; 3 with exact"):
        duplicates.warn_of_duplicates(members, non_members, None)
    # Records of one group are no duplicates of one another.
    groups = np.arange(1000)
    groups[500 + 300 : 500 + 400] = np.arange(100, 200)
    grouped = signals.find_duplicates(members, non_members, groups)
    assert grouped.counts(grouped.near) == (0, 0)


def test_records_that_are_drawn_alike_are_no_duplicates(digits):
    generator = np.random.default_rng(0)
    for x in (generator.normal(size=(2000, 1)), generator.normal(size=(2000, 40)), generator.random((500, 8, 8, 3))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            duplicates.warn_of_duplicates(x[::2], x[1::2], None)
    found = signals.find_duplicates(digits.x_train, digits.x_test)
    assert found.counts(found.exact) == found.counts(found.near) == (0, 0)
