"""The release gate: in Python, on the command line, in a shell script, and as JUnit XML."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from xml.dom import minidom

import numpy as np
import pytest

import tfmiaq
from tfmiaq import cli
from tfmiaq.auditing import gate

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "release_gate.md"


def _outputs(count, memorized, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 5, 2 * count)
    logits = generator.normal(size=(2 * count, 5))
    logits[np.arange(2 * count), labels] += 1
    logits[np.arange(memorized), labels[:memorized]] += 8
    return logits, labels


def _report(count, memorized):
    logits, labels = _outputs(count, memorized)
    sets = (logits[:count], logits[count:]), (None, labels[:count]), (None, labels[count:])
    return tfmiaq.audit(*sets, ["gap", "confidence", "entropy"], verbose=False)


@pytest.fixture(scope="module")
def coin():
    return _report(1500, 0)


@pytest.fixture(scope="module")
def leaking():
    return _report(1500, 75)


def test_limits_are_judged_on_the_upper_end_over_all_attacks(coin, leaking):
    conditions = ["auc>0.58", "tpr@0.01>0.03", "epsilon>9", "accuracy>0.58"]
    assert coin.gate(conditions).passed
    judged = leaking.gate(conditions)
    assert not judged.passed
    assert [check.outcome for check in judged.checks] == ["passed", "passed", "failed", "passed", "passed"]
    assert "has 0.0" in judged.failures[0].reason
    assert str(judged).splitlines()[2].startswith("failed: tpr@0.01>0.03: ")
    html = judged._repr_html_()
    assert html.count("<tr>") == len(judged.checks) + 1
    assert "<td>tpr@0.01&gt;0.03</td><td>failed</td>" in html
    assert "The gate fails." in html and "The gate passes." in coin.gate(conditions)._repr_html_()
    assert leaking.gate(f"epsilon>{leaking.epsilon - 0.01}").checks[1].outcome == "failed"
    # The highest of all attacks counts, not the one that was picked.
    highest = max(float(attack.auc) for attack in leaking.attacks)
    assert leaking.gate(f"auc>{highest - 1e-6:.9f}").checks[1].outcome == "failed"


def test_an_interval_that_reaches_above_the_limit_is_unresolved(coin):
    widest = max(max(attack.auc.high, 1 - attack.auc.low) for attack in coin.attacks)
    assert coin.gate(f"auc>{widest + 0.001:.4f}").passed
    tight = coin.gate(f"auc>{widest - 0.001:.4f}")
    assert [check.outcome for check in tight.failures] == ["unresolved"]
    assert "reaches above the limit" in str(tight)
    assert coin.gate(f"auc>{widest - 0.001:.4f}", allow_unresolved=True).passed
    few = _report(60, 0)
    assert few.gate("tpr@0.001>0.5").checks[1].outcome == "unresolved"
    assert "60 non-members cannot resolve a rate of 0.001" in str(few.gate("tpr@0.001>0.5"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auc>nan", "limit of 'auc>nan' to be a finite number from 0.5 to 1. Received nan"),
        ("auc>70", "from 0.5 to 1. Received 70"),
        ("auc>0.4", "from 0.5 to 1. Received 0.4"),
        ("tpr@0>0.1", "false positive rate of 'tpr@0>0.1'"),
        ("tpr@nan>0.1", "false positive rate"),
        ("tpr>0.1", "Expected a condition such as 'auc>0.55'"),
        ("auc@0.01>0.6", "Expected a condition such as"),
        ("auc<0.6", "Expected a condition such as"),
        ("auc>high", "'high' in 'auc>high' is no number"),
        ("epsilon>-1", "at least 0"),
        ("epsilon>inf", "Received inf"),
    ],
)
def test_limits_out_of_range_are_told(coin, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        coin.gate([text])


def test_no_limits_are_told(coin):
    with pytest.raises(ValueError, match="at least one condition"):
        coin.gate([])


def test_conditions_print_as_they_are_written():
    for text in ("auc>0.55", "tpr@0.01>0.02", "epsilon>1"):
        assert str(gate.Condition.parse(f" {text} ")) == text


def test_junit_xml_has_a_case_for_each_limit(coin, leaking):
    conditions = ["tpr@0.01>0.03", "tpr@0.0001>0.5"]
    gates = {"a <b> & \x00": coin.gate(conditions, True), "leaking": leaking.gate(conditions)}
    top = minidom.parseString(gate.to_junit(gates)).documentElement
    assert (top.tagName, top.getAttribute("tests"), top.getAttribute("failures")) == ("testsuites", "6", "2")
    one, other = top.getElementsByTagName("testsuite")
    assert one.getAttribute("skipped") == "1"
    assert one.getElementsByTagName("failure").length == 0
    assert [f.getAttribute("type") for f in other.getElementsByTagName("failure")] == ["failed", "unresolved"]
    cases = other.getElementsByTagName("testcase")
    assert [case.getAttribute("name") for case in cases] == ["valid sets", *conditions]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with saved outputs of a model that does not leak, and of one that does, as a build has them."""
    for name, memorized, count in (("few", 0, 150), ("coin", 0, 1500), ("leaking", 75, 1500)):
        logits, labels = _outputs(count, memorized)
        np.save(tmp_path / f"{name}_members.npy", logits[:count])
        np.save(tmp_path / f"{name}_others.npy", logits[count:])
        x = np.random.default_rng(1).normal(size=(2 * count, 4))
        members = {"x_train": x[:count], "y_train": labels[:count]}
        np.savez(tmp_path / f"{name}.npz", **members, x_test=x[count:], y_test=labels[count:])
    # The members are the non-members.
    np.save(tmp_path / "same_members.npy", logits[:count])
    np.save(tmp_path / "same_others.npy", logits[:count])
    np.savez(tmp_path / "same.npz", **members, x_test=x[:count], y_test=labels[:count])
    os.rename(tmp_path / "coin.npz", tmp_path / "records.npz")
    sex = np.where(np.arange(2 * count) % 2, "f", "m")
    np.savez(tmp_path / "people.npz", sex_train=sex[:count], sex_test=sex[count:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(capsys, line):
    with pytest.raises(SystemExit) as left:
        cli.main(line.split())
    return left.value.code, capsys.readouterr()


def test_the_command_line_stops_a_build(home, capsys):
    line = "audit {0}_members.npy,{0}_others.npy --records records.npz --attacks gap,confidence --fail_if tpr@0.01>0.03"
    status, printed = _run(capsys, f"{line.format('coin')} --slices people.npz --junit built/gate.xml")
    assert status == 0
    assert "the release gate passes" in printed.out
    assert "sex = f" in (home / "audit" / "report.json").read_text()
    assert minidom.parse("built/gate.xml").documentElement.getAttribute("failures") == "0"
    status, printed = _run(capsys, f"{line.format('leaking')} --junit gate.xml")
    assert status == 1
    assert "tpr@0.01>0.03 failed: confidence has" in printed.err
    status, printed = _run(capsys, f"{line.format('coin')} --fail_if tpr@0.0005>0.9")
    assert status == 1
    assert "unresolved" in printed.err
    assert _run(capsys, f"{line.format('coin')} --fail_if tpr@0.0005>0.9 --allow_unresolved")[0] == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--fail_if auc>70", "Expected the limit of 'auc>70'"),
        ("--junit gate.xml", "give its limits with --fail_if"),
        ("--slices records.npz --fail_if auc>0.6", "--slices: Expected arrays NAME_train and NAME_test"),
    ],
)
def test_bad_flags_are_told_before_any_work(home, capsys, more, message):
    if "slices" in more:
        np.savez("records.npz", **{**np.load("records.npz"), "sex_train": np.zeros(3)})
    status, printed = _run(capsys, f"audit coin_members.npy,coin_others.npy --records records.npz {more}")
    assert status == 2
    assert message in printed.err


@pytest.mark.slow
def test_the_shell_script_of_the_docs_runs(home):
    """It passes, fails on the tail, on what cannot be judged and on sets that cannot be, and says which."""
    (script,) = re.findall(r"```sh\n(#!/bin/sh\n.*?)```", DOCS.read_text(), re.DOTALL)
    (home / "gate.sh").write_text(script)
    run = home / "bin" / "tfmiaq"
    run.parent.mkdir()
    run.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tfmiaq "$@"\n')
    run.chmod(0o755)
    environment = {**os.environ, "PATH": f"{run.parent}{os.pathsep}{os.environ['PATH']}"}

    def gated(name, records):
        outputs = f"{name}_members.npy,{name}_others.npy"
        command = ["sh", "gate.sh", outputs, records]
        return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)

    passed = gated("coin", "records.npz")
    assert passed.returncode == 0, passed.stderr
    assert "Released." in passed.stdout
    for name, reason in (
        ("leaking", "tpr@0.01>0.03 failed"),
        ("few", "tpr@0.01>0.03 unresolved"),
        ("same", "valid sets failed"),
    ):
        failed = gated(name, f"{name}.npz")
        assert failed.returncode == 1, failed.stderr
        assert reason in failed.stderr
        assert "Released." not in failed.stdout
        assert minidom.parse(str(home / "gate.xml")).documentElement.getAttribute("failures") != "0"
