"""Does a search over recipes find what leaks less than the rows that were chosen by hand? Location-30.

    python benchmarks/defences_search.py --location=location30.npz --reference_models=16

Each trial is one real training: bits of all weights, bits of activations, length and noise of a student of
cross-distillation, folds of its teachers and how often they are drawn. It is judged by its accuracy on 905 records
outside of the pool, and by the AUC of the entropy attack, which takes no reference models and ranks the rows of
`defences_location.py` best among those. Optuna's TPE sampler looks for both at once; the first trial is the row that
was chosen by hand. Of the trials that are as accurate as that one the search gives the one that leaks least, and that
is measured as all rows are, into the result file of `defences_location.py`. Trials, times and choices are in a file of
their own. About two minutes of processor time for each search and its row.

It takes Optuna (4.9), which no list of requirements/ has: pip install optuna.
"""

from __future__ import annotations

import pathlib
import time
from typing import Any

import defences_location as location
import numpy as np
from absl import app, flags
from defences_measured import Setting, measure
from defences_ways import low_bits
from result_files import read, write

import tfmiaq
from tfmiaq import metrics, signals

SEARCHES = flags.DEFINE_integer("searches", 2, "Searches, seeds from 0; each has a target's members of its own.", 1)
TRIALS = flags.DEFINE_integer("trials", 12, "Trainings of each search.", 2)
SEARCH_RESULTS = flags.DEFINE_string("search_results", "benchmarks/defences_search.json", "Trials and choices.")
_BY_HAND = {"weights": 0, "activations": 8, "epochs": 30, "noise": 0.0, "folds": 5, "repeats": 3}
_CHOICES = {
    "weights": (0, 4, 2),
    "activations": (8, 4),
    "epochs": (20, 25, 30, 35, 40, 50),
    "noise": (0.0, 0.25, 0.5),
    "folds": (3, 5, 10),
    "repeats": (1, 2, 3),
}


def way(chosen: dict[str, Any]) -> Any:
    """The pipeline of a trial. Weights of 0 bits are float."""
    policy = low_bits(chosen["weights"], chosen["activations"]) if chosen["weights"] else None
    options = tfmiaq.CrossDistillation(folds=chosen["folds"], repeats=chosen["repeats"])
    return location.student(location.whole(chosen["epochs"], noise=chosen["noise"]), policy=policy, options=options)


def _measured(model: Any, members: signals.Records, others: signals.Records) -> tuple[float, float]:
    """Accuracy on others, and the AUC of the entropy attack."""
    held = signals.HeldModel(model, 2_048)
    inside, outside = (signals.extract(held.file, part, batch_size=2_048) for part in (members, others))
    entropies = [(np.exp(found.log_p) * found.log_p).sum(1) for found in (inside, outside)]
    return float(outside.correct.mean()), float(metrics.auc_estimate(*entropies).value)


def _search(optuna: Any, seed: int, pool: signals.Records, validation: signals.Records) -> dict[str, Any]:
    inside: np.ndarray = np.random.default_rng(10_000 + seed).permutation(len(pool[1])) < len(pool[1]) // 2
    members = pool[0][inside], pool[1][inside]
    started = time.process_time()
    tfmiaq.keras.utils.set_random_seed(seed)
    location.rows()["float, BatchNormalization, batches of 64, 24 epochs"](*members)
    of_float = time.process_time() - started
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
    )
    study.enqueue_trial(_BY_HAND)
    started = time.process_time()

    def trial(chosen: Any) -> tuple[float, float]:
        values = {name: chosen.suggest_categorical(name, choices) for name, choices in _CHOICES.items()}
        tfmiaq.keras.utils.set_random_seed(7_000 + seed)
        return _measured(way(values).lend(*members), members, validation)

    study.optimize(trial, TRIALS.value)
    taken = time.process_time() - started
    trials = [{**one.params, "accuracy": one.values[0], "leakage": one.values[1]} for one in study.trials]
    as_accurate = [one for one in trials if one["accuracy"] >= trials[0]["accuracy"]]
    return {
        "seed": seed,
        "seconds_of_float_training": round(of_float, 1),
        "seconds_of_search": round(taken, 1),
        "trials": trials,
        "chosen": min(as_accurate, key=lambda one: one["leakage"]),
    }


def main(argv: list[str]) -> None:
    del argv
    try:
        import optuna
    except ImportError as error:
        raise app.UsageError("This benchmark takes Optuna, which tfmiaq does without: pip install optuna.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results = pathlib.Path(SEARCH_RESULTS.value)
    pool, test = location.pool_and_test()
    half = len(test[1]) // 2
    for seed in range(SEARCHES.value):
        kept = read(results)
        found = next((one for one in kept.get("searches", []) if one["seed"] == seed), None)
        if found is None:
            found = _search(optuna, seed, pool, (test[0][:half], test[1][:half]))
            kept["command"] = "python benchmarks/defences_search.py --location=location30.npz --reference_models=16"
            kept["searches"] = [*kept.get("searches", []), found]
            write(results, kept)
            print(found, flush=True)
        if {name: found["chosen"][name] for name in _BY_HAND} == _BY_HAND:
            continue  # That row is measured already.
        setting = Setting(pool, test, location.queries(pool))
        measure({f"searched, seed {seed}": way(found["chosen"])}, setting, pathlib.Path(location.RESULTS.value), None)


if __name__ == "__main__":
    app.run(main)
