"""Which objects a Keras file may name: Keras makes what its configuration says, functions of any module among them."""

from __future__ import annotations

import difflib
import importlib
import inspect
import itertools
import sys
from collections.abc import Iterator
from typing import Any, Optional

from tfmiaq._backend import keras
from tfmiaq.loading.limits import RefusedFileError

# Roots of modules whose classes a file may name. Others come in by registration alone.
_KERAS = ("keras", "tf_keras")
_OWN = ("tensorflow_model_optimization", "tfmiaq")
# Parts of Keras that hold what a model is made of. Its functions come from the second line alone.
_PARTS = ("layers", "models", "initializers", "regularizers", "constraints", "optimizers", "losses", "metrics")
_OF_FUNCTIONS = ("activations", "losses", "metrics", "initializers", "regularizers", "constraints")
_NOT_ALLOWED = {
    "Lambda": "runs code that the file holds",
    "TFSMLayer": "runs a SavedModel from another path",
    "TensorFlowOpLayer": "runs any operation of TensorFlow, those on files among them",
    "ClassMethod": "calls any method of TensorFlow",
    "TorchModuleWrapper": "unpickles an object that the file holds",
    "JaxLayer": "runs code that the file holds",
    "FlaxLayer": "runs code that the file holds",
}
# Functions of TensorFlow that layers of a functional model may be (`TFOpLambda`): arithmetic, and nothing that reads,
# writes, loads or calls.
_TENSOR_PARTS = ("__operators__", "bitwise", "image", "keras.activations", "linalg", "math", "nn", "quantization")
_TENSOR_FUNCTIONS = frozenset(
    {
        *("argsort", "bitcast", "boolean_mask", "broadcast_dynamic_shape", "broadcast_static_shape", "broadcast_to"),
        *("cast", "clip_by_global_norm", "clip_by_norm", "clip_by_value", "concat", "convert_to_tensor"),
        *("dynamic_partition", "dynamic_stitch", "einsum", "ensure_shape", "expand_dims", "eye", "fill", "gather"),
        *(
            "gather_nd",
            "grad_pass_through",
            "identity",
            "identity_n",
            "linspace",
            "meshgrid",
            "norm",
            "one_hot",
            "ones",
        ),
        *("ones_like", "pad", "parallel_stack", "range", "rank", "realdiv", "repeat", "reshape", "reverse"),
        *(
            "reverse_sequence",
            "roll",
            "scatter_nd",
            "searchsorted",
            "sequence_mask",
            "shape",
            "shape_n",
            "size",
            "slice",
        ),
        *("sort", "space_to_batch", "batch_to_space", "split", "squeeze", "stack", "stop_gradient", "strided_slice"),
        *("tensor_scatter_nd_add", "tensor_scatter_nd_max", "tensor_scatter_nd_min", "tensor_scatter_nd_sub"),
        *("tensor_scatter_nd_update", "tensordot", "tile", "transpose", "truncatediv", "truncatemod", "unique"),
        *("unravel_index", "unstack", "where", "zeros", "zeros_like"),
    }
)
_BACKEND_FUNCTIONS = frozenset(
    {
        *("abs", "all", "any", "argmax", "argmin", "batch_dot", "batch_flatten", "binary_crossentropy", "cast"),
        *("categorical_crossentropy", "clip", "concatenate", "cos", "cumprod", "cumsum", "dot", "elu", "equal", "exp"),
        *(
            "expand_dims",
            "eye",
            "flatten",
            "gather",
            "greater",
            "greater_equal",
            "hard_sigmoid",
            "l2_normalize",
            "less",
        ),
        *(
            "less_equal",
            "log",
            "max",
            "maximum",
            "mean",
            "min",
            "minimum",
            "not_equal",
            "one_hot",
            "permute_dimensions",
        ),
        *(
            "pow",
            "prod",
            "relu",
            "repeat",
            "repeat_elements",
            "reshape",
            "resize_images",
            "reverse",
            "round",
            "sigmoid",
        ),
        *("sign", "sin", "softmax", "softplus", "softsign", "sparse_categorical_crossentropy", "sqrt", "square"),
        *("squeeze", "stack", "std", "stop_gradient", "sum", "switch", "tanh", "temporal_padding", "tile", "transpose"),
        *("var", "zeros_like", "ones_like"),
    }
)
# How Keras writes an argument of a layer that is no tensor of the model.
_CONSTANT = "_CONSTANT_VALUE"
# Settings from which Keras makes lists of so many parts, before any variable.
_LISTS = ("ngrams", "num_classes", "num_oov_indices", "num_thresholds")
_LONGEST_LIST = 1_000_000
# They make what a configuration names, or run what they are given.
_NOT_FUNCTIONS = ("get", "deserialize", "serialize")
_SPECIAL = frozenset(
    ("__tensor__", "__keras_tensor__", "__numpy__", "__bytes__", "__tuple__", "__slice__", "__ellipsis__", "__dict__")
)
_SPECS = ("TensorSpec", "RaggedTensorSpec", "SparseTensorSpec", "DType", "TensorShape")
_WAY_OUT = (
    "Register it with keras.utils.register_keras_serializable or pass custom_objects if it is yours; trust=True "
    "(--trust) opens the file as Keras does, which can run code."
)


class ForbiddenObjectError(RefusedFileError):
    """A model's configuration names what it may not, or is none."""


def check_config(
    config: Any, name: str, custom_objects: Optional[dict[str, Any]] = None, imported: bool = False
) -> None:
    """Checks that a model's configuration names nothing but parts of Keras, tfmot and tfmiaq, and what is registered.

    Nothing is made of the configuration, and no module is imported for it but those of tfmiaq, without `__main__`.

    Args:
        config: What `config.json` of a .keras file holds, or `model_config` and `training_config` of an .h5 file.
        name: What errors call the file.
        custom_objects: Classes and functions by the name that the file has for them, as Keras takes them.
        imported: Whether classes of Keras' kinds in modules that are imported already may be named too, as in a cache
            of models of the user's own.

    Raises:
        ForbiddenObjectError: Anything else; the error lists up to five of them by name.
    """
    faults = list(dict.fromkeys(itertools.islice(_faults(config, custom_objects or {}, imported), 100)))
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ForbiddenObjectError(f"{name} is not opened: it names {'; '.join(faults[:5])}{more}. {_WAY_OUT}")


def _faults(config: Any, custom: dict[str, Any], imported: bool) -> Iterator[str]:
    waiting = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            waiting.extend(node.values())
            yield from _faults_of_calls(node)
            if "class_name" in node:
                if not (imported and _is_imported(node)):
                    yield from _faults_of_object(node, custom)
            elif isinstance(node.get("module"), str) and "config" in node:
                yield f"an object of {node['module']!r:.80} without a class"


def _faults_of_calls(node: dict[str, Any]) -> Iterator[str]:
    """Yields the calls of a layer that Keras would run while it opens the file: those on constants alone.

    All others are traced, which takes no memory for their values.
    """
    calls = node.get("inbound_nodes")
    for call in calls if isinstance(calls, list) else ():
        heads = list(_heads(call))
        if _CONSTANT in heads and not any(head != _CONSTANT for head in heads):
            yield f"a call of {node.get('class_name', 'a layer')!r:.80} on constants alone, which runs at once"


def _heads(call: Any) -> Iterator[str]:
    """Yields the names with which lists begin that stand for a tensor: [layer, node, tensor], or a constant."""
    waiting = [call]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
            if len(part) in (3, 4) and isinstance(part[0], str):
                yield part[0]


def _faults_of_object(node: dict[str, Any], custom: dict[str, Any]) -> Iterator[str]:
    kind, module, registered = node["class_name"], node.get("module"), node.get("registered_name")
    if not isinstance(kind, str) or not isinstance(module, (str, type(None))):
        yield f"an object of class {kind!r:.80} in module {module!r:.80}"
        return
    if not isinstance(registered, (str, type(None))):
        yield f"{kind!r:.80} under the name {registered!r:.80}"
        return
    if kind in _SPECIAL:
        return
    if kind == "__typespec__":
        if node.get("spec_name") not in _SPECS or not str(module).startswith("tensorflow.python.") or registered:
            yield f"the type {module}.{node.get('spec_name')!r:.80}"
        return
    if kind == "function":
        yield from _faults_of_function(node.get("config"), module, registered, custom)
        return
    found = _registered(registered, custom) if registered else _registered(kind, custom)
    if found is not None and _root(found) not in _KERAS:
        return
    if registered and registered.rpartition(">")[2] != kind:
        # Keras would look for either name.
        yield f"{_full(kind, module)} under the name {registered!r:.80}"
        return
    candidates = [found] if found is not None else _classes(kind, module)
    if not candidates:
        yield f"{_full(kind, module)}, which is {_unknown(kind, module)}"
        return
    for candidate in candidates:
        reason = _reason_against(candidate)
        if reason:
            yield f"{_full(kind, module)}, which {reason}"
            return
    yield from _faults_of_settings(kind, node.get("config"))


def _is_imported(node: dict[str, Any]) -> bool:
    """Returns whether an object is of a class of Keras' kinds outside Keras, whose module is there already."""
    kind, module = node["class_name"], node.get("module")
    if not isinstance(kind, str) or not isinstance(module, str) or module not in sys.modules:
        return False
    found = vars(sys.modules[module]).get(kind)
    return inspect.isclass(found) and _root(found) not in _KERAS and issubclass(found, _bases())


def _full(kind: str, module: Optional[str]) -> str:
    return f"{module}.{kind}"[:120] if module else kind[:120]


def _unknown(kind: str, module: Optional[str]) -> str:
    root = (module or "").partition(".")[0]
    if module and root not in (*_KERAS, *_OWN):
        return "of no package that may be named"
    near = difflib.get_close_matches(kind, [name for part in _PARTS for name in dir(getattr(keras, part))], n=1)
    return f"no class of this Keras{f' (did the file mean {near[0]!r}?)' if near else ''}"


def _registered(name: Optional[str], custom: dict[str, Any]) -> Any:
    if not isinstance(name, str):
        return None
    return keras.utils.get_registered_object(name, custom_objects=custom)


def _root(found: Any) -> str:
    return str(getattr(found, "__module__", "")).partition(".")[0]


def _classes(kind: str, module: Optional[str]) -> list[Any]:
    """Returns every object that Keras could take for a class of a name: in a module, or in its parts without one."""
    if not kind.isidentifier():
        return []
    if module is None:
        parts = [getattr(keras, part) for part in _PARTS]
        return [vars(part)[kind] for part in parts if inspect.isclass(vars(part).get(kind))] or _internal(kind)
    root = module.partition(".")[0]
    if root not in (*_KERAS, *_OWN):
        return []
    return [found for found in (_public(module, kind), _imported(module, kind)) if found is not None]


def _internal(kind: str) -> list[Any]:
    """Returns the classes that files of the older format name without their module: "Functional", "TFOpLambda"."""
    from tfmiaq._backend import internal_keras_class

    found = internal_keras_class(kind)
    return [] if found is None else [found]


def _public(module: str, name: str) -> Any:
    root, *parts = module.split(".")
    if root not in _KERAS:
        return None
    found: Any = keras
    for part in [*parts, name]:
        found = getattr(found, part, None)
    return found


def _imported(module: str, name: str) -> Any:
    """Returns what a module of the four packages has under a name, as Keras finds it; None if there is none.

    Their own modules of classes are there already. Others run something when they are imported, as a test does.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    own = keras.Model.__module__.partition(".")[0]
    root, _, rest = module.partition(".")
    # A file of one Keras 2 is read by the other: they differ in the name of the package.
    path = f"{own}.{rest}" if root in _KERAS and rest else own if root in _KERAS else module
    found = sys.modules.get(path)
    if found is None and root == "tfmiaq" and not any(part.startswith("_") for part in path.split(".")):
        try:
            found = importlib.import_module(path)
        except ImportError:
            return None
    return None if found is None else vars(found).get(name)


def _reason_against(found: Any) -> str:
    """Returns why an object that was found may not be made; an empty text if it may."""
    name = getattr(found, "__name__", type(found).__name__)
    if not inspect.isclass(found):
        return "is no class"
    if _root(found) not in (*_KERAS, *_OWN):
        return f"comes from {found.__module__}"
    if name in _NOT_ALLOWED:
        return _NOT_ALLOWED[name]
    if _root(found) in _KERAS and not issubclass(found, _bases()):
        return "is no layer, model, initializer, regularizer, constraint, optimizer, loss or metric"
    return "" if hasattr(found, "from_config") else "cannot be made from a configuration"


def _bases() -> tuple[type, ...]:
    optimizers = keras.optimizers
    return (
        keras.layers.Layer,
        keras.initializers.Initializer,
        keras.regularizers.Regularizer,
        keras.constraints.Constraint,
        optimizers.Optimizer,
        optimizers.legacy.Optimizer,
        optimizers.schedules.LearningRateSchedule,
        keras.losses.Loss,
        keras.metrics.Metric,
        keras.mixed_precision.Policy,
    )


def _faults_of_function(name: Any, module: Optional[str], registered: Any, custom: dict[str, Any]) -> Iterator[str]:
    if not isinstance(name, str):
        yield f"a function without a name ({name!r:.80})"
        return
    found = _registered(name, custom)
    if found is not None and _root(found) not in _KERAS:
        return
    if found is not None:
        candidates = [found]
    elif not name.isidentifier():
        candidates = []
    elif module in (None, "builtins"):
        parts = [vars(getattr(keras, part)).get(name) for part in _OF_FUNCTIONS]
        candidates = [part for part in parts if part is not None]
    else:
        of_keras = str(module).partition(".")[0] in _KERAS
        known = [_public(str(module), name), _imported(str(module), name)] if of_keras else []
        candidates = [one for one in known if one is not None]
    if not candidates or not all(_is_plain_function(one) for one in candidates):
        yield f"the function {_full(name, module)}"


def _is_plain_function(found: Any) -> bool:
    """Returns whether an object is one of the functions, or classes in their place, that settings of layers name."""
    if not (inspect.isfunction(found) or (inspect.isclass(found) and issubclass(found, _bases()))):
        return False
    parts = found.__module__.split(".")
    return parts[0] in _KERAS and found.__name__ not in _NOT_FUNCTIONS and bool(set(parts) & set(_OF_FUNCTIONS))


def _faults_of_settings(kind: str, config: Any) -> Iterator[str]:
    """Yields what a layer that is allowed would do with its settings."""
    if not isinstance(config, dict):
        return
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        function = config.get("function")
        if not isinstance(function, str) or not _is_tensor_function(function):
            yield f"the function of TensorFlow {function!r:.80}"
    for name in _LISTS:
        count = config.get(name)
        if not isinstance(count, (int, list, type(None))) or (isinstance(count, int) and count > _LONGEST_LIST):
            yield f"{name}={count!r:.80} of {kind}, of which a list is made; {_LONGEST_LIST:,} are allowed"
    if kind in ("InstanceMethod", "InstanceProperty") and not str(config.get("attr_name", "_"))[:1].isalpha():
        yield f"the attribute {config.get('attr_name')!r:.80}"
    if isinstance(config.get("vocabulary"), str):
        yield f"the file {config['vocabulary']!r:.80}, which a {kind} reads"


def _is_tensor_function(name: str) -> bool:
    name = name.removeprefix("compat.v1.")
    part, _, last = name.rpartition(".")
    if not last.isidentifier():
        return False
    if part in ("", "keras.backend"):
        return last in (_TENSOR_FUNCTIONS if not part else _BACKEND_FUNCTIONS)
    return part in _TENSOR_PARTS and not last.startswith("decode")
