"""Rows of which every model is attacked in turn: what trains, measures and writes them, and the flags of that."""

from __future__ import annotations

import fnmatch
import pathlib
import shlex
import time
from collections.abc import Collection
from typing import Any

from absl import app, flags
from in_turn import in_turn
from result_files import read, write
from tqdm import tqdm

import tfmiaq
from tfmiaq import signals

ROWS = flags.DEFINE_multi_string("rows", ["*"], "Globs over rows to train, in this order.")
MODELS = flags.DEFINE_integer("models", 12, "Models of each row, an even number; two less are references of each.", 4)
TARGETS = flags.DEFINE_integer("targets", 8, "Models of each row that are attacked.", 2)
CACHE = flags.DEFINE_string("cache", "out/in_turn", "Folder of finished models' signals.")
_AT_ONCE = 1_000
_SEED = 0

flags.register_validator("models", lambda count: count % 2 == 0, message="expected an even number")


def _row(network: str, name: str, stages: Any, pool: signals.Records, queries: Any, with_null: bool) -> dict[str, Any]:
    started = time.process_time()
    options = tfmiaq.ReferenceModels(stages, MODELS.value, cache=CACHE.value)
    with tqdm(total=MODELS.value, desc=name) as bar:
        references = signals.train_references(
            options, pool, seed=_SEED, batch_size=_AT_ONCE, queries=queries, progress=bar.update
        )
    seconds = round(time.process_time() - started)
    found = in_turn(references, pool[1], min(TARGETS.value, MODELS.value), with_null=with_null)
    made = {"network": network, "row": name, "seed": _SEED, "members": len(pool[1]) // 2}
    return {**made, **found, "seconds": seconds}


def measure(
    network: str,
    rows: dict[str, Any],
    pool: signals.Records,
    results: pathlib.Path,
    command: str,
    with_null: Collection[str] = (),
    queries: Any = None,
    queried: str = "*",
) -> None:
    """Measures the rows that the flags ask for and that are missing, and writes each when it is finished.

    Args:
        network: Name of the network or task in the result file.
        rows: Pipelines by name.
        pool: Records; each model trains on a random half.
        results: The result file.
        command: What makes the rows of the network, but for the flags of this module.
        with_null: Rows that are attacked by memberships that are drawn anew too.
        queries: Augmented queries of each record, or None.
        queried: Glob over the rows whose attackers have them.
    """
    names = [name for pattern in ROWS.value for name in rows if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise app.UsageError(
            f"--rows={','.join(ROWS.value)} matches no row of {network}. There are: {', '.join(rows)}."
        )
    for name in dict.fromkeys(names):
        wanted = {"network": network, "row": name, "members": len(pool[1]) // 2}
        known = [row for row in read(results).get("rows", []) if wanted.items() <= row.items()]
        as_good = [
            row["reference_models"] >= MODELS.value - 2 and row["targets"] >= min(TARGETS.value, MODELS.value)
            for row in known
        ]
        if any(as_good):
            continue
        asked = queries if fnmatch.fnmatchcase(name, queried) else None
        found = _row(network, name, rows[name], pool, asked, name in with_null)
        found["command"] = f"{command} --models={MODELS.value} --targets={found['targets']} --rows={shlex.quote(name)}"
        # What another run may have written meanwhile stays.
        kept = read(results)
        kept["rows"] = [row for row in kept.get("rows", []) if row not in known] + [found]
        write(results, kept)
        best = max(found["logits"].items(), key=lambda item: item[1][0])
        print(network, name, found["test_accuracy"], found["train_accuracy"], best, found["seconds"], flush=True)
