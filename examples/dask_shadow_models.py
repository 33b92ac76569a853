"""Trains the attacker's shadow models on a Dask cluster.

    python examples/dask_shadow_models.py  # a cluster of two processes on this machine
    python examples/dask_shadow_models.py --scheduler=tcp://scheduler:8786 --shadow_models=64 --folder=/shared/audit

Needs Dask: pip install tfmiaq[dask,examples]. With --scheduler the workers have this project installed; --folder then
has to be one that all of them see, or --nocache. A worker that dies costs its model alone, which is trained again.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import time
from typing import Any

import common
import joblib
from absl import app, flags
from small_classifier import build_model, fit

import tfmiaq

SCHEDULER = flags.DEFINE_string("scheduler", None, "Address of a cluster's scheduler; one is started if not given.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes of the cluster that is started.", 1)
WIDTH = flags.DEFINE_integer("width", 8, "Filters of the first layer; the others have multiples of it.", 1)
EPOCHS = flags.DEFINE_integer("epochs", 60, "Epochs of each model.", 1)
SHADOW_MODELS = flags.DEFINE_integer("shadow_models", 8, "Models that the attacker trains.", 2)
CACHE = flags.DEFINE_boolean("cache", True, "Keep finished models in --folder: what was stopped goes on there.")
FOLDER = flags.DEFINE_string("folder", "out/dask", "Folder for the report and for finished models.")
flags.adopt_module_key_flags(common)


def main(argv: list[str]) -> None:
    common.start(argv)
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise app.UsageError("This example needs Dask: pip install tfmiaq[dask].") from error
    data, members, non_members = common.load_sets()
    # Values, not flags: workers have parsed none.
    shape, classes, width, epochs = data.x_train.shape[1:], data.classes, WIDTH.value, EPOCHS.value

    def train(x: Any, y: Any, label: str = "") -> Any:
        model = build_model(shape, classes, width)
        fit(model, x, y, epochs, 3e-3, label)
        return model

    tfmiaq.keras.utils.set_random_seed(common.SEED.value)
    target = train(*members, "target")
    # The cluster's own notes would drown the progress bars.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        address = SCHEDULER.value
        if address is None:
            # A process for each model: TensorFlow's random generators are one to a process.
            started_here = LocalCluster(n_workers=WORKERS.value, threads_per_worker=1, dashboard_address=None)
            address = stack.enter_context(started_here).scheduler_address
        client = stack.enter_context(Client(address))
        if SCHEDULER.value:
            # Workers have the project, and not the examples.
            client.upload_file(str(pathlib.Path(__file__).with_name("small_classifier.py")))
        workers = client.scheduler_info()["workers"]
        print(f"{SHADOW_MODELS.value} shadow models on {len(workers)} workers of {client.scheduler.address}")
        shadow_models = tfmiaq.ReferenceModels(
            train, SHADOW_MODELS.value, cache=f"{FOLDER.value}/shadow_models" if CACHE.value else None
        )
        started = time.monotonic()
        with joblib.parallel_config(backend="dask"):
            report = tfmiaq.audit(target, members, non_members, reference_models=shadow_models, seed=common.SEED.value)
        print(f"Trained and audited in {time.monotonic() - started:.0f} s.")
    report.save(FOLDER.value)
    rows = [(attack.name, f"{attack.auc}", attack.note) for attack in report.attacks]
    print(f"\n{report.verdict}\n\n{common.table(('attack', 'AUC', 'what it takes'), rows)}")
    print(f"\nWritten to {FOLDER.value}/report.html")


if __name__ == "__main__":
    app.run(main)
