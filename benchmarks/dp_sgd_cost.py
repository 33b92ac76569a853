"""What a step with clipping by record costs, in steps without: processor time, one thread, batches as they are used.

OMP_NUM_THREADS=1 python benchmarks/dp_sgd_cost.py
"""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any, Optional

import networks
import numpy as np
from absl import app, flags

import tfmiaq
from tfmiaq._backend import tf
from tfmiaq.training import DPSGD, dp_sgd, without_batch_normalization

RESULTS = flags.DEFINE_string("results", "benchmarks/dp_sgd_cost.json", "Result file.")
STEPS = flags.DEFINE_integer("steps", 5, "Steps of each kind, of which the fastest counts.", 1)
_NETWORKS = {"mlp": ((446,), 1_600), "resnet8": ((32, 32, 3), 128), "small_mobilenet": ((32, 32, 3), 128)}


def _milliseconds(model: Any, x: np.ndarray, y: np.ndarray, dp: Optional[DPSGD]) -> float:
    """Processor time of a step."""
    tfmiaq.TrainingRecipe(epochs=1, batch_size=len(x), learning_rate=0.01, dp=dp).compile(model, len(x), y)

    def of_batch(records: Any, labels: Any) -> Any:
        if dp is None:
            with tf.GradientTape() as tape:
                loss = model.loss(labels[:, None], model(records, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
        else:
            gradients, loss = dp_sgd.gradients(model, records, labels, dp, tf.constant([1, 2]))
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    step, batch = tf.function(of_batch), (tf.constant(x), tf.constant(y))
    float(step(*batch))
    found = []
    for _ in range(STEPS.value):
        started = time.process_time()
        float(step(*batch))
        found.append(1_000 * (time.process_time() - started))
    return min(found)


def main(argv: list[str]) -> None:
    del argv
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rows = []
    for name, (shape, batch) in _NETWORKS.items():
        for bits in (None, (2, 4)):
            tfmiaq.keras.utils.set_random_seed(0)
            model = without_batch_normalization(getattr(networks, name)(shape, 10))
            if bits is not None:
                model = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(*bits))
            x = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
            y: np.ndarray = np.arange(batch) % 10
            plain, clipped, noisy = (_milliseconds(model, x, y, dp) for dp in (None, DPSGD(1.0), DPSGD(1.0, 1.0)))
            rows.append(
                {
                    "network": name,
                    "bits": "float" if bits is None else "w{} a{}".format(*bits),
                    "batch": batch,
                    "plain_ms": round(plain, 1),
                    "clip_ratio": round(clipped / plain, 2),
                    "clip_and_noise_ratio": round(noisy / plain, 2),
                }
            )
            print(rows[-1], flush=True)
    found = {"command": "OMP_NUM_THREADS=1 python benchmarks/dp_sgd_cost.py", "rows": rows}
    pathlib.Path(RESULTS.value).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
