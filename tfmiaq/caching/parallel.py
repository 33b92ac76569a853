"""Trainings side by side, each with random generators of its own."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import joblib
import numpy as np


class _OfThread(threading.local):
    generator: Optional[random.Random] = None


_of_thread = _OfThread()


@contextlib.contextmanager
def _drawing_from(generator: Optional[random.Random]) -> Iterator[None]:
    before, _of_thread.generator = _of_thread.generator, generator
    try:
        yield
    finally:
        _of_thread.generator = before


@contextlib.contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Seeds all random generators for a training, and puts Python's and NumPy's back after it."""
    from tfmiaq._backend import keras

    states = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        # A caller's function may seed Python's generator anew, and the stages that it calls go by that.
        with _drawing_from(None):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def own_python_state(seed: int) -> Iterator[None]:
    """Seeds Python's random generator alone, as `own_random_state` does, and puts it back.

    For a stage that draws all other seeds by `drawn_seeds`: seeding TensorFlow drops what it has compiled.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        with _drawing_from(random.Random(seed)):
            yield
    finally:
        random.setstate(state)


def drawn_seeds() -> tuple[int, int]:
    """Returns the two next seeds, from 0 to 2**31 - 1, of what `own_python_state` or `own_random_state` has seeded.

    Within `own_python_state` they come from a generator of this thread. Other threads of the process, such as the one
    in which a Dask worker connects to others anew, draw from Python's own whenever they like.
    """
    generator = _of_thread.generator
    # Python's generator is where it was whatever was traced, or found in a cache, before; the others are not.
    draw = random.getrandbits if generator is None else generator.getrandbits
    return draw(31), draw(31)


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
