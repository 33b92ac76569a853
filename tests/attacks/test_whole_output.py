"""Attacks that compare whole outputs, and those for few reference models, on signals whose answer is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from tfmiaq import attacks, auditing, metrics, signals
from tfmiaq.attacks import bavaria

_CLASSES = 6


def _auc(evidence, name):
    scores = attacks.ATTACKS[name].scores(evidence)
    return metrics.auc_estimate(scores[evidence.is_member], scores[~evidence.is_member])


def _evidence(models, shift, count=800, seed=0, redrawn=False, augmented=False, complements=True):
    """Logits of a record's own; a model that trained on it moves a class of the record's own, not the true one."""
    generator = np.random.default_rng(seed)
    of_record = generator.normal(0, 2, (count, _CLASSES))
    labels = generator.integers(0, _CLASSES, count)
    moved = np.eye(_CLASSES)[(labels + generator.integers(1, _CLASSES, count)) % _CLASSES]
    trained_on = signals.half_splits(count, models, seed) if complements else generator.random((models, count)) < 0.5
    is_member = np.arange(count) < count // 2

    def of(inside):
        def logits():
            return of_record + shift * inside[:, None] * moved + 0.5 * generator.normal(size=of_record.shape)

        found = signals.from_scores(logits(), labels, False)
        if not augmented:
            return found
        queried = signals.query_augmented(lambda x: logits(), (of_record, labels), lambda x, number: x, 9, count)
        return dataclasses.replace(found, **queried)

    target, found = of(is_member), [of(inside) for inside in trained_on]
    if redrawn:
        is_member = generator.permutation(is_member)
    order = np.argsort(~is_member, kind="stable")
    references = signals.ReferenceSignals(
        np.stack([model.features for model in found]),
        trained_on,
        np.stack([model.augmented for model in found]) if augmented else None,
        np.stack([model.outputs for model in found]),
        np.stack([model.augmented_outputs for model in found]) if augmented else None,
    )
    return attacks.Evidence(
        target=target[order], is_member=is_member[order], reference_signals=references.of_records(order)
    )


def test_whole_outputs_tell_what_the_true_class_does_not():
    evidence = _evidence(16, 1.0)
    # Log-probabilities share their noise, so that the ideal attack is not far above one logit's 0.92.
    whole = _auc(evidence, "whole output")
    assert 0.8 < whole < 0.97
    assert whole > _auc(evidence, "LiRA") + 0.1
    assert whole > _auc(evidence, "RMIA") + 0.1
    # Nine noisy outputs more, of each record.
    queried = _evidence(16, 1.0, augmented=True)
    assert _auc(queried, "whole output on augmented queries") > _auc(queried, "whole output") + 0.02


@pytest.mark.parametrize("complements", [True, False])
@pytest.mark.parametrize("models", [4, 7, 16])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_nothing_is_found_where_membership_is_drawn_anew(models, shift, complements):
    evidence = _evidence(models, shift, 3000, seed=100 + models, redrawn=True, complements=complements)
    for name in ("whole output", "difficulty calibration", "BaVarIA", "LiRA", "RMIA", "entropy"):
        auc = _auc(evidence, name)
        half_width = (auc.high - auc.low) / 2
        assert abs(auc.value - 0.5) < 1.6 * half_width, f"{name}: {auc}"


def test_a_complement_among_the_references_gives_nothing_away():
    """A pseudo-target is compared without the model that trained on just the other records."""
    evidence = _evidence(4, 0.0, 4000)
    halves = evidence.reference_signals.trained_on
    for model, partner in ((0, 1), (1, 0), (2, 3), (3, 2)):
        np.testing.assert_array_equal(halves[model], ~halves[partner])
    # Without a leak a classifier fitted on pseudo-targets has nothing to learn, so that its scores say nothing of them.
    scores = attacks.ATTACKS["whole output"].scores(evidence)
    auc = metrics.auc_estimate(scores[evidence.is_member], scores[~evidence.is_member])
    assert auc.low < 0.5 < auc.high


def test_whole_outputs_need_models_of_as_many_classes():
    evidence = _evidence(4, 1.0, 100)
    references = dataclasses.replace(
        evidence.reference_signals, outputs=evidence.reference_signals.outputs[:, :, : _CLASSES - 1]
    )
    with pytest.raises(ValueError, match="The target has 6, the reference models have 5"):
        attacks.ATTACKS["whole output"].scores(dataclasses.replace(evidence, reference_signals=references))


@pytest.mark.parametrize("change", ["few", "none trained on them"])
def test_whole_outputs_of_few_or_outside_models_are_difficulty(change):
    evidence = _evidence(8, 1.0, 200)
    references = evidence.reference_signals
    if change == "few":
        references = references.first(2)
    else:
        references = dataclasses.replace(references, trained_on=np.zeros_like(references.trained_on))
    evidence = dataclasses.replace(evidence, reference_signals=references)
    scores = [attacks.ATTACKS[name].scores(evidence) for name in ("whole output", "difficulty calibration")]
    np.testing.assert_array_equal(*scores)


def test_difficulty_is_the_distance_to_the_middle_of_both_means():
    evidence = _evidence(8, 1.0, 50)
    references = evidence.reference_signals
    of_models, inside = references.confidences, references.trained_on
    expected = [
        evidence.target.confidences[i] - (of_models[inside[:, i], i].mean() + of_models[~inside[:, i], i].mean()) / 2
        for i in range(50)
    ]
    np.testing.assert_allclose(attacks.ATTACKS["difficulty calibration"].scores(evidence), expected, rtol=1e-6)


def _gaussian(models, spreads, count=4000, shift=1.0):
    """Confidences with a spread of each record's own."""
    generator = np.random.default_rng(0)
    center, trained_on = generator.normal(0, 3, count), signals.half_splits(count, models, 1)
    is_member = np.arange(count) < count // 2

    def confidences(inside):
        return center + spreads * (shift * inside + generator.normal(size=count))

    def of(values):
        return signals.from_scores(np.column_stack([values, 0 * values]), np.zeros(count, int), False)

    features = np.stack([of(confidences(inside)).features for inside in trained_on])
    references = signals.ReferenceSignals(features, trained_on)
    return attacks.Evidence(target=of(confidences(is_member)), is_member=is_member, reference_signals=references)


def test_bavaria_is_lira_where_it_must_be():
    """With one variance for all it finds what LiRA does with few models, and with many variances by record."""
    generator = np.random.default_rng(1)
    few = _gaussian(8, np.ones(4000))
    assert abs(_auc(few, "BaVarIA") - _auc(few, "LiRA")) < 0.01
    assert _auc(few, "BaVarIA") > _auc(few, "LiRA with variance by record") + 0.03
    spread = np.exp(generator.normal(0, 1, 4000))
    many = _gaussian(64, spread)
    assert abs(_auc(many, "BaVarIA") - _auc(many, "LiRA with variance by record")) < 0.01
    assert _auc(many, "BaVarIA") > _auc(many, "LiRA") + 0.02
    # Two Gaussians a deviation apart.
    assert _auc(many, "BaVarIA") < stats.norm.cdf(1 / np.sqrt(2)) + 0.01


def test_bavaria_gives_the_ratio_of_predictive_densities():
    """Equal counts and one variance: Student's t of the posterior, by the textbook's formulas."""
    values = np.array([[1.0, 4.0], [3.0, 5.0], [2.0, 9.0]])
    found = bavaria._predictive(values, np.ones((3, 2), bool))
    squares = ((values - values.mean(0)) ** 2).sum(0)
    degrees, variance = bavaria._prior(squares, np.array([3.0, 3.0]))
    k0, mean0 = 0.1, values.mean()
    for i in range(2):
        kn, nun = k0 + 3, degrees + 3
        mun = (k0 * mean0 + values[:, i].sum()) / kn
        s2 = (degrees * variance + squares[i] + k0 * 3 / kn * (values[:, i].mean() - mean0) ** 2) / nun
        expected = stats.t.logpdf(2.5, nun, mun, np.sqrt(s2 * (1 + 1 / kn)))
        assert found.logpdf(2.5)[i] == pytest.approx(expected)


def test_the_prior_is_found_again():
    generator = np.random.default_rng(0)
    degrees, scale, own = 12.0, 2.0, 7
    variances = scale * degrees / generator.chisquare(degrees, 200_000)
    squares = variances * generator.chisquare(own, 200_000)
    found = bavaria._prior(squares, np.full(200_000, own + 1.0))
    assert found[0] == pytest.approx(degrees, rel=0.1)
    assert found[1] == pytest.approx(scale, rel=0.02)
    assert bavaria._prior(generator.chisquare(own, 200_000), np.full(200_000, own + 1.0))[0] > 50


@pytest.mark.parametrize("name", ["gradient boosting", "confidence"])
def test_groups_of_unlike_sizes_give_nothing_away(name):
    """One large group of members lies in one half, so that the halves have other parts of members."""
    generator = np.random.default_rng(0)
    groups = np.concatenate([np.zeros(300, int), 1 + np.arange(100) // 10, 100 + np.arange(400)])
    aucs = []
    for seed in range(6):
        found = signals.from_scores(generator.normal(size=(800, 3)), generator.integers(0, 3, 800), False)
        evidence = attacks.Evidence(found, np.arange(800) < 400, seed=seed, groups=groups)
        aucs.append(_auc(evidence, name).value)
    assert abs(np.mean(aucs) - 0.5) < 0.04


def test_attacks_that_need_more_models_grow_from_there():
    class Four(attacks.Attack):
        name = "needs four"
        needs = frozenset({attacks.REFERENCE_MODELS})

        def scores(self, evidence):
            if len(evidence.reference_signals.trained_on) < 4:
                raise ValueError("four")
            return list(evidence.target.confidences)

    report = auditing.score(_evidence(8, 1.0, 100), [Four()])
    assert list(report["needs four"].growth) == [4, 8]


def test_models_of_other_classes_are_told_and_the_audit_goes_on():
    evidence = _evidence(4, 1.0, 100)
    references = evidence.reference_signals
    references = dataclasses.replace(references, outputs=references.outputs[:, :, : _CLASSES - 1])
    evidence = dataclasses.replace(evidence, reference_signals=references)
    assert attacks.WHOLE_OUTPUTS not in evidence.available
    assert attacks.REFERENCE_MODELS in evidence.available
