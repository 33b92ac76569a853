"""What an attacker has of a target: its outputs alone, or the file, and with it what lies behind the outputs."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq._checks import check_choice
from tfmiaq.signals.inputs import Inputs, arrays, matrix
from tfmiaq.signals.targets import Logits, Target

QUERY, FILE = "query", "file"
ACCESS = (QUERY, FILE)
HIDDEN = "hidden"
# Bytes of outputs that wait for the other view's turn. What is above is computed again.
_MOST_BYTES = 2**28
# Records whose hidden layer is in memory at once: it may be much wider than outputs.
_MOST_HIDDEN = 8_192


class ClosedModelError(ValueError):
    """The logits of a model cannot be found."""


class HeldModel:
    """A model that the attacker holds, as two targets: what it gives, and the logits in front of rounding or softmax.

    A run of the model gives both. When one view is asked for a set of records, the outputs of the other wait until they
    are asked for too, so that a second view costs no second run.

    Args:
        target: A .tflite (path or bytes), or a Keras model.
        batch_size: Records in one call of the model.
        threads: Threads of the .tflite interpreter; None for its default.

    Attributes:
        query: The model's outputs: a function, and a target of `signals.extract`.
        file: The logits behind them, shape (n, classes), and the activation that the model takes of them: another one.

    `hidden` has what else the holder reads: the size of the last hidden layer.

    Raises:
        TypeError: A target that is neither.
        ClosedModelError: A model whose logits cannot be found.
        ValueError: A file that is no .tflite.
    """

    def __init__(self, target: Target, batch_size: int = 256, threads: Optional[int] = None) -> None:
        opened = _opened(target, threads)
        self._predict, self._last_hidden = opened.predict, opened.hidden
        self._batch_size = batch_size
        self._waiting: dict[tuple[str, bytes], np.ndarray] = {}
        self.query: Callable[[Any], np.ndarray] = functools.partial(self._view, QUERY)
        self.file = Logits(functools.partial(self._view, FILE), opened.activation)

    def hidden(self, x: Any) -> np.ndarray:
        """Returns how large the last hidden layer is: what a Dense layer reads that makes the logits.

        Hidden units of two models have nothing to do with each other. Their norms and their number have: a network that
        has been trained on a record answers it with more and larger units.

        Args:
            x: Records, shape (n, ...).

        Returns:
            Shape (n, 3), float32: logarithms of the Euclidean and of the absolute norm, and the part of the units that
            are above zero. Shape (n, 0) where the model has no such layer.
        """
        x = x if hasattr(x, "dtype") or isinstance(x, Inputs) else Inputs(x)
        found = []
        for start in range(0, len(x), _MOST_HIDDEN):
            values = self._last_hidden(arrays(x[start : start + _MOST_HIDDEN]), self._batch_size)
            if values is None:
                return _no_hidden(x)
            norms = [np.log(np.linalg.norm(values, order, axis=1) + 1e-6) for order in (2, 1)]
            found.append(np.column_stack([*norms, (values > 0).mean(1)]).astype(np.float32))
        return np.concatenate(found)

    def _view(self, name: str, x: Any) -> np.ndarray:
        x = x if hasattr(x, "dtype") else Inputs(x)
        key = _digest(x)
        if (name, key) in self._waiting:
            return self._waiting.pop((name, key))
        found = dict(zip(ACCESS, self._predict(arrays(x), self._batch_size)))
        other = FILE if name == QUERY else QUERY
        if sum(array.nbytes for array in self._waiting.values()) + found[other].nbytes <= _MOST_BYTES:
            self._waiting[other, key] = found[other]
        return found[name]


def _no_hidden(x: Any) -> np.ndarray:
    return np.zeros((len(x), 0), np.float32)


def _digest(x: Any) -> bytes:
    if isinstance(x, Inputs):
        return b"".join(_digest(part if part.dtype != object else matrix(x)) for part in x.parts.values())
    found = hashlib.blake2b(f"{x.shape} {x.dtype}".encode())
    found.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8))
    return found.digest()


def is_file(target: Target) -> bool:
    """Returns whether a target is a .tflite, as bytes or as a path."""
    return isinstance(target, (bytes, bytearray, memoryview, str, os.PathLike))


def _is_keras(target: Target) -> bool:
    return hasattr(target, "predict_on_batch")


def _opened(target: Target, threads: Optional[int]) -> Any:
    """Returns the OpenFile or LogitsModel of a target."""
    if is_file(target):
        from tfmiaq.tflite.inner import NoLogitsError, OpenFile

        try:
            content: Any = bytes(target) if isinstance(target, (bytearray, memoryview)) else target
            return OpenFile(content, threads)
        except NoLogitsError as error:
            raise ClosedModelError(str(error)) from error
    if _is_keras(target):
        from tfmiaq.quantization.logits import LogitsModel

        try:
            return LogitsModel(target)
        except ValueError as error:
            raise ClosedModelError(str(error)) from error
    raise TypeError(
        "audit: access='file' reads the logits inside a .tflite or a Keras model. Received "
        f"{'saved outputs' if isinstance(target, (tuple, list)) else type(target).__name__}: audit it with "
        "access='query', or pass the model."
    )


def hold(
    target: Target, access: Optional[str], batch_size: int, threads: Optional[int] = None
) -> tuple[Optional[HeldModel], str]:
    """Returns a target as the model that the attacker holds, or None and the reason where only its outputs are seen.

    Args:
        target: As for `signals.extract`.
        access: "query" or "file"; None for "file" where the target is a .tflite whose logits can be found.
        batch_size: Records in one call of the model.
        threads: Threads of the .tflite interpreter; None for its default.

    Returns:
        The model, and why its logits are not read, which is empty where they are, or where nobody wants them.

    Raises:
        TypeError: "file" for a target that is neither .tflite nor Keras model.
        ValueError: Another access; a file that is no .tflite; "file" for a model whose logits cannot be found.
    """
    if access is not None:
        check_choice("audit", "access", access, ACCESS)
    if access == QUERY or (access is None and not is_file(target)):
        return None, ""
    try:
        return HeldModel(target, batch_size, threads), ""
    except ClosedModelError as error:
        if access == FILE:
            raise ValueError(
                f"audit: access='file' finds no logits inside the target: {error}. access='query' audits its outputs."
            ) from error
        return None, str(error)


def views(target: Target, batch_size: int, threads: Optional[int] = None) -> dict[str, Any]:
    """Returns a model as a target for each access; the model itself for both where its logits cannot be read.

    Under HIDDEN there is the function from records to `HeldModel.hidden`.

    That is right for models of the attacker's own: of functions, classifiers and subclassed models no rounding is known
    that the outputs would have to be read in front of.

    Args:
        target: As for `signals.extract`, but no saved outputs.
        batch_size: Records in one call of the model.
        threads: Threads of the .tflite interpreter; None for its default.

    Raises:
        ValueError: A file that is no .tflite.
    """
    closed = {**dict.fromkeys(ACCESS, target), HIDDEN: _no_hidden}
    if not is_file(target) and not _is_keras(target):
        return closed
    try:
        held = HeldModel(target, batch_size, threads)
    except ClosedModelError:
        return closed
    return {QUERY: held.query, FILE: held.file, HIDDEN: held.hidden}
