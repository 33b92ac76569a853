"""The audit against known figures, and the arguments that raise errors."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from conftest import train
from scipy import stats
from sklearn import linear_model, model_selection

import tfmiaq
from tfmiaq import attacks, auditing, signals

FAST = ["gap", "confidence", "modified entropy by class", "gradient boosting"]
SUITE = ["threshold", "logistic regression", "multi-layer perceptron", "random forest", "k nearest neighbours"]


def _gaussians(distance, count, seed):
    generator = np.random.default_rng(seed)
    members, non_members = generator.normal(distance, 1, (count, 1)), generator.normal(0, 1, (count, 1))
    return (members, np.zeros(count, int)), (non_members, np.zeros(count, int))


def _inside(value, estimate):
    return estimate.low <= value <= estimate.high


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0])
def test_two_gaussians_give_the_closed_form(distance, linear_scores):
    members, non_members = _gaussians(distance, 2000, seed=1)
    report = tfmiaq.audit(linear_scores, members, non_members, attacks=["confidence"])
    assert _inside(stats.norm.cdf(distance / np.sqrt(2)), report["confidence"].auc)
    for rate in (0.001, 0.01):
        assert _inside(stats.norm.sf(stats.norm.isf(rate) - distance), report["confidence"].tpr_at_fpr(rate))
    assert _inside(stats.norm.cdf(distance / np.sqrt(2)), report.auc)
    assert _inside(stats.norm.cdf(distance / 2), report.attack_accuracy)
    best_at_1_percent = stats.norm.sf(stats.norm.isf(0.01) - distance)
    assert report.tpr_at_fpr(0.01) == pytest.approx(best_at_1_percent, abs=0.08)


@pytest.mark.parametrize("seed", range(3))
def test_sets_drawn_alike_give_a_coin(seed, linear_scores):
    members, non_members = _gaussians(0.0, 1000, seed)
    report = tfmiaq.audit(linear_scores, members, non_members, attacks=FAST, seed=seed)
    assert _inside(0.5, report.attack_accuracy)
    assert report.verdict.parts[0].outcome == "does not leak"
    assert report.epsilon < 0.1


class _LastOfGrid(model_selection.GridSearchCV):
    """Tries one choice of a grid: the suite's search for the best of up to 108 takes most of a minute."""

    def __init__(self, estimator, param_grid, **options):
        super().__init__(estimator, {name: values[-1:] for name, values in param_grid.items()}, **options)


def test_the_whole_suite_runs_and_finds_what_is_there(linear_scores, monkeypatch):
    monkeypatch.setattr(model_selection, "GridSearchCV", _LastOfGrid)
    report = tfmiaq.audit(linear_scores, *_gaussians(2.0, 60, seed=0), attacks=SUITE)
    assert [attack.name for attack in report.attacks] == SUITE
    assert all(attack.auc > 0.75 for attack in report.attacks)


def test_a_leaking_model_is_found_out_as_keras_and_as_tflite(trained, digits):
    """The same seed on the same scores gives the same figures, whatever carries them."""
    members = digits.x_train[:200], digits.y_train[:200]
    non_members = digits.x_test[:200], digits.y_test[:200]
    quantized = train(tfmiaq.quantize_model(trained), members[0], members[1], eagerly=True)
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

    one = tfmiaq.audit(linear_scores, *sets, attacks=["confidence"])
    other = tfmiaq.audit(probabilities, *sets, attacks=["confidence"])
    assert other.auc == pytest.approx(one.auc, abs=1e-6)


def test_one_hot_and_integer_labels_are_audited_alike(linear_scores):
    (x_in, y_in), outside = _gaussians(1.0, 100, seed=0)
    one = tfmiaq.audit(linear_scores, (x_in, y_in), outside, attacks=["confidence"])
    other = tfmiaq.audit(linear_scores, (x_in, np.eye(2)[y_in]), outside, attacks=["confidence"])
    assert one.to_json() == other.to_json()


def test_a_rate_that_the_sample_cannot_resolve_is_no_number(linear_scores, tmp_path):
    report = tfmiaq.audit(linear_scores, *_gaussians(1.0, 60, seed=0), attacks=["confidence"])
    assert report.tpr_at_fpr(0.01) is None
    assert report.tpr_at_fpr(0.1) is not None
    assert report["confidence"].tpr_at_fpr(0.01) is None
    assert json.loads(report.to_json())["tpr_at_fpr"] == {"0.001": None, "0.01": None}
    assert "unresolved" in report.to_markdown()


def test_save_writes_json_markdown_and_a_figure(linear_scores, tmp_path):
    report = tfmiaq.audit(linear_scores, *_gaussians(1.0, 300, seed=0), attacks=FAST)
    folder = report.save(tmp_path / "deep" / "report")
    assert json.loads((folder / "report.json").read_text())["attack_accuracy"] == report.attack_accuracy
    assert f"{report.attack_accuracy:.3f}" in (folder / "report.md").read_text()
    assert (folder / "roc.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert report.verdict.headline in page
    assert page.count("<svg") == 2
    # One file: nothing is fetched from elsewhere.
    assert not re.findall(r"(?:src|href)=\"(?!#)", page)


def test_names_from_outside_are_no_markup(linear_scores):
    class Loud(tfmiaq.attacks.Attack):
        name = "<script>alert(1)</script>"

        def scores(self, evidence):
            return evidence.target.confidences

    evidence = attacks.Evidence(_signals([[1.0, 0.0]] * 40), np.arange(40) < 20)
    report = auditing.score(evidence, [Loud()])
    assert "<script>" not in report.to_html()


def _signals(logits, labels=None):
    logits = np.asarray(logits, float)
    return signals.from_scores(logits, np.zeros(len(logits), int) if labels is None else labels, False)


def test_the_verdict_is_a_coin_only_if_nothing_says_otherwise(linear_scores):
    none = tfmiaq.audit(linear_scores, *_gaussians(0.0, 500, 1), attacks=FAST)
    much = tfmiaq.audit(linear_scores, *_gaussians(2.0, 500, 1), attacks=FAST)
    assert none.verdict.headline == "No leak was found, within what this many records can show."
    assert not none.leaks
    assert "members are told from non-members" in str(much.verdict)
    assert much.leaks


def test_slices_and_exposed_members_point_at_what_leaks(linear_scores):
    """Members of class 0 only are told apart."""
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    x_in = generator.normal(np.where(labels == 0, 3.0, 0.0))[:, None]
    x_out = generator.normal(size=(400, 1))
    report = tfmiaq.audit(
        lambda x: np.concatenate([x, -x], 1) * np.array([1, 0]) + 0, (x_in, labels), (x_out, labels), ["confidence"]
    )
    by_class = {part.name: part.auc for part in report.slices if part.name.startswith("class")}
    assert by_class["class 0"] > 0.9 > 0.6 > by_class["class 1"]
    assert any(part.name == "loss in quarter 4 of 4" for part in report.slices)
    assert all(labels[index] == 0 for index in report.exposed[:5])
    # What ships with a model does not point at records.
    assert not {"most_exposed_members", "slices", "attacks"} & set(report.headline())


def test_a_target_that_gives_labels_is_attacked_by_labels_alone(linear_scores):
    (x_in, y_in), (x_out, y_out) = _gaussians(1.0, 300, 0)
    report = tfmiaq.audit(lambda x: linear_scores(x).argmax(1), (x_in, y_in), (x_out, y_out))
    assert [attack.name for attack in report.attacks] == ["gap", "label-only"]
    assert report.label_only
    assert any("only label-only attacks ran" in line for line in report.assumptions)
    assert "the target gives labels" in report.skipped["confidence"]
    assert report["label-only"].auc > 0.6
    with pytest.raises(ValueError, match="'confidence': the target gives labels"):
        tfmiaq.audit(lambda x: linear_scores(x).argmax(1), (x_in, y_in), (x_out, y_out), ["confidence"])


def test_saved_outputs_are_audited_like_the_model_that_gave_them(linear_scores, tmp_path):
    members, non_members = _gaussians(1.0, 300, 0)
    np.save(tmp_path / "in.npy", linear_scores(members[0]))
    np.save(tmp_path / "out.npy", linear_scores(non_members[0]))
    direct = tfmiaq.audit(linear_scores, members, non_members, FAST)
    saved = (tmp_path / "in.npy", tmp_path / "out.npy")
    assert tfmiaq.audit(saved, (None, members[1]), (None, non_members[1]), FAST).to_json() == direct.to_json()
    with pytest.raises(ValueError, match="'label-only' needs augmented queries"):
        tfmiaq.audit(saved, members, non_members, ["label-only"])


def test_a_scikit_learn_classifier_is_audited_by_its_probabilities(digits):
    model = linear_model.LogisticRegression(C=100, max_iter=200).fit(
        digits.x_train[:60].reshape(60, -1), digits.y_train[:60]
    )
    sets = [
        (x[:60].reshape(60, -1), y[:60]) for x, y in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test))
    ]
    report = tfmiaq.audit(model, *sets)
    assert not report.label_only
    assert report.leaks


def test_attacks_of_the_suite_run_on_many_classes():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 40, 60)

    def sets(gain):
        scores = generator.normal(size=(60, 40))
        scores[np.arange(60), labels] += gain
        return scores

    report = tfmiaq.audit((sets(6), sets(1)), (None, labels), (None, labels), ["threshold", "k nearest neighbours"])
    assert min(attack.auc for attack in report.attacks) > 0.8


def test_numpys_generator_is_left_as_it_was(linear_scores):
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    tfmiaq.audit(linear_scores, *_gaussians(1.0, 60, seed=0), attacks=FAST)
    assert np.random.random() == expected


GOOD = (np.zeros((20, 3)), np.zeros(20, int))


@pytest.mark.parametrize(
    ("members", "non_members", "error", "message"),
    [
        (GOOD[0], GOOD, TypeError, r"Expected members as a pair"),
        ((GOOD[0][:0], GOOD[1][:0]), GOOD, ValueError, r"members holds no records"),
        ((GOOD[0], GOOD[1][:5]), GOOD, ValueError, r"20 records and 5 labels"),
        (GOOD, (np.zeros((20, 4)), GOOD[1]), ValueError, r"shape \(3,\) and non_members of shape \(4,\)"),
        (GOOD, (np.zeros((20, 3), np.uint8), GOOD[1]), ValueError, r"Scale both alike"),
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
        (lambda x: np.full((len(x), 2), np.nan), ValueError, r"gave NaN or infinity for 20 of 20 members"),
        (lambda x: np.zeros((len(x), 2, 2)), ValueError, r"Expected \(n, classes\)"),
        ((np.zeros((20, 2)), np.zeros((9, 2))), ValueError, r"9 saved outputs for 20 non_members"),
        ((np.zeros((20, 2)),), ValueError, r"saved outputs as a pair"),
        (lambda x: np.zeros((3, 2)), ValueError, r"gave outputs of shape \(3, 2\) for 20 members"),
    ],
)
def test_bad_targets_are_refused(target, error, message):
    with pytest.raises(error, match=message):
        tfmiaq.audit(target, GOOD, GOOD)


def test_unknown_attacks_are_refused():
    with pytest.raises(ValueError, match=r"Unknown attacks \['lira'\]. Expected some of 'gap'"):
        tfmiaq.audit(lambda x: x, GOOD, GOOD, attacks=["lira"])


def test_all_attacks_are_those_whose_needs_are_met(linear_scores, monkeypatch):
    for name in SUITE[1:]:  # Their grid searches take minutes.
        monkeypatch.delitem(attacks.ATTACKS, name)
    members, non_members = _gaussians(1.0, 40, seed=0)
    queried = tfmiaq.audit(linear_scores, members, non_members, attacks="all")
    saved = tfmiaq.audit([linear_scores(x) for x, _ in (members, non_members)], members, non_members, attacks="all")
    assert {"label-only", "confidence"} <= {attack.name for attack in queried.attacks}
    assert "label-only" not in {attack.name for attack in saved.attacks}
    for report in (queried, saved):
        assert {attack.name for attack in report.attacks} | report.skipped.keys() == attacks.ATTACKS.keys()
        assert report.skipped["LiRA"].startswith("needs reference models")


def test_no_attacks_are_refused():
    with pytest.raises(ValueError, match=r"Unknown attacks \[\]"):
        tfmiaq.audit(lambda x: x, GOOD, GOOD, attacks=[])


@pytest.mark.parametrize("limit", [0, 1, -0.1])
def test_rates_outside_the_open_interval_are_refused(limit, linear_scores):
    report = tfmiaq.audit(linear_scores, *_gaussians(1.0, 60, seed=0), attacks=["confidence"])
    with pytest.raises(ValueError, match="above 0 and below 1"):
        report.tpr_at_fpr(limit)


def test_attacks_of_a_suite_that_is_not_installed_are_told_before_any_work(linear_scores, monkeypatch):
    monkeypatch.setattr("tfmiaq._privacy_suite.is_installed", lambda: False)
    sets = _gaussians(2.0, 60, seed=0)
    with pytest.raises(ValueError, match=r"'threshold' needs tensorflow-privacy's suite: pip install .*--no-deps"):
        tfmiaq.audit(lambda x: pytest.fail("queried"), *sets, attacks=["confidence", "threshold"])
    report = tfmiaq.audit(linear_scores, *sets, verbose=False)
    assert "confidence" in [attack.name for attack in report.attacks]
    assert report.skipped["threshold"] == "was not chosen"
