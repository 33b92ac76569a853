"""The process that runs a .tflite from outside, so that no other dies of it: `python -m tfmiaq.loading.tflite_child`.

It takes calls of the interpreter's methods from standard input, and answers on standard output.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import types
import warnings
from typing import Any

from tfmiaq.loading import wire
from tfmiaq.loading.interpreter_calls import InterpreterCalls


def _interpreter_type(runtime: str, whole: bool) -> Any:
    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter as LiteRt

        return LiteRt
    if whole:
        import tensorflow as tf

        return tf.lite.Interpreter
    if "tensorflow" not in sys.modules:
        _stand_in_for_tensorflow()
    from tensorflow.lite.python.interpreter import Interpreter

    return Interpreter


def _stand_in_for_tensorflow() -> None:
    # The interpreter alone takes a tenth of a second to import, TensorFlow several.
    found = importlib.util.find_spec("tensorflow")
    assert found is not None and found.submodule_search_locations is not None
    package = types.ModuleType("tensorflow")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["tensorflow"] = package


def _limit_memory(more: int) -> None:
    """Lets the process take so many bytes more than it has: without that, a file could take all of the machine's."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (taken + more, resource.getrlimit(resource.RLIMIT_AS)[1]))


class _Served(InterpreterCalls):
    """The interpreter, and what is asked of it."""

    def open(self, data: bytes, runtime: str, whole: bool, keep_tensors: bool, threads: Any, memory: int) -> None:
        kind = _interpreter_type(runtime, whole)
        _limit_memory(memory)
        self.build(kind, data, keep_tensors, threads)


def main() -> None:
    """Answers calls until standard input ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What C++ code prints must not come between the answers.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    warnings.simplefilter("ignore")
    served = _Served()
    while True:
        try:
            name, arguments = wire.receive(requests)
        except EOFError:
            return
        try:
            answer = [True, getattr(served, name)(*arguments)]
        except Exception as error:
            answer = [False, [type(error).__name__, str(error)]]
        wire.send(answers, answer)


if __name__ == "__main__":
    main()
