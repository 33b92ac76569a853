"""The door for .keras files of Keras 3, which the Keras of this project does not read: that Keras opens them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import math
from collections.abc import Iterator
from typing import Any, Optional

from tfmiaq.loading.limits import RefusedFileError, check_declared
from tfmiaq.loading.opening import limited

# Modules that a file may name: the public parts of Keras 3, and where it keeps its model classes.
_PARTS = ("layers", "models", "initializers", "regularizers", "constraints", "optimizers", "losses", "metrics")
_MODELS = ("keras.src.models.functional", "keras.src.models.sequential", "keras.src.models.model")
_MODULES = frozenset(("keras", "builtins", *(f"keras.{part}" for part in _PARTS), *_MODELS))
# Where Keras 3 keeps the variables that it has still to initialize.
_WAITING = "uninitialized_variables"
_COMPILED = "compile_config"


def as_keras_2(config: Any, name: str) -> Any:
    """Returns the configuration of a model of Keras 3 with the names that Keras 2 has for the same parts.

    What it names can then be checked as for a file of Keras 2. How the model was compiled is left out: it is not read.

    Args:
        config: What `config.json` of the file holds.
        name: What errors call the file.

    Raises:
        RefusedFileError: It names a module other than the public ones of Keras.
    """
    if isinstance(config, list):
        return [as_keras_2(part, name) for part in config]
    if not isinstance(config, dict):
        return config
    module, kind = config.get("module"), config.get("class_name")
    if module is not None and module not in _MODULES:
        raise RefusedFileError(
            f"load_model: {name} is not opened: it names {module!r:.80}, which is no public part of Keras. trust=True "
            "(--trust) opens it as Keras does, which can run code."
        )
    if kind == "DTypePolicy":
        policy = config.get("config")
        return policy.get("name") if isinstance(policy, dict) else policy
    found = {key: as_keras_2(value, name) for key, value in config.items() if key != _COMPILED}
    if module in _MODELS:
        # Keras 2 names these classes without their modules.
        found["module"] = None
    return found


def open_keras_3(
    path: str,
    name: str,
    version: str,
    config: Any,
    custom_objects: Optional[dict[str, Any]],
    limits: Optional[tuple[int, float]],
) -> Any:
    """Returns the model of a .keras file, of Keras 3 and not compiled; `tfmiaq.quantize_model` takes it.

    Args:
        path: Path of the file, whose configuration has been checked.
        name: What errors call the file.
        version: The Keras that saved it.
        config: What `config.json` of the file holds.
        custom_objects: Classes and functions by the name that the file has for them.
        limits: Bytes that its variables may take in memory, and seconds that it may take to make it; None for a file
            that is trusted.

    Raises:
        RefusedFileError: Variables of more bytes, or another limit of `loading.opening`.
        ValueError: Keras 3 is not installed, or cannot read the file.
    """
    try:
        installed = importlib.metadata.version("keras")
    except importlib.metadata.PackageNotFoundError:
        installed = "none"
    if not installed.startswith("3"):
        raise ValueError(
            f"load_model: {name} was saved by Keras {version}, and keras {installed} is installed. Open it where Keras "
            "3 is, which TensorFlow 2.16 and later bring."
        )
    keras = importlib.import_module("keras")
    try:
        with limited(name, keras.layers.Layer, limits):
            if limits is not None:
                with _shapes_alone():
                    made = keras.saving.deserialize_keras_object(_uncompiled(config), custom_objects=custom_objects)
                    declared = sum(4 * math.prod(variable.shape) for variable in made.variables)
                check_declared(f"load_model: {name}", declared, limits[0], "variables")
            options = {"compile": False, "safe_mode": limits is not None}
            return keras.saving.load_model(path, custom_objects=custom_objects, **options)
    except RefusedFileError:
        raise
    except Exception as error:
        # What Keras meets first in a file that is cut or changed is of any type.
        text = " ".join(str(error).split())
        raise ValueError(
            f"load_model: {name} is damaged, or no model of Keras {installed} ({type(error).__name__}: {text:.300})."
        ) from error


@contextlib.contextmanager
def _shapes_alone() -> Iterator[None]:
    """A scope in which the variables of Keras 3 have shapes and no values, and get none later."""
    common = "keras.src.backend.common"
    state = importlib.import_module(f"{common}.global_state")
    waiting = list(state.get_global_attribute(_WAITING) or [])
    try:
        with importlib.import_module(f"{common}.stateless_scope").StatelessScope(initialize_variables=False):
            yield
    finally:
        # The next scope of Keras would initialize what waits, of whatever size.
        state.set_global_attribute(_WAITING, waiting)


def _uncompiled(config: Any) -> Any:
    return {key: value for key, value in config.items() if key != _COMPILED} if isinstance(config, dict) else config
