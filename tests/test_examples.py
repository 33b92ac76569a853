"""The examples at tiny sizes, as a user runs them."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import tfmiaq

ROOT = pathlib.Path(__file__).parents[1]
MEMBERS = 48
# A single input of few features: conversions and trainings take least.
_TINY = ("--dataset=own.npz", f"--members={MEMBERS}", "--width=2", "--epochs=4")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with records of two classes."""
    folder, generator = tmp_path_factory.mktemp("examples"), np.random.default_rng(0)
    y = np.arange(4 * MEMBERS) % 2
    x = generator.normal(size=(len(y), 4)) + 3 * y[:, None]
    half = len(y) // 2
    np.savez(folder / "own.npz", x_train=x[:half], y_train=y[:half], x_test=x[half:], y_test=y[half:])
    return folder


def _run(home, script, *flags):
    command = [sys.executable, str(ROOT / "examples" / script), *flags]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_experiment_of_the_paper_writes_its_table(home):
    done = _run(home, "paper_experiment.py", *_TINY, "--quantized_epochs=2", "--shadow_models=2")
    assert done.returncode == 0, done.stderr
    table = (home / "out" / "paper" / "table.md").read_text()
    assert table.strip() in done.stdout
    found = json.loads((home / "out" / "paper" / "table.json").read_text())
    assert list(found["models"]) == ["float", "quantized", ".tflite"] and found["flags"]["members"] == MEMBERS
    for name, figures in found["models"].items():
        assert f"| {name} | {figures['test accuracy']:.3f} | {figures['attack accuracy']:.3f} |" in table
        assert figures["attack accuracy"] == pytest.approx((figures["TPR"] + 1 - figures["FPR"]) / 2)
        assert figures["members"]["recall"] == figures["TPR"]
        for of_class in (figures["members"], figures["non-members"]):
            precision, recall = of_class["precision"], of_class["recall"]
            assert of_class["F1"] == pytest.approx(2 * precision * recall / max(precision + recall, 1e-9))
    # An attack that calls all records the same tells nothing of any model.
    assert any(0 < figures["TPR"] < 1 for figures in found["models"].values())
    # The file is the quantized network: what shadow models find in one they find in the other, but for rounding.
    assert abs(found["models"][".tflite"]["TPR"] - found["models"]["quantized"]["TPR"]) < 0.2


@pytest.mark.slow
def test_a_model_is_quantized_after_training_and_audited(home):
    done = _run(home, "post_training_quantization.py", *_TINY, "--iterations=2", "--folder=after")
    assert done.returncode == 0, done.stderr
    assert "labels agree on" in done.stdout and "NO" not in done.stdout.split()
    assert {"model.tflite", "comparison.html", "tflite", "float"} <= {path.name for path in (home / "after").iterdir()}


@pytest.mark.slow
def test_a_file_of_another_tool_is_audited(home):
    flags = ("--dataset=own.npz", f"--members={MEMBERS}", "--epochs=8", "--fail_if=auc>0.5")
    done = _run(home, "audit_foreign_file.py", *flags)
    assert done.returncode == 1, done.stderr
    assert "another tool has written it" in done.stdout and "\nwho holds the file " in done.stdout
    assert "\nThe release gate FAILS." in done.stdout
    assert {"foreign.tflite", "report.html"} <= {path.name for path in (home / "out" / "foreign").iterdir()}


def test_a_file_that_is_not_there_is_told(home):
    done = _run(home, "audit_foreign_file.py", "--file=none.tflite")
    assert done.returncode != 0 and "no such .tflite" in done.stderr


@pytest.mark.slow
def test_an_attack_and_a_policy_of_ones_own(home):
    done = _run(home, "custom_attack.py", *_TINY, "--quantized_epochs=2", "--reference_models=2")
    assert done.returncode == 0, done.stderr
    assert "\ncalibrated margin  " in done.stdout
    policy = tfmiaq.BitwidthPolicy.from_json((home / "out" / "custom" / "policy.json").read_text())
    assert tfmiaq.LayerBits(1, 3) == dict(policy.rules)["hidden"]


@pytest.mark.slow
def test_shadow_models_train_on_a_cluster(home):
    pytest.importorskip("distributed")
    done = _run(home, "dask_shadow_models.py", *_TINY, "--shadow_models=2", "--workers=1")
    assert done.returncode == 0, done.stderr
    assert "2 shadow models on 1 workers of tcp://" in done.stdout and "\nLiRA " in done.stdout
    assert list((home / "out" / "dask" / "shadow_models").glob("*.npz"))


def test_each_example_is_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "examples").glob("*.py")}
    assert {name: length for name, length in lengths.items() if length >= 150} == {}
