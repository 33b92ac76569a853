"""Figures of an audit."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np


def save_roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], path: pathlib.Path) -> None:
    """ROC curves on two logarithmic axes, where low false positive rates can be read.

    Args:
        curves: For each name, false and true positive rates.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    floor = min([1e-3, *(float(fpr[fpr > 0].min()) for fpr, _ in curves.values() if (fpr > 0).any())])
    for name, (fpr, tpr) in curves.items():
        axes.plot(np.maximum(fpr, floor), np.maximum(tpr, floor), label=name, drawstyle="steps-post")
    axes.plot([floor, 1], [floor, 1], color="grey", linestyle=":", label="coin")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(floor, 1),
        ylim=(floor, 1),
        xlabel="false positive rate",
        ylabel="true positive rate",
    )
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
