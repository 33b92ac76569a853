"""The command line, on files."""

from __future__ import annotations

import configparser
import importlib
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import tfmiaq
from tfmiaq import cli

PIPELINE = """
import tfmiaq
from tfmiaq._backend import keras

constant = 3


def train(x, y):
    convolution, hidden = keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Dense(16, activation="relu")
    layers = [convolution, keras.layers.Flatten(), hidden, keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    return tfmiaq.TrainingRecipe(epochs=5, learning_rate=0.1, batch_size=16).fit(model, x, y)


def quantize(model, x, y):
    return tfmiaq.TrainingRecipe(epochs=1).fit(tfmiaq.quantize_model(model), x, y)
"""


@pytest.fixture(scope="module")
def home(digits, tmp_path_factory):
    """A folder with records and a pipeline, as a user has them."""
    folder = tmp_path_factory.mktemp("home")
    sets = {"x_train": digits.x_train[:60], "y_train": digits.y_train[:60]}
    np.savez(folder / "own.npz", **sets, x_test=digits.x_test[:80], y_test=digits.y_test[:80])
    (folder / "pipeline_of_digits.py").write_text(PIPELINE)
    (folder / "other").mkdir()
    (folder / "other" / "json.py").write_text(PIPELINE)
    (folder / "labels.txt").write_text("\n".join("abcdefghij") + "\n")
    return folder


@pytest.fixture(autouse=True)
def _at_home(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def run(capsys):
    """Runs a command line: its exit status, and what it printed."""

    def one(line):
        with pytest.raises(SystemExit) as left:
            cli.main(line.split())
        return left.value.code, capsys.readouterr()

    return one


@pytest.fixture(scope="module")
def defended(home):
    """The folder of `tfmiaq defend`."""
    line = "defend pipeline_of_digits.py:train --records own.npz --policy w1a3 --output_bits 1 --output_clip 0.2"
    line += " --epochs 1 --augment --references 2 --labels labels.txt"
    command = [sys.executable, "-m", "tfmiaq", *line.split()]
    made = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "| .tflite |" in made.stdout
    return home / "defended"


@pytest.mark.slow
def test_a_model_is_defended_with_what_the_flags_say(defended):
    policy = tfmiaq.BitwidthPolicy.from_json((defended / "policy.json").read_text())
    assert policy.output == tfmiaq.OutputBits(1, 0.2)
    assert tfmiaq.LayerBits(1, 3) in dict(policy.rules).values()
    assert tfmiaq.tflite.read_metadata((defended / "model.tflite").read_bytes())["labels"] == [*"abcdefghij"]
    # An attacker who adapts, and asks for changed copies.
    assert "RMIA on augmented queries" in (defended / "reports" / "tflite" / "report.json").read_text()


@pytest.mark.slow
def test_what_was_made_is_summed_up_converted_verified_and_checked(defended, run):
    assert "Conv2D" in run("summary defended/float.keras --policy w1a3")[1].out
    assert run("convert defended/quantized.keras edge.tflite --target edgetpu --io_type uint8")[0] == 0
    status, printed = run("verify defended/quantized.keras defended/model.tflite --records own.npz --count 20")
    assert status == 0 and "labels agree on 100.00%" in printed.out
    status, printed = run("check edge.tflite")
    assert status == int("NO" in printed.out.split()) and "operations mapped" in printed.out


@pytest.mark.slow
def test_an_audit_fails_above_the_auc_that_is_allowed(defended, run):
    audit = "audit defended/float.keras --records own.npz --attacks confidence --out audited"
    status, printed = run(audit)
    report = (pathlib.Path("audited") / "report.json").read_text()
    assert status == 0 and '"confidence"' in report and "Written to audited" in printed.out
    for limit in (0.01, 0.0):
        status, printed = run(f"{audit} --max_auc {limit}")
        assert status == 1 and f"above --max_auc={limit}" in printed.err


@pytest.mark.slow
def test_every_target_is_read_before_the_first_is_audited(defended, run, monkeypatch):
    monkeypatch.setattr(tfmiaq, "audit", lambda *args, **given: pytest.fail("audited"))
    status, printed = run("audit defended/model.tflite none.tflite --records own.npz")
    assert status == 2 and "No .tflite file at 'none.tflite'" in printed.err


@pytest.mark.slow
def test_an_audit_trains_reference_models_through_functions_of_a_file(defended, run):
    pipeline = "--train pipeline_of_digits.py:train --train pipeline_of_digits.py:quantize --references 2 --jobs 2"
    line = f"audit defended/model.tflite --records own.npz --members 50 --out adaptive --attacks RMIA {pipeline}"
    status, printed = run(line)
    assert status == 0 and "2 reference models were trained" in printed.out
    assert any((pathlib.Path("adaptive") / "reference_models").iterdir())


@pytest.mark.slow
def test_several_targets_are_compared(defended, run):
    line = "audit defended/float.keras defended/model.tflite --records own.npz --attacks gap --out both"
    status, printed = run(line)
    assert status == 0 and "| model.tflite |" in printed.out
    assert {"comparison.html", "float.keras", "model.tflite"} <= {path.name for path in pathlib.Path("both").iterdir()}


@pytest.mark.slow
def test_a_search_leaves_a_policy_that_other_commands_take(defended, run):
    line = "search defended/float.keras --records own.npz --trials 2 --epochs 1 --finalists 0 --sampler random"
    status, printed = run(line)
    assert status == 0 and "frontier 1" in printed.out
    assert cli.policy_of("search/best.json")


def test_help_does_without_tensorflow():
    code = "import sys; from tfmiaq import cli; cli.parser().format_help(); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_script_is_there():
    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(cli.__file__).parents[1] / "setup.cfg")
    module, _, name = setup["options.entry_points"]["console_scripts"].partition("=")[2].strip().partition(":")
    assert getattr(importlib.import_module(module), name) is cli.main


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("default", tfmiaq.BitwidthPolicy.mia_default()),
        ("w1a3", tfmiaq.BitwidthPolicy.uniform(1, 3)),
        ("policy.json", tfmiaq.BitwidthPolicy(tfmiaq.LayerBits(3, 5))),
    ],
)
def test_policies_are_named_in_three_ways(text, policy):
    pathlib.Path("policy.json").write_text(tfmiaq.BitwidthPolicy(tfmiaq.LayerBits(3, 5)).to_json())
    assert cli.policy_of(text) == policy


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("summary none.keras", "'none.keras' is no Keras model that can be loaded"),
        ("summary labels.txt", "'labels.txt' is no Keras model that can be loaded"),
        ("audit none.tflite --records none.npz", "No .npz file at 'none.npz'"),
        ("audit none.tflite --records digit", "Unknown data set 'digit'"),
        ("audit none.tflite --records own.npz --members 61", "60 training records. Received --members=61"),
        ("audit a/m.tflite b/m.tflite --records own.npz", "Expected targets of different names. Received m.tflite"),
        ("audit a.tflite b.tflite --records own.npz --train other/json.py:train", "audit the targets one by one"),
        ("audit a.tflite --records own.npz --train pipeline_of_digits.py", "Expected FILE.py:FUNCTION"),
        ("audit a.tflite --records own.npz --train none.py:train", "Received 'none.py:train'"),
        ("audit a.tflite --records own.npz --train other/json.py:train", "has the name of another module"),
        ("audit a.tflite --records own.npz --train pipeline_of_digits.py:fit", "has no function 'fit'"),
        ("audit a.tflite --records own.npz --train pipeline_of_digits.py:constant", "has no function 'constant'"),
        ("defend m.keras --records own.npz --policy w9a4", "Expected weight to be an integer from 1 to 8"),
        ("defend m.keras --records own.npz --policy w2", "as policy. Received 'w2'"),
        ("defend m.keras --records own.npz --output_bits 1", "Expected both of --output_bits and --output_clip"),
        ("defend m.keras --records own.npz --policy search --output_bits 1 --output_clip 1", "no knob of the search"),
        ("check none.tflite", "none.tflite"),
    ],
)
def test_bad_input_gets_a_message_and_status_2(run, line, message):
    status, printed = run(line)
    assert status == 2
    assert printed.err.startswith("tfmiaq: ") and message in printed.err
    assert "Traceback" not in printed.err


def test_a_traceback_is_shown_to_who_asks():
    with pytest.raises(ValueError, match="Unknown data set"):
        cli.main(["audit", "m.tflite", "--records", "digit", "--traceback"])
