"""The command line from files to files: records of each kind, quantizing without training, saved reports."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import tfmiaq
from tfmiaq import cli, datasets
from tfmiaq._backend import keras
from tfmiaq.cli import inputs, parsing

COUNT = 40
COMMANDS = [command[0] for command in parsing._COMMANDS]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with models of a table, of grey images and of sequences, and their records."""
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    hidden = [layers.Dense(6, activation="relu"), layers.Dense(1, activation="sigmoid")]
    keras.Sequential([keras.Input((3,)), *hidden]).save(folder / "table.keras")
    images = [layers.Conv2D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(2)]
    keras.Sequential([keras.Input((6, 5, 1)), *images]).save(folder / "images.keras")
    steps = [layers.Conv1D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(2)]
    keras.Sequential([keras.Input((6, 5)), *steps]).save(folder / "steps.keras")
    generator = np.random.default_rng(0)
    table, grey = generator.normal(size=(COUNT, 3)), generator.integers(0, 256, (COUNT, 6, 5)).astype(np.uint8)
    steps, y = generator.normal(size=(COUNT, 6, 5)), np.arange(COUNT) % 2
    np.savez(folder / "x.npz", x=table)
    np.savez(folder / "grey.npz", x=grey)
    for name, x in (("table", table), ("images", grey / np.float32(255)), ("steps", steps)):
        np.savez(folder / f"{name}.npz", x_train=x, y_train=y, x_test=x + x[::-1] / 9, y_test=y)
    rows = [",".join([*(f"{value:.4f}" for value in row), str(label)]) for row, label in zip(table, y)]
    (folder / "table.csv").write_text("\n".join(["age,income,height,ill", *rows]) + "\n")
    (folder / "pictures").mkdir()
    for number, image in enumerate(grey):
        Image.fromarray(image).save(folder / "pictures" / f"{number}.png")
    (folder / "labels.txt").write_text("well\nill\n")
    (folder / "three.txt").write_text("well\nill\nunknown\n")
    return folder


@pytest.fixture(autouse=True)
def _at_home(home, monkeypatch):
    monkeypatch.chdir(home)


QUANTIZED = {
    "an array x": "table.keras --records x.npz",
    "training and test records": "table.keras --records table.npz --save quantized.keras",
    "a table": "table.keras --records table.csv --label ill",
    "grey images of bytes": "images.keras --records grey.npz --target edgetpu --io_type uint8",
    "images without a channel": "images.keras --records images.npz --labels labels.txt",
    "a folder of images": "images.keras --records pictures --policy w2a4",
    "sequences": "steps.keras --records steps.npz",
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_model_is_quantized_without_training(kind, run):
    status, printed = run(f"quantize {QUANTIZED[kind]} --iterations 3 -o made.tflite")
    assert status == 0, printed.err
    size = pathlib.Path("made.tflite").stat().st_size
    assert f"{size:,} bytes" in printed.out and "labels agree on" in printed.out
    assert re.search(r"dense\w* +Dense +8 ", printed.out) and "NO" not in printed.out.split()
    assert ("float model choose the same class" in printed.out) == ("table.keras" not in QUANTIZED[kind])


def test_the_quantized_model_is_kept_and_verified(run):
    status, _ = run("quantize table.keras --records table.npz --iterations 1 --save kept.keras -o kept.tflite")
    assert status == 0
    assert run("verify kept.keras kept.tflite --records table.csv --label ill")[0] == 0
    status, printed = run("quantize kept.keras --records table.npz -o again.tflite")
    assert status == 2 and "quantized already: tfmiaq convert writes its .tflite" in printed.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("quantize table.keras --records table.csv -o a.tflite", "Received an array of shape (40, 4)"),
        ("quantize table.keras --records table.csv --label sick -o a.tflite", "It has no 'sick'"),
        ("quantize table.keras --records none.csv -o a.tflite", "A .csv or a folder of images holds one set"),
        ("quantize table.keras --records table.npz --count 0 -o a.tflite", "count to be an integer of at least 1"),
        ("quantize table.keras --records table.npz --count 5 -o a.tflite", "at least 16 records. Received 5"),
        ("quantize table.keras --records table.npz --iterations 0 -o a.tflite", "iterations to be an integer"),
        ("quantize table.keras --records table.npz --policy w9a4 -o a.tflite", "weight to be an integer from 1 to 8"),
        ("quantize table.keras --records table.npz --labels three.txt -o a.tflite", "Expected 2 or 1 labels"),
        ("quantize none.keras --records table.npz -o a.tflite", "No model at 'none.keras'"),
        ("audit table.keras --records table.csv", "give --members and --non_members"),
        ("report none.json", "No report at 'none.json'"),
        ("report labels.txt", "cannot be read as JSON"),
        ("report a/report.json b/a", "folders of different names. Received a, a"),
        ("report none.json --allow_unresolved", "give its limits with --fail_if"),
        ("report none.json --fail_if auc>2", "Expected the limit of 'auc>2'"),
        ("audit in.npy,out.npy --records table.npz --format junit", "give its limits with --fail_if"),
    ],
)
def test_what_cannot_be_done_says_so_in_one_line(line, message, run):
    status, printed = run(line)
    assert status == 2 and message in printed.err and len(printed.err.splitlines()) == 1
    assert not pathlib.Path("a.tflite").exists()


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("audti m.tflite", "audit"),
        ("quantise m.keras", "quantize"),
        ("audit m.tflite --recrods=own.npz", "--records"),
        ("audit m.tflite --records own.npz --fail-if auc>0.5", "--fail_if"),
        ("verify m.keras m.tflite --recrods=own.npz", "--records"),
        ("convert m.keras m.tflite --target=mobil", "mobile"),
        ("convert m.keras m.tflite --target edge_tpu", "edgetpu"),
        ("audit m.tflite --records digits --format jnuit", "junit"),
        ("quantize m.keras --records x.npz --output m.tflite --ploicy w4a8", "--policy"),
    ],
)
def test_wrong_words_offer_the_nearest(line, meant, run):
    status, printed = run(line)
    assert status == 2 and f"Did you mean {meant} in the place of " in printed.err.splitlines()[-1]


def test_words_that_are_like_nothing_offer_nothing(run):
    assert "Did you mean" not in run("audit m.tflite --records digits --zzz")[1].err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_can_be_typed(command, run):
    shown = run(f"{command} --help")[1].out.splitlines()
    (line,) = [line.strip() for line in shown[shown.index("example:") :] if line.strip().startswith("tfmiaq ")]
    words = shlex.split(line)
    assert words[:2] == ["tfmiaq", command]
    assert cli.parser().parse_args(words[1:]).command == command


SHAPES = {
    "grey images": ((6, 5, 1), (4, 6, 5), (4, 6, 5, 1)),
    "images": ((6, 5, 1), (4, 6, 5, 1), (4, 6, 5, 1)),
    "colours": ((6, 5, 3), (4, 6, 5, 3), (4, 6, 5, 3)),
    "sequences": ((6, 5), (4, 6, 5), (4, 6, 5)),
    "sequences of bytes": ((6, 5), (4, 6, 5, 1), (4, 6, 5)),
    "a table": ((3,), (4, 3), (4, 3)),
    "one column": ((1,), (4, 1), (4, 1)),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_records_get_the_channel_that_the_model_takes(kind):
    shape, given, expected = SHAPES[kind]
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(2)]
    assert inputs.fitted(np.zeros(given), keras.Sequential(layers)).shape == expected
    assert inputs.fitted(np.zeros(given), lambda x: x).shape == given


def test_a_file_says_what_records_it_takes(run):
    assert run("quantize images.keras --records images.npz --iterations 1 -o of_images.tflite")[0] == 0
    assert inputs.fitted(np.zeros((4, 6, 5)), pathlib.Path("of_images.tflite").read_bytes()).shape == (4, 6, 5, 1)


def test_each_target_gets_the_records_that_it_takes(run, monkeypatch):
    taken = []
    monkeypatch.setattr("tfmiaq.auditing.audit", lambda target, members, *rest, **given: taken.append(members[0].shape))
    for target in ("images.keras", "steps.keras"):
        with pytest.raises(AttributeError):
            run(f"audit {target} --records images.npz")
    assert taken == [(COUNT, 6, 5, 1), (COUNT, 6, 5)]


def test_sequences_get_no_channel():
    assert datasets.load("steps.npz").x_train.shape == (COUNT, 6, 5)


@pytest.fixture(scope="module")
def audited(home):
    """Two saved reports of outputs: of a model that tells members, and of one that does not."""
    generator = np.random.default_rng(0)
    y = np.arange(200) % 2
    for name, shift in (("leaky", 1.0), ("quiet", 4.0)):
        scores = generator.normal(size=(2, 200, 2))
        scores[:, np.arange(200), y] += np.array([[4.0], [shift]])
        members, others = ((generator.normal(size=(200, 3)), y) for _ in range(2))
        tfmiaq.audit((scores[0], scores[1]), members, others, ["gap", "confidence"]).save(home / name)
    return home


def test_a_saved_report_is_shown_again(audited, run):
    status, printed = run("report leaky/report.json --folder shown")
    assert status == 0, printed.err
    assert printed.out.startswith(str(tfmiaq.AuditReport.load("leaky"))[:200])
    assert (audited / "shown" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert run("report quiet --folder shown --fail_if auc>0.7")[0] == 0
    status, printed = run("report leaky --folder shown --fail_if auc>0.7 --junit gate.xml")
    assert status == 1 and "leaky: auc>0.7 failed" in printed.err
    assert ElementTree.parse("gate.xml").getroot().get("failures") == "1"


def test_saved_reports_are_compared(audited, run):
    status, printed = run("report leaky quiet/report.json --folder compared")
    assert status == 0 and "| leaky |" in printed.out and "| quiet |" in printed.out
    assert (audited / "compared" / "comparison.html").is_file()


def test_a_program_reads_what_is_printed(audited, run):
    status, printed = run("report leaky quiet --folder compared --format json --fail_if auc>0.7")
    found = json.loads(printed.out)
    assert status == 1 and found["folder"] == "compared"
    assert found["reports"]["leaky"]["auc"] == float(tfmiaq.AuditReport.load("leaky").auc)
    assert [gate["passed"] for gate in found["gates"].values()] == [False, True]
    assert [check["outcome"] for check in found["gates"]["leaky"]["checks"]] == ["passed", "failed"]
    assert json.loads(run("report quiet --folder shown --format json")[1].out)["gates"] is None
    status, printed = run("report leaky quiet --folder compared --format junit --fail_if auc>0.7")
    assert status == 1 and ElementTree.fromstring(printed.out).get("failures") == "1"
