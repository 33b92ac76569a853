"""Intervals and tests: coverage without a leak, at the extremes, and of records that depend on one another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from tfmiaq import metrics


@pytest.mark.parametrize("count", [5, 20, 200])
def test_sets_that_are_fully_apart_have_an_interval(count):
    apart = metrics.auc_estimate(np.arange(count) + 1000.0, np.arange(count, dtype=float))
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert 0.5 < apart.low < 1 - 1 / count
    swapped = metrics.auc_estimate(np.arange(count, dtype=float), np.arange(count) + 1000.0)
    assert (swapped.low, swapped.high) == pytest.approx((0.0, 1 - apart.low))


@pytest.mark.parametrize(("members", "others"), [(20, 20), (12, 100), (150, 150)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_interval_of_an_auc_covers_it(members, others, shift):
    generator = np.random.default_rng(0)
    true = stats.norm.cdf(shift / np.sqrt(2))
    found = [
        metrics.auc_estimate(generator.normal(shift, 1, members), generator.normal(0, 1, others)) for _ in range(150)
    ]
    assert np.mean([estimate.low <= true <= estimate.high for estimate in found]) >= 0.89


def test_scores_of_a_few_memorized_members_are_covered():
    generator = np.random.default_rng(1)
    inside = []
    for _ in range(150):
        members, others = generator.normal(size=200), generator.normal(size=200)
        members[:20] += 20
        estimate = metrics.auc_estimate(members, others)
        inside.append(estimate.low <= 0.1 + 0.9 * 0.5 <= estimate.high)
    assert np.mean(inside) >= 0.92


def test_duplicates_widen_the_interval_and_do_not_make_a_leak():
    generator = np.random.default_rng(2)
    units = np.repeat(np.arange(40), 5), 40 + np.arange(200)
    covered, aucs, tails, naive = [], [], [], []
    for _ in range(300):
        members, others = generator.normal(size=40)[units[0]], generator.normal(size=200)
        estimate = metrics.auc_estimate(members, others, units=units)
        covered.append(estimate.low <= 0.5 <= estimate.high)
        aucs.append(metrics.auc_p_value(members, others, units=units))
        tails.append(metrics.tpr_p_value(members, others, 0.01, units=units))
        naive.append(metrics.auc_p_value(members, others))
    assert np.mean(covered) > 0.9
    assert np.mean(np.array(aucs) < 0.01) < 0.03
    assert np.mean(np.array(tails) < 0.05) < 0.07
    assert np.mean(np.array(naive) < 0.01) > 0.1


@pytest.mark.parametrize("limit", [0.0, 0.25, 0.5])
def test_the_test_of_low_rates_counts_all_orders(limit):
    """Of all orders of 5 members and 4 non-members, the part that has as many members above the threshold."""
    allowed = int(limit * 4)
    above = {}
    for places in itertools.combinations(range(9), 4):
        scores = np.arange(9.0)[::-1]
        others, members = scores[list(places)], np.delete(scores, places)
        count = int((members > np.sort(others)[::-1][allowed]).sum())
        above.setdefault(count, []).append(metrics.tpr_p_value(members, others, limit))
    total = sum(map(len, above.values()))
    for count, p_values in above.items():
        expected = sum(len(found) for other, found in above.items() if other >= count) / total
        assert p_values == pytest.approx([expected] * len(p_values))


def test_an_auc_has_the_p_value_of_the_rank_test():
    generator = np.random.default_rng(0)
    members, others = generator.normal(0.3, 1, 80).round(1), generator.normal(0, 1, 60).round(1)
    expected = stats.mannwhitneyu(members, others, method="asymptotic").pvalue
    assert metrics.auc_p_value(members, others) == pytest.approx(expected, rel=1e-6)
    one_sided = stats.mannwhitneyu(members, others, method="asymptotic", alternative="greater").pvalue
    assert metrics.auc_p_value(members, others, above_alone=True) == pytest.approx(one_sided, rel=1e-6)
    assert metrics.auc_p_value(others - 1, members, above_alone=True) == 0.5
    assert metrics.auc_p_value(np.zeros(20), np.zeros(20)) == 1.0


def test_holms_correction_is_its_definition():
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([]) == []
    assert metrics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_smallest_leaks_are_seen_as_often_as_said():
    generator = np.random.default_rng(0)
    auc = metrics.smallest_auc(100, 100, 0.01)
    shift = stats.norm.ppf(auc) * np.sqrt(2)
    draws = [(generator.normal(shift, 1, 100), generator.normal(0, 1, 100)) for _ in range(300)]
    assert np.mean([metrics.auc_p_value(*pair) <= 0.01 for pair in draws]) == pytest.approx(0.8, abs=0.08)
    rate = metrics.smallest_tpr(300, 300, 0.01, 0.01)
    seen = []
    for _ in range(300):
        members, others = generator.normal(size=300), generator.normal(size=300)
        members[: generator.binomial(300, rate)] += 20
        seen.append(metrics.tpr_p_value(members, others, 0.01) <= 0.01)
    # Members above the threshold by chance come on top of those that the leak puts there.
    assert np.mean(seen) >= 0.75
    assert metrics.smallest_tpr(5, 5, 0.01, 1e-6) is None


def test_records_of_units_count_as_so_many():
    assert metrics.independent_records(np.arange(7)) == 7
    assert metrics.independent_records(np.repeat(np.arange(5), 4)) == pytest.approx(5)
    assert metrics.independent_records(np.zeros(9, int)) == 1
