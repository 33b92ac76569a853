"""What was audited, when and with what: the lines by which a report is traced back."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import pathlib
import platform
from importlib import metadata
from typing import Any

from tfmiaq._version import __version__

_PACKAGES = ("numpy", "scikit-learn", "scipy", "tensorflow")


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a report is of.

    Attributes:
        model: Name of the target: its file's, its own, or its type's.
        sha256: SHA-256 of the file, or of the weights of a model in memory, in hexadecimal; empty where there is
            neither.
        date: When the audit ran, in UTC, as 2026-03-31 14:05 UTC.
        versions: Versions of tfmiaq, Python and the packages that figures depend on.
    """

    model: str = ""
    sha256: str = ""
    date: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, target: Any) -> Provenance:
        """Returns the provenance of a target of `audit`, as of now."""
        return cls(_name(target), _hash(target), _now(), _versions())

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Provenance:
        """Returns the provenance of the JSON values that `dataclasses.asdict` gives."""
        return cls(**content)

    def of_file(self, path: Any) -> Provenance:
        """Returns the same with the name and the hash of the file, or of the folder, that the target came from."""
        path = pathlib.Path(path)
        return dataclasses.replace(self, model=path.name, sha256=_hash_of_path(path))

    def lines(self) -> list[tuple[str, str]]:
        """Returns names and values to show."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return [
            ("model", self.model or "not named"),
            ("SHA-256", self.sha256 or "none: the target is a function or saved outputs"),
            ("date", self.date),
            ("versions", versions),
        ]


def _name(target: Any) -> str:
    if isinstance(target, (tuple, list)):
        return "saved outputs"
    if isinstance(target, (bytes, bytearray, memoryview)):
        return "a .tflite in memory"
    if isinstance(target, (str, os.PathLike)):
        return pathlib.Path(target).name
    name = getattr(target, "name", None) or getattr(target, "__name__", None)
    return str(name) if name and name != "<lambda>" else type(target).__name__


def _hash(target: Any) -> str:
    if isinstance(target, (bytes, bytearray, memoryview)):
        return hashlib.sha256(target).hexdigest()
    if isinstance(target, (str, os.PathLike)):
        return _hash_of_path(pathlib.Path(target))
    if not hasattr(target, "get_weights"):
        return ""
    found = hashlib.sha256()
    for weights in target.get_weights():
        found.update(weights.tobytes())
    return found.hexdigest()


def _hash_of_path(path: pathlib.Path) -> str:
    """Returns the hash of a file, or of a folder's files in the order of their names; empty without either."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    if not files:
        return ""
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                found.update(chunk)
    return found.hexdigest()


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _versions() -> dict[str, str]:
    found = {"tfmiaq": __version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # Such as tensorflow under another distribution's name.
    return found
