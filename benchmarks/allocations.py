"""Does it matter where few bits go? A ResNet-8 trained from scratch with bits placed by hand, uniformly, and by search.

    python benchmarks/allocations.py --dataset=cifar10.npz

For each seed: 4,000 training images are the members; one half of the test images is what the search may see, the other
gives test accuracy and the confidence attack's AUC. Each allocation is trained from scratch alike. The search trains
its shared model from scratch too, once, and first takes it at its word (no finalists), then trains a few; every
allocation that was trained is scored on that model as well, which tells how much its word is worth. Rows are written as
they come, and finished ones are not done again.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import pathlib
import time
from typing import Any, Optional

import numpy as np
from absl import app, flags
from networks import resnet8
from scipy import stats
from seeds import grouped, mean

import tfmiaq
from tfmiaq import datasets
from tfmiaq._backend import keras
from tfmiaq.auditing import metrics, signals

DATASET = flags.DEFINE_string("dataset", "cifar10", "CIFAR-10: its name, or the path of an .npz file.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds, from 0.", 1)
EPOCHS = flags.DEFINE_integer("epochs", 24, "Epochs of every training.", 1)
FOLDER = flags.DEFINE_string("folder", "out/allocations", "Folder of the searches.")
ROWS = flags.DEFINE_multi_string("rows", ["*"], "Globs over the allocations to train.")
RESULTS = flags.DEFINE_string("results", "benchmarks/allocations.json", "Result file.")
_MEMBERS = 4_000
_TRIALS, _SAMPLE = 60, 1_000
_SEARCHES = {"searched": 0, "searched, 3 finalists": 3}
_FULL = tfmiaq.LayerBits(8, 8)


def placed(weights: tuple[int, int, int], activations: tuple[int, int, int]) -> tfmiaq.BitwidthPolicy:
    """Bits for each of the three stages, in between ends of 8 bits."""
    stages = {
        f"stage{stage}_*": tfmiaq.LayerBits(*bits) for stage, bits in enumerate(zip(weights, activations), start=1)
    }
    return tfmiaq.BitwidthPolicy(_FULL, stages)


_uniform = tfmiaq.BitwidthPolicy.uniform
ALLOCATIONS = {
    "w8 a8": _uniform(8, 8),
    "w2 a4": _uniform(2, 4),
    "w1 a4": _uniform(1, 4),
    "w1 a3": _uniform(1, 3),
    "w1 a2": _uniform(1, 2),
    "w1, activations 4, 3, 2": placed((1, 1, 1), (4, 3, 2)),
    "w1, activations 2, 3, 4": placed((1, 1, 1), (2, 3, 4)),
    "w1, activations 8, 8, 2": placed((1, 1, 1), (8, 8, 2)),
    "weights 8, 8, 1, activations 8, 8, 2": placed((8, 8, 1), (8, 8, 2)),
    "w8 a2": _uniform(8, 2),
    "w1 a4, ends too": _uniform(1, 4, None, None),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """A whole training; of the same records and epochs it is the same to a search that goes on."""

    x: np.ndarray
    y: np.ndarray
    epochs: int

    def __call__(self, model: Any, callbacks: Any = ()) -> Any:
        recipe = tfmiaq.Recipe(epochs=self.epochs, learning_rate=0.1, batch_size=128, weight_decay=5e-4)
        return recipe.fit(model, self.x, self.y, callbacks)


def measured(model: Any, members: signals.Records, others: signals.Records) -> dict[str, float]:
    """Accuracies, and the AUC of the confidence attack."""
    inside, outside = signals.extract(model, members, others, 500)
    auc: Any = metrics.auc_interval(inside.confidences, outside.confidences)[0]
    return {
        "train_accuracy": round(float(inside.correct.mean()), 5),
        "test_accuracy": round(float(outside.correct.mean()), 5),
        "confidence_auc": round(float(auc), 5),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds as Markdown."""
    lines = [
        "| allocation | train | test | AUC of confidence | packed | on the shared model: accuracy | AUC | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (name,), found in grouped(rows, "allocation").items():
        lines.append(
            f"| {name} | {mean(found, 'train_accuracy'):.3f} | {mean(found, 'test_accuracy'):.3f} | "
            f"{mean(found, 'confidence_auc'):.3f} | {mean(found, 'packed_bytes'):,.0f} B | "
            f"{mean(found, 'shared_accuracy'):.3f} | {mean(found, 'shared_auc'):.3f} | {len(found)} |"
        )
    return "\n".join(lines)


class Results:
    """Rows on disk."""

    def __init__(self) -> None:
        self.path = pathlib.Path(RESULTS.value)
        self.values: dict[str, Any] = {"rows": [], "searches": []}
        if self.path.is_file():
            self.values = json.loads(self.path.read_text(encoding="utf-8"))
        self.values["command"] = f"python benchmarks/allocations.py --dataset=cifar10.npz --seeds={SEEDS.value}"

    def row(self, name: str, seed: int) -> Any:
        """A finished row, or None."""
        return next((r for r in self.values["rows"] if (r["allocation"], r["seed"]) == (name, seed)), None)

    def search(self, name: str, seed: int, found: Any, seconds: Optional[int]) -> None:
        """Keeps what a search said, unless it is kept; `seconds` from the shared model's training on, if known.

        The first trials are ALLOCATIONS, uniform policies and integer programmes, the rest is the sampler's."""
        if any((s["search"], s["seed"]) == (name, seed) for s in self.values["searches"]):
            return
        kept = {"search": name, "seed": seed, "processor_seconds": seconds}
        kept |= {"accuracy": found.best.accuracy, "leakage": found.best.leakage}
        trials = [candidate.policy for candidate in found.candidates]
        kept |= {"trial": trials.index(found.best.policy) if found.best.policy in trials else None}
        kept |= {"finalists": [[c.accuracy, c.leakage, json.loads(c.policy.to_json())] for c in found.finalists]}
        self.values["searches"].append({**kept, "best": json.loads(found.best.policy.to_json())})
        self.write()

    def write(self) -> None:
        """Writes all that is there."""
        rows = self.values["rows"]
        trained = [row for row in rows if "shared_auc" in row]
        if len(trained) > 2:
            self.values["rank_correlations"] = {
                key: round(float(stats.spearmanr([r[key] for r in trained], [r[shared] for r in trained])[0]), 4)
                for key, shared in (("confidence_auc", "shared_auc"), ("test_accuracy", "shared_accuracy"))
            }
        self.path.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")


def main(argv: list[str]) -> None:
    del argv
    data = datasets.load(DATASET.value)
    half = len(data.y_test) // 2
    seen, others = (data.x_test[:half], data.y_test[:half]), (data.x_test[half:], data.y_test[half:])
    results = Results()
    for seed in range(SEEDS.value):
        chosen = np.random.default_rng(seed).permutation(len(data.y_train))[:_MEMBERS]
        members = data.x_train[chosen], data.y_train[chosen]

        def add(name: str, policy: Any, seed: int = seed, members: Any = members) -> None:
            wanted = any(fnmatch.fnmatch(name, glob) for glob in ROWS.value)
            if not wanted or results.row(name, seed) is not None:
                return
            keras.utils.set_random_seed(seed)
            model = resnet8(members[0].shape[1:], data.classes)
            packed = 4 * model.count_params()
            if policy is not None:
                model = tfmiaq.quantize_model(model, policy)
                packed = tfmiaq.summary(model).packed_bytes
            started = time.process_time()
            Training(*members, EPOCHS.value)(model)
            row = {"allocation": name, "seed": seed, "processor_seconds": round(time.process_time() - started)}
            results.values["rows"].append({**row, **measured(model, members, others), "packed_bytes": packed})
            results.write()
            keras.backend.clear_session()

        folder = pathlib.Path(FOLDER.value) / str(seed)
        goes_on = folder.exists()
        started, searched = time.process_time(), {}
        for name, finalists in _SEARCHES.items():
            keras.utils.set_random_seed(seed)
            found = tfmiaq.search_policy(
                resnet8(members[0].shape[1:], data.classes),
                members,
                seen,
                n_trials=_TRIALS,
                sample=_SAMPLE,
                fit=Training(*members, EPOCHS.value),
                finalists=finalists,
                policies=list(ALLOCATIONS.values()),
                folder=folder,
                seed=seed,
            )
            searched[name] = found.best
            results.search(name, seed, found, None if goes_on else round(time.process_time() - started))
        add("float", None)
        for name, policy in {**{name: best.policy for name, best in searched.items()}, **ALLOCATIONS}.items():
            add(name, policy)
        seen_by_shared = {c.policy: c for c in (found.baseline, *found.candidates)}
        candidates = dict(zip(ALLOCATIONS, found.candidates))
        candidates |= {name: seen_by_shared[best.policy] for name, best in searched.items()}
        for name, candidate in candidates.items():
            row = results.row(name, seed)
            if row is not None:
                row.update(shared_auc=round(candidate.leakage, 5), shared_accuracy=round(candidate.accuracy, 5))
        results.write()
    print(table(results.values["rows"]))


if __name__ == "__main__":
    app.run(main)
