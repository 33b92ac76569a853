"""Seeds of new layers."""

from __future__ import annotations

import random
import sys
from typing import Any

from tfmiaq._backend import keras


def seed_new_layers(seed: int) -> None:
    """Seeds what the initializers of new layers draw from, as `keras.utils.set_random_seed` does.

    That function also drops all that TensorFlow has compiled, which takes longer than a small model's training.
    """
    backend: Any = sys.modules[keras.backend.clear_session.__module__]
    backend._SEED_GENERATOR.generator = random.Random(seed)
