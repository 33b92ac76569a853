"""Figures of an audit. Takes arrays alone, and knows nothing of where they come from."""

from __future__ import annotations

import functools
import io
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]
_POINTS = 300


@functools.cache
def _figure_class() -> Any:
    """Returns the class of figures that a notebook shows, which without pyplot it does not do by itself."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=80)
            return buffer.getvalue()

    return ShownFigure


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _figure_class()(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def roc(curves: Curves, counts: Mapping[str, int]) -> Any:
    """Returns a Matplotlib figure of ROC curves on two logarithmic axes, where low false positive rates can be read.

    Args:
        curves: For each name, false and true positive rates.
        counts: Number of members behind the curves that get a band, the exact 95 % interval of each true positive rate.
    """
    figure, axes = _figure(5, 5)
    floor = min([1e-3, *(float(fpr[fpr > 0].min()) for fpr, _ in curves.values() if (fpr > 0).any())])
    grid = np.geomspace(floor, 1, _POINTS)
    for name, (fpr, tpr) in curves.items():
        # The last point at or below each rate: a curve of 20,000 points would make a page of megabytes.
        thin = tpr[np.searchsorted(fpr, grid, side="right") - 1]
        (line,) = axes.plot(grid, np.maximum(thin, floor), label=name, drawstyle="steps-post")
        if name in counts:
            hits = np.round(thin * counts[name])
            low = stats.beta.ppf(0.025, hits, counts[name] - hits + 1)
            high = stats.beta.ppf(0.975, hits + 1, counts[name] - hits)
            low, high = np.nan_to_num(low, nan=floor), np.nan_to_num(high, nan=1.0)
            axes.fill_between(grid, np.maximum(low, floor), high, color=line.get_color(), alpha=0.15, linewidth=0)
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
    return figure


def save_roc(curves: Curves, path: pathlib.Path) -> None:
    """Writes ROC curves without bands.

    Args:
        curves: As `roc`.
        path: PNG file to write.
    """
    roc(curves, {}).savefig(path, dpi=150)


def roc_svg(curves: Curves, counts: Mapping[str, int]) -> str:
    """Returns the figure of `roc` as an svg element."""
    return _svg(roc(curves, counts))


def histogram_svg(attack: str, member_scores: np.ndarray, non_member_scores: np.ndarray) -> str:
    """Returns a histogram of an attack's scores as an svg element.

    Args:
        attack: Its name.
        member_scores: Scores of members.
        non_member_scores: Scores of non-members.
    """
    figure, axes = _figure(5, 3)
    both = np.concatenate([member_scores, non_member_scores])
    low, high = float(np.quantile(both, 0.001)), float(np.quantile(both, 0.999))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 41)
    for name, scores in (("members", member_scores), ("non-members", non_member_scores)):
        inside = np.clip(scores, edges[0], edges[-1])
        axes.hist(inside, edges, weights=np.full(len(scores), 1 / len(scores)), alpha=0.55, label=name)
    axes.set(xlabel=f"score of {attack}", ylabel="fraction of records")
    axes.legend(fontsize="small")
    return _svg(figure)


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    # Without a date, and with text as text, so that the same report is the same page.
    with matplotlib.rc_context({"svg.hashsalt": "tfmiaq", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
