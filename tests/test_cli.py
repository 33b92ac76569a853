"""The command line, on files."""

from __future__ import annotations

import configparser
import dataclasses
import importlib
import inspect
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import tfmiaq
from tfmiaq import cli
from tfmiaq.cli import flags as flags_of
from tfmiaq.cli import parsing
from tfmiaq.tflite import conversion
from tfmiaq.training import FINE_TUNING, FROM_SCRATCH

RECIPE_FLAGS = {"epochs", "learning_rate", "batch_size", "weight_decay", "mixup", "augment"}
W1A3_OUTPUT = dataclasses.replace(tfmiaq.BitwidthPolicy.uniform(1, 3), output=tfmiaq.OutputBits(2, 3.0))

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


@pytest.fixture(scope="module")
def defended(home):
    """The folder of `tfmiaq defend`."""
    line = "defend pipeline_of_digits.py:train --records own.npz --policy w1a3 --output_bits 1 --output_clip 0.2"
    line += " --epochs 1 --augment --reference_models 2 --labels labels.txt"
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
    # An attacker who adapts, and makes augmented queries.
    assert "RMIA on augmented queries" in (defended / "reports" / "tflite" / "report.json").read_text()


@pytest.mark.slow
def test_what_was_made_is_summarized_converted_verified_and_checked(defended, run):
    assert "Conv2D" in run("summary defended/float.keras --policy w1a3")[1].out
    assert run("convert defended/quantized.keras edge.tflite --target edgetpu --io_type uint8")[0] == 0
    status, printed = run("verify defended/quantized.keras defended/model.tflite --records own.npz --count 20")
    assert status == 0 and "labels agree on 100.00%" in printed.out
    status, printed = run("check edge.tflite")
    assert status == int("NO" in printed.out.split()) and "operations mapped" in printed.out


@pytest.mark.slow
def test_an_audit_fails_above_a_limit(defended, run):
    audit = "audit defended/float.keras --records own.npz --attacks confidence --folder audited"
    status, printed = run(audit)
    report = (pathlib.Path("audited") / "report.json").read_text()
    assert status == 0 and '"confidence"' in report and "Written to audited" in printed.out
    status, printed = run(f"{audit} --fail_if auc>0.5")
    assert status == 1 and "auc>0.5 failed" in printed.err
    assert "SHA-256" in (pathlib.Path("audited") / "report.md").read_text()


@pytest.mark.slow
def test_every_target_is_read_before_the_first_is_audited(defended, run, monkeypatch):
    monkeypatch.setattr("tfmiaq.auditing.audit", lambda *args, **given: pytest.fail("audited"))
    status, printed = run("audit defended/model.tflite none.tflite --records own.npz")
    assert status == 2 and "No .tflite file at 'none.tflite'" in printed.err


@pytest.mark.slow
def test_an_audit_trains_reference_models_through_functions_of_a_file(defended, run):
    pipeline = "--train_fn pipeline_of_digits.py:train --train_fn pipeline_of_digits.py:quantize"
    models = "--reference_models 2 --n_jobs 2 --cache kept"
    line = "audit defended/model.tflite --records own.npz --members 50 --folder adaptive --attacks RMIA"
    line = f"{line} {pipeline} {models}"
    status, printed = run(line)
    assert status == 0 and "2 reference models were trained" in printed.out
    assert any(pathlib.Path("kept").iterdir())


def test_an_audit_takes_the_groups_of_the_records_file(run, tmp_path):
    generator = np.random.default_rng(0)
    x, y, groups = generator.normal(size=(60, 4)), np.arange(60) % 2, np.arange(60) // 3
    np.savez("grouped.npz", x_train=x, y_train=y, x_test=-x, y_test=y, groups_train=groups, groups_test=60 + groups)
    for name in ("in.npy", "out.npy"):
        np.save(name, generator.normal(size=(60, 2)))
    line = f"audit in.npy,out.npy --records grouped.npz --attacks confidence --folder {tmp_path}"
    status, printed = run(line)
    assert status == 0 and "60 members of 20 groups, 60 non-members of 20 groups" in printed.out
    status, printed = run(f"{line} --canaries mislabelled")
    assert status == 2 and "give --train_fn" in printed.err
    np.savez("grouped.npz", x_train=x, y_train=y, x_test=-x, y_test=y, groups_train=groups, groups_test=19 + groups)
    status, printed = run(line)
    assert status == 2 and "Group '19' has 3 records in members and 3 in non_members" in printed.err


@pytest.mark.slow
def test_several_targets_are_compared(defended, run):
    line = "audit defended/float.keras defended/model.tflite --records own.npz --attacks gap --folder both"
    status, printed = run(line)
    assert status == 0 and "| model.tflite |" in printed.out
    assert {"comparison.html", "float.keras", "model.tflite"} <= {path.name for path in pathlib.Path("both").iterdir()}


@pytest.mark.parametrize("line", ["--help", "defend --help", "audit --help"])
def test_help_does_without_tensorflow(line):
    code = (
        f"import runpy, sys\nsys.argv = ['tfmiaq', *{line.split()!r}]\n"
        "try:\n    runpy.run_module('tfmiaq', run_name='__main__')\n"
        "except SystemExit as left:\n    assert left.code == 0\n"
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'tf_keras')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "usage: tfmiaq" in shown.stdout


def _defaults(command):
    return vars(cli.parser().parse_args([command, "m.keras", "--records", "digits"]))


def test_defaults_are_those_of_the_functions():
    """Options come from the dataclasses; what belongs to a function alone is compared with it."""
    signature = inspect.signature(tfmiaq.defend).parameters
    for name in ("reference_models", "minutes", "target", "labels", "folder", "n_jobs", "seed"):
        default = _defaults("defend")[name]
        assert (str(default) if isinstance(default, pathlib.Path) else default) == signature[name].default
    assert _defaults("audit")["seed"] == inspect.signature(tfmiaq.audit).parameters["seed"].default
    assert parsing.TARGETS == conversion.TARGETS


@pytest.mark.parametrize(
    ("command", "options", "names"),
    [
        (
            "defend",
            tfmiaq.TrainingRecipe,
            RECIPE_FLAGS,
        ),
        ("defend", tfmiaq.CrossDistillation, {"folds", "repeats", "teacher_weight", "copies"}),
    ],
)
def test_flags_have_the_names_of_the_fields_and_no_default_of_their_own(command, options, names):
    fields = {field.name for field in dataclasses.fields(options)}
    flags = {name: value for name, value in _defaults(command).items() if name in fields}
    assert flags == dict.fromkeys(names)
    assert flags_of.documented(options).keys() == fields


def test_help_shows_the_defaults_of_the_fields(run):
    shown = " ".join(run("defend --help")[1].out.split())
    assert "number of epochs (10, with cross-distillation 24)" in shown
    assert "how often the records are split anew (1)" in shown


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {"recipe": None, "cross_distillation": None, "policy": tfmiaq.BitwidthPolicy.mia_default()}),
        ("--epochs 3", {"recipe": dataclasses.replace(FINE_TUNING, epochs=3), "cross_distillation": None}),
        ("--folds 3", {"recipe": None, "cross_distillation": tfmiaq.CrossDistillation(3)}),
        (
            "--teacher_weight 0.5 --copies 2 --mixup 0.2",
            {
                "recipe": dataclasses.replace(FROM_SCRATCH, mixup=0.2),
                "cross_distillation": tfmiaq.CrossDistillation(teacher_weight=0.5, copies=2),
            },
        ),
        ("--no_cross_distillation", {"recipe": None, "cross_distillation": False}),
        (
            "--policy w2a4",
            {"policy": tfmiaq.BitwidthPolicy.uniform(2, 4), "reference_models": 16, "target": "mobile"},
        ),
        ("--policy w1a3 --output_bits 2 --output_clip 3", {"policy": W1A3_OUTPUT}),
    ],
)
def test_flags_become_options(monkeypatch, run, flags, expected):
    given = {}
    monkeypatch.setattr("tfmiaq.defence.defend", lambda *args, **options: given.update(options))
    status, printed = run(f"defend pipeline_of_digits.py:train --records own.npz {flags}")
    assert status == 0, printed.err
    assert {name: given[name] for name in expected} == expected


def test_the_script_is_there():
    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(cli.__file__).parents[2] / "setup.cfg")
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
        ("summary none.keras", "load_model: No model at 'none.keras'"),
        ("summary labels.txt", "load_model: 'labels.txt' is damaged, or no Keras model"),
        ("audit none.tflite --records none.npz", "No .npz file at 'none.npz'"),
        ("audit none.tflite --records digit", "Unknown data set 'digit'"),
        ("audit none.tflite --records own.npz --members 61", "60 training records. Received --members=61"),
        ("audit a/m.tflite b/m.tflite --records own.npz", "Expected targets of different names. Received m.tflite"),
        ("audit a.tflite b.tflite --records own.npz --train_fn other/json.py:train", "audit targets one by one"),
        ("audit a.tflite --records own.npz --train_fn pipeline_of_digits.py", "Expected FILE.py:FUNCTION"),
        ("audit a.tflite --records own.npz --train_fn none.py:train", "Received 'none.py:train'"),
        ("audit a.tflite --records own.npz --train_fn other/json.py:train", "has the name of another module"),
        ("audit a.tflite --records own.npz --train_fn pipeline_of_digits.py:fit", "has no function 'fit'"),
        ("audit a.tflite --records own.npz --train_fn pipeline_of_digits.py:constant", "has no function 'constant'"),
        ("defend m.keras --records own.npz --policy w9a4", "Expected weight to be an integer from 1 to 8"),
        ("defend m.keras --records own.npz --policy w2", "as policy. Received 'w2'"),
        ("defend m.keras --records own.npz --output_bits 1", "Expected both of --output_bits and --output_clip"),
        ("defend m.keras --records own.npz --policy search", "as policy. Received 'search'"),
        (
            "defend m.keras --records own.npz --folds 1",
            "CrossDistillation: Expected folds to be an integer",
        ),
        ("defend m.keras --records own.npz --folds 2 --no_cross_distillation", "goes without --folds"),
        (
            "defend m.keras --records own.npz --epochs 0",
            "TrainingRecipe: Expected epochs to be an integer",
        ),
        ("audit a.tflite --records own.npz --reference_models 3", "need the target's pipeline: give --train_fn"),
        ("verify m.keras m.tflite --records own.npz --count 0", "Expected count to be an integer of at least 1"),
        ("check none.tflite", "none.tflite"),
    ],
)
def test_bad_input_gets_a_message_and_status_2(run, line, message):
    status, printed = run(line)
    assert status == 2
    assert printed.err.startswith("tfmiaq: ") and message in printed.err
    assert "Traceback" not in printed.err


def test_a_traceback_is_shown_with_its_flag():
    with pytest.raises(ValueError, match="Unknown data set"):
        cli.main(["audit", "m.tflite", "--records", "digit", "--traceback"])
