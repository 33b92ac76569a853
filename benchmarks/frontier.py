"""The frontier of test accuracy and membership leakage: float models, peers' defences and ours, on several tasks.

    python benchmarks/frontier.py --dataset=cifar10.npz --location=location30.npz
    python benchmarks/frontier.py --tasks=digits --rows='float*' --rows='w2 a4*'

Of each row, `--models` models are trained, each on a random half of a pool of records. Each in turn is the target, its
half the members and the other half the non-members; the others are the attacker's reference models, so that they went
through the same defence. The outputs of every model on the pool stay in `--folder`, so that a run that was stopped goes
on. Whenever a row is finished, all finished rows are scored and written. The whole of it takes days on two cores; what
is in the result file was made task by task, with --models=4 for CIFAR-10 (10,000 training images and the test set in
one .npz). Its rows of DP-SGD were trained with tensorflow-privacy's optimizers, with GroupNormalization, at a rate of
0.25 without momentum; they are trained with `tfmiaq.training.DPSGD` now. docs/frontier.md has tuned DP-SGD.
The tables are no part of the documentation: their attacks are weaker than those of `defences_location.py`.
"""

from __future__ import annotations

import collections
import json
import pathlib
import time
from typing import Any, Optional

import numpy as np
from absl import app, flags
from frontier_report import SIGNALS, file_name, write_report
from frontier_rows import TASKS_KNOWN, Row, Task, labels, rows
from frontier_training import Job, train
from result_files import is_asked
from tqdm import tqdm

import tfmiaq
from tfmiaq import auditing, datasets, signals
from tfmiaq.attacks import Evidence
from tfmiaq.caching import ARRAYS, Store

DATASET = flags.DEFINE_string("dataset", "cifar10", "CIFAR-10: its name, or the path of an .npz file.")
LOCATION = flags.DEFINE_string("location", None, "Path of Location-30 as an .npz with x and y.")
TASKS = flags.DEFINE_multi_string("tasks", None, "Globs over tasks; all that there are data for if not given.")
ROWS = flags.DEFINE_multi_string(
    "rows", ["*"], "Globs over rows to train; what is there already is scored in any case."
)
# Of three, complementary halves tell members apart even for a target that saw none of them (tests/test_attacks.py).
MODELS = flags.DEFINE_integer("models", 5, "Models of each row: targets, and each other's references.", 4)
RECORDS = flags.DEFINE_integer("records", None, "Records of the pool; the task's own number if not given.", 100)
FOLDER = flags.DEFINE_string("folder", "out/frontier", "Folder of every model's outputs.")
RESULTS = flags.DEFINE_string("results", "benchmarks/frontier.json", "Result file.")
TABLE = flags.DEFINE_string("table", "out/frontier.md", "Markdown tables of all that is there.")
FIGURES = flags.DEFINE_string("figures", "out/figures", "Folder of the figures.")


def _outputs(model: Any, pool: signals.Records, augmented: bool = False) -> dict[str, np.ndarray]:
    found = signals.extract(model, pool, batch_size=500).to_arrays()
    if augmented:
        queries = signals.AugmentedQueries.from_records(pool[0])
        found.update(signals.query_augmented(model, pool, queries, batch_size=500))
    return found


class _QueriedOnce:
    """A model of quantized outputs, as two targets that get the same queries in the same order, one after the other;
    the network runs for the first of them only."""

    def __init__(self, model: Any) -> None:
        self._rounding = model.get_layer("logits_output")
        self._network = tfmiaq.keras.Model(model.inputs, self._rounding.input)
        self._waiting: collections.deque[np.ndarray] = collections.deque()

    def before_rounding(self, x: np.ndarray) -> np.ndarray:
        outputs = self._network.predict_on_batch(x)
        self._waiting.append(outputs)
        return outputs

    def rounded(self, x: np.ndarray) -> np.ndarray:
        outputs = self._waiting.popleft()
        if len(outputs) != len(x):
            raise ValueError(
                f"Expected the queries of before. Received {len(x)} records where there were {len(outputs)}."
            )
        return self._rounding(outputs, training=False).numpy()


def _pool(task: Task) -> Optional[tuple[signals.Records, signals.Records]]:
    """The records of a task, and those of its source that are left over, as many at most."""
    if task.source == "location30":
        if LOCATION.value is None:
            return None
        with np.load(LOCATION.value) as file:
            x, y = file["x"].astype(np.float32), file["y"].astype(np.int64)
    else:
        data = datasets.load("digits" if task.source == "digits" else DATASET.value)
        x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    count = min(RECORDS.value or task.records, len(y))
    order = np.random.default_rng(0).permutation(len(y))
    y = y - y.min()
    inside, outside = order[:count], order[count : 2 * count]
    return (x[inside], y[inside]), (x[outside], y[outside])


def _make(
    task: Task,
    name: str,
    row: Row,
    pool: signals.Records,
    outside: signals.Records,
    folder: pathlib.Path,
    bar: Any,
) -> None:
    """Trains what is missing of a row's models, and stores their outputs."""
    store = Store(folder)
    for index, chosen in enumerate(signals.half_splits(len(pool[1]), MODELS.value, 0)):
        key = f"{name}-{index}"
        if store.get(key, ARRAYS) is None:
            classes = int(pool[1].max()) + 1
            job = Job(task, row, pool[0][chosen], pool[1][chosen], outside, classes, folder, index)
            tfmiaq.keras.utils.set_random_seed(1_000 + index)
            started = time.perf_counter(), time.process_time()

            def on_the_way(model: Any, epoch: int, index: int = index) -> None:
                store.put(f"{name}, epoch {epoch}-{index}", _outputs(model, pool), ARRAYS)

            model = train(job, on_the_way)
            took = [time.perf_counter() - started[0], time.process_time() - started[1]]
            target: Any = model
            plain = name.partition(", outputs of")[0]
            if row.output is not None and plain in rows(task) and store.get(f"{plain}-{index}", ARRAYS) is None:
                # Training does not see the rounding: the network's outputs before it are those of the row without.
                once = _QueriedOnce(model)
                store.put(f"{plain}-{index}", _outputs(once.before_rounding, pool, True), ARRAYS)
                target = once.rounded
            store.put(key, {**_outputs(target, pool, True), "seconds": np.array(took)}, ARRAYS)
            tfmiaq.keras.backend.clear_session()
        bar.update()


def scored(name: str, count: int, folder: pathlib.Path) -> Optional[dict[str, Any]]:
    """A row's figures, means over its targets, or None while models are missing."""
    found = [Store(folder).get(f"{name}-{index}", ARRAYS) for index in range(MODELS.value)]
    if any(arrays is None for arrays in found):
        return None
    seconds = [arrays.pop("seconds", None) for arrays in found if arrays is not None]
    models = [signals.Signals(**arrays) for arrays in found if arrays is not None]
    halves = signals.half_splits(count, MODELS.value, 0)
    features = np.stack([model.features for model in models])
    of_models = [model.augmented for model in models]
    augmented = None if any(part is None for part in of_models) else np.stack([*of_models])
    values: dict[str, list[float]] = {}
    for index, (model, chosen) in enumerate(zip(models, halves)):
        order = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(~chosen)])
        # Not the model that trained on just the records that this one did not: their numbers of models would tell.
        others = [other for other in range(len(models)) if other not in (index, index ^ 1)]
        evidence = Evidence(
            target=model[order],
            is_member=np.arange(count) < chosen.sum(),
            seed=index,
            reference_signals=signals.ReferenceSignals(
                features[others][:, order],
                halves[others][:, order],
                None if augmented is None else augmented[others][:, order],
            ),
        )
        attacks = [attack for name, attack in tfmiaq.attacks.ATTACKS.items() if name in ("gap", *SIGNALS)]
        attacks = [attack for attack in attacks if attack.needs <= evidence.available]
        report = auditing.score(evidence, attacks)
        values.setdefault("train_accuracy", []).append(report.member_accuracy)
        values.setdefault("test_accuracy", []).append(report.non_member_accuracy)
        for attack in report.attacks:
            for key, value in (
                ("auc", attack.auc),
                ("accuracy", attack.confusion.accuracy),
                ("tpr", attack.confusion.tpr),
                ("f1_members", attack.confusion.f1_members),
                ("f1_non_members", attack.confusion.f1_non_members),
            ):
                values.setdefault(f"{attack.name}: {key}", []).append(float(value))
            for key, fpr in (("tpr_at_0.1_percent_fpr", 0.001), ("tpr_at_1_percent_fpr", 0.01)):
                rate = attack.tpr_at_fpr(fpr)
                if rate is not None:
                    values.setdefault(f"{attack.name}: {key}", []).append(float(rate))
    return {
        "targets": len(models),
        "seconds": None if seconds[0] is None else [round(float(value)) for value in np.mean(seconds, axis=0)],
        "mean": {key: round(float(np.mean(found)), 5) for key, found in values.items()},
        "deviation": {key: round(float(np.std(found, ddof=1)), 5) for key, found in values.items()},
    }


def _write(results: pathlib.Path, name: str, task: Task, count: int, folder: pathlib.Path) -> None:
    """Scores what has not been scored, and adds it to what others may have written meanwhile."""

    def read() -> dict[str, Any]:
        return json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {"tasks": {}}

    known = read()["tasks"].get(name, {"rows": {}})["rows"]
    order = list(labels(task))
    found = {label: scored(label, count, folder) for label in order if label not in known}
    result = read()
    rows_of_task = result["tasks"].setdefault(name, {"members": count // 2, "rows": {}})["rows"]
    rows_of_task.update({label: row for label, row in found.items() if row is not None})
    result["tasks"][name]["rows"] = dict(sorted(rows_of_task.items(), key=lambda item: order.index(item[0])))
    result["command"] = "python benchmarks/frontier.py --dataset=cifar10.npz --location=location30.npz"
    scratch = results.with_suffix(".part")
    scratch.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    scratch.replace(results)


def main(argv: list[str]) -> None:
    del argv
    results = pathlib.Path(RESULTS.value)
    for name, task in TASKS_KNOWN.items():
        if not is_asked(name, TASKS.value or ["*"]):
            continue
        records = _pool(task)
        if records is None:
            print(f"{name}: no --location, left out.")
            continue
        pool, outside = records
        count = len(pool[1])
        folder = pathlib.Path(FOLDER.value) / f"{file_name(name)}-{count}"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {
            label: row
            for label, row in rows(task).items()
            if is_asked(label, ROWS.value)
            if not row.outside or len(outside[1])
        }
        with tqdm(total=len(wanted) * MODELS.value, desc=name) as bar:
            for label, row in wanted.items():
                bar.set_postfix_str(label)
                _make(task, label, row, pool, outside, folder, bar)
                _write(results, name, task, count, folder)
        _write(results, name, task, count, folder)
    write_report(results, pathlib.Path(TABLE.value), pathlib.Path(FIGURES.value))


if __name__ == "__main__":
    app.run(main)
