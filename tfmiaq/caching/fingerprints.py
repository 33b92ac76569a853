"""Hashes of training pipelines: the same code on the same values has the same hash in another process."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from typing import Any

import numpy as np

_NO_VALUES = ("__dict__", "__weakref__")


def fingerprint(*things: Any) -> str:
    """Returns a hash of functions, arrays and plain values.

    A function counts by its name, its code, its defaults, the values that it closes over, and the global functions and
    values of its own modules that it uses, and theirs in turn. The code of installed packages does not count. Objects
    count by `to_json`, `get_config` or their attributes, and those that can be called by their methods too.

    Args:
        *things: Functions, NumPy arrays, strings, numbers, containers, objects.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    _update(digest, things, {})
    return digest.hexdigest()


def _update(digest: Any, thing: Any, seen: dict[int, Any]) -> None:
    digest.update(type(thing).__name__.encode())
    if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
        digest.update(repr(thing).encode())
    elif isinstance(thing, np.ndarray) and thing.dtype != object:
        digest.update(f"{thing.shape}{thing.dtype}".encode())
        digest.update(np.ascontiguousarray(thing).data)
    elif isinstance(thing, (set, frozenset)):
        digest.update("".join(sorted(fingerprint(item) for item in thing)).encode())
    elif id(thing) in seen:
        digest.update(b"again")
    else:
        # The object is kept with its id: another one could get the id of one that is gone.
        seen[id(thing)] = thing
        _update_compound(digest, thing, seen)


def _update_compound(digest: Any, thing: Any, seen: dict[int, Any]) -> None:
    if isinstance(thing, (list, tuple)):
        for item in thing:
            _update(digest, item, seen)
    elif isinstance(thing, dict):
        for key in sorted(thing, key=repr):
            _update(digest, (key, thing[key]), seen)
    elif isinstance(thing, functools.partial):
        _update(digest, [thing.func, thing.args, thing.keywords], seen)
    elif isinstance(thing, types.MethodType):
        _update(digest, [thing.__func__, thing.__self__], seen)
    elif isinstance(thing, types.CodeType):
        _update(digest, [thing.co_code, thing.co_names, thing.co_varnames, *thing.co_consts], seen)
    elif isinstance(thing, types.FunctionType):
        _update_function(digest, thing, seen)
    elif isinstance(thing, (type, types.ModuleType, types.BuiltinFunctionType)):
        # The name alone of a module, not the folder that it is in: a moved environment keeps its cache.
        name = getattr(thing, "__qualname__", thing.__name__)
        digest.update(f"{getattr(thing, '__module__', '')}.{name}".encode())
    elif callable(getattr(thing, "to_json", None)) and not hasattr(thing, "get_weights"):
        digest.update(thing.to_json().encode())
    elif callable(getattr(thing, "get_config", None)):
        _update(digest, thing.get_config(), seen)
        # A Keras model that was never called has no weights yet, and would raise.
        _update(digest, getattr(thing, "get_weights", list)() if getattr(thing, "built", True) else [], seen)
    elif hasattr(thing, "__dict__") or _slots(thing):
        _update(digest, {**_slots(thing), **getattr(thing, "__dict__", {})}, seen)
        if callable(thing):
            _update(digest, _methods(type(thing)), seen)
    else:
        digest.update(type(thing).__qualname__.encode())


def _slots(thing: Any) -> dict[str, Any]:
    """Returns the values that an object keeps in slots, by name."""
    names = [name for owner in type(thing).__mro__ for name in _as_names(vars(owner).get("__slots__", ()))]
    return {name: getattr(thing, name) for name in names if name not in _NO_VALUES and hasattr(thing, name)}


def _as_names(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _methods(kind: type) -> dict[str, Any]:
    """Returns what a callable object may run: its class' `__call__`, and the plain methods that are the user's."""
    found: dict[str, Any] = {}
    for owner in reversed(kind.__mro__):
        for name, member in vars(owner).items():
            inner = getattr(member, "__func__", member)
            if isinstance(inner, types.FunctionType) and not name.startswith("__") and _is_own(inner):
                found[name] = inner
    return {**found, "__call__": kind.__call__}


def _is_own(function: types.FunctionType) -> bool:
    """Returns whether a function is the user's, not a package's."""
    module = function.__module__ or ""
    path = inspect.getsourcefile(function) or ""
    return "site-packages" not in path and not module.startswith("tfmiaq.")


def _update_function(digest: Any, function: types.FunctionType, seen: dict[int, Any]) -> None:
    digest.update(f"{function.__module__}.{function.__qualname__}".encode())
    _update(digest, [function.__defaults__, function.__kwdefaults__], seen)
    for cell in function.__closure__ or ():
        _update(digest, cell.cell_contents, seen)
    if not _is_own(function):
        return
    _update(digest, function.__code__, seen)
    for name in _names(function.__code__):
        if name in function.__globals__:
            _update(digest, (name, function.__globals__[name]), seen)


def _names(code: types.CodeType) -> list[str]:
    """Returns the names that code and the functions inside it look up."""
    inner = [name for constant in code.co_consts if isinstance(constant, types.CodeType) for name in _names(constant)]
    return [*code.co_names, *inner]
