"""Whether the verdict of an audit can be believed: false alarms without a leak, power, and agreement over seeds.

Each run draws signals with NumPy, trains no model, and audits them as `tfmiaq.audit` does, with the attacks that run by
default on saved outputs. Nulls have members and non-members of one distribution, in sets of several sizes, with and
without duplicates among the members, of equal and of unlike numbers of classes. Planted leaks raise the confidence of n
of m members. `--what` runs a part alone. All of it takes about 15 minutes of one core; a run that was stopped goes on
where it was, and the parts take turns.

    python benchmarks/nulls.py
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
import warnings
from typing import Any

import numpy as np
from absl import app, flags

import tfmiaq

_RESULTS = flags.DEFINE_string("results", "benchmarks/nulls.json", "File of the results.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all draws.", lower_bound=0)
_NULLS = flags.DEFINE_integer("nulls", 1000, "Audits without a leak.", lower_bound=1)
_PLANTED = flags.DEFINE_integer("planted", 1000, "Audits with a planted leak.", lower_bound=1)
_DATA_SETS = flags.DEFINE_integer("data_sets", 100, "Data sets that are audited under 20 seeds.", lower_bound=1)
_WHAT = flags.DEFINE_multi_enum("what", ["nulls", "planted", "agreement"], ["nulls", "planted", "agreement"], "Parts.")

SIZES = (50, 200, 500, 1000)
PLANTED_SIZES = (200, 500, 1000, 2000)
MIXES = {"even": (0.2,) * 5, "one large class": (0.8, 0.05, 0.05, 0.05, 0.05)}
DUPLICATES = ("none", "half of the members twice", "a fifth of the members ten times")
PARTS = (0.005, 0.01, 0.02, 0.05, 0.1)
SEEDS, ORDERS = 20, 5
_FEATURES, _GAIN = 8, 6.0
_ROUNDS = 50


def draw(
    generator: np.random.Generator, size: int, mix: tuple[float, ...], duplicates: str, memorized: int = 0
) -> tuple[Any, Any, Any]:
    """Returns saved outputs, members and non-members: logits of a model that is right on about two of three records.

    Args:
        generator: Draws everything.
        size: Number of members, and of non-members.
        mix: Parts of the classes.
        duplicates: One of `DUPLICATES`.
        memorized: Number of members whose true class has a higher logit, the first ones.
    """
    copies = {"none": np.arange(size)}
    copies["half of the members twice"] = np.arange(size) // 2 if size % 2 == 0 else np.arange(size)
    copies["a fifth of the members ten times"] = np.where(
        np.arange(size) < size // 5, np.arange(size) // 10, np.arange(size)
    )
    index = np.concatenate([copies[duplicates], size + np.arange(size)])
    labels = generator.choice(len(mix), 2 * size, p=mix)
    logits = generator.normal(0, 1.5, (2 * size, len(mix)))
    logits[np.arange(2 * size), labels] += 2
    x = generator.normal(size=(2 * size, _FEATURES))
    logits, labels, x = logits[index], labels[index], x[index]
    logits[np.arange(memorized), labels[:memorized]] += _GAIN
    return (logits[:size], logits[size:]), (x[:size], labels[:size]), (x[size:], labels[size:])


def verdict(sets: tuple[Any, Any, Any], seed: int = 0) -> tfmiaq.AuditReport:
    """Returns the report of one audit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Duplicates are told.
        return tfmiaq.audit(*sets, seed=seed, verbose=False)


def reordered(sets: tuple[Any, Any, Any], generator: np.random.Generator) -> tuple[Any, Any, Any]:
    """Returns the same sets in another order."""
    outputs, members, non_members = sets
    orders = [generator.permutation(len(part)) for part in outputs]
    return (
        tuple(part[order] for part, order in zip(outputs, orders)),
        tuple(part[orders[0]] for part in members),
        tuple(part[orders[1]] for part in non_members),
    )


def row(report: tfmiaq.AuditReport) -> dict[str, Any]:
    """Returns what is kept of a report."""
    return {
        "leaks": report.leaks,
        "outcome": report.verdict.outcome,
        "parts": [part.outcome for part in report.verdict.parts],
        "interval_excludes_half": [a.name for a in report.attacks if not a.auc.low <= 0.5 <= a.auc.high],
        "slice_excludes_half": any(not s.auc.low <= 0.5 <= s.auc.high for s in report.slices if s.auc is not None),
        "epsilon": round(report.epsilon, 3),
    }


def null(generator: np.random.Generator, number: int) -> dict[str, Any]:
    """Returns the row of one audit without a leak: sizes, class mixes and duplicates in turn."""
    kinds = [(size, mix, kind) for size in SIZES for mix in MIXES for kind in DUPLICATES]
    size, mix, kind = kinds[number % len(kinds)]
    report = verdict(draw(generator, size, MIXES[mix], kind))
    return {"size": size, "mix": mix, "duplicates": kind, **row(report)}


def planted(generator: np.random.Generator, number: int) -> dict[str, Any]:
    """Returns the row of one audit with memorized members."""
    kinds = [(size, part) for size in PLANTED_SIZES for part in PARTS]
    size, part = kinds[number % len(kinds)]
    memorized = max(1, round(part * size))
    report = verdict(draw(generator, size, MIXES["even"], "none", memorized))
    return {"size": size, "part": part, "memorized": memorized, **row(report)}


def agreement(generator: np.random.Generator, number: int) -> dict[str, Any]:
    """Returns how often the verdicts of one data set agree, over seeds and over orders of its records."""
    size, memorized = 200, (0, 2, 5, 10)[number % 4]
    sets = draw(generator, size, MIXES["even"], DUPLICATES[number % 3], memorized)
    told: dict[str, list[Any]] = {"seeds": [], "orders": []}
    for seed in range(SEEDS):
        told["seeds"].append(tuple(part.outcome for part in verdict(sets, seed).verdict.parts))
        # Orders are no seed of the audit, but the folds of attacks that learn follow them.
        if seed < ORDERS:
            of_order = verdict(reordered(sets, generator)).verdict
            told["orders"].append(tuple(part.outcome for part in of_order.parts))
    most = {name: max(found.count(one) for one in set(found)) for name, found in told.items()}
    return {"size": size, "memorized": memorized, "seeds_agree": most["seeds"], "orders_agree": most["orders"]}


def rate(rows: list[dict[str, Any]], key: str = "leaks") -> dict[str, Any]:
    """Returns how many rows have something, with its exact interval."""
    count = sum(bool(found[key]) for found in rows)
    low, high = tfmiaq.metrics.clopper_pearson(count, len(rows))
    return {
        "count": count,
        "of": len(rows),
        "rate": round(count / len(rows), 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def by(rows: list[dict[str, Any]], *names: str) -> dict[str, Any]:
    """Returns the rate of leaks for each combination of values."""
    keys = dict.fromkeys(tuple(found[name] for name in names) for found in rows)
    return {
        ", ".join(map(str, key)): rate([found for found in rows if tuple(found[name] for name in names) == key])
        for key in keys
    }


def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Returns the tables of docs/reading_a_report.md."""
    tables: dict[str, Any] = {}
    if rows.get("nulls"):
        of_nulls = rows["nulls"]
        tables["false alarms"] = {
            "all": rate(of_nulls),
            "on average": rate([{"leaks": found["parts"][0] == "leaks"} for found in of_nulls]),
            "at low false positives": rate([{"leaks": found["parts"][1] == "leaks"} for found in of_nulls]),
            "for the worst": rate([{"leaks": found["parts"][2] == "leaks"} for found in of_nulls]),
            "cannot tell": rate([{"leaks": found["outcome"] == "cannot tell"} for found in of_nulls]),
            "epsilon above 0": rate(of_nulls, "epsilon"),
            "slice interval excludes 0.5": rate(of_nulls, "slice_excludes_half"),
            **{name: by(of_nulls, name) for name in ("size", "mix", "duplicates")},
        }
    if rows.get("planted"):
        tables["power"] = by(rows["planted"], "size", "part")
    if rows.get("agreement"):
        of_sets = rows["agreement"]
        tables["agreement"] = {
            "data sets": len(of_sets),
            "all of 20 seeds": sum(r["seeds_agree"] == SEEDS for r in of_sets),
            "at least 19 of 20 seeds": sum(r["seeds_agree"] >= SEEDS - 1 for r in of_sets),
            "all of 5 orders": sum(r["orders_agree"] == ORDERS for r in of_sets),
            "at least 4 of 5 orders": sum(r["orders_agree"] >= ORDERS - 1 for r in of_sets),
        }
    return tables


def markdown(tables: dict[str, Any]) -> str:
    """Returns the summary as the tables of docs/reading_a_report.md."""
    lines = []
    if "false alarms" in tables:
        alarms = tables["false alarms"]
        lines += ["| of audits without a leak | part | 95 % interval |", "| --- | --- | --- |"]
        named = {name: found for name, found in alarms.items() if "rate" in found}
        groups = {
            f"said to leak, {name} {value}": found
            for name in ("size", "mix", "duplicates")
            for value, found in alarms[name].items()
        }
        named = {"said to leak, of all" if name == "all" else name: found for name, found in named.items()}
        lines += [f"| {name} | {_of(found)} | {_interval(found)} |" for name, found in {**named, **groups}.items()]
    if "power" in tables:
        power = tables["power"]
        lines += ["", f"| members | {' | '.join(f'{part:.1%}' for part in PARTS)} |", "| --- |" + " --- |" * len(PARTS)]
        for size in PLANTED_SIZES:
            cells = [power.get(f"{size}, {part}") for part in PARTS]
            lines.append(f"| {size:,} | {' | '.join('-' if cell is None else _of(cell) for cell in cells)} |")
    if "agreement" in tables:
        lines += ["", "| agreement of all three parts | data sets |", "| --- | --- |"]
        lines += [f"| {name} | {count} |" for name, count in tables["agreement"].items()]
    return "\n".join(lines)


def _of(found: dict[str, Any]) -> str:
    return f"{found['rate']:.1%} ({found['count']} of {found['of']})"


def _interval(found: dict[str, Any]) -> str:
    return "{:.1%} to {:.1%}".format(*found["interval"])


def main(_: Any) -> None:
    path = pathlib.Path(_RESULTS.value)
    seed = _SEED.value
    content = json.loads(path.read_text()) if path.exists() else {}
    rows: dict[str, list[dict[str, Any]]] = content.get("rows", {}) if content.get("seed") == seed else {}
    seconds = content.get("cpu_seconds", 0.0) if rows else 0.0
    started = time.process_time()

    def write() -> None:
        found = {
            "command": " ".join(["python", *sys.argv]),
            "seed": seed,
            "cpu_seconds": round(seconds + time.process_time() - started, 1),
            "summary": summary(rows),
            "rows": rows,
        }
        path.write_text(json.dumps(found, indent=None, separators=(",", ":")) + "\n")

    counts = _NULLS.value, _PLANTED.value, _DATA_SETS.value
    jobs = dict(zip(("nulls", "planted", "agreement"), zip((null, planted, agreement), counts)))
    # The parts in turn, so that a run that was stopped says something of each.
    for step in range(_ROUNDS):
        for part, (what, (run, count)) in enumerate(jobs.items()):
            kept = rows.setdefault(what, [])
            for number in range(len(kept), count * (step + 1) // _ROUNDS if what in _WHAT.value else 0):
                kept.append(run(np.random.default_rng([seed, part, number]), number))
        write()
        print({what: len(kept) for what, kept in rows.items()}, round(time.process_time() - started), flush=True)
    write()
    print(markdown(summary(rows)))


if __name__ == "__main__":
    app.run(main)
