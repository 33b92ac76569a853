"""Rebuilds Keras 3 models layer by layer in Keras 2, where tfmot works.

tf_keras reads no file of Keras 3. It does read the configuration of single layers, after some names are changed. The
graph is built anew, and the outputs of both models are compared before the rebuilt one is used.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import keras, tf
from tfmiaq.quantization.transformations import copying
from tfmiaq.quantization.transformations.parts import ActivityLoss, SummedRegularizer

_layers = keras.layers
_RECORDS = 4
_TOLERANCE = 1e-3
# Arguments of a constructor with another name in Keras 2, by layer type.
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
# Arguments that change nothing here, or that are handled by themselves.
_WITHOUT_EFFECT = ("activity_regularizer", "build_config", "data_format", "seed")


def _hard_sigmoid(x: Any, name: str) -> Any:
    """Returns Keras 3's hard sigmoid: Keras 2's has another slope."""
    return _layers.ReLU(6.0, name=f"{name}_relu6")(x + 3.0) * (1.0 / 6.0)


# Activations that Keras 2 does not have, or defines differently: called with a tensor and the name of the layer.
_ACTIVATIONS: dict[str, Callable[[Any, str], Any]] = {
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": lambda x, name: x * _hard_sigmoid(x, name),
    "hard_swish": lambda x, name: x * _hard_sigmoid(x, name),
    "relu6": lambda x, name: _layers.ReLU(6.0, name=f"{name}_relu6")(x),
    "leaky_relu": lambda x, name: _layers.LeakyReLU(0.2, name=f"{name}_leaky")(x),
}
# Keras 3's operations on tensors, by the name of their type.
_OPERATIONS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "Add": lambda op: lambda x, y: x + y,
    "Subtract": lambda op: lambda x, y: x - y,
    "Multiply": lambda op: lambda x, y: x * y,
    "Divide": lambda op: lambda x, y: x / y,
    "TrueDivide": lambda op: lambda x, y: x / y,
    "GetItem": lambda op: lambda x, key: x[key],
    "Reshape": lambda op: _layers.Reshape(tuple(op.newshape[1:]), name=op.name),
    "Transpose": lambda op: lambda x: tf.transpose(x, op.axes),
    "ExpandDims": lambda op: lambda x: tf.expand_dims(x, op.axis),
    "Squeeze": lambda op: lambda x: tf.squeeze(x, op.axis),
    "Concatenate": lambda op: lambda xs: _layers.Concatenate(axis=op.axis, name=op.name)(xs),
    "Mean": lambda op: lambda x: tf.reduce_mean(x, op.axis, op.keepdims),
    "NotEqual": lambda op: lambda x, y: tf.not_equal(x, tf.cast(y, x.dtype)),
    "Any": lambda op: lambda x: tf.reduce_any(x, op.axis, op.keepdims),
    "Relu": lambda op: _layers.ReLU(name=op.name),
    "Relu6": lambda op: _layers.ReLU(6.0, name=op.name),
    "Sigmoid": lambda op: _layers.Activation("sigmoid", name=op.name),
    "Tanh": lambda op: _layers.Activation("tanh", name=op.name),
    "Silu": lambda op: _layers.Activation("swish", name=op.name),
    "Softmax": lambda op: _layers.Softmax(op.axis, name=op.name),
    "HardSigmoid": lambda op: lambda x: _hard_sigmoid(x, op.name),
    "HardSilu": lambda op: lambda x: _ACTIVATIONS["hard_silu"](x, op.name),
}


class _Translator:
    """Makes Keras 2 twins of Keras 3 layers; each layer gets one, however often it is called."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._twins: dict[int, Callable[..., Any]] = {}
        self._weights: list[tuple[Any, Any]] = []

    def model(self, original: Any) -> Any:
        """Returns a Keras 2 model of the same graph, its weights not yet set."""
        functional = _functional(original)
        inputs = [
            keras.Input(batch_shape=tuple(tensor.shape), dtype=str(tensor.dtype), name=tensor.name.split(":")[0])
            for tensor in functional.inputs
        ]
        needed = {id(node) for node in _needed(functional)}
        values = {id(tensor): twin for tensor, twin in zip(functional.inputs, inputs)}
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if not node.operation or node.is_input or id(node) not in needed:
                    continue
                args, kwargs = node.arguments.fill_in(values)
                kwargs = {key: value for key, value in kwargs.items() if key not in _implicit_masks(node)}
                outputs = self._call(node, args, kwargs)
                values.update({id(t): twin for t, twin in zip(node.outputs, tf.nest.flatten(outputs))})
        outputs = [values[id(tensor)] for tensor in functional.outputs]
        model = keras.Model(
            tf.nest.pack_sequence_as(_plain(functional._inputs_struct), inputs),
            tf.nest.pack_sequence_as(_plain(functional._outputs_struct), outputs),
            name=original.name,
        )
        # A frozen model's layers are twins that may be called elsewhere: `flatten` reads the model's own flag.
        model._trainable = original.trainable
        return model

    def copy_weights(self) -> None:
        """Sets the weights of all twins, which their calls have built."""
        for original, twin in self._weights:
            weights = original.get_weights()
            if [w.shape for w in weights] != [w.shape for w in twin.get_weights()]:
                raise ValueError(
                    f"quantize_model: Layer {original.name!r} ({type(original).__name__}) has weights of shapes "
                    f"{[w.shape for w in weights]} in Keras 3 and {[w.shape for w in twin.get_weights()]} in Keras 2."
                )
            # The order of weights is that of Keras 3 while nothing is frozen.
            inside = [(one, one.trainable) for one in twin._flatten_layers()]
            twin.trainable = True
            twin.set_weights(weights)
            for one, trainable in inside:
                one._trainable = trainable
            copying.copy_trainable(twin, original)
            if isinstance(twin, _layers.Normalization):
                twin.finalize_state()

    def _call(self, node: Any, args: tuple, kwargs: dict) -> Any:
        operation = node.operation
        if id(operation) not in self._twins:
            self._twins[id(operation)] = self._twin(operation)
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        try:
            return self._twins[id(operation)](*args, **kwargs)
        except _NoTwin:
            # The graph goes on with tensors of the right shape, so that every fault is found at once.
            return [keras.Input(batch_shape=tuple(t.shape), dtype=str(t.dtype)) for t in node.outputs]

    def _twin(self, operation: Any) -> Callable[..., Any]:
        kind = type(operation).__name__
        if hasattr(operation, "_nodes_by_depth") or hasattr(operation, "_functional"):
            return self.model(operation)
        twin = self._layer(operation) if hasattr(operation, "get_weights") else None
        if twin is None and kind in _OPERATIONS:
            twin = _OPERATIONS[kind](operation)
        if twin is None:
            self.faults.append(f"  {operation.name} ({kind})")
            return _refuse
        return twin

    def _layer(self, layer: Any) -> Optional[Callable[..., Any]]:
        kind = getattr(_layers, type(layer).__name__, None)
        if kind is None or type(layer).__module__.partition(".")[0] != "keras":
            return None
        config = layer.get_config()
        activation = config.get("activation")
        activation = activation if isinstance(activation, str) else ""
        try:
            config = _known(kind, type(layer), config)
            if activation in _ACTIVATIONS:
                config["activation"] = "linear"
            # MultiHeadAttention.from_config needs shapes, which Keras 3 does not write.
            make = (lambda c: kind(**c)) if kind is _layers.MultiHeadAttention else kind.from_config
            twin = make(config)
        except (TypeError, ValueError) as error:
            self.faults.append(f"  {layer.name} ({kind.__name__}): {error}")
            return _refuse
        if kind is _layers.ActivityRegularization:
            return _activity_loss(layer, twin, take=True)
        if layer.get_weights():
            self._weights.append((layer, twin))
        if activation not in _ACTIVATIONS:
            _activity_loss(layer, twin)
            return twin
        activate, name = _ACTIVATIONS[activation], layer.name
        lost = _activity_loss(layer, twin, take=True)
        if isinstance(twin, _layers.Activation):
            return lambda x: lost(activate(x, name))
        return lambda *args, **kwargs: lost(activate(twin(*args, **kwargs), name))


def _activity_loss(layer: Any, twin: Any, take: bool = False) -> Callable[[Any], Any]:
    """Gives a twin the activity regularizer of a layer, or with `take` returns a layer that adds its loss instead."""
    regularizer = getattr(layer, "activity_regularizer", None)
    if regularizer is None:
        return lambda tensor: tensor
    translated = keras.regularizers.get(_translated(_serialized(regularizer)))
    if _counts_in_full():
        translated = SummedRegularizer(translated)
    twin._activity_regularizer = None if take else translated
    return ActivityLoss(translated, name=f"{layer.name}_loss") if take else lambda tensor: tensor


def _serialized(regularizer: Any) -> dict[str, Any]:
    return {"class_name": type(regularizer).__name__, "config": regularizer.get_config()}


@functools.cache
def _counts_in_full() -> bool:
    """Returns whether this Keras 3 adds up the activity losses of the records of a batch, instead of their mean."""
    layers, regularizers = (importlib.import_module(f"keras.{name}") for name in ("layers", "regularizers"))
    probe = layers.Identity(activity_regularizer=regularizers.L1(1.0))
    probe(np.ones((2, 1), np.float32))
    return float(probe.losses[0]) > 1.5


class _NoTwin(Exception):
    """A layer without a twin was called."""


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise _NoTwin


def _functional(model: Any) -> Any:
    """Returns the graph of a Sequential or Functional model.

    Raises:
        ValueError: A model that is not built, or is none of both.
    """
    functional = getattr(model, "_functional", model)
    if not getattr(model, "built", True) or functional is None:
        raise ValueError(
            f"quantize_model: Model {model.name!r} is not built. Call model.build(input_shape), or begin it with an "
            "Input, before it is quantized."
        )
    if not hasattr(functional, "_nodes_by_depth"):
        raise ValueError(
            f"quantize_model: Expected a Sequential or Functional model. Model {model.name!r} of type "
            f"{type(model).__name__} is subclassed: rebuild it with the functional API."
        )
    return functional


def _implicit_masks(node: Any) -> set[str]:
    """Returns the arguments of a call that hold the masks of its inputs: Keras 2 passes masks on by itself."""
    arguments = node.arguments
    masks = {id(getattr(tensor, "_keras_mask", None)) for tensor in arguments.keras_tensors} - {id(None)}
    return {key for key, value in arguments.kwargs.items() if id(value) in masks}


def _needed(functional: Any) -> list[Any]:
    """Returns the nodes that outputs need; those that compute masks, which Keras 2 does by itself, are left out."""
    found: dict[int, Any] = {}
    ahead = list(functional.outputs)
    while ahead:
        history = ahead.pop()._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) not in found and not node.is_input:
            found[id(node)] = node
            masks = {id(node.arguments.kwargs[key]) for key in _implicit_masks(node)}
            ahead += [tensor for tensor in node.arguments.keras_tensors if id(tensor) not in masks]
    return list(found.values())


def _plain(structure: Any) -> Any:
    """Returns a structure of tensors as TensorFlow packs it."""
    if isinstance(structure, dict):
        return {key: _plain(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [_plain(value) for value in structure]
    return 0


def _known(kind: Any, original: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration of Keras 3 with the arguments that a class takes in Keras 2.

    Args:
        kind: The class in Keras 2.
        original: The class in Keras 3.
        config: What its `get_config` returned.

    Raises:
        ValueError: An argument that Keras 2 does not have, and that is not at its default.
    """
    renamed = _RENAMED.get(kind.__name__, {})
    names = set(inspect.signature(kind.__init__).parameters)
    if issubclass(kind, _layers.Layer):
        names |= {"name", "trainable", "dtype"}
    if issubclass(kind, _layers.RNN):
        names.add("zero_output_for_mask")
    defaults = {key: parameter.default for key, parameter in inspect.signature(original.__init__).parameters.items()}
    known, lost = {}, []
    for key, value in config.items():
        if renamed.get(key, key) in names:
            known[renamed.get(key, key)] = _translated(value)
        elif key not in _WITHOUT_EFFECT and value not in (None, False, "auto") and value != defaults.get(key):
            lost.append(f"{key}={value!r:.80}")
    if lost:
        raise ValueError(f"{kind.__name__} has no argument {', '.join(lost)} in Keras 2.")
    return known


def _translated(value: Any) -> Any:
    """Returns a value of a Keras 3 configuration with the names of Keras 2."""
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy":
            return value["config"]["name"]
        if value.get("class_name") == "__tuple__":
            return tuple(map(_translated, value["items"]))
        kinds = _classes(value.get("class_name")) if isinstance(value.get("config"), dict) else None
        if kinds is not None:
            inner = {"class_name": value["class_name"], "config": _known(*kinds, value["config"])}
            # An initializer is found by its module, a layer by its name.
            return inner if issubclass(kinds[0], _layers.Layer) else {**value, **inner}
        return {key: _translated(item) for key, item in value.items() if key != "build_config"}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_translated, value))
    return value


def _classes(name: Any) -> Optional[tuple[Any, Any]]:
    """Returns the classes of a name in Keras 2 and in Keras 3, or None where one of them has none."""
    for group in ("layers", "initializers", "regularizers", "constraints"):
        kind = getattr(getattr(keras, group), str(name), None)
        original = getattr(importlib.import_module(f"keras.{group}"), str(name), None)
        if inspect.isclass(kind) and inspect.isclass(original):
            return kind, original
    return None


def rebuild(model: Any) -> Any:
    """Returns a Keras 2 model of the same layers, weights and outputs as a Keras 3 model.

    Args:
        model: A built Sequential or Functional Keras 3 model.

    Returns:
        The Keras 2 model.

    Raises:
        ValueError: A model that is not built or is subclassed; layers that Keras 2 does not have, all of them listed;
            outputs that differ from those of the original on random records.
    """
    translator = _Translator()
    try:
        twin = translator.model(model)
    finally:
        if translator.faults:
            raise ValueError(
                "\n".join(
                    [
                        f"quantize_model: Keras 2 has no twin of these layers of the Keras 3 model {model.name!r}:",
                        *translator.faults,
                        "Rebuild the model without them, or with tf_keras ('import tf_keras as keras').",
                    ]
                )
            )
    translator.copy_weights()
    _compare(model, twin)
    return twin


def _compare(model: Any, twin: Any) -> None:
    generator = np.random.default_rng(0)
    records = [
        generator.integers(0, 2, (_RECORDS, *[size or 8 for size in tensor.shape[1:]])).astype(str(tensor.dtype.name))
        if tensor.dtype.is_integer
        else generator.normal(size=(_RECORDS, *[size or 8 for size in tensor.shape[1:]])).astype(np.float32)
        for tensor in twin.inputs
    ]
    expected, found = (
        tf.nest.flatten(m.predict_on_batch(records[0] if len(records) == 1 else records)) for m in (model, twin)
    )
    for one, other in zip(expected, found):
        scale = max(1.0, float(np.abs(one).max()))
        difference = float(np.abs(np.asarray(one) - np.asarray(other)).max())
        if not difference <= _TOLERANCE * scale:
            raise ValueError(
                f"quantize_model: Rebuilt in Keras 2, the Keras 3 model {model.name!r} gives other outputs, by up to "
                f"{difference:.3g}. Rebuild it with tf_keras ('import tf_keras as keras') and copy the weights."
            )
