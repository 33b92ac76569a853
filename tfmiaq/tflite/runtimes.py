"""Where a .tflite runs: in this process, or in a child that dies in its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import tf
from tfmiaq._checks import check_choice
from tfmiaq.loading import wire
from tfmiaq.loading.interpreter_calls import InterpreterCalls
from tfmiaq.loading.limits import MAX_BYTES
from tfmiaq.tflite.quiet import quiet

RUNTIMES = ("tensorflow", "litert")
OPENING_SECONDS = 120.0
"""Time in which a child opens a file. Its imports count."""


def interpreter_type(runtime: str) -> Any:
    """Returns the class of a runtime's interpreter; raises ImportError where the runtime is not installed."""
    check_choice("Interpreter", "runtime", runtime, RUNTIMES)
    if runtime == "tensorflow":
        return tf.lite.Interpreter
    try:
        from ai_edge_litert.interpreter import Interpreter as LiteRt
    except ImportError as error:
        raise ImportError("Interpreter: runtime='litert' takes the package ai-edge-litert: pip install it.") from error
    return LiteRt


class InProcess(InterpreterCalls):
    """A file of this process' own, run in it.

    Args:
        data: The bytes of the file.
        runtime: As `Interpreter`.
        keep_tensors: As `Interpreter`.
        threads: As `Interpreter`.
        timeout: Has no meaning here.

    Raises:
        ValueError, RuntimeError: The interpreter refuses the file.
    """

    def __init__(self, data: bytes, runtime: str, keep_tensors: bool, threads: Optional[int], timeout: float) -> None:
        kind = interpreter_type(runtime)
        with quiet():
            self.build(kind, data, keep_tensors, threads)


class InChild:
    """A file from outside, run in a process of its own, which may die or never end.

    Args:
        data: The bytes of the file.
        runtime: As `Interpreter`.
        keep_tensors: As `Interpreter`.
        threads: As `Interpreter`.
        timeout: Seconds that one call of `run` may take.

    Raises:
        ValueError: The interpreter refuses the file, dies of it, or does not end in time.
    """

    def __init__(self, data: bytes, runtime: str, keep_tensors: bool, threads: Optional[int], timeout: float) -> None:
        if runtime != "tensorflow":
            interpreter_type(runtime)  # Tells a name that is unknown, or not installed.
        self._timeout = timeout
        self._lock = threading.Lock()
        # Operations of TensorFlow that TFLite has none for ("Flex") need all of TensorFlow.
        whole, memory = b"Flex" in data, MAX_BYTES + 16 * len(data)
        self._process = self._start()
        self._call("open", data, runtime, whole, keep_tensors, threads, memory, seconds=OPENING_SECONDS)

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [path for path in sys.path if path]
        process = subprocess.Popen(
            [sys.executable, "-m", "tfmiaq.loading.tflite_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "-1"},
        )
        weakref.finalize(self, _end, process)
        return process

    def _call(self, name: str, *arguments: Any, seconds: Optional[float] = None) -> Any:
        limit = self._timeout if seconds is None else seconds
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        with self._lock:
            timer = threading.Timer(limit, stop)
            timer.daemon = True
            timer.start()
            try:
                assert self._process.stdin is not None and self._process.stdout is not None
                wire.send(self._process.stdin, [name, list(arguments)])
                worked, answer = wire.receive(self._process.stdout)
            except (EOFError, OSError) as error:
                told = f"does not end within {limit:g} s" if late.is_set() else f"dies ({_cause(self._process)})"
                what = "opened" if name == "open" else "run"
                raise ValueError(f"damaged .tflite: the interpreter {told} when it is {what}.") from error
            finally:
                timer.cancel()
        if worked:
            return answer
        kind, text = answer
        raise {"ImportError": ImportError, "ValueError": ValueError}.get(kind, RuntimeError)(text)

    def details(self) -> dict[str, Any]:
        """As `InProcess.details`."""
        return self._call("details")

    def resize(self, index: int, shape: Sequence[int]) -> None:
        """As `InProcess.resize`."""
        self._call("resize", index, shape)

    def allocate(self) -> None:
        """As `InProcess.allocate`."""
        self._call("allocate")

    def run(self, runs: Sequence[Sequence[tuple[int, np.ndarray]]], read: Sequence[int]) -> list[list[np.ndarray]]:
        """As `InProcess.run`."""
        return self._call("run", runs, read)

    def tensor(self, index: int) -> np.ndarray:
        """As `InProcess.tensor`."""
        return self._call("tensor", index)


def _cause(process: subprocess.Popen[bytes]) -> str:
    try:
        status = process.wait(10)
    except subprocess.TimeoutExpired:
        return "it answers no more"
    try:
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"
    except ValueError:
        return f"signal {-status}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a child whose interpreter is no longer used."""
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                continue  # What was not sent has no reader any more.
    process.wait()
