"""Wrong command lines and broken files: each costs one line that names the thing, exit status 2, and no training."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest

from tfmiaq import cli
from tfmiaq._backend import keras

BROKEN = {
    "syntax.py": "def train(x, y:\n",
    "raises.py": "raise RuntimeError('no such device')\n",
    "needs_more.py": "import no_such_package\n",
    "pipeline_of_nothing.py": "def train(x, y):\n    raise AssertionError('trained')\n",
}


def header(shape):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    text = text + " " * (117 - len(text)) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with records, a model, and broken files of each kind."""
    folder = tmp_path_factory.mktemp("home")
    generator = np.random.default_rng(0)
    sets = {
        **{"x_train": generator.normal(size=(60, 4)), "y_train": np.arange(60) % 3},
        **{"x_test": generator.normal(size=(80, 4)), "y_test": np.arange(80) % 3},
    }
    np.savez(folder / "own.npz", **sets)
    np.savez(folder / "few.npz", **{**sets, "x_test": sets["x_test"][:9], "y_test": sets["y_test"][:9]})
    np.savez(folder / "scalar.npz", **{**sets, "y_train": np.float64(3)})
    np.savez(folder / "words.npz", **{**sets, "y_train": np.full(60, "cat")})
    np.savez(folder / "pickled.npz", **{**sets, "x_train": np.array([{}], object)})
    np.savez(folder / "lacks.npz", x_train=sets["x_train"])
    whole = (folder / "own.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("no archive")
    shutil.copyfile(folder / "own.npz", folder / "header.npz")
    with zipfile.ZipFile(folder / "bomb.npz", "w") as archive:
        for name in sets:
            archive.writestr(f"{name}.npy", header((10**11,)))
    for name, text in BROKEN.items():
        (folder / name).write_text(text)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(folder / "model.keras")
    whole = (folder / "model.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "unknown.json").write_text('{"schema": 1, "default": {"weight": 2}, "layrs": []}')
    (folder / "empty.tflite").write_bytes(b"")
    (folder / "short.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3\x00")
    (folder / "labels.txt").write_bytes(b"\xff\xfe")
    np.save(folder / "in.npy", generator.normal(size=(60, 3)))
    np.save(folder / "words.npy", np.full(60, "cat"))
    (folder / "cut.npy").write_bytes((folder / "in.npy").read_bytes()[:200])
    return folder


AUDIT = "audit model.keras --records own.npz"
DEFEND = "defend pipeline_of_nothing.py:train --records own.npz"
LINES = {
    # Files of records.
    "audit model.keras --records none.npz": "No .npz file at 'none.npz'",
    "audit model.keras --records cut.npz": "'cut.npz' is damaged, or no zip archive",
    "audit model.keras --records empty.npz": "'empty.npz' is damaged, or no zip archive",
    "audit model.keras --records text.npz": "'text.npz' is damaged, or no zip archive",
    "audit model.keras --records bomb.npz": "declares 800,000,000,000 bytes of values, and has 0",
    "audit model.keras --records pickled.npz": "holds Python objects",
    "audit model.keras --records scalar.npz": "y_train of 'scalar.npz'",
    "audit model.keras --records words.npz": "Labels of members are names ('cat')",
    "audit model.keras": "Give the records: --records=FILE.npz",
    "audit model.keras --records lacks.npz": "lacks y_train, x_test, y_test",
    "audit model.keras --records digit": "Unknown data set 'digit'",
    "audit model.keras --records few.npz": "Expected at least",
    f"{AUDIT} --members 0": "Received --members=0",
    f"{AUDIT} --members 99": "Received --members=99",
    f"{AUDIT} --max_bytes 1000": "above the limit of 1,000. Raise max_bytes",
    f"{AUDIT} --max_bytes 0": "max_bytes to be an integer of at least 1",
    f"{AUDIT} --seed -1": "seed to be an integer from 0",
    # Models.
    "summary none.keras": "No model at 'none.keras'",
    "summary cut.keras": "'cut.keras' is damaged, or no Keras model",
    "summary model.keras --max_seconds 0": "max_seconds to be a finite number above 0",
    "summary model.keras --max_seconds nan": "max_seconds to be a finite number above 0",
    "summary own.npz": "'own.npz' is damaged, or no Keras model",
    "summary model.keras --policy w9a4": "weight to be an integer from 1 to 8",
    "summary model.keras --policy none.json": "path of a policy's JSON as policy. Received 'none.json'",
    "summary model.keras --policy binary.json": "is no UTF-8 text",
    "summary model.keras --policy deep.json": "nested too deep",
    "summary model.keras --policy unknown.json": "Did you mean 'layers'?",
    "summary model.keras --policy own.npz": "is no UTF-8 text",
    "convert model.keras out.tflite": "which has no quantized layer",
    "convert model.keras out.tflite --labels none.txt": "--labels: No file at 'none.txt'",
    "convert model.keras out.tflite --labels labels.txt": "--labels: 'labels.txt' is no UTF-8 text",
    "verify model.keras short.tflite --records own.npz": "which has no quantized layer",
    "verify model.keras short.tflite --records own.npz --count 0": "count to be an integer of at least 1",
    "check none.tflite": "No .tflite file at 'none.tflite'",
    "check empty.tflite": "'empty.tflite' is no TFLite model",
    "check short.tflite": "'short.tflite': damaged .tflite: the root lies at byte 28 of 9",
    "check model.keras": "'model.keras' is no TFLite model",
    # Targets.
    "audit none.tflite --records own.npz": "No .tflite file at 'none.tflite'",
    "audit short.tflite --records own.npz": "damaged .tflite",
    "audit in.npy,none.npy --records own.npz": "No .npy file at 'none.npy'",
    "audit cut.npy,in.npy --records own.npz": "'cut.npy' is damaged",
    f"{AUDIT} --other short.tflite": "damaged .tflite",
    f"{AUDIT} --attacks lirra": "Unknown attacks ['lirra']",
    f"{AUDIT} --reference_models 4": "give --train_fn",
    f"{AUDIT} --train_fn none.py:train": "Received 'none.py:train'",
    f"{AUDIT} --train_fn syntax.py:train": "'syntax.py:train' cannot be imported (SyntaxError",
    f"{AUDIT} --train_fn raises.py:train": "'raises.py:train' cannot be imported (RuntimeError: no such device)",
    f"{AUDIT} --train_fn needs_more.py:train": "(ModuleNotFoundError: No module named 'no_such_package'",
    f"{AUDIT} --train_fn pipeline_of_nothing.py:fit": "has no function 'fit'",
    f"{AUDIT} --train_fn pipeline_of_nothing.py:train --reference_models 1": "count to be an integer of at least 2",
    f"{AUDIT} --train_fn pipeline_of_nothing.py:train --n_jobs 0": "n_jobs",
    # Long work.
    f"{DEFEND} --learning_rate nan": "learning_rate to be a finite number above 0",
    f"{DEFEND} --epochs 0": "epochs to be an integer of at least 1",
    f"{DEFEND} --mixup inf": "mixup to be a finite number",
    f"{DEFEND} --reference_models 1": "reference_models to be an integer of at least 2, or 0",
    f"{DEFEND} --policy w2": "as policy. Received 'w2'",
    f"{DEFEND} --output_bits 9 --output_clip 1": "bits to be an integer from 1 to 8",
    f"{DEFEND} --output_bits 1 --output_clip nan": "clip to be a finite number above 0",
    f"{DEFEND} --folds 1": "folds to be an integer of at least 2",
    f"{DEFEND} --labels none.txt": "--labels: No file at 'none.txt'",
    "defend pipeline_of_nothing.py:train --records few.npz": "test records, half of which are audited",
}
# argparse tells these, with the usage in front.
USAGE = {
    "": "required: COMMAND",
    "defnd model.keras": "invalid choice: 'defnd'",
    f"{AUDIT} --reference_models high": "invalid int value: 'high'",
    f"{DEFEND} --target mobil": "invalid choice: 'mobil'",
    f"{DEFEND} --epochs many": "invalid int value: 'many'",
}


@pytest.mark.parametrize("line", [*LINES, *USAGE])
def test_a_wrong_line_costs_one_line(line, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    with pytest.raises(SystemExit) as left:
        cli.main(line.split())
    printed = capsys.readouterr()
    assert left.value.code == 2 and not printed.out
    told = printed.err.rstrip("\n").split("\n")
    assert {**LINES, **USAGE}[line] in told[-1] and len(told[-1]) < 700
    assert len(told) == 1 or line in USAGE
    assert "Traceback" not in printed.err
