"""A trace for the converter, in which quantizers compute beforehand what depends on variables alone.

The converter maps a FakeQuant to int8 codes, and any other rounding to float operations. What leads to a FakeQuant's
input and range it would compute as well, but it keeps all in between in memory until it ends: of a large kernel that is
several times its own size.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
from collections.abc import Iterable, Iterator
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import tf


class Export:
    """What a trace for the converter reads of quantized weights.

    Args:
        kernels: For each quantizer of weights its kernel and its variables. It has a method `rounded` of these, which
            returns the rounded kernel and the upper end of its int8 range.
    """

    def __init__(self, kernels: Iterable[tuple[Any, Any, dict[str, Any]]]) -> None:
        self._calls: collections.Counter[int] = collections.Counter()
        self._found: dict[int, tuple[Any, np.ndarray]] = {}
        for kernel, quantizer, variables in kernels:
            rounded, limit = quantizer.rounded(kernel, variables)
            self._found[id(quantizer)] = tf.Variable(rounded, trainable=False), limit.numpy()

    @property
    def variables(self) -> list[Any]:
        """The rounded kernels. A traced function does not keep its variables alive."""
        return [variable for variable, _ in self._found.values()]

    def weights(self, quantizer: Any) -> tuple[Any, Any]:
        """Returns the rounded kernel and the end of its range, one float32 further for each call of a shared layer.

        The converter merges equal operations. It computes a FakeQuant that several operations read beforehand, and then
        rounds the result once more to a scale of its own, or leaves it float. Ranges that are one float32 apart give
        the same codes, and stay apart; the file holds the codes once.
        """
        variable, limit = self._found[id(quantizer)]
        calls = self._calls[id(quantizer)]
        self._calls[id(quantizer)] += 1
        return variable, tf.constant(limit * np.float32(1.0 + calls * 2.0**-23))


# Of this thread alone: others may trace models meanwhile.
_current: contextvars.ContextVar[Optional[Export]] = contextvars.ContextVar("export", default=None)


@contextlib.contextmanager
def exporting(kernels: Iterable[tuple[Any, Any, dict[str, Any]]]) -> Iterator[Export]:
    """Within it models are traced for the converter.

    Args:
        kernels: As for `Export`.
    """
    export = Export(kernels)
    token = _current.set(export)
    try:
        yield export
    finally:
        _current.reset(token)


def current() -> Optional[Export]:
    """Returns the export that a model is traced for, or None outside of one."""
    return _current.get()


def beforehand() -> contextlib.AbstractContextManager[Any]:
    """Returns a scope whose operations on variables are computed at once in an export, and elsewhere where they stand.

    TensorFlow writes small results into the graph as constants.
    """
    return contextlib.nullcontext() if _current.get() is None else tf.init_scope()
