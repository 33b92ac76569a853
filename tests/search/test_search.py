"""The search for bit-widths."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from conftest import tiny_model, train

import tfmiaq
from tfmiaq._backend import keras
from tfmiaq.search import search


@pytest.fixture(scope="module")
def sets(digits):
    return (digits.x_train[:200], digits.y_train[:200]), (digits.x_test[:200], digits.y_test[:200])


def _search(model, members, validation, folder, **given):
    return tfmiaq.search_policy(
        model,
        members,
        validation,
        weight_bits=(1, 2, 8),
        activation_bits=(2, 4, 8),
        epochs=3,
        folder=folder,
        verbose=False,
        **given,
    )


@pytest.fixture(scope="module")
def result(trained, sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return _search(trained, *sets, folder, n_trials=16, finalists=2), folder


def test_knobs_are_what_a_policy_may_change():
    shared = search._Shared(tiny_model(), (1, 2), (2, 8))
    weights = {"conv", "depthwise", "pointwise", "hidden", "logits"}
    assert {name for name in shared.knobs if name.endswith("/weight")} == {f"{name}/weight" for name in weights}
    assert "conv_relu/activation" in shared.knobs
    shared.set({"conv/weight": 1})
    summary = {row.name: row.weight_bits for row in tfmiaq.summary(shared.model).layers}
    assert summary["conv"] == 1
    assert summary["hidden"] == 8


def test_an_allocation_is_scored_without_a_trace(trained, sets):
    shared = search._Shared(trained, (1, 8), (2, 8))
    shared.model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    shared.model.fit(*sets[0], epochs=1, verbose=0)
    before = [weights.copy() for weights in shared.model.get_weights()]
    data = search._Data(*[(x[:50], y[:50]) for x, y in (*sets, sets[1])], (sets[0][0][:64],))
    lowest = dict.fromkeys(shared.knobs, 1)
    candidate = shared.score(lowest, data)
    for one, other in zip(before, shared.model.get_weights()):
        np.testing.assert_array_equal(one, other)
    assert candidate.packed_bytes < shared.packed_bytes({}) / 7
    assert 0 <= candidate.accuracy <= 1


def test_the_best_policy_keeps_the_accuracy_and_tells_no_more(result):
    found, _ = result
    assert 2 <= len(found.finalists) <= 3
    assert found.best in found.finalists
    assert found.best.accuracy >= found.finalists[0].accuracy - found.max_accuracy_drop
    assert found.best.leakage <= found.finalists[0].leakage
    assert len(found.candidates) >= 16
    by_shared_model = dataclasses.replace(found, finalists=()).best
    assert by_shared_model.accuracy >= found.baseline.accuracy - found.max_accuracy_drop


def _candidate(leakage, accuracy, size=1):
    policy = tfmiaq.BitwidthPolicy(layers={f"{leakage}": tfmiaq.LayerBits(2, 2)})
    return search.Candidate(policy, leakage, accuracy, size)


def _finalists(count, truth, max_accuracy_drop):
    """What is trained where the shared model sees accuracies of 0.5 to 0.7, and training makes another of each."""
    candidates = [_candidate(0.5 + i / 100, 0.5 + i / 100) for i in range(20)]
    baseline = _candidate(0.7, 0.7)
    result = search.SearchResult(tuple(candidates), baseline, {}, max_accuracy_drop)
    train = lambda c: dataclasses.replace(c, accuracy=truth(c.accuracy))  # noqa: E731
    return dataclasses.replace(result, finalists=search._train_finalists(result, count, train, True))


def test_finalists_are_chosen_by_what_the_ones_before_came_to():
    # In truth a fifth of what the shared model thinks is lost.
    found = _finalists(3, lambda seen: 0.8 + (seen - 0.7) / 5, 0.021)
    assert [c.leakage for c in found.finalists] == pytest.approx([0.7, 0.5, 0.6, 0.61])
    assert found.best.leakage == pytest.approx(0.6)
    assert dataclasses.replace(found, finalists=()).best.leakage == pytest.approx(0.68)


def test_finalists_correct_what_a_straight_line_gets_wrong():
    # All is lost at once below 0.645.
    found = _finalists(4, lambda seen: 0.8 if seen > 0.645 else 0.4, 0.02)
    leakages = [c.leakage for c in found.finalists]
    assert leakages[:3] == pytest.approx([0.7, 0.5, 0.69])
    assert leakages[3:] == pytest.approx([0.68, 0.67])
    assert found.best.leakage == pytest.approx(0.67)


def test_fewer_candidates_than_finalists_are_all_trained():
    assert len(_finalists(99, lambda seen: seen, 0.02).finalists) == 21


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


def test_a_search_goes_on_where_it_was(result, trained, sets, monkeypatch):
    found, folder = result
    monkeypatch.setattr(search, "_default_fit", lambda *args: pytest.fail)
    scored = []
    score = search._Shared.score
    monkeypatch.setattr(search._Shared, "score", lambda *args: scored.append(args[1]) or score(*args))
    kept = {path.name for path in folder.glob("finalist-*.json")}
    assert len(kept) == len(found.finalists)
    again = _search(trained, *sets, folder, n_trials=18, finalists=0)
    assert len(again.candidates) == len(found.candidates) + 2
    assert again.baseline == found.baseline
    assert again.sensitivities == found.sensitivities
    assert again.candidates[18:] == found.candidates[16:]
    assert len(scored) == 2
    assert again.candidates[:16] == found.candidates[:16]
    assert {"search.json", "best.json", "frontier.png", "study.db"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "search.json").read_text())["best"]["leakage"] == again.best.leakage
    assert "frontier 1" in str(again)


def test_other_records_are_another_search(result, trained, sets, digits):
    found, folder = result
    others = digits.x_test[200:300], digits.y_test[200:300]
    again = _search(trained, sets[0], others, folder, n_trials=2, finalists=0)
    assert len(again.candidates) == len(found.candidates) - 14
    assert again.baseline != found.baseline


def test_policies_of_ones_own_are_scored_first(result, trained, sets):
    found, folder = result
    own = [tfmiaq.BitwidthPolicy.uniform(2, 4), tfmiaq.BitwidthPolicy.uniform(1, 2, None, None)]
    again = _search(trained, *sets, folder, n_trials=3, finalists=0, policies=own)
    for policy, candidate in zip(own, again.candidates):
        summary = tfmiaq.summary(tfmiaq.quantize_model(trained, policy))
        assert tfmiaq.summary(tfmiaq.quantize_model(trained, candidate.policy)).layers == summary.layers
    lowest = next(c for c in found.candidates if c.policy == again.candidates[1].policy)
    assert again.candidates[1].leakage == pytest.approx(lowest.leakage, abs=0.01)
    with pytest.raises(ValueError, match=r"(?s)/weight 4 bits, which are none of its choices, \(1, 2, 8\)"):
        _search(trained, *sets, folder, n_trials=3, policies=[tfmiaq.BitwidthPolicy.uniform(4, 4)])
    with pytest.raises(ValueError, match=r"2 policies take as many trials. Received n_trials=1"):
        _search(trained, *sets, folder, n_trials=1, policies=own)


class _Knobs:
    def __init__(self):
        self.choices = {"a/weight": (1, 2, 8), "b/weight": (1, 8), "c/activation": (2, 4, 8)}


@pytest.mark.parametrize("budget", [0.0, 0.03, 0.08, 0.2])
def test_the_integer_programme_is_as_good_as_trying_all(budget):
    generator, knobs = np.random.default_rng(0), _Knobs()
    sensitivities = {
        (name, bits): (generator.uniform(-0.01, 0.1), generator.uniform(0, 0.06))
        for name, choices in knobs.choices.items()
        for bits in choices
        if bits != 8
    }

    def total(bits, part):
        return sum(sensitivities.get(item, (0.0, 0.0))[part] for item in bits.items())

    every = [dict(zip(knobs.choices, bits)) for bits in itertools.product(*knobs.choices.values())]
    best = max(total(bits, 0) for bits in every if total(bits, 1) <= budget)
    found = search._milp(knobs, sensitivities, budget)
    assert set(found) == set(knobs.choices)
    assert total(found, 1) <= budget + 1e-6
    assert total(found, 0) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("sampler", search.SAMPLERS)
def test_every_sampler_searches(trained, sets, sampler):
    few = [(x[:60], y[:60]) for x, y in sets]
    found = tfmiaq.search_policy(
        trained,
        *few,
        weight_bits=(2, 8),
        activation_bits=(8,),
        n_trials=9,
        epochs=1,
        finalists=0,
        sampler=sampler,
        verbose=False,
    )
    assert len(found.candidates) >= 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_bits": (0, 2)}, r"Expected weight_bits as integers from 1 to 8. Received \(0, 2\)"),
        ({"activation_bits": ()}, "Expected activation_bits"),
        ({"sampler": "grid"}, "Unknown sampler 'grid'. Expected one of 'tpe', 'nsga2', 'random'"),
        ({"n_trials": 0}, "Expected n_trials of at least 1"),
        ({"retrained": -1}, "Expected finalists of at least 0. Received -1"),
        ({"max_accuracy_drop": 5}, "Expected max_accuracy_drop from 0 up to 1, as a share. Received 5"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(trained, sets, arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmiaq.search_policy(trained, *sets, **arguments)


def test_a_model_without_a_choice_is_refused(sets):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Softmax()])
    with pytest.raises(ValueError, match="No layer of the model has bits to choose"):
        tfmiaq.search_policy(model, *sets)
