"""Audits of canaries: what memorizes them is found out, and what does not is a coin."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

import numpy as np
import pytest

import tfmiaq
from tfmiaq import auditing, signals
from tfmiaq.auditing import canaries as canaries_module
from tfmiaq.auditing.reporting.canary_report import CanaryReport

KINDS = canaries_module.KINDS


def _sets(count=150, seed=0):
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(9).random((4, 60)) < 0.5

    def draw():
        y = generator.integers(0, 4, count)
        return (centers[y] ^ (generator.random((count, 60)) < 0.2)).astype(np.float32), y

    return draw(), draw()


def memorize(x, y, reach=2.0):
    """A kernel classifier: what it knows of a record comes from the training records within a few bits of it."""

    def predict(records):
        distances = (records[:, None] != x[None]).sum(-1)
        return np.exp(-distances / reach) @ np.eye(4)[y] * 3 + np.random.default_rng(0).normal(size=(len(records), 4))

    return predict


def memorize_and_note(log, x, y):
    with pathlib.Path(log).open("a") as file:
        file.write("trained\n")
    if len(pathlib.Path(log).read_text().split()) == 5:
        raise KeyboardInterrupt
    return memorize(x, y)


def learn_nothing(x, y):
    noise = np.random.normal(size=(60, 4))
    return lambda records: records @ noise


def _audit(train, kind=KINDS[0], count=8, **given):
    options = tfmiaq.ReferenceModels(train, count, **given)
    return tfmiaq.audit_canaries(options, *_sets(), tfmiaq.Canaries(kind, 40), verbose=False)


def test_a_model_that_memorizes_is_found_out_by_its_canaries():
    report = _audit(memorize)
    assert report["LiRA"].auc > 0.97
    assert report["difficulty calibration"].auc > 0.97
    assert report["LiRA"].rates[1] > 0.9
    # 320 pairs of a model and a canary have about 160 that were out: too few for 0.1 %.
    assert report["LiRA"].rates[0] is None
    assert len(report.epsilons) == 8
    assert report.epsilon > 1
    shown = report._repr_html_()
    assert shown.count("<tr>") == len(report.results) + 1
    assert report.verdict in shown


def test_a_twin_that_is_always_in_hides_the_canary_and_one_that_goes_with_it_does_not():
    together, beside = (_audit(functools.partial(memorize, reach=0.4), kind) for kind in KINDS[1:])
    assert together.auc > 0.97
    assert beside.auc <= together.auc


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_learns_nothing_is_a_coin(kind):
    report = _audit(learn_nothing, kind)
    for result in report.results:
        assert result.auc.low <= 0.5 <= result.auc.high
    assert report.epsilon == 0.0


@pytest.mark.parametrize("models", [4, 5, 8])
def test_memberships_that_are_redrawn_are_a_coin(models):
    """Also with few models, where the complement of a target among its references would give it away."""
    generator = np.random.default_rng(models)
    options, sets = tfmiaq.ReferenceModels(memorize, models), _sets()
    made, drawn = canaries_module._training_sets(tfmiaq.Canaries(count=100), models, *sets, 0, None)
    found = signals.train_references(options, made, sets=drawn)
    redrawn = dataclasses.replace(found, trained_on=generator.random(found.trained_on.shape) < 0.5)
    for attack in canaries_module._ATTACKS:
        scores = canaries_module.leave_one_out(attack, redrawn, made[1], 0)
        auc = canaries_module._result(attack.name, scores, redrawn.trained_on, 0).auc
        assert auc.low <= 0.5 <= auc.high
        assert auc.high - auc.low < 0.25


def test_each_model_has_all_members_and_coins_of_its_own():
    members, non_members = _sets()
    for kind, extra in zip(KINDS, (0, 1, 1)):
        groups = np.arange(150) // 2
        made, sets = canaries_module._training_sets(tfmiaq.Canaries(kind, 50), 6, members, non_members, 3, groups)
        assert sets.chosen.shape == (6, 150 + 50 * (1 + extra))
        assert sets.chosen[:, :150].all()
        np.testing.assert_array_equal(sets.chosen[:, 150:200], sets.trained_on)
        assert abs(sets.trained_on.mean() - 0.5) < 0.1
        correlation = np.corrcoef(sets.trained_on)
        assert np.abs(correlation - np.eye(6)).max() < 0.5
        # No label is right, and canaries are of groups that no member has.
        known = {x.tobytes(): y for x, y in zip(*non_members)}
        assert all(known[x.tobytes()] != y for x, y in zip(*made))
        assert len(np.unique(sets.groups)) == 75 + 50 * (1 + extra)
        if extra:
            twins = sets.records[0][200:]
            np.testing.assert_array_equal((twins != made[0]).sum(1), 1)
            np.testing.assert_array_equal(sets.records[1][200:], made[1])
            expected = sets.trained_on if kind == KINDS[1] else np.ones((6, 50), bool)
            np.testing.assert_array_equal(sets.chosen[:, 200:], expected)


def test_twins_of_images_and_of_numbers_are_near():
    generator = np.random.default_rng(0)
    image = generator.random((5, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(canaries_module.near_twins(image, generator)[:, :, 1:], image[:, :, :-1])
    numbers = generator.normal(size=(500, 9))
    assert (canaries_module.near_twins(numbers, generator) - numbers).std() == pytest.approx(0.1, rel=0.1)
    codes = generator.integers(0, 50, (20, 300))
    assert (canaries_module.near_twins(codes, generator) != codes).sum(1).max() <= 3


def test_an_audit_of_canaries_that_was_stopped_goes_on(tmp_path):
    log = tmp_path / "log"
    train = functools.partial(memorize_and_note, str(log))
    with pytest.raises(KeyboardInterrupt):
        _audit(train, cache=tmp_path)
    # The fifth training was stopped, and four are kept.
    assert _audit(train, cache=tmp_path).to_json() == _audit(memorize).to_json()
    assert len(log.read_text().split()) == 5 + 4


def test_an_audit_has_the_canaries_beside_its_own_figures(tmp_path):
    members, non_members = _sets()
    options = tfmiaq.ReferenceModels(memorize, 4)
    canaries = tfmiaq.Canaries(KINDS[1], 20)
    report = tfmiaq.audit(
        memorize(*members), members, non_members, ["LiRA"], reference_models=options, canaries=canaries, verbose=False
    )
    alone = tfmiaq.audit_canaries(options, members, non_members, canaries, verbose=False)
    assert report.canaries.to_json() == alone.to_json()
    assert str(report.canaries) in str(report)
    assert "mislabelled with a twin" in report.to_html()
    loaded = tfmiaq.AuditReport.load(report.save(tmp_path))
    assert loaded.canaries == CanaryReport.from_dict(json.loads(alone.to_json()))
    assert repr(loaded.canaries) == repr(alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "mislabeled"}, "Did you mean 'mislabelled'"),
        ({"count": 9}, "Expected count to be an integer of at least 10"),
        ({"twin": 3}, "Expected twin as a function"),
    ],
)
def test_option_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmiaq.Canaries(**arguments)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"canaries": 100}, "Expected canaries as tfmiaq.Canaries"),
        ({"canaries": tfmiaq.Canaries(), "reference_models": None}, "expected reference_models as"),
        (
            {"canaries": tfmiaq.Canaries(), "reference_models": tfmiaq.ReferenceModels(memorize, 2)},
            "Expected count to be an integer of at least 3. Received 2",
        ),
        ({"canaries": tfmiaq.Canaries(count=200)}, "200 canaries are made from as many non-members. Received 150"),
    ],
)
def test_errors_come_before_any_training(given, message):
    def train(x, y):
        raise AssertionError("trained")

    given = {"reference_models": tfmiaq.ReferenceModels(train, 4), **given}
    with pytest.raises(ValueError, match=message):
        auditing.audit(lambda x: x[:, :4], *_sets(), **given)


def test_a_twin_of_another_shape_is_an_error():
    canaries = tfmiaq.Canaries(KINDS[1], 20, twin=lambda x: x[:, 1:])
    with pytest.raises(ValueError, match=r"Expected finite twins of shape \(20, 60\). Received \(20, 59\)"):
        tfmiaq.audit_canaries(tfmiaq.ReferenceModels(memorize, 4), *_sets(), canaries)
