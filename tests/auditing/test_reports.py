"""Reports after the audit: estimates, files that are read again, and how they show in a notebook."""

from __future__ import annotations

import html
import json
import shutil

import matplotlib.figure
import numpy as np
import pytest

import tfmiaq
from tfmiaq.metrics import Estimate


def _audit(seed=0, members=301, non_members=250, **arguments):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, members + non_members)
    scores = generator.normal(size=(members + non_members, 4))
    scores[np.arange(len(labels)), labels] += 1.0
    scores[np.arange(members), labels[:members]] += 1.5
    return tfmiaq.audit(
        (scores[:members], scores[members:]),
        (None, labels[:members]),
        (None, labels[members:]),
        verbose=False,
        seed=seed,
        **arguments,
    )


@pytest.fixture(scope="module")
def report():
    return _audit()


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    """The folder of the saved report; to be read only."""
    return report.save(tmp_path_factory.mktemp("report"))


@pytest.fixture
def file(folder, tmp_path):
    """A copy of its report.json, alone in a folder."""
    return shutil.copy(folder / "report.json", tmp_path / "report.json")


def test_every_figure_with_an_interval_is_an_estimate(report):
    assert isinstance(report.auc, Estimate)
    assert isinstance(report.attack_accuracy, Estimate)
    attack = report["confidence"]
    assert all(isinstance(it, Estimate) for it in (attack.auc, attack.attack_accuracy, attack.tpr_at_fpr(0.01)))
    assert all(isinstance(part.auc, Estimate) for part in report.slices)
    text = f"{report.auc}"
    assert text in report.to_markdown()
    assert text in report.to_html()
    assert report.to_dict()["auc_interval"] == [report.auc.low, report.auc.high]


@pytest.mark.parametrize(
    ("members", "label_only", "as_folder"),
    [(40, False, True), (301, False, False), (40, True, False), (301, True, True)],
)
def test_a_loaded_report_is_the_saved_one(tmp_path, members, label_only, as_folder):
    if label_only:
        generator = np.random.default_rng(0)
        outputs = [(generator.random(count) < rate).astype(int) for count, rate in ((members, 0.2), (250, 0.5))]
        labels = [(None, np.zeros(len(part), int)) for part in outputs]
        saved = tfmiaq.audit(tuple(outputs), *labels, verbose=False)
    else:
        saved = _audit(members=members)
    folder = saved.save(tmp_path / "report")
    loaded = tfmiaq.AuditReport.load(folder if as_folder else str(folder / "report.json"))
    assert loaded.to_dict() == saved.to_dict()
    assert loaded.to_json() == saved.to_json()
    assert loaded.verdict == saved.verdict
    assert loaded.figures() == saved.figures()
    assert loaded.to_markdown() == saved.to_markdown()
    assert (loaded.auc, loaded.label_only) == (saved.auc, label_only)
    for limit in (0.02, 0.1, 0.37):
        assert loaded.tpr_at_fpr(limit) == saved.tpr_at_fpr(limit)
        for attack in saved.attacks:
            assert loaded[attack.name].tpr_at_fpr(limit) == attack.tpr_at_fpr(limit)
    for one, other in zip(loaded.attacks, saved.attacks):
        np.testing.assert_array_equal(one.fpr, other.fpr)
        np.testing.assert_array_equal(one.tpr, other.tpr)
    # Saved again, it is the same file.
    again = loaded.save(tmp_path / "again")
    assert (again / "report.json").read_text() == (folder / "report.json").read_text()


def test_a_saved_report_has_no_scores_of_single_records(report, folder):
    loaded = tfmiaq.AuditReport.load(folder)
    assert all(attack.member_scores is None and attack.non_member_scores is None for attack in loaded.attacks)
    scores = {f"{score:.6f}" for attack in report.attacks for score in attack.member_scores if score % 1}
    text = (folder / "report.json").read_text()
    assert not [score for score in scores if len(score) > 6 and score in text]
    # The page of a loaded report leaves out the histogram, which needs them.
    assert (report.to_html().count("<svg"), loaded.to_html().count("<svg")) == (2, 1)
    assert loaded.verdict.headline in loaded.to_html()


def _changed(**changes):
    return lambda content: {**content, **changes}


def _without(name):
    return lambda content: {key: value for key, value in content.items() if key != name}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_changed(schema=3), "has schema 3, and this version of tfmiaq reads schemas 4 and 5"),
        (_without("schema"), "is not the report.json of an audit"),
        (lambda content: [content], "is not the report.json of an audit"),
        (lambda content: {"schema": 5, "verdict": {}, "reports": {}}, "is not the report.json of an audit"),
        (_without("curves"), "is damaged"),
        (_without("confusion"), "is damaged"),
        (_changed(attacks={}), "is damaged"),
        (_changed(attacks=[1, 2]), "is damaged"),
        (_changed(chosen=["confidence"]), "is damaged"),
        (_changed(auc="high"), "is damaged"),
        (_changed(auc=None), "is damaged"),
        (_changed(attack_accuracy=0.5), "its figures contradict each other"),
        (_changed(members=7), "its figures contradict each other"),
        (_changed(curves=[{"false_positives": [], "true_positives": []}] * 2), "is damaged"),
        (_changed(label_only=3), "is damaged"),
    ],
)
def test_a_file_that_is_no_whole_report_is_told_by_its_name(file, damage, message):
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=message) as caught:
        tfmiaq.AuditReport.load(file.parent)
    assert str(file) in str(caught.value)
    with pytest.raises(ValueError, match=message):
        tfmiaq.compare({"a": file})


@pytest.mark.parametrize("size", [0, 1, 500, -3])
def test_a_truncated_report_is_told_by_its_name(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match="cannot be read as JSON") as caught:
        tfmiaq.AuditReport.load(file)
    assert str(file) in str(caught.value)


def test_a_path_without_a_report_is_told(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="No report at") as caught:
            tfmiaq.AuditReport.load(path)
        assert str(path) in str(caught.value)
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        tfmiaq.AuditReport.load(tmp_path)


def test_compare_takes_paths_and_loaded_reports(report, folder, tmp_path):
    other = _audit(seed=1, members=60, non_members=60)
    other.save(tmp_path / "other")
    direct = tfmiaq.compare({"a": report, "b": [report, other]})
    loaded = tfmiaq.compare(
        {"a": str(folder), "b": [tfmiaq.AuditReport.load(folder), tmp_path / "other" / "report.json"]}
    )
    assert loaded.to_dict() == direct.to_dict()
    assert loaded.to_markdown() == direct.to_markdown()
    assert loaded.to_html() == direct.to_html()


def test_what_is_typed_in_a_notebook_is_one_line(report):
    names = {f"a rather long name of model {number}": report for number in range(50)}
    for thing in (report, report.attacks[0], tfmiaq.compare({"a": report}), tfmiaq.compare(names)):
        assert len(repr(thing)) < 200
        assert "\n" not in repr(thing)
    assert str(report.auc) in repr(report)


def test_a_notebook_shows_tables_and_figures(report):
    comparison = tfmiaq.compare({"<i>float</i>": report})
    for thing in (report, comparison):
        page = thing._repr_html_()
        verdict = str(thing.verdict).replace("<", "&lt;").replace(">", "&gt;")
        assert verdict.splitlines()[0] in page
        assert page.count("<table>") == 2
        assert "<i>" not in page
        figure = thing.plot()
        assert isinstance(figure, matplotlib.figure.Figure)
        (axes,) = figure.axes
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_legend() is not None
        # A notebook takes a figure's picture from the figure.
        assert figure._repr_png_().startswith(b"\x89PNG")
    shown = report.verdict._repr_html_()
    assert shown.count("<tr>") == len(report.verdict.parts) + 1
    assert html.escape(report.verdict.headline) in shown
