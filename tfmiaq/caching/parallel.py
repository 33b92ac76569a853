"""Trainings side by side, each with random generators of its own."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import joblib
import numpy as np


@contextlib.contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Seeds all random generators for a training, and puts Python's and NumPy's back after it."""
    from tfmiaq._backend import keras

    states = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def own_python_state(seed: int) -> Iterator[None]:
    """Seeds Python's random generator alone, as `own_random_state` does, and puts it back.

    For a stage that is lent, which draws all other seeds from it: seeding TensorFlow drops what it has compiled.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def in_parallel(calls: Sequence[Any], n_jobs: Optional[int], died: str) -> Iterator[Any]:
    """Yields the results of joblib's delayed calls as they finish, in any order, on the backend of joblib's context.

    Args:
        calls: Return values of calls of `joblib.delayed`.
        n_jobs: Number of processes; None for what joblib's context says, or else for one call after the other.
        died: Message of the error if a process dies.

    Raises:
        RuntimeError: A worker process died.
    """
    if not calls:
        return
    try:
        try:
            parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")
        except ValueError:
            # A backend that returns all at once; each worker has stored its result by then.
            parallel = joblib.Parallel(n_jobs=n_jobs)
        yield from parallel(calls)
    except joblib.externals.loky.process_executor.TerminatedWorkerError as error:
        raise RuntimeError(died) from error
