"""Figures of attacks, against closed forms, other estimators and their definitions."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics as sklearn_metrics

from tfmiaq import _privacy_suite, metrics
from tfmiaq.metrics import Estimate, epsilon


def test_figures_follow_from_the_confusion():
    c = metrics.Confusion(true_positives=80, false_negatives=20, false_positives=30, true_negatives=70)
    assert (c.tpr, c.fpr, c.accuracy) == (0.8, 0.3, pytest.approx(0.75))
    assert c.precision == pytest.approx(80 / 110)
    assert c.f1_members == pytest.approx(2 * 80 / (2 * 80 + 30 + 20))
    assert c.f1_non_members == pytest.approx(2 * 70 / (2 * 70 + 30 + 20))


def test_figures_do_not_depend_on_the_sizes_of_the_sets():
    one, other = metrics.Confusion(80, 20, 30, 70), metrics.Confusion(80, 20, 300, 700)
    for figure in ("accuracy", "precision", "f1_members", "f1_non_members"):
        assert getattr(one, figure) == pytest.approx(getattr(other, figure))


def test_the_auc_interval_is_a_bootstraps():
    generator = np.random.default_rng(0)
    members, non_members = generator.normal(1, 1, 300), generator.normal(0, 1, 200)
    auc = metrics.auc_estimate(members, non_members)
    draws = [
        metrics.auc_estimate(generator.choice(members, 300), generator.choice(non_members, 200)).value
        for _ in range(1000)
    ]
    assert (auc.low, auc.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.01)
    assert auc.value == pytest.approx(np.mean(members[:, None] > non_members[None]))


def test_the_bound_on_epsilon_is_below_the_true_one():
    """Randomized response of known epsilon: the bound holds, and comes near it."""
    generator = np.random.default_rng(0)
    epsilon = 2.0
    truth = np.exp(epsilon) / (1 + np.exp(epsilon))
    members = (generator.random(4000) < truth).astype(float)
    non_members = (generator.random(4000) > truth).astype(float)
    halves = (members[:2000], non_members[:2000]), (members[2000:], non_members[2000:])
    assert 1.6 < metrics.epsilon_lower_bound(*halves) <= epsilon


def test_an_estimate_is_a_number_that_prints_its_interval():
    estimate = Estimate(0.6124, 0.58, 0.64)
    assert str(estimate) == f"{estimate}" == f"{estimate:.3f}" == "0.612 (0.580 to 0.640)"
    assert f"{estimate:.1%}" == "61.2% (58.0% to 64.0%)"
    assert (float(estimate), estimate.value, estimate.low, estimate.high) == (0.6124, 0.6124, 0.58, 0.64)
    assert 0.5 < estimate < 0.7
    assert estimate + 0.1 == pytest.approx(0.7124)
    assert estimate == Estimate(0.6124, 0.58, 0.64) != Estimate(0.6124, 0.5, 0.64)
    assert json.dumps(estimate) == "0.6124"
    for again in (pickle.loads(pickle.dumps(estimate)), copy.deepcopy(estimate)):
        assert (again, again.low, again.high) == (estimate, 0.58, 0.64)
    with pytest.raises(AttributeError):
        estimate.low = 0.1


@pytest.mark.parametrize("digits", [1, 6])
def test_a_thin_curve_has_the_rates_of_the_whole_one(digits):
    """Rounded scores have ties, which make the curve's steps slopes."""
    generator = np.random.default_rng(0)
    members, non_members = (np.round(generator.normal(shift, 1, 400), digits) for shift in (0.7, 0))
    fpr, tpr = metrics.roc(members, non_members)
    labels = np.repeat([1, 0], 400)
    whole = sklearn_metrics.roc_curve(labels, np.concatenate([members, non_members]), drop_intermediate=False)
    assert len(fpr) < len(whole[0])
    assert (fpr[-1], tpr[-1]) == (1, 1)
    for limit in np.linspace(0, 1, 997):
        assert metrics.tpr_at_fpr(fpr, tpr, limit) == metrics.tpr_at_fpr(*whole[:2], limit)


@pytest.mark.parametrize(
    "counts", [(80, 3, 100, 90), (0, 3, 100, 90), (100, 0, 100, 90), (100, 90, 100, 90), (1, 0, 9, 7)]
)
def test_the_ratio_bound_is_tensorflow_privacys(counts):
    (suite,) = _privacy_suite.import_suite("epsilon_lower_bound")
    expected = suite.RatioBound(*counts, 0.025).compute_bound(suite.BoundMethod.CLOPPER_PEARSON)
    above, below, total, other_total = counts
    found = epsilon._ratio_bound(above, total, below, other_total, 0.025)
    assert found == pytest.approx(float(np.nan_to_num(expected)), rel=1e-9)


def test_a_curve_keeps_points_on_straight_lines():
    """Thresholds in equal steps lie on one line, and each is a pair of rates that an attacker can choose."""
    values = [3.0, 2.0, 1.0, 0.0]
    members, non_members = np.repeat(values, [30, 30, 30, 10]), np.repeat(values, [3, 3, 3, 91])
    fpr, tpr = metrics.roc(members, non_members)
    assert metrics.tpr_at_fpr(fpr, tpr, 0.065) == pytest.approx(0.6)
    assert metrics.tpr_at_fpr(fpr, tpr, 0.035) == pytest.approx(0.3)


def _corners(included):
    """Numbers of false and true positives at the corners of the convex hull of the ROC curve, without (0, 0)."""
    hull = [(0, 0)]
    for x, y in zip(np.cumsum(~included), np.cumsum(included)):
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (x1 - x0) * (y - y0) < (y1 - y0) * (x - x0):
                break
            hull.pop()
        hull.append((int(x), int(y)))
    return hull[1:]


@pytest.mark.parametrize(("shift", "expected"), [(2, 2.311945), (4, 4.395568)])
def test_the_one_run_bound_is_jax_privacys(shift, expected):
    # Of `CanaryScoreAuditor.epsilon_one_run(0.05, 1e-6)`: all corners of the curve, with the error shared among them.
    quantiles = stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    scores, included = np.append(quantiles + shift, quantiles), np.arange(20_000) < 10_000
    corners = _corners(included[np.argsort(-scores, kind="stable")])
    best = 0.0
    for wrong, right in corners:
        # Most corners are passed by: no bound lies above the rate itself.
        if right / (right + wrong) > special.expit(best):
            confidence = 1 - 0.05 / (len(corners) + 1)
            best = max(best, metrics.one_run_epsilon(scores, included, (right + wrong, 0), confidence, 1e-6))
    assert best == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("guesses", [10, 100])
def test_the_one_run_bound_of_guesses_that_are_all_right_has_a_closed_form(guesses):
    scores = np.arange(200.0)
    p = 0.05 ** (1 / guesses)
    assert metrics.one_run_epsilon(scores, scores >= 100, guesses) == pytest.approx(special.logit(p), abs=1e-5)
    # Delta can explain right guesses too.
    assert metrics.one_run_epsilon(scores, scores >= 100, guesses, delta=1e-4) < special.logit(p)
    assert metrics.one_run_epsilon(scores, scores < 100, guesses) == 0.0


@pytest.mark.parametrize(("epsilon", "canaries"), [(1, 1000), (2, 1000), (4, 4000)])
def test_the_one_run_bound_holds_for_randomized_response_and_comes_near(epsilon, canaries):
    generator = np.random.default_rng(epsilon)
    bounds = []
    for _ in range(200):
        included = generator.random(canaries) < 0.5
        lies = generator.random(canaries) < special.expit(-epsilon)
        bounds.append(metrics.one_run_epsilon(included ^ lies, included))
    assert np.mean(np.array(bounds) <= epsilon) >= 0.95
    assert min(bounds) > epsilon / 2


def test_the_one_run_bound_of_scores_that_know_nothing_is_zero_in_whatever_order_they_come():
    generator = np.random.default_rng(0)
    bounds = [metrics.one_run_epsilon(generator.random(500), np.arange(500) < 250) for _ in range(100)]
    assert np.mean(np.array(bounds) == 0) >= 0.95
    # Equal scores, members first.
    assert metrics.one_run_epsilon(np.zeros(500), np.arange(500) < 250) == 0.0


def test_the_one_run_bound_holds_where_one_draw_moves_all_scores():
    # The records are as dependent as can be: no score says which canary was in.
    generator = np.random.default_rng(0)
    included = generator.random(500) < 0.5
    assert metrics.one_run_epsilon(generator.normal() + generator.random(500) * 1e-9, included) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, np.nan], [True, False]), "1 scores that are not finite"),
        (([1.0, 2.0], [True]), r"Received shapes \(2,\) and \(1,\)"),
        (([1.0, 2.0], [True, False], 3), "Expected guesses to be an integer from 1 to 2. Received 3"),
        (([1.0, 2.0], [True, False], (-1, 2)), "Expected guesses in to be an integer of at least 0"),
        (([1.0, 2.0], [True, False], None, 1.0), "confidence"),
        (([1.0, 2.0], [True, False], None, 0.95, 1.0), "delta"),
    ],
)
def test_one_run_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.one_run_epsilon(*arguments)
