"""The audit against known answers, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import train
from scipy import stats

import tfmiaq
from tfmiaq.auditing import metrics

FAST = ["threshold", "logistic regression", "k nearest neighbours"]


def _gaussians(distance, count, seed):
    generator = np.random.default_rng(seed)
    members, non_members = generator.normal(distance, 1, (count, 1)), generator.normal(0, 1, (count, 1))
    return (members, np.zeros(count, int)), (non_members, np.zeros(count, int))


def _inside(value, interval):
    return interval[0] <= value <= interval[1]


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0])
def test_two_gaussians_give_the_closed_form(distance, linear_scores):
    members, non_members = _gaussians(distance, 2000, seed=1)
    report = tfmiaq.audit(linear_scores, members, non_members, attacks=["threshold"])
    assert _inside(stats.norm.cdf(distance / np.sqrt(2)), report.auc_interval)
    assert _inside(stats.norm.cdf(distance / 2), report.attack_accuracy_interval)
    best_at_1_percent = stats.norm.sf(stats.norm.isf(0.01) - distance)
    assert report.tpr_at_fpr(0.01) == pytest.approx(best_at_1_percent, abs=0.08)


@pytest.mark.parametrize("seed", range(3))
def test_sets_drawn_alike_give_a_coin(seed, linear_scores):
    members, non_members = _gaussians(0.0, 1000, seed)
    report = tfmiaq.audit(linear_scores, members, non_members, attacks=FAST, seed=seed)
    assert _inside(0.5, report.attack_accuracy_interval)
    assert _inside(0.5, report.auc_interval)


@pytest.mark.slow
def test_the_whole_suite_runs_and_finds_what_is_there(linear_scores):
    report = tfmiaq.audit(linear_scores, *_gaussians(2.0, 60, seed=0))
    names = ["threshold", "logistic regression", "multi-layer perceptron", "random forest", "k nearest neighbours"]
    assert [attack.name for attack in report.attacks] == names
    assert all(attack.auc > 0.75 for attack in report.attacks)


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
    auc, low, high = metrics.auc_interval(members, non_members)
    draws = [
        metrics.auc_interval(generator.choice(members, 300), generator.choice(non_members, 200))[0] for _ in range(1000)
    ]
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.01)
    assert auc == pytest.approx(np.mean(members[:, None] > non_members[None]))


def test_a_leaking_model_is_found_out_as_keras_and_as_tflite(trained, digits):
    """The same seed on the same scores gives the same figures, whatever carries them."""
    quantized = train(tfmiaq.quantize_model(trained), digits.x_train[:200], digits.y_train[:200], epochs=2)
    members = digits.x_train[:200], digits.y_train[:200]
    non_members = digits.x_test[:200], digits.y_test[:200]
    buffer = tfmiaq.convert(quantized)
    of_keras = tfmiaq.audit(quantized, members, non_members, attacks=FAST)
    of_tflite = tfmiaq.audit(buffer, members, non_members, attacks=FAST)
    assert of_tflite.attack_accuracy == pytest.approx(of_keras.attack_accuracy, abs=0.05)
    assert of_tflite.member_accuracy == pytest.approx(of_keras.member_accuracy, abs=0.02)
    again = tfmiaq.audit(lambda x: quantized.predict(x, verbose=0), members, non_members, attacks=FAST)
    assert again.to_json() == of_keras.to_json()


def test_probabilities_and_their_logits_are_audited_alike(linear_scores):
    sets = _gaussians(1.0, 200, seed=0)

    def probabilities(x):
        scores = np.exp(linear_scores(x))
        return scores / scores.sum(1, keepdims=True)

    one = tfmiaq.audit(linear_scores, *sets, attacks=["threshold"])
    other = tfmiaq.audit(probabilities, *sets, attacks=["threshold"])
    assert other.auc == pytest.approx(one.auc, abs=1e-6)


def test_one_hot_and_integer_labels_are_audited_alike(linear_scores):
    (x_in, y_in), outside = _gaussians(1.0, 100, seed=0)
    one = tfmiaq.audit(linear_scores, (x_in, y_in), outside, attacks=["threshold"])
    other = tfmiaq.audit(linear_scores, (x_in, np.eye(2)[y_in]), outside, attacks=["threshold"])
    assert one.to_json() == other.to_json()


def test_a_rate_that_the_sample_cannot_resolve_is_no_number(linear_scores, tmp_path):
    report = tfmiaq.audit(linear_scores, *_gaussians(1.0, 60, seed=0), attacks=["threshold"])
    assert report.tpr_at_fpr(0.01) is None
    assert report.tpr_at_fpr(0.1) is not None
    assert json.loads(report.to_json())["tpr_at_fpr"] == {"0.001": None, "0.01": None}
    assert "unresolved" in report.to_markdown()


def test_save_writes_json_markdown_and_a_figure(linear_scores, tmp_path):
    report = tfmiaq.audit(linear_scores, *_gaussians(1.0, 300, seed=0), attacks=FAST)
    folder = report.save(tmp_path / "deep" / "report")
    assert json.loads((folder / "report.json").read_text())["attack_accuracy"] == report.attack_accuracy
    assert f"{report.attack_accuracy:.3f}" in (folder / "report.md").read_text()
    assert (folder / "roc.png").read_bytes().startswith(b"\x89PNG")


def test_numpys_generator_is_left_as_it_was(linear_scores):
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    tfmiaq.audit(linear_scores, *_gaussians(1.0, 60, seed=0), attacks=FAST)
    assert np.random.random() == expected


GOOD = (np.zeros((20, 3)), np.zeros(20, int))


def _with_nan():
    x = np.zeros((20, 3))
    x[4, 1] = np.nan
    return x, GOOD[1]


@pytest.mark.parametrize(
    ("members", "non_members", "error", "message"),
    [
        (GOOD[0], GOOD, TypeError, r"Expected members as a pair"),
        ((GOOD[0][:0], GOOD[1][:0]), GOOD, ValueError, r"members holds no records"),
        ((GOOD[0], GOOD[1][:5]), GOOD, ValueError, r"20 records and 5 labels"),
        (GOOD, (np.zeros((20, 4)), GOOD[1]), ValueError, r"shape \(3,\) and non_members of shape \(4,\)"),
        (GOOD, (np.zeros((20, 3), np.uint8), GOOD[1]), ValueError, r"Scale both alike"),
        (_with_nan(), GOOD, ValueError, r"NaN or infinity in 1 records, the first at index 4"),
        (GOOD, (GOOD[0], np.full((20, 3), 0.3)), ValueError, r"non_members have shape \(20, 3\) and are not one-hot"),
        (GOOD, (GOOD[0], np.full(20, 0.5)), ValueError, r"Expected integer classes"),
        (GOOD, (GOOD[0], np.array(["a"] * 20)), ValueError, r"Expected integer classes"),
        (GOOD, (GOOD[0], np.full(20, 9)), ValueError, r"Label 9 is beyond the target's 2 classes"),
        ((GOOD[0][:3], GOOD[1][:3]), GOOD, ValueError, r"at least 12 members"),
    ],
)
def test_bad_records_are_refused(members, non_members, error, message):
    with pytest.raises(error, match=message):
        tfmiaq.audit(lambda x: np.zeros((len(x), 2)), members, non_members)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (3, TypeError, r"Expected a Keras model, a .tflite"),
        (b"no model", ValueError, r"is no TFLite model"),
        ("nowhere.tflite", ValueError, r"No .tflite file at 'nowhere.tflite'"),
        (lambda x: np.full((len(x), 2), np.nan), ValueError, r"answered NaN or infinity for 20 of 20 members"),
        (lambda x: np.zeros(len(x)), ValueError, r"Expected \(n, classes\)"),
        (lambda x: np.zeros((3, 2)), ValueError, r"answered shape \(3, 2\) for 20 members"),
    ],
)
def test_bad_targets_are_refused(target, error, message):
    with pytest.raises(error, match=message):
        tfmiaq.audit(target, GOOD, GOOD)


def test_unknown_attacks_are_refused():
    with pytest.raises(ValueError, match=r"Unknown attacks \['lira'\]"):
        tfmiaq.audit(lambda x: x, GOOD, GOOD, attacks=["lira"])


@pytest.mark.parametrize("limit", [0, 1, -0.1])
def test_rates_outside_the_open_interval_are_refused(limit, linear_scores):
    report = tfmiaq.audit(linear_scores, *_gaussians(1.0, 60, seed=0), attacks=["threshold"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        report.tpr_at_fpr(limit)
