"""Training sets of reference models are as large as the target's, and as many models are trained as a time allows."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

import tfmiaq
from tfmiaq import signals
from tfmiaq.signals import reference_training
from tfmiaq.signals.reference_sets import draw_sets


def _records(count, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 3)), generator.integers(0, 2, count)


def _memorize(x, y):
    """Gives the labels of the records it was trained on, the surer the fewer they are; of others by a coin."""
    known = {record.tobytes(): label for record, label in zip(x, y)}
    noise = np.random.default_rng(len(x)).normal(size=3)

    def scores(records):
        labels = np.array([known.get(record.tobytes(), -1) for record in records])
        outside = np.tile((np.asarray(records) @ noise)[:, None], (1, 2)) * [1, -1]
        return np.where(labels[:, None] < 0, outside, (2 * np.eye(2)[labels] - 1) * 100 / len(x))

    return scores


def _options(count=16, **more):
    return tfmiaq.ReferenceModels(_memorize, count, **more)


@pytest.mark.parametrize(
    ("members", "models", "size"),
    [(200, 16, 200), (190, 16, 200), (100, 16, 100), (330, 16, 330), (10, 16, 50), (395, 16, 350), (100, 4, 200)],
)
def test_sets_are_as_large_as_the_targets_within_bounds(members, models, size):
    """400 audited records; a record is in the sets of two models and outside of two, as a mean."""
    sets = draw_sets(_options(models), _records(400), members, 0)
    assert set(sets.chosen.sum(1)) == {size}
    assert sets.size == size
    assert sets.trained_on is sets.chosen
    times = sets.chosen.sum(0)
    assert times.mean() == pytest.approx(models * size / 400)
    assert (set(times) == {models // 2}) == (size == 200)


def test_further_models_leave_the_sets_of_the_first_ones():
    for members in (200, 90):
        few, many = (draw_sets(_options(8), _records(400), members, 0, None, models) for models in (8, 20))
        np.testing.assert_array_equal(few.chosen, many.chosen[:8])


def test_sets_of_other_sizes_say_nothing_of_each_other():
    """With a record in as many sets as any other, the number of the others would give each away."""
    chosen = draw_sets(_options(16), _records(4_000), 1_000, 0).chosen
    times = chosen.sum(0) - chosen[0]
    assert abs(times[chosen[0]].mean() - times[~chosen[0]].mean()) < 0.25


def test_sets_of_groups_are_about_as_large():
    groups = np.repeat(np.arange(80), 5)
    sets = draw_sets(_options(), _records(400), 100, 0, groups)
    assert set(sets.chosen.sum(1)) == {100}
    assert all(len(np.unique(chosen[groups == group])) == 1 for chosen in sets.chosen for group in range(80))


def test_a_population_gives_sets_as_large_as_the_targets():
    for members, size in ((50, 50), (100, 100), (140, 140), (400, 150)):
        options = _options(4, splits="disjoint", population=_records(200))
        sets = draw_sets(options, _records(400, 1), members, 0)
        assert set(sets.chosen.sum(1)) == {size}
        assert not sets.trained_on.any()


@pytest.mark.parametrize(("members", "told"), [(150, False), (30, True)])
def test_an_audit_of_unlike_sets_trains_on_as_many_records_as_the_target_or_tells(members, told):
    seen = []

    def train(x, y):
        seen.append(len(x))
        return _memorize(x, y)

    x, y = _records(600)
    report = tfmiaq.audit(
        _memorize(x[:members], y[:members]),
        (x[:members], y[:members]),
        (x[members:], y[members:]),
        ["difficulty calibration"],
        reference_models=tfmiaq.ReferenceModels(train, 16),
        verbose=False,
    )
    size = 75 if told else members
    assert seen == [size] * 16
    assert report.reference_set_size == size
    assert any(
        f"Each trained on about {size} records and the target on {members}" in a for a in report.assumptions
    ) == (told)


def test_references_as_large_as_the_target_memorize_as_it_does():
    """A model is the surer of its records the fewer they are: halves of 600 records say little of a target of 150."""
    x, y = _records(600)
    target = signals.extract(_memorize(x[:150], y[:150]), (x, y))
    errors = []
    for members in (150, None):
        found = signals.train_references(_options(16), (x, y), members=members)
        difference = abs(found.confidences - target.confidences)
        errors.append(difference[:, :150][found.trained_on[:, :150]].mean())
    assert errors[0] < 1e-5 < 0.5 < errors[1]


def test_duplicates_among_members_do_not_hide_them_from_reference_models(monkeypatch):
    """A model that one copy was left out of must not have seen the other one: it would answer as if it knew both."""
    x, y = _records(300)
    x, y = np.concatenate([np.repeat(x[:100], 2, axis=0), x[100:]]), np.concatenate([np.repeat(y[:100], 2), y[100:]])
    target = _memorize(x[:200], y[:200])
    kept = []
    train = reference_training.train_references
    monkeypatch.setattr(
        sys.modules[tfmiaq.audit.__module__],
        "train_references",
        lambda *a, **k: kept.append(train(*a, **k)) or kept[-1],
    )
    with pytest.warns(UserWarning, match="200 with exact duplicates"):
        report = tfmiaq.audit(
            target, (x[:200], y[:200]), (x[200:], y[200:]), ["LiRA"], reference_models=_options(16), verbose=False
        )
    trained_on = kept[0].trained_on[:, :200]
    np.testing.assert_array_equal(trained_on[:, ::2], trained_on[:, 1::2])
    assert report["LiRA"].tpr_at_fpr(0.01).value > 0.9


class _Slow:
    """A training that takes a time of a clock which stands still otherwise."""

    def __init__(self, seconds):
        self.seconds, self.now, self.trained = seconds, 0.0, 0

    def __call__(self, x, y):
        self.now += self.seconds
        self.trained += 1
        return _memorize(x, y)

    def get_config(self):
        return {}


@pytest.mark.parametrize(("seconds", "minutes", "count", "made"), [(3, 0.5, 4, 10), (30, 1, 4, 4), (0.1, 9, 4, 20)])
def test_as_many_models_are_trained_as_the_time_allows(seconds, minutes, count, made, monkeypatch, tmp_path):
    train = _Slow(seconds)
    monkeypatch.setattr(time, "monotonic", lambda: train.now)
    monkeypatch.setattr(reference_training, "_MOST_MODELS", 20)
    options = tfmiaq.ReferenceModels(train, count, minutes=minutes, cache=tmp_path)
    steps = []
    found = signals.train_references(options, _records(40), progress=steps.append)
    assert train.trained == len(found.trained_on) == sum(steps) == made
    again = signals.train_references(options, _records(40))
    assert train.trained == made
    np.testing.assert_array_equal(found.features, again.features)


def test_a_stopped_run_goes_on_with_what_is_left_of_the_time(monkeypatch, tmp_path):
    train = _Slow(3)
    monkeypatch.setattr(time, "monotonic", lambda: train.now)
    options = tfmiaq.ReferenceModels(train, 4, minutes=0.5, cache=tmp_path)

    def stop(_):
        if train.trained == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        signals.train_references(options, _records(40), progress=stop)
    train.now += 1_000
    found = signals.train_references(options, _records(40))
    assert train.trained == len(found.trained_on) == 10


def test_models_of_a_cache_without_times_are_gone_on_from(tmp_path):
    train = _Slow(1)
    signals.train_references(tfmiaq.ReferenceModels(train, 4, cache=tmp_path), _records(40))
    options = tfmiaq.ReferenceModels(train, 4, minutes=1e-9, cache=tmp_path)
    assert len(signals.train_references(options, _records(40)).trained_on) == 6
    assert train.trained == 6


def test_the_report_tells_how_many_models_the_time_allowed(monkeypatch):
    train = _Slow(5)
    monkeypatch.setattr(reference_training.time, "monotonic", lambda: train.now)
    x, y = _records(80)
    report = tfmiaq.audit(
        _memorize(x[:40], y[:40]),
        (x[:40], y[:40]),
        (x[40:], y[40:]),
        ["RMIA"],
        reference_models=tfmiaq.ReferenceModels(train, 4, minutes=0.5),
        verbose=False,
    )
    assert report.reference_models == train.trained == 6
    assert "6 reference models were trained" in str(report)
