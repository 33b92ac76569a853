"""Kills and full disks: is the result the same, and is anything that was finished computed again?

    python benchmarks/faults.py

Each task of `fault_tasks.py` first runs undisturbed. Then it is killed (SIGKILL) at moments that a seed draws, and
started again in the same folder until it ends, over and over until it has had --kills kills. Moments are in processor
time of the task, between its start and what it has left to do, so that a busy machine moves none of them. With a full
disk it runs under limits of a file's size (RLIMIT_FSIZE) and on a small tmpfs, where that may be mounted, and then
again with space. What is compared are all files of the result, but for dates. A training counts as finished once
the one after it has begun, or the task has ended: a kill costs the one that was under way.

Processes are forked from one that has imported TensorFlow and run nothing of it. The whole takes some 25 minutes of
processor time. A run that was stopped goes on where it was. With --write the table goes into docs/reliability.md.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from typing import Any, Optional

import fault_tasks
import numpy as np
from absl import app, flags
from pages import write_part

TASKS = flags.DEFINE_list("tasks", list(fault_tasks.TASKS), "Tasks.")
KILLS = flags.DEFINE_integer("kills", 50, "Kills of each task.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments.", 0)
RESULTS = flags.DEFINE_string("results", "benchmarks/faults.json", "Result file.")
WRITE = flags.DEFINE_bool("write", False, "Only write the table of the result file into docs/reliability.md.")

_LONGEST_SECONDS = 3600
_FILE_SIZES = (1000, 70_000)
_DISK_SIZES = ("16k", "160k", "300k", "500k")
# Tasks take turns, so that a run that is stopped has some of each.
_TURN = 10
# A task with little left to train still reads what there is, and writes its results.
_LEAST_LEFT = 0.3
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = pathlib.Path("docs/reliability.md")


@dataclasses.dataclass
class Life:
    """What one process did.

    Attributes:
        events: Lines of its log.
        errors: Text of its standard error.
        status: Exit status; below 0 for the signal that ended it.
        seconds: Processor time that it took.
    """

    events: list[str]
    errors: str
    status: int
    seconds: float

    @property
    def begun(self) -> list[str]:
        """Trainings and scores in their order."""
        return [line.partition(" ")[2] for line in self.events if line.startswith("begin ")]

    @property
    def finished(self) -> list[str]:
        """Those that were over when something else began, or the process ended by itself."""
        whole = self.begun if self.status == 0 else self.begun[:-1]
        ended = {line.partition(" ")[2] for line in self.events if line.startswith("end ")}
        return [name for name in whole if name in ended]


def live(task: str, folder: pathlib.Path, kill_after: Optional[float] = None, file_size: Optional[int] = None) -> Life:
    """Runs a task in a process of its own, and kills it once it has used some seconds of processor time."""
    log, log_end = os.pipe()
    told, told_end = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        _child(task, folder, log_end, told_end, file_size)
    for end in (log_end, told_end):
        os.close(end)
    texts: dict[int, bytes] = {log: b"", told: b""}
    waiting = {log, told}
    is_killed = False
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], 0.01)
        is_late = time.monotonic() - started > _LONGEST_SECONDS
        if not is_killed and (is_late or (kill_after is not None and _used(child) >= kill_after)):
            os.kill(child, signal.SIGKILL)
            is_killed = True
        for pipe in ready:
            content = os.read(pipe, 65536)
            texts[pipe] += content
            if not content:
                waiting.remove(pipe)
                os.close(pipe)
    _, ended, used = os.wait4(child, 0)
    status = os.waitstatus_to_exitcode(ended)
    if status == -signal.SIGKILL and kill_after is None:
        raise RuntimeError(f"{task} took more than {_LONGEST_SECONDS} seconds.")
    seconds = used.ru_utime + used.ru_stime
    return Life(texts[log].decode().splitlines(), texts[told].decode(errors="replace"), status, seconds)


def _used(child: int) -> float:
    """Returns the processor time of a process so far."""
    # Behind the name, which is in brackets, the 12th and 13th are those of the user and of the system.
    fields = pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _child(task: str, folder: pathlib.Path, log: int, told: int, file_size: Optional[int]) -> None:
    """Runs a task and ends the process: status 0, 2 after an error."""
    status = 70
    try:
        os.environ[fault_tasks.LOG] = str(log)
        os.dup2(told, 1)
        os.dup2(told, 2)
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        fault_tasks.TASKS[task](folder)
        status = 0
    except SystemExit as left:
        status = int(left.code or 0)
    except Exception as error:
        status = 2
        traceback.print_exc()
        print(f"tfmiaq: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Returns a hash of each file of a result, without dates; not of the cache, nor of pictures."""
    found = {}
    for path in sorted((folder / "result").rglob("*")):
        name = str(path.relative_to(folder / "result"))
        if path.is_dir() or "cache" in path.parts or path.suffix in (".png", ".html"):
            continue
        if path.suffix == ".keras":
            found[name] = fault_tasks.identity(*_weights(path))
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = fault_tasks.identity(*arrays.values())
        else:
            # A report says when it was made, and where the records and the result are.
            text = re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC", b"", path.read_bytes())
            found[name] = fault_tasks.identity(np.frombuffer(text.replace(str(folder).encode(), b""), np.uint8))
    return found


def _weights(path: pathlib.Path) -> list[np.ndarray]:
    import h5py

    arrays: list[np.ndarray] = []
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as stored, h5py.File(stored) as file:
        file.visititems(lambda _, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return arrays


def repeated(lives: list[Life]) -> int:
    """Returns how often something was computed that an earlier process had finished."""
    finished: set[str] = set()
    count = 0
    for life in lives:
        count += sum(name in finished for name in set(life.begun))
        finished |= set(life.finished)
    return count


def unfinished(folder: pathlib.Path) -> int:
    """Returns the bytes of half-written files that kills have left."""
    return sum(path.stat().st_size for path in folder.rglob(".unfinished-*/*"))


def undisturbed(task: str, place: pathlib.Path) -> tuple[Life, dict[str, str]]:
    """Runs a task without any fault."""
    folder = place / "undisturbed"
    shutil.rmtree(folder, ignore_errors=True)
    life = live(task, folder)
    if life.status:
        raise RuntimeError(f"{task} failed: {life.errors}")
    return life, contents(folder)


def kill(task: str, place: pathlib.Path, whole: Life, expected: dict[str, str], row: dict[str, Any]) -> None:
    """Kills a task at random moments and starts it again until it ends, and counts in a row what came of it."""
    folder = place / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    draws = random.Random(f"{SEED.value} {task} {row['runs']}")
    lives: list[Life] = []
    while not lives or lives[-1].status:
        # A kill that comes late finds a task that has ended, and does not count.
        finished = {name for life in lives for name in life.finished}
        # Nor does one that comes before the task has done anything new, for ever.
        is_stuck = bool(lives) and not set(lives[-1].finished) - {name for life in lives[:-1] for name in life.finished}
        left = 1.0 if is_stuck else max(_LEAST_LEFT, 1 - len(finished) / len(set(whole.begun)))
        lives.append(live(task, folder, draws.uniform(0.02, 1.0) * left * whole.seconds))
        row["kills"] += lives[-1].status == -signal.SIGKILL
        if lives[-1].status not in (0, -signal.SIGKILL):
            row["failed"].append(lives[-1].errors[-500:])
            break
    found = contents(folder)
    row["runs"] += 1
    row["equal"] += found == expected
    row["differing"] += sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    row["computed_again"] += repeated(lives)
    row["under_way"] += sum(len(life.begun) - len(life.finished) for life in lives)
    row["most_bytes_of_halves"] = max(row["most_bytes_of_halves"], unfinished(folder))


_NO_KILLS = {"kills": 0, "runs": 0, "equal": 0, "computed_again": 0, "under_way": 0, "most_bytes_of_halves": 0}


def _told(life: Life, task: str) -> str:
    """Returns how a task ended with a full disk: "one line", or what else."""
    if life.status == 0:
        return "ended"
    if life.status != 2:
        return f"status {life.status}"
    # Warnings and the traceback of a call come before it.
    last = life.errors.strip().splitlines()[-1]
    is_clear = last.startswith("tfmiaq: ") and len(last) < 1000 and re.search("space|full|too large", last, re.I)
    traces = "Traceback" in life.errors if task.startswith("tfmiaq ") else False
    return "one line" if is_clear and not traces else f"unclear: {last[:300]}"


def fill(task: str, place: pathlib.Path, expected: dict[str, str]) -> dict[str, Any]:
    """Runs a task on a full disk of several sizes, and again with space."""
    row: dict[str, Any] = {"limits": 0, "ends": {}, "equal": 0, "computed_again": 0, "differing": []}
    ends: collections.Counter[str] = collections.Counter()
    disks: list[Any] = [*_FILE_SIZES, *(_DISK_SIZES if _can_mount(place) else ())]
    row["tmpfs"] = len(disks) > len(_FILE_SIZES)
    for limit in disks:
        folder = place / "full"
        shutil.rmtree(folder, ignore_errors=True)
        on_disk = isinstance(limit, str)
        if on_disk:
            _mount(folder, limit)
        try:
            lives = [live(task, folder, file_size=None if on_disk else limit)]
            ends[_told(lives[0], task)] += 1
            if on_disk:
                subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
            if lives[0].status:
                lives.append(live(task, folder))
            found = contents(folder)
        finally:
            if on_disk:
                subprocess.run(["umount", str(folder)], check=True)
        row["limits"] += 1
        row["equal"] += found == expected
        row["differing"] += sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        row["computed_again"] += repeated(lives)
        print(task, limit, _told(lives[0], task), f"computed again {repeated(lives)}", flush=True)
    row["ends"] = dict(ends)
    return row


def _mount(folder: pathlib.Path, size: str) -> None:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)


def _can_mount(place: pathlib.Path) -> bool:
    folder = place / "tmpfs"
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def table(results: dict[str, Any]) -> list[str]:
    """Returns the tables of docs/reliability.md."""
    lines = [
        "| task | kills | runs to the end | equal to the undisturbed | finished and computed again |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = results["tasks"].items()
    for name, row in rows:
        part = row["kills"]
        # A run that was stopped may have come to no kill of a task yet.
        if not part["kills"]:
            continue
        lines.append(f"| `{name}` | {part['kills']} | {part['runs']} | {part['equal']} | {part['computed_again']} |")
    lines += [
        "",
        "| task | sizes of a full disk | ended all the same | one line | else | equal with space | computed again |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows:
        part, ends = row["full"], row["full"]["ends"]
        ended, told = ends.get("ended", 0), ends.get("one line", 0)
        rest = sum(ends.values()) - ended - told
        lines.append(
            f"| `{name}` | {part['limits']} | {ended} | {told} | {rest} | {part['equal']} | {part['computed_again']} |"
        )
    return lines


def main(argv: list[str]) -> None:
    del argv
    path = pathlib.Path(RESULTS.value)
    command = f"python benchmarks/faults.py --kills={KILLS.value}"
    results: dict[str, Any] = {"command": command, "seed": SEED.value, "tasks": {}}
    if path.exists():
        results = json.loads(path.read_text())
    if WRITE.value:
        if not results["tasks"]:
            raise ValueError(f"{path} has no results yet. Run without --write first.")
        write_part(_PAGE, "faults", table(results))
        return
    import tfmiaq
    import tfmiaq.cli.commands
    import tfmiaq.defence  # noqa: F401

    fault_tasks.watch()
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        inputs = os.fork()
        if not inputs:
            fault_tasks.make_inputs(place)
            os._exit(0)
        if os.waitpid(inputs, 0)[1]:
            raise RuntimeError("The inputs could not be made.")
        known: dict[str, tuple[Life, dict[str, str]]] = {}
        for so_far in range(_TURN, KILLS.value + _TURN, _TURN):
            wanted = min(so_far, KILLS.value)
            for task in TASKS.value:
                row = results["tasks"].setdefault(task, {})
                kills = row.setdefault("kills", {**_NO_KILLS, "failed": [], "differing": []})
                if "full" in row and kills["kills"] >= wanted:
                    continue
                if task not in known:
                    life, expected = known[task] = undisturbed(task, place)
                    row["cpu_seconds"] = round(life.seconds, 1)
                    row["trainings_and_scores"] = len(life.begun)
                    row["twice_undisturbed"] = len(life.begun) - len(set(life.begun))
                life, expected = known[task]
                while kills["kills"] < wanted:
                    kill(task, place, life, expected, kills)
                    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                if "full" not in row:
                    row["full"] = fill(task, place, expected)
                used = resource.getrusage(resource.RUSAGE_CHILDREN)
                print(task, json.dumps(row), f"{used.ru_utime + used.ru_stime:.0f} s", flush=True)
                path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
