"""Does it matter where few bits go? Networks trained from scratch with bits placed uniformly and by hand.

    python benchmarks/allocations.py --dataset=cifar10.npz
    python benchmarks/allocations.py --dataset=cifar10.npz --network=small_mobilenet --seed=0 --seed=1 --seed=2

For each seed: some training images (4,000 for ResNet-8, 2,000 for the small MobileNet) are the members; one half of the
test images gives test accuracy and the confidence attack's AUC. Each allocation is trained from scratch alike. Rows are
written as they come, and finished ones are not done again. Rows "searched" in the result file are of the search for
bits that tfmiaq had before 0.2.0, and which these rows took out of it: this script cannot make them again.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import time
from typing import Any, Optional

import numpy as np
from absl import app, flags
from networks import NETWORKS
from result_files import is_asked
from seeds import grouped, mean

import tfmiaq
from tfmiaq import datasets, metrics, signals

DATASET = flags.DEFINE_string("dataset", "cifar10", "CIFAR-10: its name, or the path of an .npz file.")
NETWORK = flags.DEFINE_multi_enum("network", ["resnet8"], [*NETWORKS], "Networks.")
SEEDS = flags.DEFINE_multi_integer("seed", [0], "Seeds.")
EPOCHS = flags.DEFINE_integer("epochs", 24, "Epochs of every training.", 1)
ROWS = flags.DEFINE_multi_string("rows", ["*"], "Globs over the allocations to train.")
RESULTS = flags.DEFINE_string("results", "benchmarks/allocations.json", "Result file.")
_MEMBERS = {"resnet8": 4_000, "small_mobilenet": 2_000}
_FULL = tfmiaq.LayerBits(8, 8)


def placed(weights: tuple[int, int, int], activations: tuple[int, int, int]) -> tfmiaq.BitwidthPolicy:
    """Bits for each of the three stages of ResNet-8, in between ends of 8 bits."""
    stages = {
        f"stage{stage}_*": tfmiaq.LayerBits(*bits) for stage, bits in enumerate(zip(weights, activations), start=1)
    }
    return tfmiaq.BitwidthPolicy(_FULL, stages)


def by_kind(depthwise: tuple[int, int], pointwise: tuple[int, int]) -> tfmiaq.BitwidthPolicy:
    """Bits for the two kinds of convolution of the small MobileNet, in between ends of 8 bits."""
    kinds = {"block*": tfmiaq.LayerBits(*pointwise), "block*_depthwise*": tfmiaq.LayerBits(*depthwise)}
    return tfmiaq.BitwidthPolicy(_FULL, kinds)


_uniform = tfmiaq.BitwidthPolicy.uniform
ALLOCATIONS = {
    "resnet8": {
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
    },
    "small_mobilenet": {
        "w8 a8": _uniform(8, 8),
        "w2 a4": _uniform(2, 4),
        "w1 a4": _uniform(1, 4),
        "w1 a3": _uniform(1, 3),
        "w1 a2": _uniform(1, 2),
        "depthwise w8 a8, pointwise w1 a4": by_kind((8, 8), (1, 4)),
        "depthwise w8 a8, pointwise w1 a2": by_kind((8, 8), (1, 2)),
        "depthwise w4 a4, pointwise w1 a4": by_kind((4, 4), (1, 4)),
        "depthwise w1 a4, pointwise w8 a8": by_kind((1, 4), (8, 8)),
    },
}


def recipe() -> tfmiaq.TrainingRecipe:
    """The whole training of every model."""
    return tfmiaq.TrainingRecipe(epochs=EPOCHS.value, learning_rate=0.1, batch_size=128, weight_decay=5e-4)


def measured(model: Any, members: signals.Records, others: signals.Records) -> dict[str, float]:
    """Accuracies, and the AUC of the confidence attack."""
    inside, outside = (signals.extract(model, records, batch_size=500) for records in (members, others))
    auc = metrics.auc_estimate(np.asarray(inside.confidences), np.asarray(outside.confidences))
    return {
        "train_accuracy": round(float(inside.correct.mean()), 5),
        "test_accuracy": round(float(outside.correct.mean()), 5),
        "confidence_auc": round(float(auc), 5),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds as Markdown."""
    lines = [
        "| network | allocation | train | test | AUC of confidence | packed | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (network, name), found in grouped(rows, "network", "allocation").items():
        lines.append(
            f"| {network} | {name} | {mean(found, 'train_accuracy'):.3f} | {mean(found, 'test_accuracy'):.3f} | "
            f"{mean(found, 'confidence_auc'):.3f} | {mean(found, 'packed_bytes'):,.0f} B | {len(found)} |"
        )
    return "\n".join(lines)


class Results:
    """Rows on disk, to which several runs may add, one after the other."""

    def read(self) -> dict[str, Any]:
        """All that is there."""
        path = pathlib.Path(RESULTS.value)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}

    def has(self, kind: str, **columns: Any) -> bool:
        """Whether there is one like this."""
        return any(columns.items() <= found.items() for found in self.read()[kind])

    def add(self, kind: str, **columns: Any) -> None:
        """Adds one."""
        values = self.read()
        values[kind].append(columns)
        self._write(values)

    def _write(self, values: dict[str, Any]) -> None:
        values["command"] = "python benchmarks/allocations.py --dataset=cifar10.npz"
        path = pathlib.Path(RESULTS.value)
        scratch = path.with_suffix(".part")
        scratch.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        scratch.replace(path)


@dataclasses.dataclass(frozen=True)
class Ground:
    """What a network is trained and measured on."""

    network: str
    seed: int
    classes: int
    members: signals.Records
    others: signals.Records

    @classmethod
    def of(cls, data: Any, network: str, seed: int) -> Ground:
        """Of a data set."""
        chosen = np.random.default_rng(seed).permutation(len(data.y_train))[: _MEMBERS[network]]
        half = len(data.y_test) // 2
        return cls(
            network,
            seed,
            data.classes,
            members=(data.x_train[chosen], data.y_train[chosen]),
            others=(data.x_test[half:], data.y_test[half:]),
        )

    def fresh(self) -> Any:
        """An untrained float model."""
        tfmiaq.keras.utils.set_random_seed(self.seed)
        return NETWORKS[self.network](self.members[0].shape[1:], self.classes)

    def train(self, name: str, policy: Optional[tfmiaq.BitwidthPolicy], results: Results) -> None:
        """Trains and measures an allocation, None for float."""
        if results.has("rows", network=self.network, allocation=name, seed=self.seed):
            return
        model = self.fresh()
        packed = 4 * model.count_params()
        if policy is not None:
            model = tfmiaq.quantize_model(model, policy)
            packed = tfmiaq.summary(model).packed_bytes
        started = time.process_time()
        recipe().fit(model, *self.members)
        seconds = round(time.process_time() - started)
        figures = {**measured(model, self.members, self.others), "packed_bytes": packed, "processor_seconds": seconds}
        results.add("rows", network=self.network, allocation=name, seed=self.seed, **figures)
        tfmiaq.keras.backend.clear_session()


def main(argv: list[str]) -> None:
    del argv
    data = datasets.load(DATASET.value)
    results = Results()

    def wanted(name: str) -> bool:
        return is_asked(name, ROWS.value)

    for network, seed in itertools.product(NETWORK.value, SEEDS.value):
        ground = Ground.of(data, network, seed)
        by_hand = ALLOCATIONS[network]
        for name, policy in {"float": None, **by_hand}.items():
            if wanted(name):
                ground.train(name, policy, results)
    print(table(results.read()["rows"]))


if __name__ == "__main__":
    app.run(main)
