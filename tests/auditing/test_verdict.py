"""The verdict over all attacks: what it calls a leak, what it does not, and when it cannot tell."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tfmiaq
from tfmiaq.attacks import base
from tfmiaq.auditing import verdict
from tfmiaq.auditing.findings import Finding
from tfmiaq.auditing.reporting import advice

ATTACKS = ["gap", "confidence", "entropy", "modified entropy by class"]


def _sets(seed, count, memorized=0, classes=5, copies=1):
    """Saved outputs of `count` members and as many others; the first members are memorized, or all are copied."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, 2 * count)
    logits = generator.normal(size=(2 * count, classes))
    logits[np.arange(2 * count), labels] += 2
    x = generator.normal(size=(2 * count, 6))
    logits[np.arange(memorized), labels[:memorized]] += 8
    index = np.concatenate([np.arange(count) // copies, np.arange(count, 2 * count)])
    logits, labels, x = logits[index], labels[index], x[index]
    return (logits[:count], logits[count:]), (x[:count], labels[:count]), (x[count:], labels[count:])


def _audit(sets, attacks=ATTACKS, **arguments):
    return tfmiaq.audit(*sets, attacks, verbose=False, **arguments)


def _outcomes(report):
    return [part.outcome for part in report.verdict.parts]


@pytest.mark.parametrize("seed", range(4))
def test_a_few_memorized_people_are_found_though_the_average_is_a_coins(seed):
    report = _audit(_sets(seed, 500, memorized=25))
    assert report.leaks
    assert _outcomes(report)[1:] == ["leaks", "leaks"]
    assert report.auc.low < 0.5
    assert "leaks at low false positives" in report.verdict.headline
    assert "of the members at 1.0% false positives, where chance finds 1.0%" in str(report.verdict)


def test_memorized_people_do_not_pass_a_gate_on_the_tail():
    report = _audit(_sets(0, 1000, memorized=50))
    assert not report.gate(["tpr@0.01>0.02"]).passed
    assert report.leaks
    assert report.epsilon > 0.5


@pytest.mark.filterwarnings("ignore:audit. Of")
@pytest.mark.parametrize("copies", [1, 2, 5])
def test_without_a_leak_few_audits_say_that_there_is_one(copies):
    found = [
        _audit(_sets(seed, 120, copies=copies), [*ATTACKS, "gradient boosting"]).verdict.outcome for seed in range(12)
    ]
    assert found.count("leaks") <= 2


def test_duplicates_are_no_leak():
    """Each member is there four times, and no half has one copy of a record where the other has another."""
    with pytest.warns(UserWarning, match="exact duplicates"):
        reports = [_audit(_sets(seed, 200, copies=4), [*ATTACKS, "gradient boosting"]) for seed in range(8)]
    assert sum(report.leaks for report in reports) <= 1
    assert max(report.epsilon for report in reports) == 0
    assert reports[0]["confidence"].sizes == (50, 200)
    assert reports[0]["gradient boosting"].sizes == (25, 100)


def test_the_verdict_is_the_same_whatever_the_seed():
    sets = _sets(3, 200, memorized=6)
    reports = [_audit(sets, [*ATTACKS, "gradient boosting"], seed=seed) for seed in range(4)]
    assert len({str(report.verdict) for report in reports}) == 1
    assert {report.seed for report in reports} == set(range(4))


def test_no_half_splits_a_unit_and_both_halves_are_alike():
    generator = np.random.default_rng(0)
    is_member = np.arange(400) < 150
    groups = generator.integers(0, 90, 400)
    for number in range(3):
        fold = base.folds(is_member, groups, np.random.default_rng(number))
        assert all(len(np.unique(fold[groups == group])) == 1 for group in np.unique(groups))
        for kind in (is_member, ~is_member):
            assert abs(fold[kind].mean() - 0.5) < 0.1
        alone = base.folds(is_member, None, np.random.default_rng(number))
        assert [alone[kind].sum() for kind in (is_member, ~is_member)] == [75, 125]


def test_reference_models_train_on_both_copies_of_a_record_or_on_neither():
    generator = np.random.default_rng(0)
    x = np.repeat(generator.normal(size=(40, 3)), 2, axis=0)
    others = generator.normal(size=(80, 3))
    seen = []

    def train(x, y):
        seen.append(x)
        return lambda x: np.column_stack([x[:, 0], -x[:, 0]])

    labels = np.zeros(80, int)
    models = tfmiaq.ReferenceModels(train, 4)
    with pytest.warns(UserWarning, match="duplicates"):
        tfmiaq.audit(train(x, labels), (x, labels), (others, labels), ["LiRA"], reference_models=models, verbose=False)
    for chosen in seen[1:]:
        copies = np.array([(chosen == record).all(1).sum() for record in x])
        assert set(copies.tolist()) <= {0, 2}
        assert 0.3 < (copies == 2).mean() < 0.7


def test_swapped_sets_are_a_fault_or_a_leak_and_never_none():
    outputs, members, others = _sets(0, 200, memorized=200)
    report = _audit((outputs[::-1], others, members))
    assert report["confidence"].auc < 0.2
    assert "swapped" in str(report.verdict)
    alone = dataclasses.replace(report, findings=())
    assert _outcomes(alone)[0] == "leaks"
    assert "members rank below non-members" in str(alone.verdict)
    for shown in (report, alone):
        assert not shown.gate("auc>0.55").passed


def test_few_records_cannot_tell_and_say_which_leak_they_would_show():
    report = _audit(_sets(1, 20))
    assert _outcomes(report) == ["cannot tell"] * 3
    assert "Audit more records" in str(report.verdict)
    many = _audit(_sets(1, 1000))
    assert many.verdict.outcome == "does not leak"
    assert "smallest leak that would be seen: an AUC of 0.5" in str(many.verdict)


def test_labels_alone_cannot_tell_of_low_rates():
    generator = np.random.default_rng(0)
    labels = np.zeros(300, int)
    outputs = tuple((generator.random(300) < 0.2).astype(int) for _ in range(2))
    report = tfmiaq.audit(outputs, (None, labels), (None, labels), verbose=False)
    assert _outcomes(report)[1] == "cannot tell"
    assert "too coarse" in str(report.verdict)


def test_both_attackers_are_in_the_verdict():
    coin, leaking = (_audit(_sets(0, 300, memorized=count)) for count in (0, 30))
    both = dataclasses.replace(coin, access="file", query=leaking)
    assert not coin.leaks
    assert both.leaks
    assert "(who can only ask)" in str(both.verdict)


def test_a_finding_that_voids_the_audit_comes_first_and_fails_every_gate(tmp_path):
    report = _audit(_sets(0, 300, memorized=30))
    text = "Half of the non-members are members: leave them out."
    void = dataclasses.replace(report, findings=(Finding("shared records", text, True),))
    assert (void.verdict.outcome, void.leaks) == ("cannot tell", False)
    assert "void" in void.verdict.headline
    for shown in (void.to_markdown(), void.to_html()):
        assert shown.index(text) < shown.index(void.verdict.headline)
    gate = void.gate(["auc>1"])
    assert not gate.passed
    assert text in str(gate)
    loaded = tfmiaq.AuditReport.load(void.save(tmp_path))
    assert loaded.findings == void.findings
    assert loaded.verdict == void.verdict
    assert advice.next_steps(void.verdict, 0, "query")[0].startswith("Mend")
    told = dataclasses.replace(report, findings=(Finding("unlike classes", "Class 3 is rarer.", False),))
    assert told.leaks
    assert told.gate(["auc>1"]).passed


def test_a_part_needs_a_test():
    with pytest.raises(ValueError, match="min"):
        verdict.judge([])
