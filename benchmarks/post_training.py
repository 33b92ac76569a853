"""Does post-training quantization leak less? Calibrated models beside trained ones and float, by the strongest attacks.

    python benchmarks/post_training.py --dataset=cifar10.npz
    python benchmarks/post_training.py --dataset=cifar10.npz --networks=small_mobilenet --members=2000 --epochs=20
    python benchmarks/post_training.py --only_table

Each row is one target, trained on `--members` records and attacked on them and on as many others, by reference models
that went through the target's own pipeline on random halves of both. The ways: the float model; calibrated on the
members, or on records outside of all of these (`tfmiaq.calibrate`, no labels); trained on (quantization-aware). First
and last layer have 8 bits in all. In the row "null" the float model is attacked with memberships that are drawn anew,
so that its figures are those of chance. `--in_turn` attacks reference models themselves instead, each with the others
(`in_turn.py`), which costs no target and averages over many: give it another `--results`. `--cache` keeps the float
models and the signals of every finished model, so that a run that was stopped goes on; rows are written as they come.
The whole takes days on two cores.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
from absl import app, flags
from calibrated import Calibrate, policy
from in_turn import in_turn
from networks import NETWORKS
from result_files import read, write
from tqdm import tqdm

import tfmiaq
from tfmiaq import auditing, datasets, signals
from tfmiaq.attacks import ATTACKS, Evidence

DATASET = flags.DEFINE_string("dataset", "cifar10", "Name of a data set, or the path of an .npz file.")
NETWORKS_TO_RUN = flags.DEFINE_multi_enum("networks", list(NETWORKS), list(NETWORKS), "Networks.")
ROWS = flags.DEFINE_multi_string("rows", ["*"], "Globs over rows ('w2 a4 *', 'float'); they run in this order.")
MEMBERS = flags.DEFINE_integer("members", 5_000, "Members, and as many non-members.", 100)
RECORDS = flags.DEFINE_integer("records", 512, "Records to calibrate on.", 16)
EPOCHS = flags.DEFINE_integer("epochs", 40, "Epochs of float training.", 1)
TUNING = flags.DEFINE_integer("tuning_epochs", 10, "Epochs of quantization-aware training.", 1)
ITERATIONS = flags.DEFINE_integer("iterations", 500, "Steps of Adam for each layer's rounding.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Records in each of these steps.", 1)
REFERENCES = flags.DEFINE_integer("reference_models", 16, "Reference models of each row.", 2)
TARGETS = flags.DEFINE_integer("targets", 1, "Targets, each on other members.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of memberships and trainings.", 0)
THREADS = flags.DEFINE_integer("threads", None, "Threads of TensorFlow; all cores if not given.", 1)
N_JOBS = flags.DEFINE_integer("n_jobs", None, "Processes that train reference models.", 1)
CACHE = flags.DEFINE_string("cache", "out/post_training", "Folder of float models and of every model's signals.")
RESULTS = flags.DEFINE_string("results", "benchmarks/post_training.json", "Result file.")

DOCS = flags.DEFINE_string("docs", "docs/post_training.md", "Page whose table is written anew with each row.")
IN_TURN = flags.DEFINE_integer("in_turn", 0, "Attack this many reference models in turn, and no further target.", 0)
ONLY_TABLE = flags.DEFINE_bool("only_table", False, "Write the table from the result file, and measure nothing.")

_BITS = (8, 4, 3, 2, 1)
_ACTIVATIONS = (8, 4)
_ATTACKS = ("LiRA", "offline LiRA", "RMIA", "difficulty calibration", "whole output", "confidence")
_OUTSIDE, _MEMBERS, _TRAINED = "calibrated outside", "calibrated on members", "trained"
# What says most comes first: (weights, activations, way).
_FIRST = (
    (2, 8, _OUTSIDE),
    (1, 8, _OUTSIDE),
    (2, 8, _MEMBERS),
    (4, 8, _OUTSIDE),
    (2, 4, _TRAINED),
    (1, 4, _TRAINED),
    (2, 4, _OUTSIDE),
    (1, 4, _OUTSIDE),
    (1, 8, _MEMBERS),
    (8, 8, _OUTSIDE),
    (3, 8, _OUTSIDE),
)
# Flags that say where things are, and what of the whole is measured now.
_OF_THIS_RUN = ("--dataset", "--cache", "--results", "--docs", "--networks", "--rows")
_BEGIN, _END = "<!-- begin of the measured rows -->", "<!-- end of the measured rows -->"


@dataclasses.dataclass(frozen=True)
class TrainFloat:
    """Trains the float model, until it has memorized its records.

    Attributes:
        network: Name of the network.
        epochs: Number of epochs.
    """

    network: str
    epochs: int

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        """Returns the trained model."""
        recipe = tfmiaq.TrainingRecipe(epochs=self.epochs, learning_rate=0.1)
        return recipe.fit(NETWORKS[self.network](x.shape[1:], 10), x, y)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the results.

    Attributes:
        name: Its name, as `--rows` matches it.
        way: "float", "null", "calibrated on members", "calibrated outside" or "trained".
        weight: Bits of weights, or None for float.
        activation: Bits of activations, or None for float.
    """

    name: str
    way: str
    weight: Optional[int] = None
    activation: Optional[int] = None


def all_rows() -> list[Row]:
    """Every row, in the order of the flags' default."""
    every = [(w, a, way) for a in _ACTIVATIONS for w in _BITS for way in (_OUTSIDE, _MEMBERS, _TRAINED)]
    ordered = [*_FIRST, *(each for each in every if each not in _FIRST)]
    quantized = [Row(f"w{w} a{a} {way}", way, w, a) for w, a, way in ordered]
    return [Row("float", "float"), Row("null", "null"), *quantized]


def chosen_rows() -> Iterator[Row]:
    """The rows of --rows, each once."""
    done = set()
    for pattern in ROWS.value:
        for row in all_rows():
            if fnmatch.fnmatchcase(row.name, pattern) and row.name not in done:
                done.add(row.name)
                yield row


class Experiment:
    """One network, and one target's members.

    Args:
        network: Name of the network.
        target: Number of the target.
        data: The data set.
    """

    def __init__(self, network: str, target: int, data: datasets.Dataset) -> None:
        count = MEMBERS.value
        if len(data.x_train) < 2 * count + RECORDS.value:
            raise app.UsageError(
                f"--dataset has {len(data.x_train)} training records; --members={count} and --records={RECORDS.value} "
                f"take {2 * count + RECORDS.value}."
            )
        self.seed = SEED.value + target
        # Which half of the pool the target trains on changes from target to target.
        order = np.random.default_rng(self.seed).permutation(2 * count)
        self.pool = data.x_train[: 2 * count][order], data.y_train[: 2 * count][order]
        self.members = self.pool[0][:count], self.pool[1][:count]
        self.outside = data.x_train[2 * count : 2 * count + RECORDS.value]
        self.test = data.x_test, data.y_test
        self.train_float = TrainFloat(network, EPOCHS.value)
        self.folder = pathlib.Path(CACHE.value)
        self.name = f"{network}-{count}-{EPOCHS.value}-{self.seed}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def pipeline(self, row: Row) -> list[Any]:
        """The stages that the target and its reference models go through."""
        if row.weight is None or row.activation is None:
            return [self.train_float]
        if row.way == _TRAINED:
            recipe = tfmiaq.TrainingRecipe(epochs=TUNING.value, learning_rate=0.02)
            return [self.train_float, tfmiaq.QuantizedTraining(policy(row.weight, row.activation), recipe)]
        outside = self.outside if row.way == _OUTSIDE else None
        options = RECORDS.value, ITERATIONS.value, BATCH_SIZE.value
        return [self.train_float, Calibrate(row.weight, row.activation, *options, outside)]

    def target(self, row: Row) -> Any:
        """The target."""
        keras = tfmiaq.keras
        path = self.folder / f"target-{self.name}.keras"
        if path.is_file():
            model = keras.models.load_model(path, compile=False)
        else:
            keras.utils.set_random_seed(7_000 + self.seed)
            model = self.train_float(*self.members)
            model.save(path)
        for stage in self.pipeline(row)[1:]:
            keras.utils.set_random_seed(8_000 + self.seed)
            model = stage(model, *self.members)
        return model

    def references(self, row: Row) -> signals.ReferenceSignals:
        """Signals of the reference models on the pool."""
        options = tfmiaq.ReferenceModels(self.pipeline(row), REFERENCES.value, cache=self.folder, n_jobs=N_JOBS.value)
        with tqdm(total=REFERENCES.value, desc=row.name) as bar:
            return signals.train_references(options, self.pool, seed=self.seed, progress=bar.update)

    def score(self, row: Row) -> dict[str, Any]:
        """The finished row."""
        started = time.process_time()
        if IN_TURN.value:
            return in_turn(self.references(row), self.pool[1], IN_TURN.value, row.way == "float")
        model = self.target(row)
        found, refs = signals.extract(model, self.pool), self.references(row)
        if row.way == "null":
            # Members come first in the evidence: with the records in another order these are others.
            order = np.random.default_rng(self.seed + 1).permutation(len(self.pool[1]))
            found = signals.Signals(**{name: array[order] for name, array in found.to_arrays().items()})
            refs = refs.of_records(order)
        is_member = np.arange(len(found.labels)) < len(self.members[1])
        evidence = Evidence(target=found, is_member=is_member, seed=self.seed, reference_signals=refs)
        report = auditing.score(evidence, [ATTACKS[name] for name in _ATTACKS])
        x, y = self.test
        attacks: dict[str, dict[str, Any]] = {
            attack.name: {
                "auc": round(attack.auc.value, 4),
                "auc_low": round(attack.auc.low, 4),
                "auc_high": round(attack.auc.high, 4),
                **{f"tpr_at_{100 * rate:g}_percent_fpr": _rate(attack, rate) for rate in (0.001, 0.01)},
            }
            for attack in report.attacks
        }
        return {
            "test_accuracy": float((signals.predict_logits(model, x).argmax(1) == y).mean()),
            "member_accuracy": report.member_accuracy,
            "non_member_accuracy": report.non_member_accuracy,
            "strongest": max(attacks, key=lambda name: attacks[name]["auc"]),
            "attacks": attacks,
            "processor_minutes": round((time.process_time() - started) / 60, 2),
        }


def _rate(attack: auditing.AttackResult, rate: float) -> Optional[float]:
    found = attack.tpr_at_fpr(rate)
    return None if found is None else round(float(found), 4)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, a table for each network."""
    order = ["null", "float", _OUTSIDE, _MEMBERS, _TRAINED]
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        lines += [
            f"### {network}",
            "",
            "| weights | activations | way | test accuracy | member accuracy | strongest attack | its AUC | LiRA "
            "| RMIA | strongest attack's TPR at 1 % FPR |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        found = [row for row in rows if row["network"] == network]
        found.sort(key=lambda row: (-(row["activation"] or 9), -(row["weight"] or 9), order.index(row["way"])))
        for row in found:
            attacks = row["attacks"]
            strongest = max(attacks, key=lambda name: attacks[name]["auc"])
            best = attacks[strongest]
            way, is_null = row["way"], row["way"] == "null"
            bits = [str(row[name] or "float") for name in ("weight", "activation")]
            accuracies = ["" if is_null else f"{row[name]:.3f}" for name in ("test_accuracy", "member_accuracy")]
            aucs = [f"{attacks[name]['auc']:.3f}" for name in ("LiRA", "RMIA")]
            tpr = best["tpr_at_1_percent_fpr"]
            cells = [*bits, "memberships drawn anew" if is_null else "" if way == "float" else way, *accuracies]
            cells += [strongest, f"{best['auc']:.3f} ({best['auc_low']:.3f} to {best['auc_high']:.3f})", *aucs]
            lines.append(f"| {' | '.join(cells)} | {'' if tpr is None else f'{tpr:.3f}'} |")
        lines.append("")
    return "\n".join(lines)


def write_table(rows: list[dict[str, Any]]) -> None:
    """Writes the table into its place in the documentation."""
    page = pathlib.Path(DOCS.value)
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise app.UsageError(f"--docs: {page} has no lines {_BEGIN!r} and {_END!r} for the table to stand between.")
    page.write_text(f"{before}{_BEGIN}\n\n{table(rows)}\n{_END}{after}", encoding="utf-8")


def main(argv: list[str]) -> None:
    del argv
    if ONLY_TABLE.value:
        write_table(read(pathlib.Path(RESULTS.value))["rows"])
        return
    if THREADS.value:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
        tf.config.threading.set_inter_op_parallelism_threads(THREADS.value)
    data = datasets.load(DATASET.value)
    results = pathlib.Path(RESULTS.value)
    settings = {
        "members": MEMBERS.value,
        "epochs": EPOCHS.value,
        "tuning_epochs": TUNING.value,
        "records": RECORDS.value,
        "iterations": ITERATIONS.value,
        "batch_size": BATCH_SIZE.value,
        "reference_models": REFERENCES.value,
    }
    for target in range(TARGETS.value):
        for network in NETWORKS_TO_RUN.value:
            experiment = Experiment(network, target, data)
            for row in chosen_rows():
                kept = read(results).get("rows", [])
                key = {"network": network, "row": row.name, "seed": SEED.value + target, **settings}
                if any(all(other.get(name) == value for name, value in key.items()) for other in kept):
                    continue
                bits = {"way": row.way, "weight": row.weight, "activation": row.activation}
                finished = {**key, **bits, **experiment.score(row)}
                arguments = [a for a in sys.argv[1:] if not a.startswith(_OF_THIS_RUN)]
                command = " ".join(["python benchmarks/post_training.py --dataset=cifar10.npz", *arguments])
                write(results, {"command": command, "rows": [*kept, finished]})
                if IN_TURN.value:
                    print(row.name, finished["test_accuracy"], flush=True)
                    continue
                write_table([*kept, finished])
                strongest = finished["strongest"]
                auc = finished["attacks"][strongest]["auc"]
                print(f"{network} {row.name}: test accuracy {finished['test_accuracy']:.3f}, {strongest} {auc:.3f}")


if __name__ == "__main__":
    app.run(main)
