"""What the strongest of all attacks finds of a defence: reference models, targets and rows of the result file.

Each target, and each reference model, trains on its own random half of a pool of records through the row's whole
pipeline. Every model is attacked twice: by its logits and the size of its last hidden layer, which is what the holder
of a file reads, and by its outputs.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Collection, Iterator
from typing import Any, Optional

import numpy as np
from absl import flags
from defences_report import NULL, table
from in_turn import attacked, figures
from result_files import is_asked, read, write
from tqdm import tqdm

import tfmiaq
from tfmiaq import signals

ROWS = flags.DEFINE_multi_string("rows", ["*"], "Globs over rows to train.")
REFERENCES = flags.DEFINE_integer("reference_models", 64, "Reference models of each row.", 4)
TARGETS = flags.DEFINE_integer("targets", 2, "Targets of each row, seeds from 0.", 1)
CACHE = flags.DEFINE_string("cache", "out/defences", "Folder of finished models' signals.")
ANEW = flags.DEFINE_bool("anew", False, "Measure rows again that have fewer reference models.")
_AT_ONCE = 2_048


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the rows of a network share.

    Attributes:
        pool: Records of which each model trains on a half.
        test: Records that no model but the null's trains on.
        queries: Augmented queries of each record, or None.
        network: Its name in the result file, or None where there is one network only.
    """

    pool: signals.Records
    test: signals.Records
    queries: Any = None
    network: Optional[str] = None


def _queried(model: Any, setting: Setting) -> dict[str, Any]:
    """Signals of both attackers."""
    held = signals.HeldModel(model, _AT_ONCE)
    views = {}
    for access in signals.ACCESS:
        view = getattr(held, access)
        found = signals.extract(view, setting.pool, batch_size=_AT_ONCE)
        more: dict[str, Any] = {}
        if setting.queries is not None:
            more = signals.query_augmented(view, setting.pool, setting.queries, batch_size=_AT_ONCE)
        views[access] = dataclasses.replace(found, **more)
    views["file"] = dataclasses.replace(views["file"], hidden=held.hidden(setting.pool[0]))
    return views


def _target(stage: Any, setting: Setting, seed: int, null: bool) -> tuple[dict[str, Any], np.ndarray, float, float]:
    """A target's signals, which records count as its members, and its accuracy on what it trained on and on others.

    A null target trains on records outside of the pool: its members and non-members are drawn, and are the same to it.
    """
    pool, test = setting.pool, setting.test
    count = len(pool[1])
    inside: np.ndarray = np.random.default_rng(10_000 + seed).permutation(count) < count // 2
    x, y = pool[0][inside], pool[1][inside]
    if null:
        chosen = np.random.default_rng(30_000 + seed).permutation(len(test[1]))[: count // 2]
        x, y = test[0][chosen], test[1][chosen]
    tfmiaq.keras.utils.set_random_seed(7_000 + seed)
    model = stage(x, y)
    views = _queried(model, setting)
    others = (pool[0][~inside], pool[1][~inside]) if null else test
    accuracies = [float((signals.predict_logits(model, a).argmax(1) == b).mean()) for a, b in ((x, y), others)]
    return views, inside, accuracies[0], accuracies[1]


def _run(name: str, stage: Any, setting: Setting, with_null: bool) -> Iterator[dict[str, Any]]:
    started = time.process_time()
    options = tfmiaq.ReferenceModels(stage, REFERENCES.value, cache=CACHE.value)
    with tqdm(total=REFERENCES.value, desc=name) as bar:
        references = signals.train_references(
            options, setting.pool, batch_size=_AT_ONCE, queries=setting.queries, progress=bar.update, access="file"
        )
    trained = time.process_time() - started
    for seed in range(TARGETS.value):
        for null in (False, True) if with_null else (False,):
            views, inside, on_members, on_others = _target(stage, setting, seed, null)
            for access in signals.ACCESS:
                seen = references if access == "file" else references.query
                yield {
                    **({} if setting.network is None else {"network": setting.network}),
                    "row": NULL + name if null else name,
                    "access": access,
                    "seed": seed,
                    "reference_models": REFERENCES.value,
                    "reads_hidden_layer": True,
                    "train_accuracy": round(on_members, 4),
                    "test_accuracy": round(on_others, 4),
                    "seconds": round(trained),
                    "attacks": figures(attacked(views[access], inside, seen, seed)),
                }


def _is_of(row: dict[str, Any], name: str, network: Optional[str]) -> bool:
    return row.get("network") == network and row["row"].removeprefix(NULL) == name


def measure(
    rows: dict[str, Any],
    setting: Setting,
    results: pathlib.Path,
    command: Optional[str],
    with_null: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Measures the rows that the flags ask for and that are missing, writes each when it is finished, returns all.

    Args:
        rows: Pipelines by name.
        setting: Records and queries.
        results: The result file.
        command: What makes the file, but for the flags that this module has; None for what adds to a file.
        with_null: Rows that have null targets too.
    """
    for name, stage in rows.items():
        if not is_asked(name, ROWS.value):
            continue
        known = [row for row in read(results).get("rows", []) if _is_of(row, name, setting.network)]
        if known and not (ANEW.value and any(row["reference_models"] < REFERENCES.value for row in known)):
            continue
        found = list(_run(name, stage, setting, name in with_null))
        # What another run may have written meanwhile stays.
        kept = read(results)
        if command is not None:
            kept["command"] = f"{command} --reference_models={REFERENCES.value} --targets={TARGETS.value}"
        others = [row for row in kept.get("rows", []) if not _is_of(row, name, setting.network)]
        kept["rows"] = [*others, *found]
        write(results, kept)
        print(table(found), flush=True)
    return read(results).get("rows", [])
