"""Tables and figures of the frontier."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np
from frontier_rows import TASKS_KNOWN
from scipy import stats

# Written by hand, and part of the document until the tables hold what stronger attackers find.
_READ_FIRST = pathlib.Path(__file__).with_name("frontier_read_first.md")
_HEAD = """Written by `python benchmarks/frontier.py`; results in `benchmarks/frontier.json`. Seeds are 1,000 plus the
number of the target, and 0 for the order of the pool and its halves. Tasks and rows that are not here were not run.

Each row is the mean over its targets: models trained alike on random halves of one pool of records, each attacked
with the others as reference models, which so went through the same defence. Members and non-members are the two
halves. In the first table of a task look for rows whose strongest AUC is below that of the float models of the same
test accuracy; the second has the paper's figures. *confidence* is the accuracy of a threshold on the logit-scaled
confidence, chosen on the other half of the records; *shadow* that of an attack classifier trained on the reference
models (the paper's attack). *strongest AUC* is the largest mean, with the standard deviation over targets, among
confidence, shadow models, LiRA and RMIA. For rows whose models got augmented queries (all rows of quantized outputs)
it is also among label-only, and LiRA and RMIA on augmented queries and on label agreement. *TPR* is the same at 1 %
false positives.

"epoch n" is the float model during its training, without augmented queries; "n epochs" is one with a schedule of that
length. Quantized rows have 8 bits at both ends and are trained from scratch if they are not called fine-tuned.
"Cross-distilled" is knowledge cross-distillation (Chourasia et al. 2022; SELENA, Tang et al. 2022, is alike), with a
teacher weight of 1, or of the number behind "by". "By five": one teacher of each record, of five folds and 24 epochs,
with mixup of 0.4 if the row has mixup; other teachers are as the task has them, or with mixup three folds drawn twice,
of 16 epochs. "On records outside": a student of the members' float model that sees only records of neither half;
"stopped on leakage": by LeakageEarlyStopping, with such records as its non-members. Minutes are wall time of one model
on two cores, while other rows were trained beside it; its teachers are counted where another row had not trained them
already."""
SIGNALS = (
    "confidence",
    "shadow models",
    "LiRA",
    "RMIA",
    "label-only",
    "LiRA on augmented queries",
    "RMIA on augmented queries",
    "LiRA on label agreement",
    "RMIA on label agreement",
)


def strongest(row: dict[str, Any], key: str) -> tuple[str, float, float]:
    """The attack with the largest mean of a figure, that mean, and its deviation."""
    there = [attack for attack in SIGNALS if f"{attack}: {key}" in row["mean"]]
    if not there:
        return "", float("nan"), float("nan")
    name = max(there, key=lambda attack: row["mean"][f"{attack}: {key}"])
    return name, row["mean"][f"{name}: {key}"], row["deviation"][f"{name}: {key}"]


def table(of_task: dict[str, Any]) -> str:
    """A task's rows as Markdown."""
    lines = [
        "| row | train | test | gap | confidence | shadow | strongest AUC | TPR at 1 % FPR | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for label, row in of_task["rows"].items():
        mean, test_spread = row["mean"], row["deviation"]["test_accuracy"]
        attack, auc, spread = strongest(row, "auc")
        tpr = strongest(row, "tpr_at_1_percent_fpr")[1]
        minutes = "" if row["seconds"] is None else f"{row['seconds'][0] / 60:.1f}"
        lines.append(
            f"| {label} | {mean['train_accuracy']:.3f} | {mean['test_accuracy']:.3f} ± "
            f"{test_spread:.3f} | {mean['gap: accuracy']:.3f} | {mean['confidence: accuracy']:.3f} | "
            f"{mean['shadow models: accuracy']:.3f} | {auc:.3f} ± {spread:.3f} ({attack}) | "
            f"{'unresolved' if np.isnan(tpr) else f'{tpr:.3f}'} | {minutes} |"
        )
    return "\n".join(lines)


def papers_table(of_task: dict[str, Any]) -> str:
    """The figures of Famili and Lao (2023), of the attack classifier trained on shadow models, against float's."""
    keys = ("accuracy", "tpr", "f1_members", "f1_non_members")
    lines = [
        "| row | test accuracy | attack accuracy | TPR | F1 of members | F1 of non-members |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    base = of_task["rows"].get("float")
    if base is None:
        return ""
    for label, row in of_task["rows"].items():
        cells = []
        for key in keys:
            value, full = (r["mean"][f"shadow models: {key}"] for r in (row, base))
            cells.append(f"{value:.3f}" if row is base else f"{value:.3f} ({100 * (value / full - 1):+.0f} %)")
        if not label.startswith("float, epoch"):
            lines.append(f"| {label} | {row['mean']['test_accuracy']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _family(label: str) -> tuple[str, str, str]:
    """Legend, colour and marker of a row."""
    kind = "float" if label.startswith("float") else "quantized"
    if "outputs of" in label:
        if "cross-distilled" in label:
            return "cross-distilled, quantized outputs", "tab:green", "P"
        return "quantized outputs", "tab:olive", "X"
    if "cross-distilled" in label:
        return f"cross-distilled, {kind}", *(("tab:purple", "D") if kind == "float" else ("tab:red", "*"))
    if label.startswith("float, epoch"):
        return "float on its way", "black", "."
    if label == "float" or label.endswith("epochs"):
        return "float, own schedule", "black", "o"
    if kind == "float":
        return "float, mixup, other losses and DP-SGD", "tab:gray", "s"
    plain = label.endswith("fine-tuned") or "," not in label
    return ("quantized", "tab:blue", "^") if plain else ("quantized, mixup and other losses", "tab:orange", "v")


def figure(name: str, of_task: dict[str, Any], path: pathlib.Path) -> None:
    """Test accuracy against the strongest attack's AUC, and against the confidence attack's accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    axes: Any
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    drawn: set[str] = set()
    named: list[tuple[float, float, str]] = []
    labelled: list[tuple[float, float]] = []
    points = [(strongest(row, "auc")[1], row["mean"]["test_accuracy"]) for row in of_task["rows"].values()]
    curves: dict[str, list[tuple[float, float, float]]] = {"float on its way": [], "float, own schedule": []}
    width, height = np.ptp(points, axis=0)
    right = np.min(points, axis=0)[0] + 0.8 * width
    for label, row in of_task["rows"].items():
        legend, colour, marker = _family(label)
        accuracy = row["mean"]["test_accuracy"]
        values = strongest(row, "auc")[1], row["mean"]["confidence: accuracy"]
        for axis, value in zip(axes, values):
            entry = legend if axis is axes[0] and legend not in drawn else None
            axis.scatter(value, accuracy, color=colour, marker=marker, label=entry)
        drawn.add(legend)
        if legend in curves:
            curves[legend].append((*values, accuracy))
        if marker != ".":
            named.append((values[0], accuracy, label))
    for curve in filter(None, curves.values()):
        *leakages, accuracies = zip(*sorted(curve))
        for axis, leakage in zip(axes, leakages):
            axis.plot(leakage, accuracies, color="black", linewidth=0.5, zorder=0)
    # Of points that lie on top of each other the one that leaks least is named.
    for auc, accuracy, label in sorted(named):
        if all(abs(auc - x) > 0.3 * width or abs(accuracy - y) > 0.05 * height for x, y in labelled):
            # The legend tells the rest of it.
            text = (
                re.sub(", cross-distilled( by [0-9a-z.]+)?|outputs of ", "", label) if "outputs of" in label else label
            )
            axes[0].annotate(
                text,
                (auc, accuracy),
                fontsize=6,
                xytext=(-4 if auc > right else 4, 4),
                textcoords="offset points",
                horizontalalignment="right" if auc > right else "left",
            )
            labelled.append((auc, accuracy))
    axes[0].set_xlabel("AUC of the strongest attack, reference models alike")
    axes[1].set_xlabel("accuracy of a threshold on confidence")
    axes[0].set_ylabel("test accuracy")
    fig.legend(loc="lower center", ncol=5, fontsize=7)
    fig.suptitle(f"{name}: {of_task['members']:,} members")
    fig.tight_layout(rect=(0, 0.08, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def agreement(of_task: dict[str, Any]) -> tuple[int, float]:
    """Rows without quantized outputs, and Spearman's rank correlation over them of the confidence attack's AUC, which
    costs no reference models, and the strongest one."""
    plain = [row for label, row in of_task["rows"].items() if "outputs of" not in label]
    pairs = [(row["mean"]["confidence: auc"], strongest(row, "auc")[1]) for row in plain]
    return len(pairs), float(stats.spearmanr(pairs)[0]) if len(pairs) > 2 else float("nan")


def file_name(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def write_report(results: pathlib.Path, document: pathlib.Path, figures: pathlib.Path) -> None:
    """Writes tables and figures of all that is there."""
    tasks = json.loads(results.read_text(encoding="utf-8"))["tasks"]
    parts = [f"# The frontier, measured\n\n{_HEAD}\n", _READ_FIRST.read_text(encoding="utf-8")]
    for name in TASKS_KNOWN:
        if name not in tasks or not tasks[name]["rows"]:
            continue
        file = figures / f"frontier-{file_name(name)}.png"
        figure(name, tasks[name], file)
        print(f"{name}\n{table(tasks[name])}\n")
        link = f"{file.parent.name}/{file.name}"
        count, correlation = agreement(tasks[name])
        parts.append(
            f"## {name}: {tasks[name]['members']:,} members\n\n{table(tasks[name])}\n\n![{name}]({link})\n\n"
            "The AUC of the confidence attack, which takes no reference models, and that of the strongest one have a "
            f"rank correlation of {correlation:.3f} over the {count} rows without quantized outputs (Spearman).\n\n"
            f"The paper's figures, and how they change against float:\n\n{papers_table(tasks[name])}\n"
        )
    document.write_text("\n".join(parts), encoding="utf-8")
