"""Sets that cannot be what they are called are told first, and sound ones pass."""

from __future__ import annotations

import numpy as np
import pytest

import tfmiaq
from tfmiaq import signals
from tfmiaq.auditing.set_checks import check_sets

CLASSES = 5


def _outputs(y, generator, gain=0.0, strength=3.0):
    """Logits of a model that knows its classes, and members a little better."""
    logits = generator.normal(size=(len(y), CLASSES))
    logits[np.arange(len(y)), y] += strength + gain
    return logits


def _sets(seed=0, members=400, others=400, gain=0.5, mix=(None, None)):
    generator = np.random.default_rng(seed)
    sets = []
    for count, of_set, extra in zip((members, others), mix, (gain, 0.0)):
        y = generator.choice(CLASSES, count, p=of_set)
        sets.append((_outputs(y, generator, extra), y))
    return sets


def _audit(members, non_members, **more):
    return tfmiaq.audit(lambda x: x, members, non_members, ["gap", "confidence"], **more)


def _found(members, non_members):
    target = signals.Signals.concatenate(
        signals.extract_sets([("members", lambda x: x, members), ("others", lambda x: x, non_members)])
    )
    return {finding.kind: finding for finding in check_sets(members, non_members, target)}


@pytest.mark.parametrize("gain", [0.0, 0.5, 3.0])
def test_sound_sets_have_no_findings(gain):
    """Each of the tests errs in one of a thousand; unlike sizes, and a leak, are no faults."""
    found = [_found(*_sets(seed, 400, 150, gain)) for seed in range(30)]
    assert found == [{}] * 30


def test_a_model_less_right_than_the_largest_class_is_frequent_knows_something_all_the_same():
    mix = [0.8, 0.05, 0.05, 0.05, 0.05]
    for seed in range(20):
        generator = np.random.default_rng(seed)
        y = [generator.choice(CLASSES, 200, p=mix) for _ in range(2)]
        sets = [(1.5 * generator.normal(size=(200, CLASSES)) + 2 * np.eye(CLASSES)[labels], labels) for labels in y]
        assert not _found(*sets)


def test_members_that_are_the_non_members_too():
    members, _ = _sets()
    report = _audit(members, members)
    (finding,) = report.findings
    assert finding.kind == "same sets" and finding.invalid
    assert "each of 400 members is a non-member too" in finding.text
    assert not report.verdict.is_valid and not report.verdict.leaks
    assert "is a non-member too" in str(report)
    order = np.random.default_rng(1).permutation(400)
    assert set(_found(members, (members[0][order], members[1][order]))) == {"same sets"}


def test_half_of_the_non_members_are_members():
    members, others = _sets(members=800)
    half = tuple(np.concatenate([one[:200], other[:200]]) for one, other in zip(members, others))
    report = _audit(members, half)
    (finding,) = report.findings
    assert finding.kind == "shared records" and finding.invalid and not report.verdict.is_valid
    assert "200 of 400 non-members (50.0%) are members too" in finding.text
    assert "index 0, 1, 2, 3, 4 of non_members" in finding.text


def test_a_single_shared_record_is_told_and_voids_nothing():
    members, others = _sets()
    others[0][7] = members[0][3]
    others[1][7] = members[1][3]
    found = _found(members, others)
    assert "1 of 400 non-members (0.2%)" in found["shared records"].text
    assert not found["shared records"].invalid


def test_records_that_many_people_share_are_no_fault_of_the_sets():
    """A table of a few values: members equal members as often as non-members do."""
    generator = np.random.default_rng(0)
    tables = [generator.integers(0, 4, (300, 4)) for _ in range(2)]
    target = lambda x: np.eye(4)[x[:, 0]] * 2.0 + x[:, 1:2]  # noqa: E731
    members, others = [(x, x[:, 0]) for x in tables]
    found = tfmiaq.audit(target, members, others, ["gap"]).findings
    (finding,) = [finding for finding in found if finding.kind == "shared records"]
    assert not finding.invalid and "share a record by chance" in finding.text


def test_swapped_sets():
    members, others = _sets(gain=4.0)
    report = _audit(others, members)
    (finding,) = report.findings
    assert finding.kind == "swapped sets" and finding.invalid
    assert "Pass the training records as members" in finding.text and "AUC 0.0" in finding.text
    assert "None of the attacks" not in str(report)


def test_a_confidence_that_ranks_members_below_is_never_passed_over():
    """Members as accurate as non-members, and less sure: a fault or a leak."""
    generator = np.random.default_rng(0)
    y = np.arange(400) % CLASSES
    members, others = [(np.eye(CLASSES)[y] * 5 * (1 + scale * generator.random((400, 1))), y) for scale in (1, 3)]
    finding = _found(members, others)["inverted confidence"]
    assert not finding.invalid and "surely below 0.5" in finding.text


def test_members_of_another_preprocessing():
    members, others = _sets(gain=0.0)
    finding = _found((members[0] * [1, 0, 1, 0, 1], members[1]), (others[0] * 1.0, others[1]))
    assert finding["swapped sets"].invalid


def test_unlike_class_mixes_are_no_leak():
    """Classes that are known unlike well give an attack something to find, without any leak."""
    generator = np.random.default_rng(0)
    mixes = [0.6, 0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1, 0.6]
    sets = []
    for mix in mixes:
        y = generator.choice(CLASSES, 600, p=mix)
        sets.append((_outputs(y, generator) + np.eye(CLASSES)[y] * (CLASSES - y)[:, None], y))
    report = _audit(*sets)
    finding = next(finding for finding in report.findings if finding.kind == "unlike classes")
    assert finding.invalid and report["confidence"].auc > 0.6
    assert "class 4: " in finding.text and "tfmiaq.signals.match_classes" in finding.text
    within = float(finding.text.partition(" over all, and ")[2][:5])
    assert abs(within - 0.5) < 0.06
    matched = signals.match_classes(*sets)
    np.testing.assert_array_equal(*(np.bincount(y) for _, y in matched))
    assert "unlike classes" not in _found(*matched)


def test_mixes_of_several_labels_and_of_values_are_compared_too():
    generator = np.random.default_rng(0)
    y = [(generator.random((500, 3)) < rate).astype(np.int8) for rate in (0.2, 0.5)]
    sets = [((labels - 0.5) * 4 + generator.normal(size=labels.shape), labels) for labels in y]
    assert _found(*sets)["unlike classes"].invalid
    values = [generator.normal(mean, 1, 500) for mean in (0.0, 0.6)]
    sets = [(labels + generator.normal(0, 0.1, 500), labels) for labels in values]
    assert _found(*sets)["unlike classes"].invalid
    assert _found(sets[0], (sets[0][0] + 0.01, sets[0][1])).keys() <= {"inverted confidence"}


def test_groups_count_once_in_the_mix_of_classes():
    """Forty records of each of twenty people: by chance the people's classes differ, and their records more."""
    generator = np.random.default_rng(3)
    classes, units = generator.integers(0, CLASSES, 40), np.repeat(np.arange(40), 20)
    y = classes[units]
    x = _outputs(y, generator)
    sets = (x[:400], y[:400]), (x[400:], y[400:])
    target = signals.extract(lambda x: x, (x, y))
    kinds = [{finding.kind for finding in check_sets(*sets, target, of)} for of in (None, units)]
    assert kinds == [{"unlike classes"}, set()]


@pytest.mark.parametrize("shift", [1, -1])
def test_labels_from_one_on(shift):
    generator = np.random.default_rng(0)
    y = [generator.integers(1, CLASSES - 1, 300) for _ in range(2)]
    sets = [(_outputs(labels, generator, 2.0), labels + shift) for labels in y]
    finding = _found(*sets)["labels in another order"]
    assert finding.invalid and f"pass y {'-' if shift == 1 else '+'} 1" in finding.text
    assert "On members the target's accuracy is 0.0" in finding.text


def test_labels_beyond_the_classes_say_that_they_start_at_one():
    x, y = np.eye(3)[np.arange(30) % 3], np.arange(30) % 3
    with pytest.raises(ValueError, match=r"Label 3 is beyond the target's 3 classes \(0 to 2\). They start at 1"):
        _audit((x * 5, y + 1), (x * 4, y + 1))


def test_labels_in_another_order():
    generator = np.random.default_rng(0)
    order = np.array([2, 0, 3, 4, 1])
    y = [generator.integers(0, CLASSES, 300) for _ in range(2)]
    finding = _found(*((_outputs(labels, generator, 2.0), order[labels]) for labels in y))["labels in another order"]
    assert finding.invalid and "label 0 is output 1" in finding.text


@pytest.mark.parametrize("scale", [1 / 255, 255.0])
def test_records_scaled_wrongly(scale):
    """A model that names one class on records of another scale."""
    generator = np.random.default_rng(0)
    y = [generator.integers(0, CLASSES, 300) for _ in range(2)]
    sets = [(_outputs(labels, generator, 2.0), labels) for labels in y]

    def target(x):
        return x * np.exp(-abs(x) / 20) + np.arange(CLASSES) / 5

    assert not tfmiaq.audit(target, *sets, ["gap"]).findings
    report = tfmiaq.audit(target, *((x * scale, labels) for x, labels in sets), ["gap", "confidence"])
    (finding,) = report.findings
    assert finding.kind == "accuracy at chance" and finding.invalid and not report.verdict.is_valid
    assert "scaled as for training (those of the members go from" in finding.text


def test_a_target_that_always_names_the_largest_class_is_not_at_chance():
    """Five of a hundred records are frauds, and no score passes one half; the scores say something all the same."""
    generator = np.random.default_rng(0)
    y = [(generator.random(1000) < 0.05).astype(int) for _ in range(2)]
    sets = [(generator.uniform(0, 0.1, 1000) + 0.2 * labels, labels) for labels in y]
    assert not _found(*sets)


def test_values_and_labels_worse_than_their_mean():
    generator = np.random.default_rng(0)
    y = [generator.normal(10, 2, 300) for _ in range(2)]
    finding = _found(*((generator.normal(0, 1, 300), values) for values in y))["accuracy at chance"]
    assert finding.invalid and "no less than the variance of the values" in finding.text
    y = [(generator.random((300, 4)) < 0.3).astype(np.int8) for _ in range(2)]
    finding = _found(*((generator.normal(0, 3, (300, 4)), labels) for labels in y))["accuracy at chance"]
    assert finding.invalid and "each label's own frequency" in finding.text


def test_saved_outputs_without_records_are_compared_by_their_outputs():
    (outputs, y), (others, y_others) = _sets()
    run = lambda pair, *labels: tfmiaq.audit(pair, *((None, part) for part in labels), ["gap", "confidence"])  # noqa: E731
    (finding,) = run((outputs, outputs), y, y).findings
    assert finding.kind == "same sets" and "equal" not in finding.text and "same outputs" in finding.text
    half = np.concatenate([outputs[:200], others[:200]]), np.concatenate([y[:200], y_others[:200]])
    (finding,) = run((outputs, half[0]), y, half[1]).findings
    assert finding.kind == "shared records" and finding.invalid
    assert not run((outputs, others), y, y_others).findings
    assert not run((outputs.argmax(1), others.argmax(1)), y, y_others).findings
