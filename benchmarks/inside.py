"""What the last hidden layer, and what queries near a record, add to the whole output: cross-distilled Location-30.

    python benchmarks/inside.py --location=location30.npz

Models are those of `benchmarks/attacks.py`: w2 a4, cross-distilled by 15 teachers; their logits are attacked, without
its augmented queries. Each row is the whole-output attack on other views of a record: its output; the size of the last
hidden layer (`HeldModel.hidden`) and what else may be read of it; outputs on near neighbours (12 copies with 2 % of the
features changed), their difference to the output, and outputs on the 16 nearest records outside of the pool. The null
is the same with memberships that are drawn anew.

`--cache` keeps what is read of each model, so that a run that was stopped goes on. About nine seconds of processor time
for each model.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import attacks as measured
import numpy as np
from absl import app, flags
from sklearn import linear_model, pipeline, preprocessing

import tfmiaq
from tfmiaq import metrics, signals
from tfmiaq.attacks.whole_output import _order, _View
from tfmiaq.signals.signals import normalized

MODELS = flags.DEFINE_integer("models", 8, "Reference models, an even number.", 4)
FOLDER = flags.DEFINE_string("folder", "out/inside", "Folder of what is read of each model.")
FOUND = flags.DEFINE_string("found", "benchmarks/inside.json", "Result file.")
_COPIES, _CHANGED, _NEAREST = 12, 9, 16
_VIEWS = {
    "output": ("output", "scalars"),
    "output, size of the hidden layer": ("output", "scalars", "size"),
    "size of the hidden layer alone": ("size",),
    "output, all that was read of the hidden layer": ("output", "scalars", "size", "more"),
    "output, near neighbours": ("output", "scalars", "near"),
    "output, near neighbours, difference": ("output", "scalars", "near", "difference"),
    "difference to near neighbours alone": ("difference",),
    "output, nearest records outside": ("output", "scalars", "outside"),
    "nearest records outside alone": ("outside",),
    "all": ("output", "scalars", "size", "near", "difference", "outside"),
}


def _read(model: Any, task: Any, copies: list[np.ndarray], nearest: np.ndarray) -> dict[str, np.ndarray]:
    """What is read of one model, on each record of the pool."""
    (x, y), held = task.pool, signals.HeldModel(model, 4_096)

    def log_probabilities(records: np.ndarray) -> np.ndarray:
        return normalized(held.file(records))

    def scalars(found: np.ndarray) -> np.ndarray:
        true = found[np.arange(len(y)), y]
        confidence = true - np.log(np.maximum(1 - np.exp(true), 1e-12))
        return np.column_stack([confidence, -(np.exp(found) * found).sum(1)])

    own = log_probabilities(x)
    near = np.mean([log_probabilities(copy) for copy in copies], axis=0)
    hidden = held._last_hidden(x, 4_096)
    length = np.linalg.norm(hidden, axis=1, keepdims=True) + 1e-9
    unit = hidden / length
    error = np.exp(own)
    error[np.arange(len(y)), y] -= 1
    of_class = np.stack([unit[y == label].sum(0) for label in range(own.shape[1])])[y] - unit
    return {
        "output": own,
        "scalars": scalars(own),
        "size": held.hidden(x),
        # Gradient of the loss in the last weights, the largest unit, and likeness to the class's others and to the ten
        # most alike.
        "more": np.column_stack(
            [
                np.log(np.linalg.norm(error, axis=1) * length[:, 0] + 1e-9),
                np.log(hidden.max(1) + 1e-6),
                (unit * of_class).sum(1) / (np.linalg.norm(of_class, axis=1) + 1e-9),
                np.sort(unit @ unit.T - 2 * np.eye(len(y)), axis=1)[:, -10:].mean(1),
            ]
        ),
        "near": near,
        "difference": np.column_stack([scalars(own) - scalars(near), scalars(near)]),
        "outside": log_probabilities(task.test[0])[nearest].mean(1),
    }


def _score(target: Any, models: Any, trained_on: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    order = _order(models["output"], labels)
    views = [
        _View.fit(target[name], models[name], trained_on, order if models[name].shape[2] == order.shape[1] else None)
        for name in names
    ]

    def features(model: Any, own: Any) -> np.ndarray:
        columns = [view.columns(model, slice(None)) for view in views]
        if "output" in names:
            columns += [-np.sort(-own["output"], axis=1)[:, :4], own["scalars"]]
        return np.column_stack(columns)

    rows = [features(model, {name: models[name][model] for name in models}) for model in range(len(trained_on))]
    classifier = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(C=0.1, max_iter=500)
    )
    classifier.fit(np.concatenate(rows), trained_on.reshape(-1))
    return classifier.decision_function(features(None, target))


def _kept(name: str, make: Any) -> dict[str, np.ndarray]:
    path = pathlib.Path(FOLDER.value) / f"{name}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **make())
    with np.load(path) as file:
        return dict(file)


def main(argv: list[str]) -> None:
    del argv
    task = measured._location()
    (x, y), pipeline_of = task.pool, list(task.pipelines.values())[-1]
    generator = np.random.default_rng(7)
    copies = []
    for _ in range(_COPIES):
        places = np.argsort(generator.random(x.shape), axis=1)[:, :_CHANGED]
        copy = x.copy()
        np.put_along_axis(copy, places, 1 - np.take_along_axis(x, places, 1), 1)
        copies.append(copy)
    outside = task.test[0]
    distances = (x**2).sum(1)[:, None] + (outside**2).sum(1)[None] - 2 * x @ outside.T
    nearest = np.argsort(distances, axis=1)[:, :_NEAREST]

    def trained(inside: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        tfmiaq.keras.utils.set_random_seed(seed)
        model = pipeline_of[0](x[inside], y[inside])
        return _read(pipeline_of[1](model, x[inside], y[inside]), task, copies, nearest)

    halves = signals.half_splits(len(y), MODELS.value, 0)
    found = []
    for model, inside in enumerate(halves):
        found.append(_kept(f"reference-{model}", lambda inside=inside, model=model: trained(inside, 1_000 * model)))
    models = {name: np.stack([one[name] for one in found]) for name in found[0]}
    rows = []
    for seed in range(measured.TARGETS.value):
        inside = np.random.default_rng(10_000 + seed).permutation(len(y)) < len(y) // 2
        target = _kept(f"target-{seed}", lambda inside=inside, seed=seed: trained(inside, 7_000 + seed))
        for view, names in _VIEWS.items():
            scores = _score(target, models, halves, y, names)
            anew = np.random.default_rng(20_000 + seed).permutation(inside)
            one, null = (metrics.auc_estimate(scores[members], scores[~members]) for members in (inside, anew))
            fpr, tpr = metrics.roc(scores[inside], scores[~inside])
            rate = float(tpr[fpr <= 0.01].max())
            rows.append(
                {
                    **{"view": view, "seed": seed, "reference_models": MODELS.value, "auc": round(float(one), 4)},
                    **{"null_auc": round(float(null), 4), "tpr_at_1_percent_fpr": round(rate, 4)},
                }
            )
    command = f"python benchmarks/inside.py --location=location30.npz --models={MODELS.value}"
    pathlib.Path(FOUND.value).write_text(
        json.dumps({"command": command, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    print("| views of a record | AUC | null | TPR at 1 % FPR |\n| --- | --- | --- | --- |")
    for view in _VIEWS:
        of_view = [row for row in rows if row["view"] == view]
        means = [np.mean([row[key] for row in of_view]) for key in ("auc", "null_auc", "tpr_at_1_percent_fpr")]
        print(f"| {view} | {means[0]:.3f} | {means[1]:.3f} | {means[2]:.3f} |")


if __name__ == "__main__":
    app.run(main)
