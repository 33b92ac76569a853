"""Slices: simultaneous intervals, attributes of the user's, and slices that are too small."""

from __future__ import annotations

import numpy as np
import pytest

import tfmiaq

ATTACKS = ["gap", "confidence", "entropy"]


def _audit(seed, count=200, gain=None, **arguments):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 5, 2 * count)
    logits = generator.normal(size=(2 * count, 5))
    logits[np.arange(2 * count), labels] += 1
    if gain is not None:
        logits[np.arange(2 * count), labels] += gain
    sets = (logits[:count], logits[count:]), (None, labels[:count]), (None, labels[count:])
    return tfmiaq.audit(*sets, ATTACKS, verbose=False, **arguments)


def test_the_interval_of_the_worst_slice_excludes_a_coin_in_few_nulls():
    reports = [_audit(seed) for seed in range(30)]
    excluded = [any(not part.auc.low <= 0.5 <= part.auc.high for part in report.slices) for report in reports]
    assert np.mean(excluded) <= 0.1
    assert sum(report.verdict.parts[2].outcome == "leaks" for report in reports) <= 2


def test_an_attribute_of_the_users_is_a_slice_and_its_leak_is_found():
    generator = np.random.default_rng(0)
    sex, age = generator.choice(["f", "m"], 1000), generator.integers(18, 90, 1000)
    gain = 3.0 * ((sex == "f") & (np.arange(1000) < 500) & (np.arange(1000) % 3 == 0))
    report = _audit(0, 500, gain, slices={"sex": sex, "age": age})
    parts = {part.name: part for part in report.slices}
    assert {"sex = f", "sex = m", "age in quarter 1 of 4", "age in quarter 4 of 4"} <= set(parts)
    assert parts["sex = f"].auc.low > 0.5 > parts["sex = m"].auc.low
    assert parts["sex = f"].members == (sex[:500] == "f").sum()
    assert report.worst_slices(1)[0].p_value <= parts["sex = f"].p_value
    assert "sex = f" in report.to_html()
    assert report.verdict.parts[2].outcome == "leaks"


def test_slices_of_too_few_records_are_told():
    rare = np.arange(400) % 50 == 0
    report = _audit(0, slices={"rare": rare})
    (part,) = [part for part in report.slices if part.name == "rare = True"]
    assert (part.members, part.non_members, part.auc) == (4, 4, None)
    for shown in (report.to_markdown(), report.to_html()):
        assert "Too few members or non-members to judge: rare = True (4 + 4)" in shown
    assert "Too few records to judge: 1 slice" in report.verdict.parts[2].text
    assert part not in report.worst_slices(100)


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        (["f"] * 400, "Expected slices as a dict"),
        ({3: ["f"] * 400}, "Expected slices as a dict"),
        ({"sex": ["f"] * 399}, r"slices\['sex'\] to be one value for each of 400 records. Received shape \(399,\)"),
        ({"sex": [None] + ["f"] * 399}, r"slices\['sex'\] lacks a value for 1 records"),
    ],
)
def test_slices_that_do_not_fit_are_told(slices, message):
    with pytest.raises(ValueError, match=message):
        _audit(0, slices=slices)
