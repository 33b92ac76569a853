"""What reference models are made of: their options, their training sets and their errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pipelines
import pytest

import tfmiaq
from tfmiaq import signals
from tfmiaq._backend import keras


def test_every_record_is_in_half_of_the_reference_models_sets():
    chosen = signals.half_splits(101, 6, 0)
    assert set(chosen.sum(0)) == {3}
    assert set(chosen.sum(1)) == {50, 51}
    assert (chosen != signals.half_splits(101, 6, 1)).any()


def test_disjoint_splits_never_train_on_an_audited_record(tmp_path):
    seen = []

    def train(x, y):
        seen.append(x)
        return pipelines.train_slowly(x, y)

    (members, non_members), (population, _) = pipelines.sets(60), pipelines.sets(200)
    population = population[0][60:], population[1][60:]
    options = tfmiaq.ReferenceModels(train, 4, splits="disjoint", population=population, cache=tmp_path)
    target = pipelines.train_slowly(*members)

    def audited_by(attacks):
        return tfmiaq.audit(target, members, non_members, attacks, reference_models=options, verbose=False)

    report = audited_by(["offline LiRA", "RMIA", "LiRA"])
    audited = {record.tobytes() for record in np.concatenate([members[0], non_members[0]])}
    assert len(seen) == 4
    assert not any(record.tobytes() in audited for x in seen for record in x)
    assert report["offline LiRA"].auc > 0.55
    # Without models that trained on a record, online and offline are one.
    assert report["LiRA"].auc == report["offline LiRA"].auc
    # A classifier has no members to learn from.
    assert "trained on audited records" in audited_by(None).skipped["shadow models"]
    with pytest.raises(ValueError, match="'shadow models' needs reference models that trained on audited records"):
        audited_by(["shadow models"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"train_fn": 3}, TypeError, "Expected train_fn as a function"),
        ({"train_fn": []}, TypeError, "Expected train_fn as a function"),
        ({"count": 1}, ValueError, "Expected count to be an integer of at least 2. Received 1"),
        ({"count": True}, ValueError, "Expected count to be an integer of at least 2. Received True"),
        ({"splits": "thirds"}, ValueError, "Unknown splits 'thirds'"),
        ({"splits": "disjoint"}, ValueError, "population=.* go together"),
        ({"splits": "disjoint", "population": 3}, TypeError, "Expected population as a pair"),
        ({"train_fn": lambda x: 3}, TypeError, r"Stage 1 of train_fn is called with \(x, y\), and does not take that"),
        ({"train_fn": [pipelines.train_slowly] * 2}, TypeError, r"Stage 2 of train_fn is called with \(model, x, y\)"),
        ({"cache": __file__}, ValueError, "Expected cache as a folder"),
        ({"minutes": 0}, ValueError, "Expected minutes to be a finite number above 0, or None.*Received 0"),
        ({"n_jobs": 0}, ValueError, "Expected n_jobs to be an integer of at least 1, or -1, or None.*Received 0"),
        ({"known_seed": -1}, ValueError, "Expected known_seed to be an integer from 0.*Received -1"),
        ({"known_seed": 2**32}, ValueError, "Expected known_seed to be an integer from 0.*Received 4294967296"),
    ],
)
def test_reference_models_that_cannot_be_are_refused_when_they_are_made(arguments, error, message):
    with pytest.raises(error, match=message):
        tfmiaq.ReferenceModels(**{"train_fn": pipelines.train_slowly, **arguments})


def test_reference_models_are_frozen_options_with_plain_numbers():
    options = tfmiaq.ReferenceModels(pipelines.train_slowly, np.int64(6), population=None, n_jobs=np.int32(2))
    assert (options.count, options.n_jobs, type(options.count), type(options.n_jobs)) == (6, 2, int, int)
    assert tfmiaq.ReferenceModels(pipelines.train_slowly).count == 16
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.count = 3
    members, _ = pipelines.sets(200)
    disjoint = tfmiaq.ReferenceModels(pipelines.train_slowly, splits="disjoint", population=members)
    assert len(repr(disjoint)) < 250


def _first_weights(x, y):
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])


class _OnAll:
    """A stage of which all models train on the same records, so that nothing but the seed makes them differ."""

    def __init__(self, stage, records):
        self.stage, self.records = stage, records

    def __call__(self, x, y):
        return self.stage(*self.records)

    @property
    def lend(self):
        lend = self.stage.lend  # An AttributeError says that there is none.
        return lambda x, y: lend(*self.records)


@pytest.mark.parametrize("stage", [_first_weights, pipelines.fast_stages()[0]], ids=["function", "stage"])
def test_an_attacker_who_knows_the_seed_trains_what_the_target_is(stage):
    members, non_members = pipelines.sets(20)
    both = np.concatenate([members[0], non_members[0]]), np.concatenate([members[1], non_members[1]])
    keras.utils.set_random_seed(7)
    target = signals.extract(stage(*both), both)
    found = {
        seed: signals.train_references(tfmiaq.ReferenceModels(_OnAll(stage, both), 3, known_seed=seed), both).outputs
        for seed in (None, 7)
    }
    np.testing.assert_allclose(found[7], np.stack([target.outputs] * 3), atol=1e-3)
    assert np.abs(found[None] - found[7]).mean((1, 2)).min() > 0.01


def test_each_stage_has_the_known_seed(tmp_path):
    members, non_members = pipelines.sets(20)
    both = np.concatenate([members[0], non_members[0]]), np.concatenate([members[1], non_members[1]])

    def student(model, x, y):
        return _first_weights(x, y)

    for seed in (7, None, 7):
        keras.utils.set_random_seed(7)
        target = signals.extract(student(None, *both), both).outputs
        options = tfmiaq.ReferenceModels([_first_weights, student], 2, cache=tmp_path, known_seed=seed)
        found = signals.train_references(options, both).outputs
        # A cache of one seed is not taken for another's.
        assert np.allclose(found, target, atol=1e-3) == (seed == 7)


def test_a_report_tells_that_the_attacker_knows_the_seed():
    members, non_members = pipelines.sets(20)
    texts = []
    for seed in (None, 7):
        options = tfmiaq.ReferenceModels(_first_weights, 2, known_seed=seed)
        report = tfmiaq.audit(_first_weights(*members), members, non_members, ["LiRA"], reference_models=options)
        texts.append([finding.text for finding in report.findings if finding.kind == "known seed"])
    assert texts[0] == [] and "seeded with known_seed" in texts[1][0]


@pytest.mark.parametrize(
    ("train_fn", "error", "message"),
    [
        (lambda x, y: 3, TypeError, "model that train_fn returned cannot be scored.*Received int"),
        (lambda x, y: lambda x: np.full((len(x), 10), np.nan), ValueError, "NaN or infinity for 40 of 40 audited rec"),
        (lambda x, y: lambda x: np.zeros(len(x), int), ValueError, "returned a model that gives labels"),
    ],
)
def test_reference_models_that_cannot_be_scored_are_told(train_fn, error, message):
    members, non_members = pipelines.sets(20)
    target = pipelines.train_slowly(*members)
    with pytest.raises(error, match=message):
        tfmiaq.audit(target, members, non_members, reference_models=tfmiaq.ReferenceModels(train_fn))


def test_a_population_smaller_than_the_members_is_warned_of():
    members, non_members = pipelines.sets(60)
    population = pipelines.sets(110)[0]
    options = tfmiaq.ReferenceModels(
        pipelines.train_slowly, 2, splits="disjoint", population=(population[0][60:], population[1][60:])
    )
    target = pipelines.train_slowly(*members)
    with pytest.warns(UserWarning, match="train on 37 of 50 records of the population, the target on 60") as caught:
        tfmiaq.audit(target, members, non_members, ["RMIA"], reference_models=options, verbose=False)
    assert caught[0].filename == __file__


def test_the_type_of_a_seed_is_none_of_the_cache_key(tmp_path):
    members, non_members = pipelines.sets(20)
    target = pipelines.train_slowly(*members)
    for seed in (3, np.int64(3)):
        options = tfmiaq.ReferenceModels(pipelines.train_slowly, np.int64(2), cache=tmp_path)
        tfmiaq.audit(target, members, non_members, ["RMIA"], reference_models=options, seed=seed, verbose=False)
    # For each model the signals of its outputs, and those of its logits.
    assert len(list(tmp_path.glob("*.npz"))) == 2 * 2
