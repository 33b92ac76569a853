"""Reads all of an HDF5 file, in a process of its own: HDF5's C code can crash or never end on a damaged one.

`check_hdf5` runs this file by its path, so that the child imports h5py and nothing of TensorFlow.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import zipfile
from typing import Any, Optional

# Seconds for the start of the process, and bytes of the file that it reads in a further one.
_SECONDS, _BYTES_IN_A_SECOND = 60.0, 10 * 2**20
_ROOM = 2 * 2**30


def check_hdf5(path: str, member: Optional[str], size: int, max_bytes: int, max_seconds: float) -> str:
    """Returns why an HDF5 file cannot be read; an empty text if it can.

    Args:
        path: Path of the file, or of a zip archive.
        member: Name of the HDF5 file in the archive; None for the file itself.
        size: Its bytes.
        max_bytes: Bytes of arrays that are read. What declares more is left to the caller.
        max_seconds: Time that it may take, at most.

    Raises:
        TimeoutError: It takes longer than that, which says nothing of the file.
    """
    seconds = min(max_seconds, _SECONDS + size / _BYTES_IN_A_SECOND)
    command = [sys.executable, "-I", __file__, path, member or "", str(max_bytes)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        if seconds == max_seconds:
            raise TimeoutError from None
        return f"HDF5 does not come to its end in {seconds:.0f} seconds"
    if run.returncode < 0:
        return f"HDF5 died of signal {-run.returncode} on it"
    return " ".join(run.stderr.split())[-300:] if run.returncode else ""


def _read(file: Any, max_bytes: int) -> None:
    """Reads all attributes and arrays that lie in the file itself, once each."""
    import h5py

    waiting, seen, declared = [file], set(), 0
    while waiting:
        node = waiting.pop()
        for name in node.attrs:
            node.attrs[name]
        if isinstance(node, h5py.Group):
            for key in node:
                if isinstance(node.get(key, getlink=True), h5py.ExternalLink):
                    continue
                part = node.get(key)
                if isinstance(part, (h5py.Group, h5py.Dataset)) and part.id not in seen:
                    seen.add(part.id)
                    waiting.append(part)
        elif not node.external and not node.is_virtual:
            declared += node.nbytes
            if declared > max_bytes:
                return
            node[()]


def read(path: str, member: str, max_bytes: int) -> None:
    """Reads an HDF5 file, or one that is a member of a zip archive, up to so many bytes of arrays."""
    import h5py

    with contextlib.ExitStack() as stack:
        source: Any = path
        if member:
            source = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(member))
        _read(stack.enter_context(h5py.File(source, "r")), max_bytes)


if __name__ == "__main__":
    try:
        with contextlib.suppress(ImportError):
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (_ROOM + 2 * int(sys.argv[3]),) * 2)
        read(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except Exception as error:
        # Whatever h5py raises, the parent says it in one line.
        sys.exit(f"{type(error).__name__}: {error}")
