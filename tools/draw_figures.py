"""Draws the figures that explain, from models that it trains: docs/figures/membership.svg, exact-bits.svg, report.png.

    python tools/draw_figures.py

It takes about 20 processor seconds. All random numbers have the seed 0. The picture of a report is taken by Chromium;
without it on the PATH that figure stays as it is.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import tfmiaq
from tfmiaq import datasets

keras = tfmiaq.keras
FOLDER = pathlib.Path(__file__).resolve().parents[1] / "docs" / "figures"
MEMBERS = 300


def _save(figure: Any, name: str) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "tfmiaq", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / name, metadata={"Date": None, "Creator": None})
    print(FOLDER / name)


def _model(digits: datasets.Dataset) -> Any:
    """Returns a perceptron that has memorized its members."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(digits.x_train.shape[1:]),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(32, activation="relu", name="inner"),
            layers.Dense(10, name="logits"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.x_train[:MEMBERS], digits.y_train[:MEMBERS], epochs=40, verbose=0)
    return model


def _sets(digits: datasets.Dataset) -> tuple[Any, Any]:
    """Returns members and as many non-members."""
    members = digits.x_train[:MEMBERS], digits.y_train[:MEMBERS]
    return members, (digits.x_test[:MEMBERS], digits.y_test[:MEMBERS])


def draw_membership(model: Any, digits: datasets.Dataset) -> None:
    """Draws the confidence of members and non-members, and the threshold that is right most often."""
    attack = tfmiaq.audit(model, *_sets(digits), attacks=["confidence"], verbose=False)["confidence"]
    members, non_members = np.asarray(attack.member_scores), np.asarray(attack.non_member_scores)
    threshold, _ = tfmiaq.metrics.best_threshold(members, non_members)
    scores = {"members": members, "non-members": non_members}
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    both = np.concatenate(list(scores.values()))
    edges = np.linspace(float(np.quantile(both, 0.002)), float(np.quantile(both, 0.998)), 41)
    for name, values in scores.items():
        axes.hist(np.clip(values, edges[0], edges[-1]), edges, alpha=0.55, label=name)
    axes.axvline(threshold, color="black", linestyle=":", label="threshold of the attack")
    axes.set(xlabel="logit of the probability of the true class", ylabel="records")
    axes.legend(loc="upper left", fontsize="small")
    _save(figure, "membership.svg")


def draw_exact_bits(model: Any, digits: datasets.Dataset) -> None:
    """Draws the weights of a 2-bit layer in training, as levels, and as the codes of the converted file."""
    quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(weight=2, activation=4))
    quantized.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    quantized.fit(digits.x_train[:MEMBERS], digits.y_train[:MEMBERS], epochs=3, verbose=0)
    buffer = tfmiaq.convert(quantized)
    assert tfmiaq.verify(quantized, buffer, digits.x_test[:100]).exact
    (layer,) = (layer for layer in quantized.layers if "inner" in layer.name)
    (kernel,) = (variable for variable in layer.trainable_variables if "kernel" in variable.name)
    interpreter = tfmiaq.tflite.Interpreter(buffer, keep_tensors=True)
    (stored,) = (
        details
        for details in interpreter.tensor_details()
        if details["dtype"] == np.int8 and sorted(details["shape"]) == sorted(kernel.shape)
    )
    codes = interpreter.tensor(stored["index"]).ravel()
    (scale,) = stored["quantization_parameters"]["scales"]
    levels = np.unique(codes) * scale
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    top.hist(kernel.numpy().ravel(), 60, color="tab:blue", alpha=0.7)
    for number, level in enumerate(levels):
        top.axvline(level, color="tab:red", label=None if number else "levels of 2 bits")
    top.set(xlabel="float weight in training", ylabel="weights")
    top.legend(fontsize="small")
    bottom.bar(*np.unique(codes, return_counts=True), width=3, color="tab:red")
    bottom.set(xlabel="int8 code in the .tflite", ylabel="weights", xlim=(-130, 130), xticks=np.unique(codes))
    _save(figure, "exact-bits.svg")


def draw_report(model: Any, digits: datasets.Dataset) -> None:
    """Takes a picture of the top of the page of an audit, by a browser."""
    browser = shutil.which("chromium")
    if browser is None:
        print("No chromium on the PATH: report.png stays as it is.")
        return
    report = tfmiaq.audit(model, *_sets(digits), verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        page = report.save(folder) / "report.html"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/browser",
        ]
        shot = ["--window-size=1000,890", f"--screenshot={FOLDER / 'report.png'}", page.as_uri()]
        subprocess.run([browser, *options, *shot], check=True, capture_output=True)
    # 32 colours are enough for text, and a third of the bytes.
    Image.open(FOLDER / "report.png").convert("RGB").quantize(32).save(FOLDER / "report.png", optimize=True)
    print(FOLDER / "report.png")


def main() -> None:
    """Draws all figures."""
    digits = datasets.load("digits")
    model = _model(digits)
    draw_membership(model, digits)
    draw_report(model, digits)
    draw_exact_bits(model, digits)


if __name__ == "__main__":
    main()
