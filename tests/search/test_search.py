"""The search for bit-widths."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pipelines
import pytest
from conftest import tiny_model, train

import tfmiaq
from tfmiaq._backend import keras
from tfmiaq.search import allocation, candidates, measurement, options, results, supernet
from tfmiaq.search import search as search_module

RECIPE = tfmiaq.TrainingRecipe(epochs=3)


@pytest.fixture(scope="module")
def sets(digits):
    return (digits.x_train[:200], digits.y_train[:200]), (digits.x_test[:200], digits.y_test[:200])


def _search(model, members, validation, folder, policies=(), recipe=RECIPE, **fields):
    given = tfmiaq.PolicySearch(weight_bits=(1, 2, 8), activation_bits=(2, 4, 8), **fields)
    return tfmiaq.search_policy(
        model, members, validation, given, policies=policies, recipe=recipe, folder=folder, verbose=False
    )


@pytest.fixture(scope="module")
def result(trained, sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return _search(trained, *sets, folder, n_trials=16, retrained=2), folder


def test_dimensions_are_what_a_policy_may_change():
    shared = supernet.Supernet(tiny_model(), (1, 2), (2, 8))
    weights = {"conv", "depthwise", "pointwise", "hidden", "logits"}
    assert {name for name in shared.dimensions if name.endswith("/weight")} == {f"{name}/weight" for name in weights}
    assert "conv_relu/activation" in shared.dimensions
    shared.set({"conv/weight": 1})
    summary = {row.name: row.weight_bits for row in tfmiaq.summary(shared.model).layers}
    assert summary["conv"] == 1
    assert summary["hidden"] == 8


def test_an_allocation_is_scored_without_a_trace(trained, sets):
    shared = supernet.Supernet(trained, (1, 8), (2, 8))
    shared.model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    shared.model.fit(*sets[0], epochs=1, verbose=0)
    before = [weights.copy() for weights in shared.model.get_weights()]
    data = measurement.Samples(*[(x[:50], y[:50]) for x, y in (*sets, sets[1])], (sets[0][0][:64],))
    lowest = dict.fromkeys(shared.dimensions, 1)
    _, accuracy = shared.score(lowest, data)
    for one, other in zip(before, shared.model.get_weights()):
        np.testing.assert_array_equal(one, other)
    assert shared.packed_bytes(lowest) < shared.packed_bytes({}) / 7
    assert 0 <= accuracy <= 1


def test_random_layers_draw_the_same_for_each_score(trained, sets):
    shared = supernet.Supernet(trained, (1, 8), (2, 8))
    data = measurement.Samples(*[(x[:50], y[:50]) for x, y in (*sets, sets[1])], (sets[0][0][:64],))
    ends = []

    def end():
        shared._adapt(data.calibration)
        ends.append(shared.model.get_weights())

    for before in (0, 3):
        for _ in range(before):
            # Draws, and puts back what the draws change.
            shared.score({}, data)
        kept = shared.model.get_weights()
        end()
        shared.model.set_weights(kept)
    assert len(shared._adapt._states) == 1
    for one, other in zip(*ends):
        np.testing.assert_array_equal(one, other)
    assert any(not np.array_equal(one, other) for one, other in zip(kept, ends[0]))


class _Shared:
    """The dimensions of a shared model."""

    choices = types.MappingProxyType({f"{name}/weight": (1, 2, 4, 8) for name in "abcdef"})


def _run_trials(n_trials, storage=None, dies_at=None, sampler="tpe", first=6):
    """The allocations of a search whose scores cost nothing, and which may die within a trial."""
    asked = []

    def score(bits):
        asked.append(bits)
        if len(asked) == dies_at:
            # Optuna does not catch it: the trial stays as a kill leaves it.
            raise KeyboardInterrupt
        total = sum(bits.values())
        layers = {name: tfmiaq.LayerBits(bits[f"{name}/weight"], 8) for name in "abcdef"}
        return results.Candidate(tfmiaq.BitwidthPolicy(layers=layers), 1 / total, total % 7, total)

    given = tfmiaq.PolicySearch(n_trials, sampler=sampler, storage=storage)
    given_first = [dict.fromkeys(_Shared.choices, bits) for bits in (1, 2, 4, 8, 8, 8)][:first]
    try:
        found = search_module._run_trials(given, _Shared, score, given_first, "study", 0, True)
    except KeyboardInterrupt:
        return None
    return [candidate.policy for candidate in found]


@pytest.mark.parametrize("sampler", options.SAMPLERS)
def test_a_search_stopped_between_trials_goes_on_with_the_same(tmp_path, sampler):
    whole = _run_trials(27, sampler=sampler)
    assert _run_trials(22, sampler=sampler) == whole[:22]
    storage = f"sqlite:///{tmp_path}/study.db"
    for n_trials in (3, 22, 27):
        assert _run_trials(n_trials, storage, sampler=sampler) == whole[:n_trials]


def test_a_study_that_was_killed_within_a_trial_goes_on_with_all_given_allocations(tmp_path):
    whole, storage = _run_trials(16), f"sqlite:///{tmp_path}/study.db"
    assert _run_trials(16, storage, dies_at=3) is None
    again = _run_trials(16, storage)
    assert len(again) == 16
    assert all(again.count(policy) == whole.count(policy) for policy in whole[:6])
    # A killed trial keeps its number, and with it its draws.
    assert _run_trials(17, storage, dies_at=1) is None
    assert _run_trials(17, storage)[:16] == again


def test_the_best_policy_keeps_the_accuracy_and_leaks_no_more(result):
    found, _ = result
    assert 2 <= len(found.retrained) <= 3
    assert found.best in found.retrained
    assert found.best.accuracy >= found.retrained[0].accuracy - found.max_accuracy_drop
    assert found.best.leakage <= found.retrained[0].leakage
    assert len(found.candidates) >= 16
    by_shared_model = dataclasses.replace(found, retrained=()).best
    assert by_shared_model.accuracy >= found.baseline.accuracy - found.max_accuracy_drop


def _candidate(leakage, accuracy, size=1):
    policy = tfmiaq.BitwidthPolicy(layers={f"{leakage}": tfmiaq.LayerBits(2, 2)})
    return results.Candidate(policy, leakage, accuracy, size)


def _retrained(count, truth, max_accuracy_drop):
    """A search whose shared model scores accuracies of 0.5 to 0.7, and whose trainings turn each into another one."""
    scored = [_candidate(0.5 + i / 100, 0.5 + i / 100) for i in range(20)]
    result = results.SearchResult(tuple(scored), _candidate(0.7, 0.7), {}, max_accuracy_drop)
    train = lambda c: dataclasses.replace(c, accuracy=truth(c.accuracy))  # noqa: E731
    return dataclasses.replace(result, retrained=candidates.retrain(result, count, train, True))


def test_candidates_are_retrained_by_the_outcomes_before_them():
    # A training loses a fifth of what the shared model does.
    found = _retrained(3, lambda accuracy: 0.8 + (accuracy - 0.7) / 5, 0.021)
    assert [c.leakage for c in found.retrained] == pytest.approx([0.7, 0.5, 0.6, 0.61])
    assert found.best.leakage == pytest.approx(0.6)
    assert dataclasses.replace(found, retrained=()).best.leakage == pytest.approx(0.68)


def test_retraining_corrects_what_a_straight_line_gets_wrong():
    # All is lost at once below 0.645.
    found = _retrained(4, lambda accuracy: 0.8 if accuracy > 0.645 else 0.4, 0.02)
    leakages = [c.leakage for c in found.retrained]
    assert leakages[:3] == pytest.approx([0.7, 0.5, 0.69])
    assert leakages[3:] == pytest.approx([0.68, 0.67])
    assert found.best.leakage == pytest.approx(0.67)


def test_fewer_candidates_than_may_be_retrained_are_all_trained():
    assert len(_retrained(99, lambda accuracy: accuracy, 0.02).retrained) == 21


def test_nothing_beats_the_frontier(result):
    found, _ = result
    for point in found.frontier:
        assert not any(other.beats(point) for other in found.candidates)
    assert any(not c.beats(found.frontier[0]) for c in found.candidates)


def test_a_policy_that_was_found_quantizes_the_float_model(result, trained, sets):
    found, folder = result
    policy = tfmiaq.BitwidthPolicy.from_json((folder / "best.json").read_text())
    assert policy == found.best.policy
    quantized = train(tfmiaq.quantize_model(trained, policy), *sets[0])
    assert tfmiaq.get_policy(quantized) == policy
    assert tfmiaq.verify(quantized, tfmiaq.convert(quantized), sets[1][0]).exact


@dataclasses.dataclass(frozen=True)
class _TrainsNoMore(tfmiaq.TrainingRecipe):
    """The recipe of the searches above by its fingerprint, that must find everything trained."""

    def get_config(self):
        return RECIPE.get_config()

    def fit(self, model, x, y, callbacks=()):
        pytest.fail("trained again")


_TrainsNoMore.__name__ = "TrainingRecipe"


def test_a_search_goes_on_where_it_was(result, trained, sets, monkeypatch):
    found, folder = result
    scored = []
    score = supernet.Supernet.score
    monkeypatch.setattr(supernet.Supernet, "score", lambda *args: scored.append(args[1]) or score(*args))
    again = _search(trained, *sets, folder, n_trials=18, retrained=2, recipe=_TrainsNoMore(epochs=3))
    assert len(again.candidates) == len(found.candidates) + 2
    assert again.baseline == found.baseline
    assert again.sensitivities == found.sensitivities
    assert again.candidates[18:] == found.candidates[16:]
    assert again.candidates[:16] == found.candidates[:16]
    # Allocations that were scored before are read.
    before = {candidate.policy for candidate in (found.baseline, *found.candidates)}
    assert len(scored) == len({candidate.policy for candidate in again.candidates} - before)
    assert {"search.json", "best.json", "frontier.png"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "search.json").read_text())["best"]["leakage"] == again.best.leakage
    assert "frontier 1" in str(again) and "retrained 1" in str(again)
    assert len(repr(again)) < 200 and len(repr(again.best)) < 200
    assert "<td>best</td>" in again._repr_html_()


def test_other_records_are_another_search(result, trained, sets, digits):
    found, folder = result
    others = digits.x_test[200:300], digits.y_test[200:300]
    again = _search(trained, sets[0], others, folder, n_trials=2, retrained=0)
    assert len(again.candidates) == len(found.candidates) - 14
    assert again.baseline != found.baseline


def test_policies_of_ones_own_are_scored_first(result, trained, sets):
    found, folder = result
    own = [tfmiaq.BitwidthPolicy.uniform(2, 4), tfmiaq.BitwidthPolicy.uniform(1, 2, None, None)]
    again = _search(trained, *sets, folder, n_trials=3, retrained=0, policies=own)
    for policy, candidate in zip(own, again.candidates):
        summary = tfmiaq.summary(tfmiaq.quantize_model(trained, policy))
        assert tfmiaq.summary(tfmiaq.quantize_model(trained, candidate.policy)).layers == summary.layers
    lowest = next(c for c in found.candidates if c.policy == again.candidates[1].policy)
    assert again.candidates[1].leakage == pytest.approx(lowest.leakage, abs=0.01)
    with pytest.raises(ValueError, match=r"(?s)/weight 4 bits, which are none of its choices, \(1, 2, 8\)"):
        _search(trained, *sets, folder, n_trials=3, policies=[tfmiaq.BitwidthPolicy.uniform(4, 4)])
    with pytest.raises(ValueError, match=r"2 policies take as many trials. Received n_trials=1"):
        _search(trained, *sets, folder, n_trials=1, policies=own)


CHOICES = {"a/weight": (1, 2, 8), "b/weight": (1, 8), "c/activation": (2, 4, 8)}


@pytest.mark.parametrize("budget", [0.0, 0.03, 0.08, 0.2])
def test_the_integer_programme_is_as_good_as_trying_all(budget):
    generator = np.random.default_rng(0)
    sensitivities = {
        (name, bits): (generator.uniform(-0.01, 0.1), generator.uniform(0, 0.06))
        for name, choices in CHOICES.items()
        for bits in choices
        if bits != 8
    }

    def total(bits, part):
        return sum(sensitivities.get(item, (0.0, 0.0))[part] for item in bits.items())

    every = [dict(zip(CHOICES, bits)) for bits in itertools.product(*CHOICES.values())]
    best = max(total(bits, 0) for bits in every if total(bits, 1) <= budget)
    found = allocation.integer_programme(CHOICES, sensitivities, budget)
    assert set(found) == set(CHOICES)
    assert total(found, 1) <= budget + 1e-6
    assert total(found, 0) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("sampler", options.SAMPLERS)
def test_every_sampler_searches(trained, sets, sampler):
    few = [(x[:60], y[:60]) for x, y in sets]
    given = tfmiaq.PolicySearch(9, retrained=0, sampler=sampler, weight_bits=(2, 8), activation_bits=(8,))
    found = tfmiaq.search_policy(trained, *few, given, recipe=tfmiaq.TrainingRecipe(epochs=1), verbose=False)
    assert len(found.candidates) >= 9


def test_a_study_in_a_database_goes_on_in_another_search(trained, sets, tmp_path):
    few = [(x[:60], y[:60]) for x, y in sets]
    found = []
    for n_trials, folder in ((2, "one"), (3, "two")):
        given = tfmiaq.PolicySearch(
            n_trials, retrained=0, weight_bits=(2, 8), activation_bits=(8,), storage=f"sqlite:///{tmp_path}/study.db"
        )
        recipe = tfmiaq.TrainingRecipe(epochs=1)
        found.append(tfmiaq.search_policy(trained, *few, given, recipe=recipe, folder=tmp_path / folder, verbose=False))
    assert found[1].candidates[:2] == found[0].candidates[:2]
    assert len(found[1].candidates) == len(found[0].candidates) + 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight_bits": (0, 2)}, r"Expected weight_bits to be .* each an integer from 1 to 8. Received \(0, 2\)"),
        ({"activation_bits": ()}, "Expected activation_bits to be a sequence of one or more"),
        ({"sampler": "grid"}, "Expected sampler to be one of 'tpe', 'nsga2', 'random'. Received 'grid'"),
        ({"n_trials": 0}, "PolicySearch: Expected n_trials to be an integer of at least 1. Received 0"),
        ({"retrained": -1}, "Expected retrained to be an integer of at least 0. Received -1"),
        ({"max_accuracy_drop": 5}, "Expected max_accuracy_drop to be a finite number from 0 to below 1. Received 5"),
        ({"sample": 0}, "Expected sample"),
        (
            {"storage": 3},
            "Expected storage to be the URL of a database, such as sqlite:///search.db, or None. Received 3",
        ),
        ({"n_trials": True, "retrained": 0.5, "sampler": None}, "Expected n_trials .* retrained .* sampler"),
    ],
)
def test_options_are_checked_when_they_are_made(fields, message):
    with pytest.raises(ValueError, match=message):
        tfmiaq.PolicySearch(**fields)


def test_numpy_numbers_are_options():
    given = tfmiaq.PolicySearch(np.int64(9), weight_bits=np.array([2, 8]))
    assert given == tfmiaq.PolicySearch(9, weight_bits=(2, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"search": 9}, "search_policy: Expected a PolicySearch or None as search. Received 9"),
        ({"recipe": 9}, "search_policy: Expected a TrainingRecipe or None as recipe. Received 9"),
        ({"policies": ["w2a4"]}, r"Expected BitwidthPolicy values as policies. Received \['w2a4'\]"),
        ({"seed": -1}, "Expected seed to be an integer from 0"),
    ],
)
def test_bad_arguments_raise_before_any_work(trained, sets, arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmiaq.search_policy(trained, *sets, **arguments)


def test_a_model_without_a_choice_raises(sets):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Softmax()])
    with pytest.raises(ValueError, match="No layer of the model has bits to choose"):
        tfmiaq.search_policy(model, *sets)


def small_search(folder):
    """A search of a perceptron, for another process."""
    from tfmiaq import datasets

    keras.utils.set_random_seed(0)
    # The names count, and those that Keras gives depend on the models before.
    inputs = keras.Input((8, 8, 1), name="images")
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(keras.layers.Flatten(name="flat")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(hidden), name="perceptron")
    data = datasets.load("digits")
    model = train(model, data.x_train[:80], data.y_train[:80], 2)
    return tfmiaq.search_policy(
        model,
        (data.x_train[:80], data.y_train[:80]),
        (data.x_test[:80], data.y_test[:80]),
        tfmiaq.PolicySearch(n_trials=14, retrained=2, weight_bits=(2, 8), activation_bits=(2, 4, 8)),
        recipe=NotedRecipe(epochs=2),
        folder=folder,
        verbose=False,
    )


@dataclasses.dataclass(frozen=True)
class NotedRecipe(tfmiaq.TrainingRecipe):
    """Adds a line to a file for each training, so that a test can count them over processes."""

    def fit(self, model, x, y, callbacks=()):
        pipelines.note("trained")
        return super().fit(model, x, y, callbacks)


@pytest.fixture(scope="module")
def undisturbed_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(undisturbed_folder):
    return small_search(undisturbed_folder)


@pytest.fixture
def finished(undisturbed, undisturbed_folder, tmp_path):
    """A copy of the folder of a finished search."""
    return pathlib.Path(shutil.copytree(undisturbed_folder, tmp_path / "search"))


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "log"
    monkeypatch.setenv("TFMIAQ_TEST_LOG", str(path))
    return lambda: len(path.read_text().split()) if path.exists() else 0


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(tmp_path, log, undisturbed):
    folder = tmp_path / "search"
    tests = pathlib.Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", f"import test_search; test_search.small_search({str(folder)!r})"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests / "search"), str(tests), str(tests.parent)])},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 150
    while len(list(folder.glob("cache/score-*"))) < 6:
        assert time.monotonic() < end and process.poll() is None, "it was not killed in the middle"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("cache/*-*")}
    before = log()
    again = small_search(folder)
    assert again == undisturbed
    # What was finished is not made again: 1 shared model and 3 retrained ones.
    done = sum(name.startswith(("shared", "retrained")) for name in kept)
    assert log() - before == 4 - done
    assert all((folder / "cache" / name).stat().st_mtime_ns == changed for name, changed in kept.items())


@pytest.mark.parametrize(("kind", "trainings"), [("shared", 1), ("score", 0), ("retrained", 1)])
def test_a_truncated_file_of_a_search_is_made_again(finished, log, undisturbed, kind, trainings):
    victim = sorted(finished.glob(f"cache/{kind}-*"))[0]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    with pytest.warns(UserWarning, match="is broken"):
        assert small_search(finished) == undisturbed
    assert log() == trainings


def test_files_that_a_search_wrote_are_not_read_back(finished, log, undisturbed):
    names = ("search.json", "best.json")
    written = [(finished / name).read_text() for name in names]
    for name in names:
        (finished / name).write_text("{")
    assert small_search(finished) == undisturbed
    assert [(finished / name).read_text() for name in names] == written
    assert log() == 0


def test_a_group_in_both_sets_is_an_error(trained, sets):
    with pytest.raises(ValueError, match="Group '3' has 1 records in train and 1 in validation"):
        tfmiaq.search_policy(trained, *sets, groups=(np.arange(200), 3 + np.arange(200) * 1000))
