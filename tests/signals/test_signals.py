"""Signals of one set of records, whatever gives the outputs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import tfmiaq
from tfmiaq import signals
from tfmiaq.signals import targets


def _logits(count, seed=0, classes=3):
    return np.random.default_rng(seed).normal(size=(count, classes))


def _probabilities(count, seed=0):
    scores = np.exp(_logits(count, seed))
    return scores / scores.sum(1, keepdims=True)


def _same(one, other):
    assert one.to_arrays().keys() == other.to_arrays().keys()
    for name, array in one.to_arrays().items():
        np.testing.assert_array_equal(array, other.to_arrays()[name])


def test_one_set_is_scored_by_itself():
    x, y = _logits(50), np.arange(50) % 3
    found = signals.extract(lambda records: records, (x, y))
    _same(found, signals.from_scores(x, y, are_probabilities=False))
    _same(found, signals.extract(lambda records: records, (x, np.eye(3)[y]), batch_size=np.int64(2)))


@pytest.mark.parametrize("as_file", [True, False])
def test_saved_outputs_are_a_target(as_file, tmp_path):
    scores, y = _logits(50), np.arange(50) % 3
    path = tmp_path / "scores.npy"
    np.save(path, scores)
    saved = signals.SavedOutputs(path if as_file else scores)
    _same(signals.extract(saved, (None, y)), signals.from_scores(scores, y, are_probabilities=False))
    with pytest.raises(ValueError, match="50 saved outputs for 49 others"):
        signals.extract(saved, (None, y[:-1]), name="others")


def test_errors_call_the_records_by_the_name_that_was_given():
    x, y = np.zeros((5, 2)), np.zeros(5, int)
    with pytest.raises(ValueError, match="NaN or infinity for 5 of 5 audited records, the first at index 0"):
        signals.extract(lambda records: records + np.nan, (x, y), name="audited records")
    with pytest.raises(TypeError, match="Expected audited records as a pair"):
        signals.extract(lambda records: records, x, name="audited records")
    with pytest.raises(ValueError, match=r"extract: Expected batch_size.*Received 0.*Expected threads.*Received -1"):
        signals.extract(lambda records: records, (x, y), batch_size=0, threads=-1)


@pytest.mark.parametrize("first", [0, 1])
def test_probabilities_or_logits_is_decided_once_for_all_sets(first):
    """The outputs on one set look like probabilities, those on the other do not: both are logits."""
    scores = [_probabilities(40), _logits(40)]
    labels = np.zeros(40, int)
    order = [first, 1 - first]
    sets = [(f"set {number}", signals.SavedOutputs(scores[number]), (None, labels)) for number in order]
    for number, found in zip(order, signals.extract_sets(sets)):
        _same(found, signals.from_scores(scores[number], labels, are_probabilities=False))


def test_the_sets_of_an_audit_are_decided_on_together():
    labels = np.zeros(40, int)
    report = tfmiaq.audit((_probabilities(40), _logits(40)), (None, labels), (None, labels), ["confidence"])
    expected = signals.from_scores(_probabilities(40), labels, are_probabilities=False)
    np.testing.assert_array_equal(report["confidence"].member_scores, expected.confidences)


def test_scores_of_one_set_and_labels_of_the_other_are_refused():
    labels = np.zeros(40, int)
    with pytest.raises(ValueError, match="scores for one set and labels for the other"):
        tfmiaq.audit((_logits(40), labels), (None, labels), (None, labels))


def test_columns_are_found_by_their_names():
    scores, y = _logits(30), np.arange(30) % 3
    found = signals.from_scores(scores, y, are_probabilities=False)
    agreement, confidence = np.linspace(0, 1, 30), np.linspace(-3, 3, 30)
    found = signals.Signals(**{**found.to_arrays(), "label_agreement": agreement, "augmented_confidences": confidence})
    references = signals.ReferenceSignals(found.features[None], np.zeros((1, 30), bool), found.augmented[None])
    assert found.features.shape == (30, len(signals.FEATURES))
    log_p = np.sort(np.log(np.exp(scores) / np.exp(scores).sum(1, keepdims=True)), axis=1)
    expected = {
        "confidence": found.confidences,
        "loss": found.losses,
        "entropy": found.entropies,
        "modified_entropy": found.modified_entropies,
        "correct": found.correct,
        "largest_log_probability": log_p[:, -1],
        "second_log_probability": log_p[:, -2],
    }
    assert set(expected) == set(signals.FEATURES)
    for name, values in expected.items():
        np.testing.assert_allclose(references.feature(name)[0], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(references.augmented_feature("label_agreement")[0], agreement, rtol=1e-6)
    np.testing.assert_allclose(references.augmented_feature("augmented_confidence")[0], confidence, rtol=1e-6)
    with pytest.raises(ValueError, match="No augmented queries"):
        signals.ReferenceSignals(found.features[None], np.zeros((1, 30), bool)).augmented_feature("label_agreement")


def test_signals_print_in_a_line():
    found = signals.from_scores(_logits(5000), np.zeros(5000, int), are_probabilities=False)
    references = signals.ReferenceSignals(np.zeros((4, 5000, len(signals.FEATURES))), np.zeros((4, 5000), bool))
    for thing in (found, references):
        assert len(repr(thing)) < 200
        assert "\n" not in repr(thing)
        assert "5000 records" in repr(thing)


@pytest.mark.parametrize("look_like_probabilities_at_first", [True, False])
def test_memory_grows_with_records_alone(look_like_probabilities_at_first):
    """1,000 classes of 20,000 records would be 160 MB as scores, and the records are never copied."""
    count, classes = 20_000, 1000
    few = np.random.default_rng(0).normal(size=(64, classes))
    probabilities = np.full((1, classes), 1 / classes)
    x, y = np.zeros((count, 500)), np.zeros(count, int)
    x[-1] = 1

    def target(records):
        if look_like_probabilities_at_first and not records.any():
            return np.repeat(probabilities, len(records), axis=0)
        return few[np.arange(len(records)) % len(few)]

    tracemalloc.start()
    try:
        found = signals.extract_sets([("one", target, (x, y)), ("other", target, (x, y))], batch_size=16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    kept = sum(array.nbytes for part in found for array in part.to_arrays().values())
    # What is kept is joined of chunks; a chunk itself is 128 records.
    assert peak < 2 * kept + 2e7 < x.nbytes


def test_slices_cover_all_records_once():
    parts = list(targets.slices_of(1000, 60))
    np.testing.assert_array_equal(np.concatenate([np.arange(1000)[part] for part in parts]), np.arange(1000))


def signals_of(logits):
    logits = np.asarray(logits, float)
    return signals.from_scores(logits, np.zeros(len(logits), int), are_probabilities=False)


def test_logits_that_look_like_probabilities_at_first_are_taken_for_logits():
    scores = np.concatenate([np.tile([0.25, 0.75], (3000, 1)), np.tile([3.0, -1.0], (10, 1))])
    labels = np.zeros(len(scores), int)
    inside = signals.extract(signals.SavedOutputs(scores), (None, labels))
    np.testing.assert_allclose(inside.confidences[0], -0.5)


def test_signals_are_what_their_formulas_say():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(0, 3, (50, 5)), generator.integers(0, 5, 50)
    found = signals.from_scores(logits, labels, are_probabilities=False)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    own = p[np.arange(50), labels]
    np.testing.assert_allclose(found.losses, -np.log(own), rtol=1e-9)
    np.testing.assert_allclose(found.confidences, np.log(own / (1 - own)), rtol=1e-6)
    np.testing.assert_allclose(found.entropies, -(p * np.log(p)).sum(1), rtol=1e-9)
    others = p.copy()
    others[np.arange(50), labels] = 0
    expected = -(1 - own) * np.log(own) - (others * np.log(1 - others)).sum(1)
    np.testing.assert_allclose(found.modified_entropies, expected, rtol=1e-6)
    of_probabilities = signals.from_scores(p, labels, are_probabilities=True)
    np.testing.assert_allclose(of_probabilities.losses, found.losses, rtol=1e-6)


def test_a_sure_confidence_does_not_saturate():
    found = signals_of([[800.0, 0.0], [60.0, 0.0]])
    np.testing.assert_allclose(found.confidences, [800.0, 60.0])
    assert np.isfinite(found.modified_entropies).all()


def test_signals_of_many_classes_keep_them_by_their_remainder():
    logits = np.random.default_rng(0).normal(size=(30, 1000))
    found = signals_of(logits)
    assert found.logits.shape == (30, signals.KEPT_CLASSES)
    columns = np.arange(1000) % signals.KEPT_CLASSES
    np.testing.assert_allclose(found.logits[:, 5], np.log(np.exp(logits[:, columns == 5]).sum(1)), rtol=1e-5)
    assert found.outputs.dtype == np.float16
    np.testing.assert_allclose(np.exp(found.outputs.astype(float)).sum(1), 1, atol=0.02)


def test_augmented_queries_of_each_kind():
    generator = np.random.default_rng(0)
    images = generator.random((4, 6, 6, 1)).astype(np.float32)
    make = signals.AugmentedQueries.from_records(images)
    assert make.count == 10
    queries = [make(images, number) for number in range(10)]
    assert len({query.tobytes() for query in queries}) == 10
    np.testing.assert_array_equal(queries[0], images)
    np.testing.assert_array_equal(queries[5], images[:, :, ::-1])
    bits = (generator.random((300, 40)) < 0.5).astype(np.uint8)
    make = signals.AugmentedQueries.from_records(bits)
    for number, exchanged in enumerate((0.1, 0.2, 0.3)):
        copies = make(bits, number)
        assert copies.dtype == np.uint8
        # Half of the values that are exchanged are the same in the other record.
        assert (copies != bits).mean() == pytest.approx(exchanged / 2, abs=0.015)
    values = generator.normal(size=(300, 40)).astype(np.float32)
    make = signals.AugmentedQueries.from_records(values)
    for number, noise in enumerate((0.2, 0.4, 0.6)):
        copies = make(values, number)
        assert copies.dtype == np.float32
        assert (copies - values).std() == pytest.approx(noise, rel=0.05)


def test_a_record_is_queried_alike_among_whichever_records():
    """The target is queried on members and non-members apart, reference models on both together."""
    for values in ((np.random.default_rng(0).random((60, 30)) < 0.3).astype(np.float32), np.random.rand(60, 3, 2)):
        make = signals.AugmentedQueries.from_records(values)
        whole = make(values, 4)
        np.testing.assert_array_equal(make(values[40:][::-1], 4)[::-1], whole[40:])
        assert (make(values, 7) != whole).any()
        few = values[40:].astype(np.float32)
        np.testing.assert_allclose(make(few, 4), make(few.astype(values.dtype), 4), atol=1e-6)


def test_copies_of_few_bits_depend_on_their_number():
    make = signals.AugmentedQueries.from_records((np.random.default_rng(0).random((20, 3)) < 0.5).astype(int))
    for number in range(20):
        one, two = make(np.zeros((1, 3), int), number), make(np.zeros((2, 3), int), number)
        np.testing.assert_array_equal(two, np.repeat(one, 2, 0))


def test_a_row_that_is_off_does_not_make_logits_of_its_neighbours():
    scores = _probabilities(64)
    scores[5] *= 0.9
    records = scores, np.zeros(64, int)
    found = signals.query_augmented(lambda x: x, records, lambda x, number: x, 3)
    expected = signals.query_augmented(lambda x: x, (_probabilities(64), records[1]), lambda x, number: x, 3)
    others = np.arange(64) != 5
    np.testing.assert_allclose(found["augmented_confidences"][others], expected["augmented_confidences"][others])


def test_augmented_signals_are_means_of_the_targets_outputs():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(30, 2)), generator.integers(0, 2, 30)
    copy = lambda records, number: records + number  # noqa: E731
    target = lambda records: np.column_stack([records[:, 0], 1.5 * records[:, 1]])  # noqa: E731
    found = signals.query_augmented(target, (x, y), copy, count=3, batch_size=2)
    scores = np.stack([target(x + number) for number in range(3)])
    np.testing.assert_allclose(found["label_agreement"], (scores.argmax(2) == y).mean(0), rtol=1e-6)
    margins = np.where(y == 0, 1, -1) * (scores[:, :, 0] - scores[:, :, 1])
    np.testing.assert_allclose(found["augmented_confidences"], margins.mean(0), rtol=1e-9)
    log_p = scores - np.log(np.exp(scores).sum(2, keepdims=True))
    # Three queries, so that each is a group of its own.
    np.testing.assert_allclose(found["augmented_outputs"], np.maximum(log_p.swapaxes(0, 1), -30), rtol=2e-3, atol=1e-3)
    assert set(signals.query_augmented(lambda records: target(records).argmax(1), (x, y), copy)) == {"label_agreement"}
