"""Changed files of each kind through their readers: does one of them crash, hang, or raise an unclear error?

    python benchmarks/fuzz.py --inputs=1000

Each case is a sound file with changes that its seed draws. Cases run in a child, many in one, so that a crash or a hang
costs one case: the child is ended and another goes on behind it. An error is clear if it is a ValueError of one line
and at most 1,000 characters. A run that was stopped goes on where it was. The whole takes the processor time of
--cpu_seconds; kinds that are slow to read get fewer cases by --inputs.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import mutations
import numpy as np
from absl import app, flags
from pages import write_part

INPUTS = flags.DEFINE_integer("inputs", 1000, "Cases of each kind, all together with those of earlier runs.", 1)
KINDS = flags.DEFINE_list("kinds", None, "Kinds; all of them if not given.")
CPU_SECONDS = flags.DEFINE_float("cpu_seconds", 900.0, "Processor time, after which no further cases begin.", 1.0)
HANG_SECONDS = flags.DEFINE_float("hang_seconds", 60.0, "Time after which a case hangs.", 1.0)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the changes.", 0)
RESULTS = flags.DEFINE_string("results", "benchmarks/fuzz.json", "Result file.")
WRITE = flags.DEFINE_bool("write", False, "Only write the table of the result file into docs/reliability.md.")
WORKER = flags.DEFINE_string("worker", None, "For the children alone: kind, first case, end and folder.")

_MEMORY = 12 * 2**30
_STARTING_SECONDS = 900.0
_PIECE, _SLOW_PIECE, _SLOW = 1000, 500, ("keras", "h5", "small keras", "small h5")
# What a case came to.
ACCEPTED, REFUSED, UNCLEAR, CRASHED, HUNG = "accepted", "refused", "unclear", "crashed", "hung"
Reader = Callable[[pathlib.Path], Any]


def _in_the_childs_interpreter(path: pathlib.Path) -> None:
    """Does what `Interpreter` does for a file from outside: checks it, and runs it where it may die."""
    from tfmiaq.loading import tflite_child
    from tfmiaq.loading.tflite_files import check_tflite

    data = path.read_bytes()
    check_tflite(data)
    _note("checked")
    served = tflite_child._Served()
    try:
        served.open(data, "tensorflow", False, False, 1, _MEMORY)
        details = served.details()
        given = [(d["index"], np.zeros(d["shape"], d["dtype"])) for d in details["inputs"]]
        served.run([given], [d["index"] for d in details["outputs"]])
    except Exception as error:
        # The child sends whatever the interpreter raises, and the parent says it in one line.
        raise ValueError(" ".join(str(error).split())) from error


def _in_the_childs_hdf5(path: pathlib.Path) -> None:
    """Does what `load_model` lets a child do, which may die: reads all that HDF5 has in a file."""
    from tfmiaq.loading import hdf5_child

    members: list[str] = [""]
    if path.suffix == ".keras":
        with contextlib.suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".h5")]
    _note("checked")
    try:
        for member in members if path.suffix == ".h5" or zipfile.is_zipfile(path) else ():
            hdf5_child.read(str(path), member, _MEMORY // 3)
    except Exception as error:
        # The child says whatever h5py raises, and the parent refuses the file for it.
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from error
    finally:
        _note("read")


def _edgetpu(path: pathlib.Path) -> None:
    from tfmiaq import edgetpu
    from tfmiaq.tflite import read_metadata

    edgetpu.check(path)
    read_metadata(path)


def _keras(path: pathlib.Path) -> None:
    import tfmiaq
    from tfmiaq.loading import keras_files

    _in_the_childs_hdf5(path)
    # That was its part.
    with mock.patch.object(keras_files, "_check_hdf5"):
        tfmiaq.load_model(path)


def _keras_check(path: pathlib.Path) -> None:
    """Does what `load_model` does before Keras sees a file."""
    import tfmiaq.quantization  # noqa: F401  # Its classes are registered.
    from tfmiaq.loading import keras_files
    from tfmiaq.loading.limits import MAX_BYTES

    _in_the_childs_hdf5(path)
    keras_files._check_file(path, repr(str(path)), MAX_BYTES, None, False)


def _records(path: pathlib.Path) -> None:
    from tfmiaq import datasets

    datasets.load(str(path))


def _table(path: pathlib.Path) -> None:
    from tfmiaq import datasets

    datasets.load_files(str(path), str(path), "label")


def _outputs(path: pathlib.Path) -> None:
    from tfmiaq.loading.arrays import open_npy

    np.asarray(open_npy(path)).sum()


def _policy(path: pathlib.Path) -> None:
    from tfmiaq.loading import read_text
    from tfmiaq.policy import BitwidthPolicy

    BitwidthPolicy.from_json(read_text(path, "policy"))


def _report(path: pathlib.Path) -> None:
    from tfmiaq.auditing import AuditReport

    AuditReport.load(path)


def _cached(path: pathlib.Path) -> None:
    from tfmiaq.caching.store import ARRAYS, VALUES, Store

    store = Store(path.parent)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = store.get(path.stem, ARRAYS if path.suffix == ".npz" else VALUES)
    if found is None and told:
        raise ValueError(str(told[0].message))


KIND: dict[str, tuple[str, Callable[..., bytes], Reader]] = {
    "tflite": (".tflite", mutations.change_bytes, _in_the_childs_interpreter),
    "tflite check": (".tflite", mutations.change_bytes, _edgetpu),
    "keras": (".keras", mutations.change_zip, _keras),
    "h5": (".h5", mutations.change_bytes, _keras),
    "small keras": (".keras", mutations.change_zip, _keras),
    "small h5": (".h5", mutations.change_bytes, _keras),
    "keras check": (".keras", mutations.change_zip, _keras_check),
    "h5 check": (".h5", mutations.change_bytes, _keras_check),
    "npz": (".npz", mutations.change_zip, _records),
    "csv": (".csv", mutations.change_bytes, _table),
    "npy": (".npy", mutations.change_bytes, _outputs),
    "policy": (".json", mutations.change_json_text, _policy),
    "report": (".json", mutations.change_json_text, _report),
    "cached arrays": (".npz", mutations.change_zip, _cached),
    "cached values": (".json", mutations.change_json_text, _cached),
}


def make_sound_files(folder: pathlib.Path) -> None:
    """Writes a sound file of each kind, named by it."""
    import tfmiaq
    from tfmiaq._backend import keras

    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 4, 4, 1)).astype(np.float32)
    y: np.ndarray = np.arange(64) % 3
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(3, 3, padding="same"), layers.ReLU()])
    for layer in (layers.MaxPooling2D(), layers.Flatten(), layers.Dense(3, activation="softmax")):
        model.add(layer)
    quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(2, 4))
    tfmiaq.calibrate(quantized, x)
    file = tfmiaq.convert(quantized)
    quantized.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    for form in ("keras", "h5"):
        quantized.save(folder / f"{form}.{form}")
        quantized.save(folder / f"{form} check.{form}")
    # Keras takes a tenth of a second to make what the file above describes.
    small = tfmiaq.quantize_model(keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu")]))
    small.save(folder / "small keras.keras")
    small.save(folder / "small h5.h5")
    for name in ("tflite", "tflite check"):
        (folder / f"{name}.tflite").write_bytes(file)
    arrays = {"x_train": x[:32], "y_train": y[:32], "x_test": x[32:], "y_test": y[32:]}
    np.savez(folder / "npz.npz", **arrays)
    np.savez_compressed(folder / "cached arrays.npz", **arrays)
    np.save(folder / "npy.npy", x)
    rows = [",".join([f"{value:.4f}" for value in row.ravel()[:6]] + [str(kind)]) for row, kind in zip(x, y)]
    (folder / "csv.csv").write_text("\n".join(["a,b,c,d,e,f,label", *rows]))
    (folder / "policy.json").write_text(tfmiaq.get_policy(quantized).to_json())
    (folder / "cached values.json").write_text(json.dumps({"auc": 0.5, "rates": [0.1, 0.2], "name": "attack"}))
    scores = generator.normal(size=(120, 3)).astype(np.float32)
    labels: np.ndarray = np.arange(60) % 3
    saved = tfmiaq.audit((scores[:60], scores[60:]), (None, labels), (None, labels), verbose=False).save(folder / "r")
    (folder / "report.json").write_bytes((saved / "report.json").read_bytes())


_LOG = {"descriptor": -1}


def _note(text: str) -> None:
    """Tells the parent how far the child is; written at once, so that it is there if the child dies."""
    os.write(_LOG["descriptor"], f"{text}\n".encode())


def work(kind: str, first: int, end: int, folder: pathlib.Path) -> None:
    """Runs cases, and logs each before it begins and when it is over."""
    suffix, change, read = KIND[kind]
    _LOG["descriptor"] = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    sound = (folder / f"{kind}{suffix}").read_bytes()
    path = folder / f"case{suffix}"
    if kind != "tflite":
        path.write_bytes(sound)
        read(path)  # What it imports, it imports here.
    for case in range(first, end):
        # A file is written anew, because a reader may have it mapped.
        path.unlink(missing_ok=True)
        path.write_bytes(change(sound, random.Random(f"{SEED.value} {kind} {case}")))
        _note(f"case {case}")
        outcome, told = ACCEPTED, ""
        try:
            with contextlib.redirect_stdout(None), warnings.catch_warnings():
                warnings.simplefilter("ignore" if kind[:6] != "cached" else "always")
                read(path)
        except ValueError as error:
            told = str(error)
            outcome = REFUSED if "\n" not in told and 0 < len(told) <= 1000 else UNCLEAR
        except Exception as error:
            outcome, told = UNCLEAR, f"{type(error).__name__}: {error}"
        _note(f"{outcome} {json.dumps(told[:300]) if outcome == UNCLEAR else ''}")


class _Progress:
    """What the log of a child says."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path, self._read = path, 0
        path.unlink(missing_ok=True)
        self.case, self.over, self.was_checked, self.rest = -1, True, False, b""
        self.counts: collections.Counter[str] = collections.Counter()
        self.unclear: list[list[Any]] = []

    def update(self) -> bool:
        """Reads on, and returns whether there was something."""
        if not self._path.exists():
            return False
        with self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        for line in lines:
            word, _, more = line.decode().partition(" ")
            if word == "case":
                self.case, self.over, self.was_checked = int(more), False, False
            elif word == "checked":
                self.was_checked = True
            elif word == "read":
                self.was_checked = False
            else:
                self.counts[word] += 1
                self.over = True
                if word == UNCLEAR:
                    self.unclear.append([self.case, json.loads(more)])
        return bool(new)


def run_piece(kind: str, first: int, end: int, folder: pathlib.Path) -> tuple[int, _Progress]:
    """Runs cases in a child until all are over, or one kills it, and returns the next case and what came of them."""
    progress = _Progress(folder / "log")
    command = [sys.executable, __file__, f"--worker={kind},{first},{end},{folder}", f"--seed={SEED.value}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (folder / "errors").open("wb") as errors:
        child = subprocess.Popen(command, stdout=errors, stderr=errors, env=environment)
        last = time.monotonic()
        hung = False
        while child.poll() is None:
            time.sleep(0.05)
            if progress.update():
                last = time.monotonic()
            elif time.monotonic() - last > (HANG_SECONDS.value if progress.case >= 0 else _STARTING_SECONDS):
                hung = True
                child.kill()
                child.wait()
    progress.update()
    if progress.case < 0:
        raise RuntimeError(f"{kind}: no case began. {(folder / 'errors').read_text(errors='replace')[-2000:]}")
    if progress.over:
        return progress.case + 1, progress
    # Behind the checks a .tflite runs in a child of its own, which may die: that is what it is for.
    where = " in the child behind the checks" if progress.was_checked else ""
    progress.counts[f"{HUNG if hung else CRASHED}{where}"] += 1
    progress.unclear.append([progress.case, f"{'hung' if hung else f'exit status {child.returncode}'}{where}"])
    return progress.case + 1, progress


def main(argv: list[str]) -> None:
    del argv
    if WORKER.value:
        kind, first, end, place = WORKER.value.split(",")
        work(kind, int(first), int(end), pathlib.Path(place))
        return
    path = pathlib.Path(RESULTS.value)
    results = json.loads(path.read_text()) if path.exists() else {"seed": SEED.value, "kinds": {}}
    if results["seed"] != SEED.value:
        raise ValueError(f"{path} is of seed {results['seed']}. Give --seed={results['seed']} or other --results.")
    if WRITE.value:
        write_part(pathlib.Path("docs/reliability.md"), "fuzz", table(results["kinds"]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_sound_files(folder)
        while time_left() and (kind := next_kind(results["kinds"])):
            row = results["kinds"].setdefault(kind, {"cases": 0, "counts": {}, "unclear": [], "cpu_seconds": 0.0})
            before = cpu()
            end = min(row["cases"] + (_SLOW_PIECE if kind in _SLOW else _PIECE), INPUTS.value)
            row["cases"], progress = run_piece(kind, row["cases"], end, folder)
            row["counts"] = dict(collections.Counter(row["counts"]) + progress.counts)
            row["unclear"] = [*row["unclear"], *progress.unclear][:50]
            row["cpu_seconds"] = round(row["cpu_seconds"] + cpu() - before, 1)
            results["python"] = sys.version.split()[0]
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(kind, row["cases"], row["counts"], f"{row['cpu_seconds']} s", flush=True)


def table(rows: dict[str, Any]) -> list[str]:
    """Returns the table of docs/reliability.md."""
    child = " in the child behind the checks"
    columns = [(ACCEPTED,), (REFUSED,), (UNCLEAR,), (CRASHED,), (HUNG,), (CRASHED + child, HUNG + child)]
    lines = [
        "| kind | cases | accepted | refused in one line | unclear | crashed | hung | died or hung in the child |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    total: dict[str, Any] = {"cases": 0, "counts": collections.Counter()}
    for kind, row in [*rows.items(), ("all", total)]:
        found = [sum(row["counts"].get(name, 0) for name in names) for names in columns]
        lines.append(f"| {kind} | {row['cases']:,} | " + " | ".join(f"{count:,}" for count in found) + " |")
        if kind != "all":
            total["cases"] += row["cases"]
            total["counts"].update(row["counts"])
    return lines


def next_kind(rows: dict[str, Any]) -> str:
    """Returns the kind that has had the least processor time and is not finished; an empty text if all are."""
    kinds = [kind for kind in KINDS.value or KIND if rows.get(kind, {"cases": 0})["cases"] < INPUTS.value]
    return min(kinds, key=lambda kind: rows.get(kind, {"cpu_seconds": 0.0})["cpu_seconds"], default="")


def cpu() -> float:
    """Returns the processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def time_left() -> bool:
    """Returns whether there is processor time left."""
    return cpu() < CPU_SECONDS.value


if __name__ == "__main__":
    app.run(main)
