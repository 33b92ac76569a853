"""Finished work by the hash of what made it, and trainings side by side."""

from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.parallel import drawn_seeds, in_parallel, own_python_state, own_random_state
from tfmiaq.caching.store import ARRAYS, VALUES, Kind, Store, keras_model, write_text, write_whole

__all__ = [
    "ARRAYS",
    "VALUES",
    "Kind",
    "Store",
    "drawn_seeds",
    "fingerprint",
    "in_parallel",
    "keras_model",
    "own_python_state",
    "own_random_state",
    "write_text",
    "write_whole",
]
