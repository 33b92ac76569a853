"""Checks rows in a process of their own, which a converted file may end.

Run as `python isolated.py OUT NAME...`: one JSON line in OUT for each property, before it is checked and after.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))


def check(path: str, names: list[str]) -> None:
    """Checks every property of the named rows, and writes what was found."""
    import properties
    import situations

    table = properties.rows((*situations.TRAINING, *situations.MODELS))
    with open(path, "a", encoding="utf-8") as file:
        for name in names:
            case = properties.Case(*table[name])
            for has in properties.properties_of(case.row, case.k):
                file.write(json.dumps([name, has.__name__, None]) + "\n")
                file.flush()
                try:
                    properties.hold(case, has)
                    fault = ""
                except Exception as error:
                    fault = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
                file.write(json.dumps([name, has.__name__, fault]) + "\n")
                file.flush()


@functools.cache
def results(names: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """By row and property the fault, or an empty string.

    A process that ends before its time is followed by another one for the rows that are left.
    """
    found: dict[tuple[str, str], str] = {}
    left = list(names)
    with tempfile.TemporaryDirectory() as folder:
        while left:
            path = os.path.join(folder, f"found_{len(left)}.jsonl")
            run = subprocess.run(
                [sys.executable, os.path.abspath(__file__), path, *left],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([p for p in sys.path if p])},
                capture_output=True,
                text=True,
                timeout=300,
            )
            lines = []
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    lines = [json.loads(line) for line in file]
            if not lines:
                raise RuntimeError(f"No row was checked: {run.stderr[-2000:]}")
            for name, has, fault in lines:
                found[name, has] = f"the process ended with {run.returncode}" if fault is None else fault
            if run.returncode == 0:
                break
            last = lines[-1][0]
            left = left[left.index(last) + 1 :]
    return found


if __name__ == "__main__":
    check(sys.argv[1], sys.argv[2:])
