"""What a page tells a reader: the order of its parts, where figures come from, and how narrow screens show them."""

from __future__ import annotations

import hashlib
import json
from html import parser

import numpy as np
import pytest

import tfmiaq
from tfmiaq.auditing.reporting import meaning, saved
from tfmiaq.metrics import Confusion


def _audit(target=None, memorized=20, **arguments):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 600)
    logits = generator.normal(size=(600, 5))
    logits[np.arange(600), labels] += 2
    logits[np.arange(memorized), labels[:memorized]] += 8
    sets = (None, labels[:300]), (None, labels[300:])
    return tfmiaq.audit((logits[:300], logits[300:]), *sets, ["gap", "confidence"], verbose=False, **arguments)


@pytest.fixture(scope="module")
def report():
    return _audit()


class _Headings(parser.HTMLParser):
    """The headings of a page in their order, and the cells of its tables with the names of their columns."""

    def __init__(self):
        super().__init__()
        self.headings, self.labels, self._tag = [], [], ""

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        self.labels += [dict(attrs).get("data-label")] if tag == "td" else []

    def handle_data(self, data):
        if self._tag in ("h1", "h2") and data.strip():
            self.headings.append(data)

    def handle_endtag(self, tag):
        self._tag = ""


def test_the_page_begins_with_what_a_reader_acts_on(report):
    page = _Headings()
    page.feed(report.to_html())
    assert page.headings[:4] == [
        "Membership inference audit",
        "Who the attacker is",
        "What it means for people",
        "What to do next",
    ]
    assert page.headings[-2:] == ["What was audited", "Words"]
    # Narrow screens show each cell under the name of its column.
    assert {"TPR at 0.1% FPR", "TPR at 1.0% FPR", "right at 1%", "right at 50%"} <= set(page.labels)
    assert None not in page.labels
    text = report.to_html()
    assert text.index(report.verdict.headline) < text.index("Who the attacker is")
    assert "prefers-color-scheme: dark" in text
    for term in ("AUC", "TPR at 1 % FPR", "non-member"):
        assert f"<dt>{term}</dt>" in text


def test_precision_at_a_prior_is_bayes_rule():
    assert meaning.precision(0.05, 0.001, 0.01) == pytest.approx(0.05 * 0.01 / (0.05 * 0.01 + 0.001 * 0.99))
    assert meaning.precision(0.3, 0.3, 0.1) == pytest.approx(0.1)
    assert meaning.precision(0.0, 0.0, 0.5) is None


def test_figures_are_told_for_this_many_people(report):
    rows = {row[0]: row for row in meaning.rows(report.attacks, report.confusion)}
    best = max(float(attack.tpr_at_fpr(0.01)) for attack in report.attacks)
    row = rows["at 1.0% false positives"]
    assert row[1] == f"{best * 300:.0f} of 300 ({best:.1%})"
    assert row[2] == "3 of 300 (1.0%)"
    assert row[3] == f"{meaning.precision(best, 0.01, 0.01):.0%}"
    assert "at 0.1% false positives" not in rows
    nobody = meaning.rows([], Confusion(0, 10, 0, 10))
    assert nobody == [["right most often", "0 of 10 (0.0%)", "0 of 10 (0.0%)", *["nobody called"] * 3]]


def test_a_report_says_what_was_audited(report, tmp_path):
    about = dict(report.about.lines())
    assert about["model"] == "saved outputs"
    assert about["date"].endswith("UTC")
    assert f"tfmiaq {tfmiaq.__version__}" in about["versions"]
    (tmp_path / "net.tflite").write_bytes(b"content")
    of_file = report.about.of_file(tmp_path / "net.tflite")
    assert (of_file.model, of_file.sha256) == ("net.tflite", hashlib.sha256(b"content").hexdigest())
    loaded = tfmiaq.AuditReport.load(report.save(tmp_path))
    assert loaded.about == report.about
    for shown in (report.to_markdown(), report.to_html()):
        assert "300 members, 300 non-members" in shown
        assert "who can only ask" in shown


def _as_schema_4(content):
    """The JSON values that version 4 had: no tests, no findings, no provenance, slices of one attack."""
    content = {key: value for key, value in content.items() if key not in ("findings", "about", "independent_records")}
    new = ("independent_records", "learns", "p_values")
    attacks = {
        name: {key: value for key, value in attack.items() if key not in new}
        for name, attack in content["attacks"].items()
    }
    slices = [
        {key: value for key, value in part.items() if key not in ("attack", "p_value")}
        for part in content["slices"]
        if part["auc"] is not None
    ]
    return {**content, "schema": 4, "verdict": "An attacker ...", "attacks": attacks, "slices": slices}


def test_a_report_of_the_version_before_is_read_and_told(report, tmp_path):
    path = report.save(tmp_path) / saved.FILE
    path.write_text(json.dumps(_as_schema_4(json.loads(path.read_text()))))
    older = tfmiaq.AuditReport.load(path)
    assert older.figures() == report.figures()
    assert [part.outcome for part in older.verdict.parts] == [part.outcome for part in report.verdict.parts]
    assert "saved by an earlier version (schema 4)" in str(older.verdict)
    assert not older.findings[0].invalid
    assert tfmiaq.AuditReport.load(older.save(tmp_path / "again")).verdict == older.verdict
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 4}))
    damaged = {**_as_schema_4(json.loads((report.save(tmp_path) / saved.FILE).read_text())), "members": 7}
    path.write_text(json.dumps(damaged))
    with pytest.raises(ValueError, match="contradict each other"):
        tfmiaq.AuditReport.load(path)
