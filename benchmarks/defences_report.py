"""Table and figure of `defences_location.py`."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from scipy import stats
from seeds import grouped, mean

NULL = "null: "
_HEAD = """# The frontier, measured

Written by `python benchmarks/defences_location.py --location=location30.npz`; results in
`benchmarks/defences_location.json`. Rows that are not here were not run with these attackers: the earlier tables of
other networks were made with 3 to 4 reference models and weaker attacks, and are withdrawn until they are measured
anew (`python benchmarks/frontier.py`).

Location-30 (Shokri et al. 2017): 446 binary features, 30 classes, a perceptron of 256 and 128 units. Members are a
random half of a pool of 3,200 records, 1,600 of them; each target and each reference model has a half of its own, and
goes through the row's whole pipeline. Test accuracy is on 1,810 records outside of the pool. Each AUC and each TPR is
the largest mean over targets among all attacks of the audit but tensorflow-privacy's slow ones, with 18 augmented
queries of each record; the name is that of the attack with the largest AUC. *Who holds the file* reads the logits,
behind whatever output rounding there is, and the size of the last hidden layer. *1-bit outputs* is the same model with
`OutputBits(1, 0.2)`, in front of who can only ask. The spread is the standard deviation over targets. Rows that begin
with "null" are targets that trained on records outside of the pool, so that their AUC must be 0.5 but for the choice of
the largest of some 20 attacks.

Batches hold all 1,600 members where a row has a clip, so that an epoch is one step; the rate is 2 then, with SGD,
Nesterov momentum 0.9 and a cosine schedule. Rows with BatchNormalization have batches of 64, a rate of 0.1 and a weight
decay of 5e-4, if they do not say otherwise. "Cross-distilled": 15 teachers of 3 epochs with BatchNormalization (5 folds
drawn 3 times), and a student without. "On copies": the student is trained on three copies of each record, or four where
the rate is 3, each without three tenths of its features, in the record's place. "The attacker knows the seed": all
models of the row, targets too, start from the same weights, and shuffle alike. "Apart" takes our recipe apart. DP-SGD
is `DPSGD(clip=1, noise)`; its batches are the whole set, and its epsilon is far above what means anything. Its lengths
and noises, like ours, are rows of this table: read it as a curve, and compare rows of one test accuracy. HAMP gives who
can only ask the outputs of random records in the order of the record's own classes; all other rows give outputs of 1
bit.
"""

_RANKS = """## What a cheaper attack says of a row

Spearman's correlation between the rows' AUC by one attack and by the strongest one, for who holds the file. The first
four attacks take no reference models. See in this table that the confidence attack says little of a row's rank, and the
entropy attack much, though its AUC itself is far lower.
"""


def strongest(found: list[dict[str, Any]], column: int) -> tuple[str, float, float]:
    """The attack with the largest mean over targets of a figure, that mean, and its standard deviation."""
    names = found[0]["attacks"]
    values = {name: [row["attacks"][name][column] for row in found] for name in names}
    best = max(names, key=lambda name: np.nan_to_num(np.mean(values[name]), nan=-1.0))
    return best, float(np.mean(values[best])), float(np.std(values[best], ddof=1)) if len(found) > 1 else 0.0


def table(results: list[dict[str, Any]]) -> str:
    """The rows as Markdown, ordered by test accuracy."""
    lines = [
        "| row | train | test | AUC, who holds the file | TPR at 1 % / 0.1 % FPR | AUC, 1-bit outputs | "
        "TPR at 1 % / 0.1 % FPR | reference models | targets |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    names = {row["row"] for row in results}
    of_row = {name: [row for row in results if row["row"] == name] for name in names}
    for name in sorted(names, key=lambda name: (name.startswith(NULL), -mean(of_row[name], "test_accuracy"))):
        cells = []
        for access in ("file", "query"):
            found = [row for row in of_row[name] if row["access"] == access]
            attack, auc, spread = strongest(found, 0)
            rates = [strongest(found, column)[1] for column in (2, 1)]
            cells += [f"{auc:.3f} ± {spread:.3f} ({attack})", " / ".join(f"{rate:.3f}" for rate in rates)]
        tests = [row["test_accuracy"] for row in found]
        spread = float(np.std(tests, ddof=1)) if len(tests) > 1 else 0.0
        lines.append(
            f"| {name} | {mean(found, 'train_accuracy'):.3f} | {np.mean(tests):.3f} ± {spread:.3f} | "
            f"{' | '.join(cells)} | {found[0]['reference_models']} | {len(found)} |"
        )
    return "\n".join(lines)


def ranks(results: list[dict[str, Any]]) -> str:
    """How the rows' order by one attack's AUC agrees with that by the strongest, who holds the file, as Markdown."""
    found = [row for row in results if row["access"] == "file" and not row["row"].startswith(NULL)]
    groups = grouped(found, "row")
    best = [strongest(group, 0)[1] for group in groups.values()]
    ours = np.array(["ours" in name or "cross-distilled" in name or "apart" in name for (name,) in groups])
    lines = ["| attack | of all rows | of cross-distilled rows |", "| --- | --- | --- |"]
    for attack in ("gap", "confidence", "entropy", "label-only", "LiRA", "difficulty calibration", "whole output"):
        values = np.array([np.mean([row["attacks"][attack][0] for row in group]) for group in groups.values()])
        agreement = [stats.spearmanr(values[part], np.array(best)[part])[0] for part in (slice(None), ours)]
        lines.append(f"| {attack} | {agreement[0]:.2f} | {agreement[1]:.2f} |")
    return "\n".join(lines)


def _family(name: str) -> tuple[str, str, str]:
    """Colour, marker and the name in the legend of a row."""
    kinds = {
        "ours: on copies as defend": ("tab:red", "P", "cross-distilled on copies, clip, w2 a4"),
        "ours: on copies": ("tab:red", "*", "cross-distilled on copies, clip"),
        "ours: w2 a4 on copies": ("tab:red", "P", "cross-distilled on copies, clip, w2 a4"),
        "ours: w2": ("tab:pink", "P", "cross-distilled, clip, w2"),
        "ours as defend": ("tab:pink", "X", "cross-distilled as defend has it, w2 a4"),
        "ours": ("tab:pink", "*", "cross-distilled, clip"),
        "the attacker knows the seed": ("tab:green", "x", "the attacker knows the seed"),
        "DP-SGD": ("tab:blue", "o", "DP-SGD"),
        "plain": ("black", "s", "plain, clip: early stopping"),
        "apart": ("tab:gray", ".", "the recipe taken apart"),
        "early stopping": ("black", "v", "early stopping, BatchNormalization"),
        "cross-distilled": ("tab:pink", "v", "cross-distilled, BatchNormalization"),
        "SELENA": ("tab:orange", "v", "SELENA"),
        "RelaxLoss": ("tab:orange", "^", "RelaxLoss"),
        "HAMP": ("tab:orange", "<", "HAMP"),
        "label smoothing": ("tab:orange", ">", "label smoothing"),
        "float": ("black", "D", "float, BatchNormalization"),
    }
    return next((kind for start, kind in kinds.items() if name.startswith(start)), ("tab:gray", "+", "others"))


def figure(results: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Test accuracy against the strongest attack's AUC, for both attackers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    axes: Any
    fig, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    names = dict.fromkeys(row["row"] for row in results if not row["row"].startswith(NULL))
    for axis, access, title in zip(
        axes, ("file", "query"), ("who holds the file", "who can only ask, outputs of 1 bit")
    ):
        for name in names:
            found = [row for row in results if row["row"] == name and row["access"] == access]
            colour, marker, label = _family(name)
            point = strongest(found, 0)[1], mean(found, "test_accuracy")
            axis.scatter(*point, color=colour, marker=marker, s=60, label=label)
        axis.set_xlabel(f"AUC of the strongest attack: {title}")
    axes[0].set_ylabel("test accuracy")
    kinds = dict(sorted(dict(zip(*reversed(axes[0].get_legend_handles_labels()))).items()))
    fig.legend(kinds.values(), kinds.keys(), loc="lower center", ncols=4, fontsize=8)
    fig.suptitle("Location-30: 1,600 members")
    fig.tight_layout(rect=(0, 0.02 + 0.032 * -(-len(kinds) // 4), 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def write_report(results: list[dict[str, Any]], document: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the table and the figure."""
    figure(results, path)
    link = f"![Location-30](figures/{path.name})"
    document.write_text(f"{_HEAD}\n{table(results)}\n\n{link}\n\n{_RANKS}\n{ranks(results)}\n", encoding="utf-8")
