"""RMIA and LiRA of this package beside the code of privacy meter and LeakPro, on the same signals of Location-30.

    git clone https://github.com/privacytrustlab/ml_privacy_meter
    git clone https://github.com/aidotse/LeakPro
    python benchmarks/published_code.py --location=location30.npz --privacy_meter=ml_privacy_meter --leakpro=LeakPro

Targets and reference models are the float ones of `benchmarks/attacks.py`, whose `--cache` has their signals. The
functions of both projects run as they are, from their own files. What surrounds them (PyTorch models, handlers) is left
out: names that their files import are empty, and LeakPro's softmax is NumPy's. Privacy meter's RMIA is the
offline one; it is compared with this package's on models that did not train on a record. Of BaVarIA no code is public:
`tests/attacks/test_published.py` has its formula. A minute of processor time, once the signals are there.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import attacks as measured
import numpy as np
from absl import app, flags
from scipy import special
from seeds import grouped, mean

import tfmiaq
from tfmiaq import metrics, signals
from tfmiaq.attacks import ATTACKS, Evidence
from tfmiaq.attacks.rmia import Rmia

PRIVACY_METER = flags.DEFINE_string("privacy_meter", None, "Folder of ml_privacy_meter.", required=True)
LEAKPRO = flags.DEFINE_string("leakpro", None, "Folder of LeakPro.", required=True)
COMPARED = flags.DEFINE_string("compared", "benchmarks/published_code.json", "Result file.")
_COUNTS = (4, 16)
_MODEL = "float"


class _Empty(type):
    def __getattr__(cls, name: str) -> Any:
        return _Nothing()


class _Nothing(metaclass=_Empty):
    """Stands for whatever a file imports and the functions that are called do not use."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else self

    def __getattr__(self, name: str) -> Any:
        return _Nothing()


def _stand_in(name: str) -> Any:
    return type(name, (_Nothing,), {}) if name[0].isupper() else _Nothing()


def _module(path: pathlib.Path, **given: Any) -> Any:
    """The module of a file. The modules that it imports and that are not there are empty, but for what is given."""
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) > 3 and words[0] == "from" and words[2] == "import" and words[1].split(".")[0] in _ABSENT:
            empty = sys.modules.setdefault(words[1], types.ModuleType(words[1]))
            for name in line.split(" import ")[1].split(","):
                setattr(empty, name.strip(), given.get(name.strip(), _stand_in(name.strip())))
    spec = importlib.util.spec_from_file_location(f"of_others_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_ABSENT = ("leakpro", "pydantic", "torch")


def _softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return np.asarray(special.softmax(np.asarray(logits, np.float64) / temperature, axis=-1))


class _Attacked:
    """A target, its reference models, and the attacks of all three packages on them.

    Attributes:
        target: Signals of the target, shape (n, ...).
        inside: Which records it trained on.
        references: Signals of the reference models.
    """

    def __init__(self, target: signals.Signals, inside: np.ndarray, references: signals.ReferenceSignals) -> None:
        order = np.argsort(~inside, kind="stable")
        self.target, self.inside, self.references = target[order], inside[order], references.of_records(order)

    def ours(self, attack: Any, references: Any = None) -> np.ndarray:
        """Scores of an attack of this package."""
        evidence = Evidence(self.target, self.inside, reference_signals=references or self.references)
        return attack.scores(evidence)

    def offline(self) -> signals.ReferenceSignals:
        """For each record the models that did not train on it: as many for all, since each is in half of the sets."""
        outside = ~self.references.trained_on
        count = int(outside.sum(0).min())
        rows = np.argsort(~outside, axis=0, kind="stable")[:count]
        features = np.take_along_axis(self.references.features, rows[..., None], 0)
        return signals.ReferenceSignals(features, np.zeros(rows.shape, bool))

    def privacy_meter(self, module: Any, a: float) -> np.ndarray:
        """Scores of privacy meter's RMIA. The target is followed by a place for the model that it calls its pair."""
        probabilities = special.expit(self.offline().confidences).T
        own = special.expit(np.asarray(self.target.confidences, np.float64))
        table = np.column_stack([own, own, probabilities])
        memberships = np.zeros(table.shape, bool)
        count = probabilities.shape[1]
        return module.run_rmia(0, table, table[~self.inside], memberships, count, a)

    def leakpro(self, module: Any, name: str, **options: Any) -> np.ndarray:
        """Scores of an attack of LeakPro."""
        attack = getattr(module, name).__new__(getattr(module, name))
        assert self.references.outputs is not None
        logits: np.ndarray = self.references.outputs.astype(np.float64)
        labels, records = self.target.labels, len(self.inside)
        fields = {
            **{"online": True, "num_shadow_models": len(logits), "fix_var_threshold": 32, "epsilon": 1e-6},
            **{"logits_theta": self.target.outputs.astype(np.float64), "logits_shadow_models": list(logits)},
            **{"ground_truth_indices": labels, "out_indices": ~self.references.trained_on},
            "audit_dataset": {"in_members": np.flatnonzero(self.inside), "out_members": np.flatnonzero(~self.inside)},
            "configs": _Nothing(),
            **options,
        }
        for field, value in fields.items():
            setattr(attack, field, value)
        if name == "AttackLiRA":
            attack.shadow_models_logits = np.stack([attack.rescale_logits(one, labels) for one in logits])
            attack.target_logits = attack.rescale_logits(fields["logits_theta"], labels)
            attack.run_attack()
        else:
            # z are the records themselves, in the place of a sample of them.
            everything = np.arange(records)

            def of(one: np.ndarray) -> np.ndarray:
                return _softmax(one, attack.temperature)[everything, labels]

            marginal = np.mean([of(one) for one in logits], axis=0, keepdims=True)
            attack.ratio_z = of(attack.logits_theta)[None] / (marginal + attack.epsilon)
            attack._run_attack()
        return np.concatenate([attack.in_member_signals.ravel(), attack.out_member_signals.ravel()])


def _rows() -> Iterator[dict[str, Any]]:
    privacy_meter = _module(pathlib.Path(PRIVACY_METER.value) / "attacks.py")
    folder = pathlib.Path(LEAKPRO.value) / "leakpro" / "attacks" / "mia_attacks"
    leakpro = {name: _module(folder / f"{name}.py", softmax_logits=_softmax) for name in ("rmia", "lira")}
    task = measured._location()
    queries = signals.AugmentedQueries.from_records(task.pool[0])
    pipeline = task.pipelines[_MODEL]
    options = tfmiaq.ReferenceModels(pipeline, max(_COUNTS), cache=measured.CACHE.value)
    references = signals.train_references(options, task.pool, batch_size=2_048, queries=queries)
    for seed in range(measured.TARGETS.value):
        stored = pathlib.Path(measured.CACHE.value) / measured.file_name("location30", _MODEL, task, seed)
        views, inside, _ = measured._target(pipeline, task, seed, stored)
        for count in _COUNTS:
            attacked = _Attacked(views["query"], inside, references.first(count))
            found = {
                "RMIA at temperature 1, offline": (
                    attacked.ours(Rmia(temperature=1.0), attacked.offline()),
                    "privacy meter",
                    attacked.privacy_meter(privacy_meter, 0.3),
                ),
                "RMIA at temperature 1": (
                    attacked.ours(Rmia(temperature=1.0)),
                    "LeakPro, temperature 1, gamma 1",
                    attacked.leakpro(leakpro["rmia"], "AttackRMIA", temperature=1.0, gamma=1.0),
                ),
                "RMIA": (
                    attacked.ours(ATTACKS["RMIA"]),
                    "LeakPro, its defaults (temperature 2, gamma 2)",
                    attacked.leakpro(leakpro["rmia"], "AttackRMIA", temperature=2.0, gamma=2.0),
                ),
                "RMIA at temperature 2": (
                    attacked.ours(Rmia(temperature=2.0)),
                    "LeakPro, temperature 2, gamma 1",
                    attacked.leakpro(leakpro["rmia"], "AttackRMIA", temperature=2.0, gamma=1.0),
                ),
                "LiRA": (
                    attacked.ours(ATTACKS["LiRA"]),
                    "LeakPro, its default variance",
                    attacked.leakpro(leakpro["lira"], "AttackLiRA", var_calculation="carlini"),
                ),
            }
            for name, (own, whose, other) in found.items():
                yield {
                    **{"model": _MODEL, "seed": seed, "reference_models": count},
                    **{"attack": name, "other": whose},
                    "auc": round(_auc(own, inside), 4),
                    "auc_of_other": round(_auc(other, inside), 4),
                }


def _auc(scores: np.ndarray, inside: np.ndarray) -> float:
    members = int(inside.sum())
    return float(metrics.auc_estimate(scores[:members], scores[members:]))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, means over targets."""
    lines = [
        "| model | attack | other code | reference models | AUC here | AUC of the other code |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (model, attack, other, count), found in grouped(rows, "model", "attack", "other", "reference_models").items():
        lines.append(
            f"| {model} | {attack} | {other} | {count} | {mean(found, 'auc'):.3f} | {mean(found, 'auc_of_other'):.3f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    rows = list(_rows())
    command = "python benchmarks/published_code.py --location=location30.npz --privacy_meter=ml_privacy_meter"
    content = {"command": f"{command} --leakpro=LeakPro", "rows": rows}
    pathlib.Path(COMPARED.value).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    app.run(main)
