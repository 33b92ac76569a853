"""Which attack finds most, with how many reference models? Every attack on Location-30 and CIFAR-10 networks.

    python benchmarks/attacks.py --location=location30.npz
    python benchmarks/attacks.py --location=location30.npz --dataset=cifar10.npz --tasks=resnet8 --reference_models=32

Location-30: a float multilayer perceptron, and a quantized one (w2 a4, outputs of 1 bit) that is cross-distilled by 15
teachers; both are attacked by who can ask, and by who holds the file and reads the logits in front of the rounding of
outputs: there the outputs are as good as full. ResNet-8 on 1,000 images for 24 epochs: float, and w2 a4 with outputs of
1 bit, fine-tuned for 6 epochs. Each target trains on its own random half of
the pool, and so does each reference model, through the target's own pipeline. The null of a row is the same attack with
memberships that are drawn anew: it must be 0.5.

`--cache` keeps every finished model's signals, so that a run that was stopped goes on; rows are written as they come.
Location-30 with 64 reference models takes half an hour on two cores, ResNet-8 with 16 two hours.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Optional

import networks
import numpy as np
from absl import app, flags
from seeds import grouped, mean
from tqdm import tqdm

import tfmiaq
from tfmiaq import auditing, datasets, signals
from tfmiaq.attacks import ATTACKS, RECORDS, REFERENCE_MODELS, Evidence

LOCATION = flags.DEFINE_string(
    "location", None, "Path of Location-30 as an .npz with x and y; without, it is left out."
)
DATASET = flags.DEFINE_string("dataset", "cifar10", "Name of a data set of images, or the path of an .npz file.")
TASKS = flags.DEFINE_multi_enum("tasks", ["location30"], ["location30", "resnet8"], "Networks.")
REFERENCES = flags.DEFINE_integer("reference_models", 64, "Reference models of each pipeline.", 4)
TARGETS = flags.DEFINE_integer("targets", 2, "Number of targets of each kind, seeds from 0.", 1)
RECORDS_OF_IMAGES = flags.DEFINE_integer("records", 2_000, "Images of the pool; half of them are members.", 100)
CACHE = flags.DEFINE_string("cache", "out/attacks", "Folder of finished models' signals.")
N_JOBS = flags.DEFINE_integer("n_jobs", None, "Processes that train reference models.", 1)
RESULTS = flags.DEFINE_string("results", "benchmarks/attacks.json", "Result file.")
ONLY_TABLE = flags.DEFINE_bool("only_table", False, "Write the table of the rows that are there, and run nothing.")
TABLE = flags.DEFINE_string("table", "docs/attacks_measured.md", "Markdown table.")
_COUNTS = (4, 8, 16, 32, 64)
_SLOW = ("multi-layer perceptron", "random forest", "k nearest neighbours", "logistic regression")
_HEAD = """Written by `python benchmarks/attacks.py`. Means over targets, each on its own random half of the pool.
Reference models went through the target's own pipeline, each on its own random half too. *null* is the AUC of the same
attack with memberships that are drawn anew, and must be 0.5; its standard deviation is 0.010 for Location-30 (3,200
records) and 0.013 for ResNet-8 (2,000). Who holds the file reads the logits in front of the rounding of outputs; where
outputs are not rounded, both attackers have the same. Seconds are processor time of the attack alone."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Records and pipelines.

    Attributes:
        pool: Pair (x, y).
        test: Pair (x, y) of records outside of the pool.
        pipelines: Stages, by the model's name.
        rounded: Names of models whose outputs are rounded.
    """

    pool: signals.Records
    test: signals.Records
    pipelines: dict[str, list[Callable[..., Any]]]
    rounded: tuple[str, ...] = ()


def _recipe(epochs: int, batch_size: int = 64) -> tfmiaq.TrainingRecipe:
    return tfmiaq.TrainingRecipe(epochs=epochs, learning_rate=0.1, batch_size=batch_size, weight_decay=5e-4)


def _location() -> Task:
    with np.load(LOCATION.value) as file:
        x, y = file["x"].astype(np.float32), file["y"].astype(np.int64)
    y = y - y.min()
    order = np.random.default_rng(0).permutation(len(y))
    inside, outside = order[:3_200], order[3_200:]
    build = functools.partial(networks.mlp, x.shape[1:], 30)
    train_float = tfmiaq.FloatTraining(build, _recipe(24))
    policy = dataclasses.replace(tfmiaq.BitwidthPolicy.uniform(2, 4), output=tfmiaq.OutputBits(1, 0.2))
    cross = tfmiaq.CrossDistilledTraining(
        policy,
        _recipe(24),
        tfmiaq.FloatTraining(build, _recipe(3)),
        tfmiaq.CrossDistillation(folds=5, repeats=3),
        str(pathlib.Path(CACHE.value) / "teachers"),
    )
    pipelines: dict[str, list[Callable[..., Any]]] = {
        "float": [train_float],
        "w2 a4, cross-distilled, outputs of 1 bit": [train_float, cross],
    }
    return Task((x[inside], y[inside]), (x[outside], y[outside]), pipelines, (list(pipelines)[1],))


def _resnet8() -> Task:
    data = datasets.load(DATASET.value)
    count = RECORDS_OF_IMAGES.value
    build = functools.partial(networks.resnet8, data.x_train.shape[1:], 10)
    train_float = tfmiaq.FloatTraining(build, _recipe(24))
    # In training logits pass the rounding as they are: who holds the file attacks the model without it.
    policy = dataclasses.replace(tfmiaq.BitwidthPolicy.uniform(2, 4), output=tfmiaq.OutputBits(1, 1.0))
    quantize = tfmiaq.QuantizedTraining(policy, tfmiaq.TrainingRecipe(epochs=6, learning_rate=0.02, batch_size=64))
    quantized = "w2 a4, fine-tuned, outputs of 1 bit"
    return Task(
        (data.x_train[:count], data.y_train[:count].astype(np.int64)),
        (data.x_test[:2_000], data.y_test[:2_000]),
        {"float": [train_float], quantized: [train_float, quantize]},
        (quantized,),
    )


def file_name(name: str, model: str, task: Task, seed: int) -> str:
    """The name of the file of a target's signals."""
    return f"target-{name}-{model.replace(' ', '-').replace(',', '')}-{len(task.pool[1])}-{seed}.npz"


def _target(
    pipeline: list[Any], task: Task, seed: int, store: pathlib.Path
) -> tuple[dict[str, Any], np.ndarray, float]:
    """The target's signals for each attacker, which records it trained on, and its test accuracy."""
    x, y = task.pool
    inside: np.ndarray = np.random.default_rng(10_000 + seed).permutation(len(y)) < len(y) // 2
    views: dict[str, Any] = {}
    if store.is_file():
        with np.load(store) as file:
            for access in signals.ACCESS:
                fields = {name.split(":")[1]: file[name] for name in file.files if name.startswith(access)}
                views[access] = signals.Signals(**fields)
            return views, inside, float(file["accuracy"])
    tfmiaq.keras.utils.set_random_seed(7_000 + seed)
    model = pipeline[0](x[inside], y[inside])
    for step in pipeline[1:]:
        model = step(model, x[inside], y[inside])
    held, queries = signals.HeldModel(model), signals.AugmentedQueries.from_records(x)
    for access in signals.ACCESS:
        view = getattr(held, access)
        found = signals.extract(view, task.pool)
        views[access] = dataclasses.replace(found, **signals.query_augmented(view, task.pool, queries))
    views["file"] = dataclasses.replace(views["file"], hidden=held.hidden(x))
    accuracy = float((signals.predict_logits(model, task.test[0]).argmax(1) == task.test[1]).mean())
    arrays = {f"{access}:{name}": a for access, view in views.items() for name, a in view.to_arrays().items()}
    store.parent.mkdir(parents=True, exist_ok=True)
    np.savez(store, accuracy=accuracy, **arrays)  # type: ignore[arg-type, unused-ignore]
    return views, inside, accuracy


def _evidence(found: signals.Signals, inside: np.ndarray, references: Optional[Any], seed: int) -> Evidence:
    order = np.argsort(~inside, kind="stable")
    return Evidence(
        target=found[order],
        is_member=inside[order],
        seed=seed,
        reference_signals=None if references is None else references.of_records(order),
    )


def _rate(attack: auditing.AttackResult, fpr: float) -> Optional[float]:
    rate = attack.tpr_at_fpr(fpr)
    return None if rate is None else round(float(rate), 4)


def _rows(found: signals.Signals, inside: np.ndarray, references: Optional[Any], seed: int) -> Iterator[dict[str, Any]]:
    """Every attack that needs reference models, or every one that needs none."""
    anew = np.random.default_rng(20_000 + seed).permutation(inside)
    reports = []
    for members in (inside, anew):
        evidence = _evidence(found, members, references, seed)
        chosen = [
            attack
            for attack in ATTACKS.values()
            if (REFERENCE_MODELS in attack.needs) == (references is not None)
            and RECORDS not in attack.needs
            and attack.needs <= evidence.available
            and attack.name not in _SLOW
        ]
        reports.append(auditing.score(evidence, chosen))
    for attack, null in zip(reports[0].attacks, reports[1].attacks):
        yield {
            "attack": attack.name,
            "reference_models": 0 if references is None else len(references.trained_on),
            "auc": round(float(attack.auc), 4),
            "null_auc": round(float(null.auc), 4),
            "accuracy": round(attack.confusion.accuracy, 4),
            "tpr_at_0.1_percent_fpr": _rate(attack, 0.001),
            "tpr_at_1_percent_fpr": _rate(attack, 0.01),
            "seconds": round(attack.seconds, 2),
            "train_accuracy": round(reports[0].member_accuracy, 4),
        }


def _run(name: str, task: Task) -> Iterator[dict[str, Any]]:
    folder = pathlib.Path(CACHE.value)
    queries = signals.AugmentedQueries.from_records(task.pool[0])
    for model, pipeline in task.pipelines.items():
        options = tfmiaq.ReferenceModels(pipeline, REFERENCES.value, cache=folder, n_jobs=N_JOBS.value)
        with tqdm(total=REFERENCES.value, desc=f"{name} {model}") as bar:
            references = signals.train_references(
                options, task.pool, batch_size=2_048, queries=queries, progress=bar.update, access="file"
            )
        for seed in range(TARGETS.value):
            stored = folder / file_name(name, model, task, seed)
            views, inside, accuracy = _target(pipeline, task, seed, stored)
            for access in signals.ACCESS if model in task.rounded else ("query",):
                seen = references if access == "file" else references.query or references
                key = {
                    "task": name,
                    "model": model,
                    "access": access,
                    "seed": seed,
                    "test_accuracy": round(accuracy, 4),
                }
                for row in _rows(views[access], inside, None, seed):
                    yield {**key, **row}
                for count in (count for count in _COUNTS if count <= REFERENCES.value):
                    for row in _rows(views[access], inside, seen.first(count), seed):
                        yield {**key, **row}


def table(rows: list[dict[str, Any]], notes: dict[str, str]) -> str:
    """The rows as Markdown, means over targets, each task's behind what is noted of it."""
    lines = []
    for task, note in notes.items():
        lines += [f"{task}: {note}", ""]
    models = {(row["task"], row["model"], row["access"]): None for row in rows}
    for task, model, access in models:
        of_model = [r for r in rows if (r["task"], r["model"], r["access"]) == (task, model, access)]
        who = "who holds the file" if access == "file" else "who can only ask"
        lines += [
            f"## {task}, {model}: {who}",
            "",
            f"Accuracy {mean(of_model, 'train_accuracy'):.3f} on members, {mean(of_model, 'test_accuracy'):.3f} on "
            f"test records; {len({row['seed'] for row in of_model})} targets.",
            "",
            "| attack | reference models | AUC | null | TPR at 0.1 % FPR | TPR at 1 % FPR | seconds |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for (attack, count), found in grouped(of_model, "attack", "reference_models").items():
            lines.append(
                f"| {attack} | {count or 'none'} | {mean(found, 'auc'):.3f} | {mean(found, 'null_auc'):.3f} | "
                f"{mean(found, 'tpr_at_0.1_percent_fpr'):.4f} | {mean(found, 'tpr_at_1_percent_fpr'):.4f} | "
                f"{mean(found, 'seconds'):.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    if "location30" in TASKS.value and LOCATION.value is None and not ONLY_TABLE.value:
        raise app.UsageError("--tasks=location30 needs --location, the path of its .npz.")
    results = pathlib.Path(RESULTS.value)
    kept: dict[str, Any] = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    rows: list[dict[str, Any]] = kept.get("rows", [])
    commands: dict[str, str] = kept.get("commands", {})
    notes: dict[str, str] = kept.get("notes", {})
    for name in () if ONLY_TABLE.value else TASKS.value:
        notes.pop(name, None)
        task = {"location30": _location, "resnet8": _resnet8}[name]()
        rows = [row for row in rows if row["task"] != name]
        commands[name] = (
            f"python benchmarks/attacks.py --location=location30.npz --dataset=cifar10.npz --tasks={name} "
            f"--reference_models={REFERENCES.value} --targets={TARGETS.value} --records={RECORDS_OF_IMAGES.value}"
        )
        for row in _run(name, task):
            rows.append(row)
            content = {"commands": commands, "notes": notes, "rows": rows}
            results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = f"# Attacks, measured\n\n{_HEAD}\n\n{table(rows, notes)}"
    pathlib.Path(TABLE.value).write_text(text, encoding="utf-8")
    print(table(rows, notes))


if __name__ == "__main__":
    app.run(main)
