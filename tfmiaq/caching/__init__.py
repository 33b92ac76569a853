"""Finished work by the hash of what made it, and trainings side by side."""

from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.parallel import in_parallel, own_random_state
from tfmiaq.caching.store import Store

__all__ = ["Store", "fingerprint", "in_parallel", "own_random_state"]
