"""Tests an installed wheel from a folder without the sources: `make wheel` runs it.

It quantizes, converts, verifies and audits a small network, through the API and on the command line, and reads what is
no Python in the wheel: type marker, stubs, templates, licence and metadata.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess
import sys
import sysconfig

import numpy as np


def _check(passed: bool, what: str) -> None:
    if not passed:
        sys.exit(f"The wheel is faulty: {what}.")
    print(f"ok: {what}")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(pathlib.Path(sysconfig.get_path("scripts"), "tfmiaq")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main() -> None:
    """Runs all checks; ends with status 1 at the first that fails."""
    import tfmiaq

    home = pathlib.Path(tfmiaq.__file__).parent
    installed = importlib.metadata.distribution("tfmiaq")
    files = [str(path) for path in installed.files or ()]
    _check(home.is_relative_to(sysconfig.get_path("purelib")), "the package is that of the wheel")
    _check(installed.version == tfmiaq.__version__, f"it is version {tfmiaq.__version__}")
    _check("tfmiaq/py.typed" in files and "tfmiaq/__init__.pyi" in files, "types and stubs are in it")
    _check(not [path for path in files if path.split("/")[0] in ("tests", "tools", "docs", "benchmarks")], "no more is")
    _check(any(path.endswith("licenses/LICENSE") for path in files), "the licence is in it")
    _check(bool(installed.metadata.get_all("Project-URL")), "it names where to go on")

    keras = tfmiaq.keras
    digits = tfmiaq.datasets.load("digits")
    x, y = digits.x_train[:200], digits.y_train[:200]
    others = digits.x_test[:200], digits.y_test[:200]
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(8, 3, activation="relu"), layers.Flatten()])
    model.add(layers.Dense(10, name="logits"))
    quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(2, 4))
    quantized.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    quantized.fit(x, y, epochs=2, verbose=0)
    buffer = tfmiaq.convert(quantized)
    _check(tfmiaq.verify(quantized, buffer, others[0]).exact, "a file has the trained levels")
    pathlib.Path("model.tflite").write_bytes(buffer)
    folder = tfmiaq.audit("model.tflite", (x, y), others, verbose=False).save("audit")
    _check("<svg" in (folder / "report.html").read_text(encoding="utf-8"), "a report has its page")

    np.savez("own.npz", x_train=x, y_train=y, x_test=others[0], y_test=others[1])
    _check("audit" in _run("--help").stdout, "the command line is there")
    gate = ("audit", "model.tflite", "--records=own.npz", "--folder=gate", "--fail_if")
    _check(_run(*gate, "auc>0.99").returncode == 0, "a gate passes with status 0")
    _check(_run(*gate, "accuracy>0.5").returncode == 1, "a gate fails with status 1")


if __name__ == "__main__":
    main()
