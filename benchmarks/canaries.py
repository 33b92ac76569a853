"""What attacks find of canaries, which are made to be memorized: three kinds, with and without a defence: Location-30.

    python benchmarks/canaries.py --location=location30.npz
    python benchmarks/canaries.py --location=location30.npz --models=64 --kinds='*beside*' --pipelines='cross*'

Each model trains on all members and on the canaries that coins give it; each is the target in turn. A float multilayer
perceptron; the same without BatchNormalization by DP-SGD; and one of 2-bit weights, 4-bit activations and outputs of 1
bit that 15 teachers cross-distill, the student in clipped batches (docs/defence.md), the same on copies, and both of
students that are told a part of the label too. Of these one who can only ask sees the rounded outputs, and who holds
the file the logits in front of them: training does not see the rounding, so that the logits are those of the
cross-distilled model without it. The null is the same audit of models that train on the members alone: canaries have
had no part in them, and the AUC must be 0.5.

`--cache` keeps every finished model's signals, so that a run that was stopped goes on; rows are written as they come,
and those of the same command in the result file are not measured again. About a quarter of an hour of processor time.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Collection, Iterator
from typing import Any

import networks
import numpy as np
from absl import app, flags
from canary_rows import NULL, MembersOnly, table
from result_files import is_asked
from scipy import sparse

import tfmiaq
from tfmiaq.auditing.canaries import BESIDE_TWIN, KINDS

LOCATION = flags.DEFINE_string("location", None, "Path of Location-30 as an .npz with x and y.", required=True)
KINDS_TO_RUN = flags.DEFINE_multi_string("kinds", ["*"], "Globs over kinds of canaries.")
PIPELINES = flags.DEFINE_multi_string("pipelines", ["*"], "Globs over pipelines.")
MODELS = flags.DEFINE_integer("models", 20, "Models of each pipeline and kind.", 3)
CANARIES = flags.DEFINE_integer("canaries", 100, "Canaries of each kind.", 10)
MEMBERS = flags.DEFINE_integer("members", 1_600, "Members, and as many records that canaries are made from.", 100)
SEED = flags.DEFINE_integer("seed", 0, "Seed of records, canaries, memberships and trainings.", 0)
CACHE = flags.DEFINE_string("cache", "out/canaries", "Folder of finished models' signals.")
RESULTS = flags.DEFINE_string("results", "benchmarks/canaries.json", "Result file.")
_STUDENT = "cross-distilled"
_ON_COPIES = f"{_STUDENT} on copies"
_GROUPED = f"{_STUDENT}, twins in one group"


@dataclasses.dataclass(frozen=True)
class Student:
    """A stage that trains a fresh network by cross-distillation.

    Attributes:
        build: Makes the network.
        train: The cross-distillation.
    """

    build: Any
    train: Any

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        """The trained student."""
        return self.train(self.build(), x, y)

    def lend(self, x: np.ndarray, y: np.ndarray) -> Any:
        """The trained student, which the next training may change."""
        return self.train.lend(self.build(), x, y)


@dataclasses.dataclass(frozen=True)
class StudentOfGroups(Student):
    """A student whose maker knows which records belong together: `groups=` of the cross-distillation.

    Attributes:
        features: Records of which no more features than this differ belong together.
    """

    features: int

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        """The trained student."""
        return self.train(self.build(), x, y, groups=self._groups(x))

    def lend(self, x: np.ndarray, y: np.ndarray) -> Any:
        """The trained student, which the next training may change."""
        return self.train.lend(self.build(), x, y, groups=self._groups(x))

    def _groups(self, x: np.ndarray) -> np.ndarray:
        differing = x @ (1 - x).T + (1 - x) @ x.T
        return sparse.csgraph.connected_components(differing <= self.features + 0.5)[1]


def _pipelines(shape: tuple[int, ...]) -> dict[str, list[Any]]:
    def recipe(epochs: int) -> tfmiaq.TrainingRecipe:
        return tfmiaq.TrainingRecipe(epochs=epochs, learning_rate=0.1, batch_size=64, weight_decay=5e-4)

    # A batch holds all members and canaries, so that an epoch is a step.
    whole = MEMBERS.value + 2 * CANARIES.value
    build, plain = (functools.partial(net, shape, 30) for net in (networks.mlp, networks.plain_mlp))
    clipped = dataclasses.replace(tfmiaq.training.CLIPPED, batch_size=whole)
    noisy = dataclasses.replace(clipped, epochs=40, dp=tfmiaq.training.DPSGD(clip=1.0, noise=0.5))
    cross = tfmiaq.CrossDistilledTraining(
        tfmiaq.BitwidthPolicy.uniform(2, 4, output=tfmiaq.OutputBits(1, 0.2)),
        clipped,
        tfmiaq.FloatTraining(build, recipe(3)),
        tfmiaq.CrossDistillation(folds=5, repeats=3),
    )
    on_copies = dataclasses.replace(cross, options=dataclasses.replace(cross.options, copies=3))
    told = {}
    for weight in (0.85, 0.7):
        for name, stage in ((_STUDENT, cross), (_ON_COPIES, on_copies)):
            options = dataclasses.replace(stage.options, teacher_weight=weight)
            told[f"{name}, teachers' weight {weight}"] = [Student(plain, dataclasses.replace(stage, options=options))]
    return {
        "float": [tfmiaq.FloatTraining(build, recipe(24))],
        "DP-SGD, noise 0.5, 40 epochs": [tfmiaq.FloatTraining(plain, noisy)],
        _STUDENT: [Student(plain, cross)],
        _ON_COPIES: [Student(plain, on_copies)],
        _GROUPED: [StudentOfGroups(plain, cross, int(np.ceil(0.01 * shape[0])))],
        **told,
    }


def _rows(members: Any, non_members: Any, known: Collection[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    for kind in (kind for kind in (*KINDS, NULL) if is_asked(kind, KINDS_TO_RUN.value)):
        canaries = tfmiaq.Canaries(KINDS[0] if kind == NULL else kind, CANARIES.value)
        for name, pipeline in _pipelines(members[0].shape[1:]).items():
            if not is_asked(name, PIPELINES.value) or (name == _GROUPED and kind != BESIDE_TWIN):
                continue  # Nobody else has a twin in another fold, or in all models.
            stages = [MembersOnly(stage, len(members[1])) for stage in pipeline] if kind == NULL else pipeline
            options = tfmiaq.ReferenceModels(stages, MODELS.value, cache=CACHE.value)
            rounds = name.startswith(_STUDENT)
            for access in ("file", "query") if rounds else ("query",):
                model = f"{name}, outputs of 1 bit" if access == "query" and rounds else name
                if (kind, model) in known:
                    continue
                started = time.process_time()
                report = tfmiaq.audit_canaries(
                    options, members, non_members, canaries, access=access, batch_size=2_048, seed=SEED.value
                )
                yield {
                    "canaries": kind,
                    "model": model,
                    "access": access,
                    "processor_seconds": round(time.process_time() - started, 1),
                    **report.to_dict(),
                }


def main(argv: list[str]) -> None:
    del argv
    with np.load(LOCATION.value) as file:
        x, y = file["x"].astype(np.float32), file["y"].astype(np.int64)
    y = y - y.min()
    chosen = np.random.default_rng(SEED.value).permutation(len(y))[: 2 * MEMBERS.value]
    inside, outside = chosen[: MEMBERS.value], chosen[MEMBERS.value :]
    results = pathlib.Path(RESULTS.value)
    content: dict[str, Any] = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    command = (
        f"python benchmarks/canaries.py --location=location30.npz --canaries={CANARIES.value} "
        f"--members={MEMBERS.value} --seed={SEED.value}"
    )
    rows = content.get("rows", []) if content.get("command") == command else []
    known = {(row["canaries"], row["model"]) for row in rows if row["models"] == MODELS.value}
    for row in _rows((x[inside], y[inside]), (x[outside], y[outside]), known):
        rows.append(row)
        results.write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    app.run(main)
