"""Which records are exposed most, and by which attack."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

import tfmiaq
from tfmiaq import metrics
from tfmiaq.auditing.gate import to_junit
from tfmiaq.auditing.reporting.exposure import Exposure


def _attack(name, inside, outside):
    inside, outside = np.asarray(inside, float), np.asarray(outside, float)
    return tfmiaq.AttackResult(
        name,
        metrics.Confusion(1, 1, 1, 1),
        metrics.auc_estimate(inside, outside),
        *metrics.roc(inside, outside),
        member_scores=inside,
        non_member_scores=outside,
    )


def test_each_record_has_the_attack_of_fewest_false_positives():
    one = _attack("one", [9, 1, 5], [2, 3, 4, 8])
    other = _attack("other", [0, 7, 4], [1, 2, 6, 5])
    found = Exposure.of([other, one])
    assert found.names[:3] == ("one", "other", "one")
    # 9 is above all; 7 too; 5 is below one of four, 8.
    np.testing.assert_allclose(found.rates[:3], [0, 0, 1 / 4])
    np.testing.assert_allclose(found.scores[:3], [9, 7, 5])
    # A non-member is not among its own false positives: of the other three none has 8, two have 3.
    np.testing.assert_allclose(found.rates[3:], [1, 2 / 3, 0, 0])
    # Both are above all non-members, the first by more of their standard deviations.
    assert found.most_exposed(2) == (0, 1)


def test_records_are_written_with_their_strongest_attack(tmp_path, linear_scores):
    generator = np.random.default_rng(0)
    members, non_members = generator.normal(1, 1, (80, 1)), generator.normal(0, 1, (60, 1))
    members[17] = 9
    report = tfmiaq.audit(
        linear_scores, (members, np.zeros(80, int)), (non_members, np.zeros(60, int)), ["gap", "confidence"]
    )
    assert report.exposed[0] == 17
    assert report.records(tmp_path / "new" / "scores.csv") == tmp_path / "new" / "scores.csv"
    with (tmp_path / "new" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["set"] for row in rows] == ["member"] * 80 + ["non-member"] * 60
    assert [int(row["index"]) for row in rows] == [*range(80), *range(60)]
    assert rows[17]["attack"] == "confidence"
    for number, scores in ((5, members), (95, non_members)):
        score = scores[number % 80 if number < 80 else number - 80]
        others = np.delete(non_members, number - 80) if number >= 80 else non_members
        rate = float((others >= score).mean())
        assert float(rows[number]["false_positive_rate"]) <= rate + 1e-12
        if rows[number]["attack"] == "confidence":
            assert float(rows[number]["score"]) == pytest.approx(float(score[0]), abs=1e-6)
            assert float(rows[number]["false_positive_rate"]) == pytest.approx(rate)
    loaded = tfmiaq.AuditReport.load(report.save(tmp_path, exposed=True))
    assert loaded.exposed == report.exposed
    assert "Most exposed members" in (tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match="A report that was loaded has no scores"):
        loaded.records(tmp_path / "scores.csv")


def test_members_are_named_only_when_asked(tmp_path, linear_scores, run):
    generator = np.random.default_rng(0)
    x, y = generator.normal(0, 1, (120, 1)), np.zeros(120, int)
    # No other number in the files looks like this one.
    members = np.tile(x, (70, 1))[:8000]
    members[7654] = 9
    report = tfmiaq.audit(linear_scores, (members, np.zeros(8000, int)), (x, y), ["confidence"], access="query")
    assert report.exposed[0] == 7654
    comparison = tfmiaq.compare({"one": report, "other": report})
    report.save(tmp_path / "r")
    comparison.save(tmp_path / "r" / "both")
    (tmp_path / "r" / "gate.xml").write_text(to_junit({"one": report.gate(["auc>0.5"])}))
    names = {
        path.name: path.read_text()
        for path in (tmp_path / "r").rglob("*")
        if path.suffix in (".json", ".md", ".html", ".xml")
    }
    assert {"report.json", "report.md", "report.html", "comparison.json", "gate.xml"} <= set(names)
    for name, text in {**names, "text": str(report), "notebook": report._repr_html_()}.items():
        assert not re.search(r"(?<![\d.])7654(?![\d.])", text), name
    assert tfmiaq.AuditReport.load(tmp_path / "r").exposed == ()
    for part, others in (("in", members), ("out", x)):
        np.save(tmp_path / f"{part}.npy", linear_scores(others))
    np.savez(tmp_path / "data.npz", x_train=members, y_train=np.zeros(8000, int), x_test=x, y_test=y)
    line = f"audit {tmp_path}/in.npy,{tmp_path}/out.npy --records={tmp_path}/data.npz --raw --attacks=confidence"
    for flag, named in (("", ()), (" --exposed", report.exposed)):
        assert run(f"{line} --folder={tmp_path}/cli{flag}")[0] == 0
        assert tfmiaq.AuditReport.load(tmp_path / "cli").exposed == named
