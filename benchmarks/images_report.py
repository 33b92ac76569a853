"""Tables and figures of `defences_images.py`."""

from __future__ import annotations

import pathlib
import re
from typing import Any, Optional

import numpy as np
from defences_report import table
from in_turn import LOGITS, ONE_BIT
from pages import write_part

_AUGMENTED = "augmented "
_MEMBERS = 1_000
_ADVICE = "defence.md"
_BEST = [
    "| network | row | train | test | AUC, who holds the file | early stopping | TPR at 1 % FPR | AUC, 1-bit outputs |"
    " reference models |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
]
_FIGURES = {
    "resnet8": "images_resnet8.png",
    "small_mobilenet": "images_small_mobilenet.png",
    "resnet20": "images_resnet20.png",
    "small_vgg": "images_small_vgg.png",
    "digits": "small_digits.png",
    "breast_cancer": "small_breast_cancer.png",
}
_PEERS = {
    "DP-SGD": ("tab:blue", "o"),
    "RelaxLoss": ("tab:brown", "P"),
    "HAMP": ("tab:olive", "X"),
    "SELENA": ("tab:cyan", "h"),
    "label smoothing": ("tab:pink", "d"),
    "plain, clip": ("tab:gray", "s"),
}
_HEAD = """# The frontier of image networks, measured

Written by `python benchmarks/defences_images.py --dataset=cifar10.npz --models=8 --targets=6` (rows of 4 reference
models: `--models=6`), results in `benchmarks/defences_images.json` with each row's command and seed; rows of 24 epochs
without augmentation are, on ResNet-8 and the small MobileNet, of `python benchmarks/post_training.py
--dataset=cifar10.npz --members=1000 --epochs=24 --tuning_epochs=8 --records=256 --iterations=100 --threads=1
--in_turn=8 --results=benchmarks/post_training_in_turn.json`, and with `--reference_models=8 --in_turn=6`, on the same
records.

CIFAR-10, 1,000 members where no other number is told, 32 x 32 pixels. Each model of a row trains on its own random half
of twice as many records, and is attacked with the row's other models as its reference models, but for the one that
trains on what it leaves out. AUC and TPR are means over the attacked models of the attack with the largest mean AUC, of
each column the largest; its name is in brackets. Test accuracy is on the half that a model does not train on; the
spread is the standard deviation over models. *Logits* is who holds the file, or is given whole outputs; the size of the
last hidden layer is not read. *1-bit outputs* is who can only ask a model with `OutputBits(1, 0.2)`, taken from the
same logits.

Plain rows: SGD, rate 0.1 (small VGG: 0.005) with a cosine schedule, batches of 64, BatchNormalization. "Calibrated":
`tfmiaq.calibrate` on 256 records that are nobody's members, 8 bits in the first and the last layer. "Trained":
quantization-aware training for 8 epochs after a float of 24. "Cross-distilled": a student with BatchNormalization,
trained like the plain rows on labels of teachers that are trained like them too, five folds, drawn once if nothing else
is said. DP-SGD: batches of a tenth of the members, GroupNormalization; its epsilon is far above what means anything.
RelaxLoss and HAMP are the losses alone, of one strength. "Augmented": trained on flips and shifts by up to four pixels,
and attacked with 24 queries of each record that are flipped and shifted alike. Their cross-distilled students are
trained on 24 copies of each record in its place, each labelled by the record's teachers; an epoch is one pass over as
many copies as there are records. "Of weight": the teachers' part of a label, of which the rest is the record's own.
Which lengths and weights of them are measured was chosen on two models of the same pool. The column *early stopping*
has the AUC of plain training at the row's test accuracy, of augmented rows that of augmented floats, the least on
straight lines between two lengths: what is below it is gained. Between lengths that lie far apart such a line is too
high. A dash stands where no two of them have the accuracy between them. Rows of 14 reference models are attacked a
little harder than those of 6, and these than those of 4. Only augmented rows are attacked with augmented queries, and
their 1-bit outputs are not, so that they have no figures of those. Differences of a hundredth of AUC, or of test
accuracy, are chance.
"""
_SMALL_HEAD = """# The frontier of small tasks, measured

Written by `python benchmarks/defences_small.py --models=66 --targets=8`, and rows with 16 reference models with
`--models=18`; results in `benchmarks/defences_small.json`.

Digits: LeNet on 300 of scikit-learn's digits. Breast cancer: a perceptron of 256 and 128 units on 200 patients'
records of 30 measures, in two classes, which scikit-learn ships. Each model of a row trains on its own random half of
600 or 400 records, and is attacked with the row's other models as its reference models, but for the one that trains on
what it leaves out. AUC and TPR are means over the attacked models of the attack with the largest mean AUC, of each
column the largest; its name is in brackets. Test accuracy is on the half that a model does not train on; the spread is
the standard deviation over models. *Logits* is who holds the file, or is given whole outputs; the size of the last
hidden layer is not read. *1-bit outputs* is who can only ask a model with `OutputBits(1, 0.2)`, taken from the same
logits.

Rows without a clip: SGD, rate 0.05 with a cosine schedule, batches of 32, BatchNormalization. Rows with a clip hold all
members in each batch, have a rate of 0.5 on digits and of 0.25 on breast cancer, which is what DP-SGD learns best with
in a search on records that no model of a row trains on (`--tune`; for ours it is not the best), and GroupNormalization
on digits and no normalization on breast cancer. DP-SGD is `DPSGD(clip=1, noise)`, an epoch one step; its epsilon is not
accounted. "Cross-distilled": teachers of 8 epochs, five folds drawn three times if nothing else is said. "Defend's
student": the recipe that `defend` would give it, of 24 or 30 epochs. "Calibrated": `tfmiaq.calibrate` on 64 records
that are nobody's members, 8 bits in the first and the last layer. RelaxLoss, HAMP and label smoothing are the losses
and labels alone, of one strength that was not searched. The column *early stopping* has the AUC of plain training, with
a clip or without, at the row's test accuracy, the least on straight lines between two lengths: what is below it is
gained. A dash stands where no two of them have the accuracy between them, and where there are too few records for a
rate.
"""
_PAPER = """## The figures of Famili and Lao

Attack accuracy, TPR, and F1 of members of the attack of shadow models at its own threshold, the measures of Famili and
Lao (2023), who find -14 %, -37 % and -39 % for a quantized ResNet on CIFAR-10; and what the strongest attack finds of
the same models. In brackets the change against the float of 24 epochs that is attacked with as many reference models.
Logits, means over the attacked models; of rows that are measured twice, the one with more reference models.
"""
_SMALL = """## An earlier table, at 16 x 16 pixels

Means over squares of pixels; one target and 8 reference models, 4 augmented queries of each record, and the last hidden
layer is read. It was made by the benchmark before it had full images, which no longer makes it
(`benchmarks/defences_images_16.json`). Rows with a clip have no normalization, and batches of a tenth of the members at
a rate of 0.3.
"""


def _title(row: dict[str, Any]) -> str:
    """The heading that a row of an image network stands under."""
    return row["network"] if row["members"] == _MEMBERS else f"{row['network']}, {row['members']:,} members"


def _figure_path(row: dict[str, Any], document: pathlib.Path) -> pathlib.Path:
    """Where the figure of a row's network and number of members is written."""
    path = document.parent / "figures" / _FIGURES[row["network"]]
    return path if _title(row) == row["network"] else path.with_stem(f"{path.stem}_{row['members']}")


def name_of(row: dict[str, Any]) -> str:
    """A row's name; rows of `post_training.py` get one like those of `defences_images.py`."""
    if "way" not in row:
        return row["row"]
    start = f"float, {row['epochs']} epochs"
    bits = f"w{row['weight']} a{row['activation']}"
    if row["way"] == "float":
        return start
    if row["way"] == "trained":
        return f"{bits}, trained for {row['tuning_epochs']} epochs after {start}"
    return f"{start}, calibrated {bits}" + (" on members" if "members" in row["way"] else "")


def strongest(row: dict[str, Any], view: str, column: int = 0) -> tuple[str, float]:
    """The attack with the largest figure, and that."""
    attacks = row[view]
    best = max(attacks, key=lambda name: np.nan_to_num(attacks[name][column], nan=-1.0))
    return best, attacks[best][column]


def _is_float(name: str, prefix: str = "") -> bool:
    """Whether a row is plain training, whose length alone is chosen."""
    starts = (f"{prefix}float", "plain") if not prefix else (f"{prefix}float",)
    return name.startswith(starts) and "calibrated" not in name and "trained at" not in name


def early_stopping(found: list[dict[str, Any]], test: float, view: str, prefix: str = "") -> Optional[float]:
    """AUC of float models, at a test accuracy: the least of all straight lines between lengths that reach it."""
    points = [(row["test_accuracy"], strongest(row, view)[1]) for row in found if _is_float(name_of(row), prefix)]
    values = []
    for low, auc_low in points:
        for high, auc_high in points:
            if low <= test <= high and high > low:
                values.append(auc_low + (auc_high - auc_low) * (test - low) / (high - low))
    return min(values) if values else None


def _rates(rates: list[float]) -> str:
    """Rates as text; a dash for one that too few non-members cannot resolve."""
    return " / ".join("-" if np.isnan(rate) else f"{rate:.3f}" for rate in rates)


def _table(found: list[dict[str, Any]], prefix: str, all_of_network: list[dict[str, Any]]) -> str:
    asks = not prefix
    lines = [
        "| row | train | test | AUC, logits | early stopping | TPR at 1 % / 0.1 % FPR |"
        + " AUC, 1-bit outputs | early stopping | TPR at 1 % FPR |" * asks
        + " reference models, targets |",
        "| --- | --- | --- | --- | --- | --- |" + " --- | --- | --- |" * asks + " --- |",
    ]
    for row in sorted(found, key=lambda row: -row["test_accuracy"]):
        name = name_of(row)
        cells = [f"{row['train_accuracy']:.3f}", f"{row['test_accuracy']:.3f} ± {row['test_spread']:.3f}"]
        for view in (LOGITS, ONE_BIT)[: 1 + asks]:
            attack, auc = strongest(row, view)
            spread = row[f"spread, {view}"][attack][0]
            beside = early_stopping(all_of_network, row["test_accuracy"], view, prefix)
            is_float = _is_float(name, prefix)
            rates = [strongest(row, view, column)[1] for column in ((2, 1) if view == LOGITS else (2,))]
            cells += [f"{auc:.3f} ± {spread:.3f} ({attack})"]
            cells += ["" if is_float else "-" if beside is None else f"{beside:.3f}"]
            cells += [_rates(rates)]
        cells += [f"{row['reference_models']}, {row['targets']}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for row in found:
        if f"null: {LOGITS}" not in row:
            continue
        cells = ["", ""]
        for view in (f"null: {LOGITS}", f"null: {ONE_BIT}")[: 1 + asks]:
            attack, auc = strongest(row, view)
            rates = [strongest(row, view, column)[1] for column in ((2, 1) if LOGITS in view else (2,))]
            cells += [f"{auc:.3f} ± {row[f'spread, {view}'][attack][0]:.3f} ({attack})", ""]
            cells += [_rates(rates)]
        cells += [f"{row['reference_models']}, {row['targets']}"]
        lines.append(f"| null: {name_of(row)}, memberships drawn anew | {' | '.join(cells)} |")
    return "\n".join(lines)


def _changed(value: float, base: float) -> str:
    return f"{value:.3f} ({100 * (value / base - 1):+.0f} %)"


def _paper(found: list[dict[str, Any]], bases: list[dict[str, Any]]) -> str:
    """The table of one network; each row beside the base that has as many reference models, or else the most."""
    lines = [
        "| row | test | attack accuracy | TPR | F1 of members | AUC of the strongest attack | its TPR at 1 % FPR |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    key = f"accuracy, TPR and F1 of shadow models, {LOGITS}"
    for row in sorted(found, key=lambda row: -row["test_accuracy"]):
        alike = [base for base in bases if base["reference_models"] == row["reference_models"]]
        base = (alike or sorted(bases, key=lambda base: -base["reference_models"]))[0]
        cells = [_changed(*pair) for pair in zip(row[key], base[key])]
        cells += [_changed(strongest(row, LOGITS, column)[1], strongest(base, LOGITS, column)[1]) for column in (0, 2)]
        lines.append(f"| {name_of(row)} | {row['test_accuracy']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _kind(name: str) -> tuple[str, str, str]:
    """Colour, marker and the name in the legend of a row."""
    trained = name.removeprefix(_AUGMENTED)
    shifted = ", flips and shifts" if trained != name else ""
    low = ", low bits" if re.search(r"\bw[124]\b", name) else ""
    for start, (colour, marker) in _PEERS.items():
        if trained.startswith(start):
            return colour, marker, start + low + shifted
    if "cross-distilled" in name:
        marker = "*" if low else "v"
        return ("tab:purple", marker, f"ours on copies{low}") if shifted else ("tab:red", marker, f"ours{low}")
    if _is_float(trained):
        return "black", "^" if shifted else "s", f"float{shifted}"
    if "trained for" in name:
        return "tab:orange", "D", "low bits, trained after float"
    return "tab:green", "*" if low else "p", f"float{low or ', 8 bits'}{shifted}"


def _draw(axis: Any, found: list[dict[str, Any]], view: str) -> None:
    """Points of all rows, and lines through plain trainings of growing length, with their epochs."""
    lines: dict[str, list[tuple[int, float, float]]] = {"": [], _AUGMENTED: []}
    for row in found:
        name = name_of(row)
        colour, marker, kind = _kind(name)
        point = strongest(row, view)[1], row["test_accuracy"]
        inside = "none" if name.startswith(_AUGMENTED) and colour != "tab:purple" else colour
        axis.scatter(*point, edgecolors=colour, facecolors=inside, marker=marker, s=60, label=kind)
        length = re.fullmatch(r"(augmented |)float, (\d+) epochs", name)
        if length:
            axis.annotate(length[2], point, fontsize=8, xytext=(5, -9), textcoords="offset points")
            lines[length[1]].append((int(length[2]), *point))
    for points, style in zip(lines.values(), ("-", "--")):
        auc, accuracy = [[point[column] for point in sorted(points)] for column in (1, 2)]
        axis.plot(auc, accuracy, color="black", linewidth=0.7, linestyle=style)


def _figure(found: list[dict[str, Any]], title: str, path: pathlib.Path) -> None:
    """Test accuracy against the strongest attack's AUC, for both attackers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    axes: Any
    fig, axes = plt.subplots(1, 2, figsize=(12, 5.5), sharey=True)
    for axis, view, who in zip(axes, (LOGITS, ONE_BIT), ("who holds the file", "who can only ask, outputs of 1 bit")):
        # Who can only ask has no augmented queries here, which would flatter what is trained with augmentation.
        _draw(axis, [row for row in found if view == LOGITS or not name_of(row).startswith(_AUGMENTED)], view)
        axis.set_xlabel(f"AUC of the strongest attack: {who}")
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("test accuracy")
    # One entry for each kind, in the order of their names.
    kinds = dict(sorted(dict(zip(*reversed(axes[0].get_legend_handles_labels()))).items()))
    fig.legend(kinds.values(), kinds.keys(), loc="lower center", ncols=4, fontsize=8)
    fig.suptitle(f"{title}; beside floats their epochs")
    fig.tight_layout(rect=(0, 0.02 + 0.032 * -(-len(kinds) // 4), 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=100)
    plt.close(fig)


def _with_most_references(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by name; of those that are measured twice, the one with more reference models."""
    return {name_of(row): row for row in sorted(found, key=lambda row: row["reference_models"])}


def _unbeaten(title: str, found: list[dict[str, Any]]) -> list[str]:
    """Lines of the rows that no other is better than in both test accuracy and AUC, and of the float of 24 epochs."""
    lines = []
    least = 1.0
    rows = _with_most_references(found)
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["test_accuracy"]):
        auc = strongest(row, LOGITS)[1]
        if auc >= least and name != "float, 24 epochs":
            continue
        least = min(least, auc)
        prefix = _AUGMENTED if name.startswith(_AUGMENTED) else ""
        alike = [other for other in found if name_of(other).startswith(_AUGMENTED) == bool(prefix)]
        beside = None if _is_float(name, prefix) else early_stopping(alike, row["test_accuracy"], LOGITS, prefix)
        cells = [title, name, f"{row['train_accuracy']:.3f}", f"{row['test_accuracy']:.3f}", f"{auc:.3f}"]
        cells += ["" if beside is None else f"{beside:.3f}", f"{strongest(row, LOGITS, 2)[1]:.3f}"]
        cells += ["" if prefix else f"{strongest(row, ONE_BIT)[1]:.3f}", str(row["reference_models"])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def write_tables(results: list[dict[str, Any]], small: list[dict[str, Any]], document: pathlib.Path) -> None:
    """Writes the page: tables and a figure of each network.

    Args:
        results: Rows of `defences_images.py` and of `post_training.py --in_turn`.
        small: Rows of the table at 16 x 16 pixels.
        document: The page. The rows that no other beats go into a part of `defence.md` beside it.
    """
    parts = [_HEAD.strip()]
    titles = dict.fromkeys(_title(row) for row in results)
    best = _BEST[:]
    for title in titles:
        found = [row for row in results if _title(row) == title]
        best += _unbeaten(title, found)
        plain = [row for row in found if not row["row"].startswith(_AUGMENTED)]
        path = _figure_path(found[0], document)
        _figure(found, f"{title.partition(',')[0]}: {found[0]['members']:,} images of CIFAR-10", path)
        parts += [f"## {title}", _table(plain, "", plain), f"![{title}](figures/{path.name})"]
        augmented = [row for row in found if row["row"].startswith(_AUGMENTED)]
        if augmented:
            parts += [f"### {title}, trained on flips and shifts", _table(augmented, _AUGMENTED, augmented)]
    parts.append(_PAPER.strip())
    for title in titles:
        found = [row for row in results if _title(row) == title]
        chosen = _with_most_references(found)
        if "float, 24 epochs" in chosen:
            bases = [row for row in found if name_of(row) == "float, 24 epochs"]
            parts += [f"### {title}", _paper(list(chosen.values()), bases)]
    parts += [_SMALL.strip(), table(small)]
    document.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    if (document.parent / _ADVICE).is_file():
        write_part(document.parent / _ADVICE, "images", best)


def write_small_tables(results: list[dict[str, Any]], document: pathlib.Path) -> None:
    """Writes the page of `defences_small.py`: a table and a figure of each task.

    Args:
        results: Its rows.
        document: The page.
    """
    parts = [_SMALL_HEAD.strip()]
    for task in dict.fromkeys(row["network"] for row in results):
        found = [row for row in results if row["network"] == task]
        path = document.parent / "figures" / _FIGURES[task]
        _figure(found, f"{task}: {found[0]['members']} members", path)
        parts += [f"## {task}", _table(found, "", found), f"![{task}](figures/{path.name})"]
    document.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
