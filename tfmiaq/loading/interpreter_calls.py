"""The calls of TFLite's interpreter: the same in the process that asks for them and in a child."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np


class InterpreterCalls:
    """An interpreter of a file, and what is asked of it."""

    _interpreter: Any = None

    def build(self, kind: Any, data: bytes, keep_tensors: bool, threads: Optional[int]) -> None:
        """Makes the interpreter.

        Args:
            kind: The class of the interpreter.
            data: The bytes of the file.
            keep_tensors: Whether all tensors can be read after a run.
            threads: Threads of the interpreter; None for its default.
        """
        self._interpreter = kind(
            model_content=data, experimental_preserve_all_tensors=keep_tensors, num_threads=threads
        )
        self._interpreter.allocate_tensors()

    def details(self) -> dict[str, Any]:
        """Returns what is known of "inputs", "outputs" and all "tensors", and the inputs and outputs of "signature"."""
        runner = self._interpreter.get_signature_runner() if self._interpreter.get_signature_list() else None
        return {
            "inputs": self._interpreter.get_input_details(),
            "outputs": self._interpreter.get_output_details(),
            "tensors": self._interpreter.get_tensor_details(),
            "signature": None if runner is None else [runner.get_input_details(), runner.get_output_details()],
        }

    def resize(self, index: int, shape: Sequence[int]) -> None:
        """Gives an input another shape; `allocate` has to follow."""
        # Strict: a size that the signature fixes stays. Resized, some kernels write where they must not.
        self._interpreter.resize_tensor_input(index, shape, strict=True)

    def allocate(self) -> None:
        """Allocates the tensors."""
        self._interpreter.allocate_tensors()

    def run(self, runs: Sequence[Sequence[tuple[int, np.ndarray]]], read: Sequence[int]) -> list[list[np.ndarray]]:
        """Returns the values of some tensors after each of several runs, on inputs by their indices."""
        found = []
        for given in runs:
            for index, array in given:
                self._interpreter.set_tensor(index, array)
            self._interpreter.invoke()
            found.append([self._interpreter.get_tensor(index) for index in read])
        return found

    def tensor(self, index: int) -> np.ndarray:
        """Returns the value of one tensor."""
        return self._interpreter.get_tensor(index)
