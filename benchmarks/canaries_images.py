"""What attacks find of mislabelled canaries of image networks, with and without a defence: CIFAR-10.

    python benchmarks/canaries_images.py --dataset=cifar10.npz
    python benchmarks/canaries_images.py --dataset=cifar10.npz --kinds='*twin*' --rows='float, 8 epochs'

Rows and flags are those of `defences_images.py`. Each model trains on 1,000 members and on the canaries that coins give
it, which are made from 1,000 other images, and each is the target in turn. The attacker has the whole outputs of
models, and no augmented queries. The null is the same audit of models that train on the members alone.
"""

from __future__ import annotations

import pathlib
import shlex
import time
from typing import Any

from absl import app, flags
from canary_rows import NULL, MembersOnly, table
from defences_images import MEMBERS, NETWORKS_TO_RUN, RESULTS, pool_and_calibration, rows
from result_files import is_asked, read, write
from rows_in_turn import CACHE, MODELS, ROWS

import tfmiaq
from tfmiaq.auditing.canaries import KINDS, MISLABELLED

KINDS_TO_RUN = flags.DEFINE_multi_string("kinds", [MISLABELLED, NULL], "Globs over kinds of canaries.")
CANARIES = flags.DEFINE_integer("canaries", 100, "Canaries of each kind.", 10)
_SEED = 0
_COMMAND = "python benchmarks/canaries_images.py --dataset=cifar10.npz"
_STUDENT = "cross-distilled, teachers of 12 epochs"
_STUDENTS = (f"{_STUDENT}, 24 epochs", *(f"{_STUDENT} of weight {weight}, 24 epochs" for weight in (0.85, 0.7)))
_ROWS = (
    "float, 16 epochs",
    "float, 8 epochs",
    "DP-SGD, noise 0.1, GroupNormalization, rate 0.5, 20 epochs",
    *(f"{name}{bits}" for name in _STUDENTS for bits in ("", ", calibrated w1 a8")),
)


def _measured(stages: list[Any], kind: str, records: Any) -> dict[str, Any]:
    """The figures of a kind of canaries of a pipeline, all of whose stages but the first change a trained model."""
    (x, y), count = records, MEMBERS.value
    if kind == NULL:
        stages = [MembersOnly(stages[0], count), *stages[1:]]
    return dict(
        tfmiaq.audit_canaries(
            tfmiaq.ReferenceModels(stages, MODELS.value, cache=CACHE.value),
            (x[:count], y[:count]),
            (x[count:], y[count:]),
            tfmiaq.Canaries(MISLABELLED if kind == NULL else kind, CANARIES.value),
            batch_size=1_000,
            seed=_SEED,
        ).to_dict()
    )


def main(argv: list[str]) -> None:
    del argv
    results = pathlib.Path(RESULTS.value)
    records, calibration = pool_and_calibration()
    kinds = [kind for kind in (*KINDS, NULL) if is_asked(kind, KINDS_TO_RUN.value)]
    for network in NETWORKS_TO_RUN.value:
        for name, stages in rows(network, calibration).items():
            for kind in kinds if is_asked(name, ROWS.value) else ():
                made = {"network": network, "canaries": kind, "model": name, "members": MEMBERS.value}
                made.update(models=MODELS.value, count=CANARIES.value)
                if any(made.items() <= row.items() for row in read(results).get("rows", [])):
                    continue
                started = time.process_time()
                found = _measured(stages, kind, records)
                command = f"{_COMMAND} --networks={network} --canaries={CANARIES.value} --models={MODELS.value} "
                command += f"--members={MEMBERS.value} --kinds={shlex.quote(kind)} --rows={shlex.quote(name)}"
                found = {**made, "command": command, "processor_seconds": round(time.process_time() - started), **found}
                kept = read(results)
                write(results, {"rows": [*kept.get("rows", []), found]})
                print(table([found]).splitlines()[-1], flush=True)
        print(f"\n{network}\n" + table([row for row in read(results)["rows"] if row["network"] == network]))


if __name__ == "__main__":
    flags.set_default(RESULTS, "benchmarks/canaries_images.json")
    flags.set_default(NETWORKS_TO_RUN, ["resnet8"])
    flags.set_default(ROWS, list(_ROWS))
    flags.set_default(MODELS, 20)
    app.run(main)
