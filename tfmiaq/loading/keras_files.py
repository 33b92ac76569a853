"""The door for Keras models: a file is read and judged before Keras sees it, because Keras runs what it names."""

from __future__ import annotations

import os
import pathlib
import sys
import zipfile
from typing import Any, Optional

from tfmiaq.loading.hdf5_child import check_hdf5
from tfmiaq.loading.json_text import parse_json
from tfmiaq.loading.limits import (
    MAX_TEXT_BYTES,
    RefusedFileError,
    bytes_limit,
    check_declared,
    open_zip,
    seconds_limit,
)
from tfmiaq.loading.opening import limited, too_slow

_CONFIG, _METADATA = "config.json", "metadata.json"
_ATTRIBUTES = ("model_config", "training_config")
_FORMS = "a .keras file, an .h5 file, or the folder of a SavedModel"


class UntrustedModelError(RefusedFileError):
    """A model of a form that runs code when it is opened."""


def open_keras_model(
    path: Any,
    *,
    trust: bool = False,
    custom_objects: Optional[dict[str, Any]] = None,
    compile: bool = True,
    imported: bool = False,
    max_bytes: Optional[int] = None,
    max_seconds: Optional[float] = None,
) -> Any:
    """Returns a Keras model from a file, after a check of what the file names.

    The configuration of a .keras or .h5 file is read first. It may name the classes and functions of Keras, tfmot and
    tfmiaq, and what is registered; nothing of the file runs otherwise.

    Args:
        path: Path of a .keras file, an .h5 file, or the folder of a SavedModel.
        trust: Open the file as Keras does, with all that it names. It can run any code. SavedModels and Lambda layers
            take it.
        custom_objects: Classes and functions by the name that the file has for them, as Keras takes them.
        compile: Whether the model is compiled as it was when it was saved.
        imported: As `check_config`.
        max_bytes: Bytes that the file's arrays may take in memory, and the variables of the model that its
            configuration describes; None for `MAX_BYTES`.
        max_seconds: Seconds that Keras may take to make the model; None for `MAX_SECONDS`. There is no limit with
            `trust`.

    Returns:
        The keras.Model; of a .keras file of Keras 3 a model of that Keras, not compiled.

    Raises:
        ForbiddenObjectError: The file names what it may not; a ValueError that lists it.
        UntrustedModelError: A SavedModel, without `trust`; a ValueError.
        TooLargeError: Arrays or variables of more bytes; a ValueError.
        TooMuchWorkError: Another limit of `loading.opening`; a ValueError.
        ValueError: No such file, a damaged one, or one that this Keras cannot read.
    """
    limit = bytes_limit("load_model", max_bytes)
    seconds = seconds_limit("load_model", max_seconds)
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"load_model: Expected the path of a model ({_FORMS}). Received {type(path).__name__}.")
    if not isinstance(trust, bool):
        raise TypeError(f"load_model: Expected trust to be True or False. Received {trust!r:.80}.")
    known = pathlib.Path(path)
    name = repr(str(path))
    if not known.exists():
        raise ValueError(f"load_model: No model at {name}. Expected {_FORMS}.")
    from tfmiaq._backend import keras

    limits = None if trust else (limit, seconds)
    with limited(name, keras.layers.Layer, limits):
        version = _version_of(known, name)
        if version.startswith("3"):
            from tfmiaq.loading.keras3_files import open_keras_3

            if not trust and not imported:
                _check_hdf5(known, name, limit, seconds)
            config = None if trust else _check_keras_3(known, name, limit, custom_objects, imported)
            return open_keras_3(str(known), name, version, config, custom_objects, limits)
        # What this package keeps in a cache is read at once: starting a process takes longer.
        if not trust and not imported:
            _check_hdf5(known, name, limit, seconds)
        is_zip = not trust and _check_file(known, name, limit, custom_objects, imported)
        return _load(str(known), name, custom_objects, compile, not trust, is_zip)


def _check_file(path: pathlib.Path, name: str, limit: int, *allowed: Any) -> bool:
    """Checks a file, and returns whether it is a .keras file. What Keras takes it for is decided as Keras does."""
    import h5py

    from tfmiaq.loading.keras_classes import check_config

    if path.is_dir():
        raise UntrustedModelError(
            f"load_model: {name} is a SavedModel, which runs whatever graph it holds. trust=True (--trust) opens it; "
            "or save the model as .keras."
        )
    if path.suffix == ".keras" and zipfile.is_zipfile(path):
        check_config(_read_zip(path, name, limit), name, *allowed)
        return True
    if not h5py.is_hdf5(path):
        raise ValueError(f"load_model: {name} is damaged, or no Keras model. Expected {_FORMS}.")
    check_config(_read_hdf5(path, name, limit), name, *allowed)
    return False


def _check_hdf5(path: pathlib.Path, name: str, limit: int, seconds: float) -> None:
    """Raises an error if HDF5 cannot read what the file has in its form; a file that has none is left as it is."""
    import h5py

    members: list[tuple[Optional[str], int]] = []
    if path.suffix == ".keras" and zipfile.is_zipfile(path):
        with open_zip(path, name, limit) as archive:
            members = [(one.filename, one.file_size) for one in archive.infolist() if one.filename.endswith(".h5")]
    elif path.is_file() and h5py.is_hdf5(path):
        members = [(None, path.stat().st_size)]
    for member, size in members:
        try:
            fault = check_hdf5(str(path), member, size, limit, seconds)
        except TimeoutError:
            raise too_slow(name, seconds) from None
        if fault:
            raise ValueError(f"load_model: {name} is damaged ({fault}).")


def _version_of(path: pathlib.Path, name: str) -> str:
    """Returns the version of the Keras that saved a .keras file; an empty text for other files."""
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        return ""
    with open_zip(path, name, sys.maxsize) as archive:
        return _version(archive, name) if _METADATA in archive.namelist() else ""


def _check_keras_3(path: pathlib.Path, name: str, limit: int, *allowed: Any) -> Any:
    """Returns the configuration of a .keras file of Keras 3, after a check of what it names."""
    from tfmiaq.loading.keras3_files import as_keras_2
    from tfmiaq.loading.keras_classes import check_config

    config = _read_zip(path, name, limit)
    check_config(as_keras_2(config, name), name, *allowed)
    return config


def _read_zip(path: pathlib.Path, name: str, limit: int) -> Any:
    """Returns the configuration of a .keras file, whose members and weights keep within the limit."""
    import h5py

    with open_zip(path, name, limit) as archive:
        members = set(archive.namelist())
        if _CONFIG not in members:
            raise ValueError(f"load_model: {name} is damaged, or no Keras model: it has no {_CONFIG}.")
        config = parse_json(_read_member(archive, _CONFIG, name), f"{_CONFIG} in {name}")
        for member in sorted(members):
            if member.endswith(".h5"):
                try:
                    with archive.open(member) as stream, h5py.File(stream, "r") as file:
                        _check_arrays(file, f"{member} in {name}", limit)
                except RefusedFileError:
                    raise
                except (zipfile.BadZipFile, *_DAMAGES) as error:
                    raise _damaged(name, error) from error
    return config


def _read_member(archive: zipfile.ZipFile, member: str, name: str) -> bytes:
    check_declared(f"{member} in {name}", archive.getinfo(member).file_size, MAX_TEXT_BYTES, "a text")
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, *_DAMAGES) as error:
        raise _damaged(name, error) from error


def _version(archive: zipfile.ZipFile, name: str) -> str:
    metadata = parse_json(_read_member(archive, _METADATA, name), f"{_METADATA} in {name}")
    return str(metadata.get("keras_version", "")) if isinstance(metadata, dict) else ""


def _read_hdf5(path: pathlib.Path, name: str, limit: int) -> Any:
    """Returns the configurations of an .h5 file, whose arrays keep within the limit."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            texts = {attribute: file.attrs.get(attribute) for attribute in _ATTRIBUTES}
            version = str(file.attrs.get("keras_version", ""))
            _check_arrays(file, name, limit)
    except RefusedFileError:
        raise
    except _DAMAGES as error:
        raise _damaged(name, error) from error
    if version.startswith("3"):
        raise ValueError(
            f"load_model: {name} was saved by Keras {version} in the older format. Save it as .keras there, or pass "
            "the model itself in Python."
        )
    if texts["model_config"] is None:
        raise ValueError(f"load_model: {name} is no Keras model: it has no model_config. Weights alone are none.")
    found = {}
    for attribute, text in texts.items():
        if text is not None and not isinstance(text, (str, bytes)):
            raise ValueError(f"load_model: {name} is damaged: its {attribute} is no text.")
        found[attribute] = None if text is None else parse_json(text, f"{attribute} in {name}")
    return found


def _check_arrays(file: Any, name: str, limit: int) -> None:
    """Raises an error if the arrays of an HDF5 file lie in other files, or are above the limit in sum."""
    import h5py

    declared, waiting = 0, [file]
    seen: set[Any] = set()
    while waiting:
        group = waiting.pop()
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise UntrustedModelError(f"load_model: {name} reads another file, {link.filename!r:.120}.")
            node = group.get(key)
            if isinstance(node, h5py.Group):
                if node.id not in seen:
                    seen.add(node.id)
                    waiting.append(node)
            elif isinstance(node, h5py.Dataset):
                if node.external or node.is_virtual:
                    raise UntrustedModelError(
                        f"load_model: {name} reads another file for the array {node.name!r:.120}."
                    )
                declared += node.nbytes
                check_declared(f"load_model: {name}", declared, limit)


def _load(path: str, name: str, custom_objects: Any, compile: bool, is_safe: bool, is_zip: bool) -> Any:
    from tfmiaq._backend import keras

    more = {"safe_mode": is_safe} if is_zip or path.endswith(".keras") else {}
    try:
        return keras.models.load_model(path, custom_objects=custom_objects, compile=compile, **more)
    except Exception as error:
        refused = _refusal(error)
        if refused is not None:
            raise refused from error
        # What Keras meets first in a file that is cut or changed is of any type.
        raise ValueError(
            f"load_model: {name} is damaged, or no model of this Keras ({type(error).__name__}: {_short(error)})."
        ) from error


def _refusal(error: Optional[BaseException]) -> Optional[RefusedFileError]:
    """Returns the refusal that an error of Keras goes back to, or None."""
    while error is not None and not isinstance(error, RefusedFileError):
        error = error.__cause__ or error.__context__
    return error


def _damaged(name: str, error: Exception) -> ValueError:
    return ValueError(f"load_model: {name} is damaged ({type(error).__name__}: {_short(error)}).")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


# Errors of h5py and zlib about bytes that are not what they should be.
_DAMAGES = (OSError, EOFError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, NotImplementedError)
