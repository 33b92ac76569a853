"""Attacks with reference models, against closed forms and direct transcriptions of their formulas."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
import pipelines
import pytest
from scipy import special, stats

import tfmiaq
from tfmiaq import attacks, auditing, signals
from tfmiaq import signals as references
from tfmiaq.attacks.suite import import_suite
from tfmiaq.caching import fingerprints, keras_model

LIRA = ["LiRA", "LiRA with variance by record", "offline LiRA", "offline LiRA with variance by record"]


def _evidence(models, count=1500, shift=1.0, seed=0):
    """Confidences that are Gaussian with a mean of each record's own, higher by `shift` if it was trained on."""
    generator = np.random.default_rng(seed)
    difficulty = generator.normal(0, 3, 2 * count)
    is_member = np.arange(2 * count) < count
    trained_on = references.half_splits(2 * count, models, seed)

    def confidences(inside):
        return difficulty + shift * inside + generator.normal(size=2 * count)

    def features(values):
        logits = np.column_stack([values, np.zeros_like(values)])
        return signals.from_scores(logits, np.zeros(2 * count, int), False)

    outputs = np.stack([features(confidences(row)).features for row in trained_on])
    return attacks.Evidence(
        features(confidences(is_member)), is_member, reference_signals=references.ReferenceSignals(outputs, trained_on)
    )


def _scores(name, evidence):
    return tfmiaq.attacks.ATTACKS[name].scores(evidence)


@pytest.mark.parametrize("name", ["LiRA", "LiRA with variance by record", "offline LiRA"])
def test_lira_reaches_the_optimal_roc(name):
    """With each record's own mean known, two Gaussians a shift apart are left: AUC = Phi(shift / sqrt 2)."""
    evidence = _evidence(64)
    report = auditing.score(evidence, [tfmiaq.attacks.ATTACKS[n] for n in (name, "confidence")])
    optimum = stats.norm.cdf(1 / np.sqrt(2))
    auc = report[name].auc
    # 32 models know a record's mean to within a sixth of its spread.
    assert auc.low - 0.01 <= optimum <= auc.high + 0.01
    assert report["confidence"].auc < optimum - 0.1
    rate = report[name].tpr_at_fpr(0.01)
    assert rate.low <= stats.norm.sf(stats.norm.isf(0.01) - 1) <= rate.high


@pytest.mark.parametrize("fix_variance", [True, False])
def test_lira_is_tensorflow_privacys(fix_variance):
    evidence = _evidence(6, count=40)
    (suite,) = import_suite("membership_inference_attack.advanced_mia")
    refs = evidence.reference_signals
    expected = suite.compute_score_lira(
        [[value] for value in evidence.target.confidences],
        [refs.confidences[refs.trained_on[:, i], i][:, None] for i in range(80)],
        [refs.confidences[~refs.trained_on[:, i], i][:, None] for i in range(80)],
        fix_variance=fix_variance,
    )
    name = "LiRA" if fix_variance else "LiRA with variance by record"
    np.testing.assert_allclose(_scores(name, evidence), -expected)


def _transcribed_rmia(evidence, gamma, a):
    """Zarifzadeh et al. 2024, equations 2 and 3, record by record."""
    refs = evidence.reference_signals
    p_reference = np.exp(-refs.losses)
    p_target = np.exp(-evidence.target.losses)
    count = len(p_target)
    ratio = np.zeros(count)
    for x in range(count):
        inside = [p_reference[k, x] for k in range(len(p_reference)) if refs.trained_on[k, x]]
        outside = [p_reference[k, x] for k in range(len(p_reference)) if not refs.trained_on[k, x]]
        prior = (np.mean(inside) + np.mean(outside)) / 2 if inside else ((1 + a) * np.mean(outside) + 1 - a) / 2
        ratio[x] = p_target[x] / prior
    population = [z for z in range(count) if not evidence.is_member[z]]
    return np.array([np.mean([ratio[x] / ratio[z] >= gamma for z in population]) for x in range(count)])


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("online", [True, False])
def test_rmia_is_its_formula(gamma, online):
    from tfmiaq.attacks.rmia import Rmia

    evidence = _evidence(4, count=40)
    if not online:
        none = np.zeros_like(evidence.reference_signals.trained_on)
        refs = references.ReferenceSignals(evidence.reference_signals.features, none)
        evidence = attacks.Evidence(evidence.target, evidence.is_member, reference_signals=refs)
    found = Rmia(gamma, temperature=1.0).scores(evidence)
    np.testing.assert_allclose(found, _transcribed_rmia(evidence, gamma, 0.3), atol=1e-9)


@pytest.mark.parametrize("name", ["LiRA", "offline LiRA", "RMIA", "shadow models"])
@pytest.mark.parametrize("models", [2, 3])
def test_few_reference_models_give_finite_scores_that_find_something(name, models):
    evidence = _evidence(models, count=400, shift=2.0)
    scores = _scores(name, evidence)
    assert np.isfinite(scores).all()
    report = auditing.score(evidence, [tfmiaq.attacks.ATTACKS[name]])
    assert report[name].auc.low > 0.5


@pytest.mark.parametrize("name", [*LIRA, "RMIA", "shadow models"])
def test_without_a_difference_every_attack_is_a_coin(name):
    report = auditing.score(_evidence(8, shift=0.0), [tfmiaq.attacks.ATTACKS[name]])
    auc = report[name].auc
    assert auc.low - 0.01 < 0.5 < auc.high + 0.01


def test_shadow_models_decide_at_their_own_threshold():
    report = auditing.score(_evidence(8, shift=3.0), [tfmiaq.attacks.ATTACKS["shadow models"]])
    attack = report["shadow models"]
    assert attack.threshold == 0.5
    assert attack.confusion.true_positives == (attack.member_scores >= 0.5).sum()


def test_quantile_regression_knows_which_records_are_easy():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2400, 6))
    is_member = np.arange(2400) < 1200
    confidences = 4 * x[:, 0] + generator.normal(size=2400) + 1.5 * is_member
    target = signals.from_scores(np.column_stack([confidences, 0 * confidences]), np.zeros(2400, int), False)
    evidence = attacks.Evidence(target, is_member, records=lambda: x)
    report = auditing.score(evidence, [tfmiaq.attacks.ATTACKS[n] for n in ("quantile regression", "confidence")])
    assert report["quantile regression"].auc > report["confidence"].auc + 0.1


def test_the_label_only_attack_finds_no_less_than_the_gap():
    """A label agreement that says nothing does no harm, and one that says more is used."""
    generator = np.random.default_rng(0)
    is_member = np.arange(2000) < 1000
    correct = generator.random(2000) < np.where(is_member, 0.95, 0.65)
    for label_agreement, gain in ((generator.random(2000), -0.02), (0.3 * is_member + generator.random(2000), 0.03)):
        target = signals.Signals(np.zeros(2000, int), correct, label_agreement=label_agreement)
        evidence = attacks.Evidence(target, is_member)
        report = auditing.score(evidence, [tfmiaq.attacks.ATTACKS[n] for n in ("label-only", "gap")])
        assert report["label-only"].auc > report["gap"].auc + gain


def test_reference_models_find_what_label_agreement_alone_hides():
    """Labels alone: a record's label agreement differs by its own difficulty far more than by membership."""
    generator, count = np.random.default_rng(0), 3000
    halves = references.half_splits(count, 9, 0)
    halves = halves[:, np.argsort(~halves[0], kind="stable")]
    difficulty = generator.normal(0, 2, count)

    def label_agreement(inside):
        return generator.binomial(10, special.expit(difficulty + 1.5 * inside)) / 10

    is_member = halves[0]
    augmented = {"augmented_confidence": np.zeros(count)}
    models = np.stack(
        [
            np.column_stack(
                [{**augmented, "label_agreement": label_agreement(half)}[name] for name in signals.AUGMENTED]
            )
            for half in halves[1:]
        ]
    )
    of_target = label_agreement(is_member)
    evidence = attacks.Evidence(
        signals.Signals(np.zeros(count, int), of_target > 0.5, label_agreement=of_target),
        is_member,
        reference_signals=references.ReferenceSignals(
            np.zeros((8, count, len(signals.FEATURES)), np.float32), halves[1:], models
        ),
    )
    names = ("label-only", "LiRA on label agreement", "RMIA on label agreement")
    report = auditing.score(evidence, [tfmiaq.attacks.ATTACKS[name] for name in names])
    assert report["LiRA on label agreement"].auc > report["label-only"].auc + 0.05
    assert report["RMIA on label agreement"].auc > report["label-only"].auc + 0.03
    assert evidence.available == {
        attacks.REFERENCE_MODELS,
        attacks.REFERENCE_MEMBERS,
        attacks.AUGMENTED_QUERIES,
        attacks.AUGMENTED_REFERENCES,
        attacks.PRIVACY_SUITE,
    }


def test_augmented_queries_find_what_outputs_on_the_record_do_not():
    """Where only outputs on augmented queries depend on membership, the attacks on those find it and no others do."""
    generator, count = np.random.default_rng(0), 3000
    halves = references.half_splits(count, 9, 0)
    halves = halves[:, np.argsort(~halves[0], kind="stable")]
    difficulty = generator.normal(0, 3, count)

    def confidences():
        return difficulty + generator.normal(size=count)

    def outputs():
        logits = np.column_stack([confidences(), np.zeros(count)])
        return signals.from_scores(logits, np.zeros(count, int), False)

    features = np.stack([outputs().features for _ in halves[1:]])
    agreement = np.full(count, 0.5)
    means = [confidences() + half for half in halves]
    columns = [{"label_agreement": agreement, "augmented_confidence": mean} for mean in means]
    queried = np.stack([np.column_stack([model[name] for name in signals.AUGMENTED]) for model in columns])
    evidence = attacks.Evidence(
        dataclasses.replace(outputs(), label_agreement=agreement, augmented_confidences=means[0]),
        halves[0],
        reference_signals=references.ReferenceSignals(features, halves[1:], queried[1:]),
    )
    names = ("LiRA", "RMIA", "LiRA on augmented queries", "RMIA on augmented queries")
    report = auditing.score(evidence, [tfmiaq.attacks.ATTACKS[name] for name in names])
    # Two Gaussians a shift apart, of which nine models know the mean but roughly.
    assert stats.norm.cdf(1 / np.sqrt(2)) > report["LiRA on augmented queries"].auc > 0.68
    assert report["RMIA on augmented queries"].auc > 0.65
    for name in ("LiRA", "RMIA"):
        auc = report[name].auc
        assert auc.low <= 0.5 <= auc.high


def test_an_audit_with_augmented_queries_queries_reference_models_too(tmp_path):
    members, non_members = pipelines.sets(60)
    np.random.seed(5)
    target = pipelines.train_slowly(*members)

    def audit(target, queries, attacks=None):
        trained = []

        def train(x, y):
            trained.append(x)
            return pipelines.train_slowly(x, y)

        arguments = {"augmented_queries": queries, "verbose": False}
        pipeline = tfmiaq.ReferenceModels(train, 4, cache=tmp_path)
        report = tfmiaq.audit(target, members, non_members, attacks, reference_models=pipeline, **arguments)
        return report, len(trained)

    without, trained = audit(target, False)
    assert trained == 4
    assert "pass reference_models and augmented_queries=True" in without.skipped["LiRA on augmented queries"]
    queried, trained = audit(target, True)
    assert trained == 4
    assert {"LiRA on augmented queries", "RMIA on augmented queries", "LiRA on label agreement"} <= {
        attack.name for attack in queried.attacks
    }
    again, trained = audit(target, True)
    assert trained == 0
    assert again.to_json() == queried.to_json()
    assert audit(target, False)[0].to_json() == without.to_json()
    # A target that gives labels is compared with models whose scores the attacker has.
    labels, trained = audit(lambda x: target(x).argmax(1), False)
    assert trained == 0
    assert {attack.name for attack in labels.attacks} == {
        "gap",
        "label-only",
        "LiRA on label agreement",
        "RMIA on label agreement",
    }
    with pytest.raises(ValueError, match="'LiRA on label agreement' needs augmented queries of reference models"):
        tfmiaq.audit(target, members, non_members, ["LiRA on label agreement"])


def test_two_versions_say_more_than_either():
    """The versions share a record's difficulty; only their difference depends on membership."""
    generator = np.random.default_rng(0)
    is_member = np.arange(3000) < 1500
    difficulty = generator.normal(0, 3, 3000)

    def version(gain):
        values = difficulty + gain * is_member + 0.3 * generator.normal(size=3000)
        return signals.from_scores(np.column_stack([values, 0 * values]), np.zeros(3000, int), False)

    evidence = attacks.Evidence(version(1.0), is_member, other=version(0.0))
    report = auditing.score(evidence, [tfmiaq.attacks.ATTACKS[n] for n in ("two versions", "gradient boosting")])
    assert report["two versions"].auc > report["gradient boosting"].auc + 0.15


def test_audit_takes_another_version(linear_scores):
    generator = np.random.default_rng(0)
    sets = [(generator.normal(size=(100, 1)), np.zeros(100, int)) for _ in range(2)]
    report = tfmiaq.audit(linear_scores, *sets, ["two versions"], other=lambda x: 2 * linear_scores(x))
    assert report.attacks[0].name == "two versions"
    with pytest.raises(ValueError, match="'two versions' needs another version of the target: pass other"):
        tfmiaq.audit(linear_scores, *sets, ["two versions"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"attacks": ["LiRA"]}, ValueError, "'LiRA' needs reference models: pass reference_models"),
        ({"reference_models": lambda x, y: 3}, TypeError, "Expected reference_models as tfmiaq.ReferenceModels"),
        ({"batch_size": 0}, ValueError, "Expected batch_size to be an integer of at least 1. Received 0"),
        ({"threads": 0}, ValueError, "Expected threads to be an integer of at least 1"),
        ({"seed": -1}, ValueError, "Expected seed to be an integer from 0"),
    ],
)
def test_audits_that_cannot_be_are_refused(arguments, error, message):
    members, non_members = pipelines.sets(20)
    with pytest.raises(error, match=message):
        tfmiaq.audit(pipelines.train_slowly(*members), members, non_members, **arguments)


def test_an_attack_of_ones_own():
    """The example of the documentation, as it stands there."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "class Largest" in block)
    members, non_members = pipelines.sets(40)
    names = {"model": pipelines.train_slowly(*members), "members": members, "non_members": non_members}
    try:
        exec(example, names)
        assert names["report"]["largest probability"].note == "the output without the label"
        with pytest.raises(ValueError, match=r"no attack has yet. Received 'largest probability'"):
            tfmiaq.attacks.register(names["Largest"]())
    finally:
        tfmiaq.attacks.ATTACKS.pop("largest probability", None)
    with pytest.raises(TypeError, match="Expected an instance"):
        tfmiaq.attacks.register(names["Largest"])


@pytest.mark.parametrize("scores", [np.zeros(3), np.full(80, np.nan)])
def test_an_attack_that_gives_nonsense_is_named(scores):
    class Broken(tfmiaq.attacks.Attack):
        name = "broken"

        def scores(self, evidence):
            return scores

    with pytest.raises(ValueError, match="Attack 'broken' gave scores of shape"):
        auditing.score(_evidence(2, count=40), [Broken()])


def test_comparisons_show_means_and_spread(tmp_path):
    members, non_members = pipelines.sets(60)
    target = pipelines.train_slowly(*members)
    one, two = (tfmiaq.audit(target, members, non_members, seed=seed) for seed in (0, 1))
    comparison = tfmiaq.compare({"several": [one, two], "single": one})
    assert " ± " in comparison.rows()[0][2]
    assert " ± " not in comparison.rows()[1][2]
    folder = comparison.save(tmp_path / "out")
    assert comparison.verdict in (folder / "comparison.html").read_text()
    assert (folder / "comparison.json").is_file()
    assert "| several |" in (folder / "comparison.md").read_text()
    with pytest.raises(TypeError, match="list of them for"):
        tfmiaq.compare({"a": [3]})
    with pytest.raises(ValueError, match="at least one report"):
        tfmiaq.compare({})


WIDTH = 3


def _uses_a_global(x, y):
    return WIDTH


def test_fingerprints_follow_what_a_pipeline_is(monkeypatch):
    def make(factor):
        return lambda x, y: factor

    same = fingerprints.fingerprint
    assert same(make(1)) == same(make(1)) != same(make(2))
    assert same(np.zeros(3)) != same(np.zeros(4)) != same(np.zeros(4, np.float32))
    assert same({"a": 1, "b": 2}) == same({"b": 2, "a": 1})
    assert same({1, 2, 3}) == same({3, 2, 1}) != same({1, 2})
    assert same(tfmiaq.BitwidthPolicy.uniform(2, 4)) != same(tfmiaq.BitwidthPolicy.uniform(1, 4))
    # A function of a package by what it closes over, too.
    assert same(keras_model(make(1)).load) == same(keras_model(make(1)).load)
    assert same(keras_model(make(1)).load) != same(keras_model(make(2)).load)
    before = same(_uses_a_global)
    monkeypatch.setitem(globals(), "WIDTH", 4)
    assert same(_uses_a_global) != before


@pytest.mark.parametrize(("models", "is_fair"), [(3, False), (4, True), (5, True)])
def test_models_that_attack_each_other_must_be_four(models, is_fair):
    """A target that saw no record is no model's victim, unless the halves of the others reveal whose turn it is."""
    generator, count = np.random.default_rng(0), 4000
    halves = references.half_splits(count, models, 0)
    hardness = generator.normal(size=count)
    labels = np.zeros(count, int)

    def outputs(gain):
        margins = hardness + gain + generator.normal(scale=0.3, size=count)
        return signals.from_scores(np.column_stack([margins, np.zeros(count)]), labels, False)

    features = np.stack([outputs(2.0 * half).features for half in halves])
    order = np.concatenate([np.flatnonzero(halves[0]), np.flatnonzero(~halves[0])])
    evidence = attacks.Evidence(
        target=outputs(0.0)[order],
        is_member=np.arange(count) < count // 2,
        reference_signals=references.ReferenceSignals(features[1:, order], halves[1:, order]),
    )
    (result,) = auditing.score(evidence, [tfmiaq.attacks.ATTACKS["RMIA"]]).attacks
    assert (result.auc.low <= 0.5 <= result.auc.high) == is_fair
