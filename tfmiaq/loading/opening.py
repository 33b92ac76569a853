"""What Keras may take to make a model of a file's configuration: calls of layers, sizes, memory and time.

A few bytes of a configuration can ask for any amount of work: an RNN layer that is unrolled over a million steps, a
model inside a model inside a model, each called twice, a tensor that is taken apart into a billion others.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import inspect
import math
import os
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Optional

from tfmiaq.loading.limits import MAX_BYTES, RefusedFileError, check_declared

MAX_CALLS = 20_000
"""Calls of layers, unrolled steps among them, that one file may ask for."""
MAX_PARTS = 1_000_000
"""Tensors that one layer may take a tensor apart into."""
# Elements of a tensor between layers are 4 bytes, and some layers compute with copies of 8.
_BYTES_OF_AN_ELEMENT = 16
# Initial values that take longer to draw than the file's own to read: they come in their place.
_LARGE_VARIABLE = 2**18
_LEAST_GROWTH = 2**30
_SECONDS_BETWEEN_LOOKS = 0.1
_TAKEN_APART = frozenset(("dynamic_partition", "split", "unstack"))
_WAY_OUT = "trust=True (--trust) opens it as Keras does, without limits."
# Layers of one process are watched for one file at a time.
_ONE_AT_A_TIME = threading.RLock()


class TooMuchWorkError(RefusedFileError):
    """To open a file takes more work, memory or time than its limit."""


def too_slow(name: str, max_seconds: float) -> TooMuchWorkError:
    """Returns the error of a file that takes longer to open than it may."""
    told = f"takes more than {max_seconds:g} seconds. Raise max_seconds (--max_seconds) if it is right."
    return TooMuchWorkError(f"load_model: To open {name} {told}")


class _OutOfLimits(BaseException):
    """Ends the work of Keras, whose handlers of errors let it through."""


@contextlib.contextmanager
def limited(name: str, layer_class: Any, limits: Optional[tuple[int, float]]) -> Iterator[None]:
    """Within it Keras makes a model of a file's configuration, and is stopped at the limits.

    Initial values of large variables are zeros: the file has values for them, or is refused.

    Args:
        name: What errors call the file.
        layer_class: The base class of all layers, of Keras 2 or 3.
        limits: Bytes that the model's variables may take together, and seconds that it may take; None for a file that
            is trusted. Tensors between layers keep within these bytes or `MAX_BYTES`, whichever is more, for one
            record. On Linux the memory of the process may grow meanwhile by twice these bytes, and by 1 GiB at least.

    Raises:
        TooLargeError: Variables of more bytes.
        TooMuchWorkError: Another limit.
    """
    if limits is None:
        yield
        return
    from tfmiaq._backend import tf

    with _ONE_AT_A_TIME:
        work = _Work(name, *limits)
        plain_call, plain_add = layer_class.__call__, layer_class.add_weight
        order = inspect.signature(plain_add)

        @functools.wraps(plain_call)
        def watched_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            work.check_call(layer, tf.nest.flatten((args, kwargs)))
            return plain_call(layer, *args, **kwargs)

        @functools.wraps(plain_add)
        def undrawn(layer: Any, *args: Any, **kwargs: Any) -> Any:
            given = order.bind(layer, *args, **kwargs)
            if _is_large(given.arguments.get("shape")):
                given.arguments["initializer"] = "zeros"
            return plain_add(*given.args, **given.kwargs)

        layer_class.__call__, layer_class.add_weight = watched_call, undrawn
        try:
            with tf.variable_creator_scope(work.create_variable), work.watched():
                yield
        finally:
            layer_class.__call__, layer_class.add_weight = plain_call, plain_add


class _Work:
    """What one file has taken so far, in the thread that opens it."""

    def __init__(self, name: str, max_bytes: int, max_seconds: float) -> None:
        self._name, self._max_bytes, self._max_seconds = name, max_bytes, max_seconds
        self._thread = threading.get_ident()
        self._declared = self._calls = 0
        self._refusal: Optional[RefusedFileError] = None
        self._over, self._lock = threading.Event(), threading.Lock()

    def create_variable(self, next_creator: Any, **given: Any) -> Any:
        """Makes a variable as TensorFlow does, if those of the file keep within the limit."""
        from tfmiaq._backend import tf

        dtype = tf.as_dtype(given.get("dtype") or tf.float32)
        sizes = [] if given.get("shape") is None else tf.TensorShape(given["shape"]).as_list()
        self._declared += math.prod(sizes) * dtype.size
        with self._remembered():
            check_declared(f"load_model: {self._name}", self._declared, self._max_bytes, "variables")
        return next_creator(**given)

    def check_call(self, layer: Any, values: list[Any]) -> None:
        """Raises an error if a call of a layer is one too many, or takes or makes too large a tensor."""
        if threading.get_ident() != self._thread:
            return
        # One that is caught on its way does not let the work go on.
        if self._refusal is not None:
            raise self._refusal
        shapes = [shape for shape in map(_shape, values) if shape is not None]
        if shapes and ".reshaping." in type(layer).__module__:
            shapes.append(tuple(layer.compute_output_shape(shapes[0])))
        with self._remembered():
            self._calls += 1 + _steps(layer, shapes)
            if self._calls > MAX_CALLS:
                raise self._too_much(f"more than {MAX_CALLS:,} calls of layers and unrolled steps", layer)
            parts = _parts(layer, shapes, values)
            if parts > MAX_PARTS:
                raise self._too_much(f"a tensor that is taken apart into {parts:,}, above {MAX_PARTS:,},", layer)
            elements = max((math.prod(size or 1 for size in shape[1:]) for shape in shapes), default=0)
            if elements * _BYTES_OF_AN_ELEMENT > max(self._max_bytes, MAX_BYTES):
                raise self._too_much(f"a tensor of {elements:,} elements for one record", layer)

    def _too_much(self, what: str, layer: Any) -> TooMuchWorkError:
        asked = f"it asks for {what} in the layer {getattr(layer, 'name', '')!r:.80}"
        return TooMuchWorkError(f"load_model: {self._name} is not opened: {asked}. {_WAY_OUT}")

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except RefusedFileError as error:
            self._refusal = error
            raise

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within it a thread looks at the time and the memory, and what was refused is what is raised."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            yield
        except (Exception, _OutOfLimits):
            self._stop(watcher)
            if self._refusal is not None:
                # Keras puts many lines around the errors of a layer.
                raise self._refusal from None
            raise
        finally:
            self._stop(watcher)
        if self._refusal is not None:
            raise self._refusal

    def _stop(self, watcher: threading.Thread) -> None:
        while not self._over.is_set() or watcher.is_alive():
            with contextlib.suppress(_OutOfLimits):
                with self._lock:
                    self._over.set()
                    # What was raised and has not arrived yet.
                    _raise_in(self._thread, None)
                watcher.join()

    def _watch(self) -> None:
        started, before = time.monotonic(), _resident_bytes()
        most = max(2 * self._max_bytes, _LEAST_GROWTH)
        while not self._over.wait(_SECONDS_BETWEEN_LOOKS):
            refusal: Optional[TooMuchWorkError] = None
            if time.monotonic() - started > self._max_seconds:
                refusal = too_slow(self._name, self._max_seconds)
            elif _resident_bytes() - before > most:
                told = f"takes more than {most:,} bytes of memory. Raise max_bytes (--max_bytes) if it is right."
                refusal = TooMuchWorkError(f"load_model: To open {self._name} {told}")
            with self._lock:
                if refusal is not None and not self._over.is_set():
                    self._refusal = self._refusal or refusal
                    _raise_in(self._thread, _OutOfLimits)


def _raise_in(thread: int, error: Optional[type[BaseException]]) -> None:
    """Raises an error in another thread at its next step in Python; None takes back one that has not arrived."""
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


def _resident_bytes() -> int:
    """Returns the memory of this process; 0 where the system does not say it as Linux does."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _is_large(shape: Any) -> bool:
    """Returns whether a variable has values enough that drawing them takes longer than reading them."""
    sizes = shape if isinstance(shape, (tuple, list)) else getattr(shape, "dims", None) or ()
    return math.prod(int(size) for size in sizes if size is not None) >= _LARGE_VARIABLE


def _shape(value: Any) -> Optional[tuple[Optional[int], ...]]:
    """Returns the shape of a tensor, with None for sizes that are open; None for other values, and for open ranks."""
    shape = getattr(value, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None:
        return None
    return tuple(shape)


def _steps(layer: Any, shapes: list[tuple[Optional[int], ...]]) -> int:
    """Returns the steps over which a layer is unrolled."""
    if getattr(layer, "unroll", False) is not True or not shapes or len(shapes[0]) < 2:
        return 0
    return shapes[0][0 if getattr(layer, "time_major", False) else 1] or 0


def _parts(layer: Any, shapes: list[tuple[Optional[int], ...]], values: list[Any]) -> int:
    """Returns an upper bound of the tensors into which a layer takes a tensor apart."""
    kind = type(layer).__name__
    sizes = [size for shape in shapes for size in shape[1:] if size is not None]
    if kind in ("UpSampling1D", "UpSampling3D"):
        return max(sizes, default=0)
    symbol = str(getattr(layer, "symbol", "") or "").rpartition(".")[2]
    if kind == "TFOpLambda" and symbol in _TAKEN_APART:
        return max([*sizes, *(value for value in values if isinstance(value, int))], default=0)
    return 0
