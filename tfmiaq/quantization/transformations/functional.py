"""Reads and rebuilds the graph of layers of a functional Keras 2 model.

Keras has no public way to read it. Keras's private names are used in this module only; those of Keras 3 in
`keras3`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Optional

from tfmiaq._backend import keras, tf
from tfmiaq.quantization.transformations.parts import MaskOf

Call = Callable[[Any, tuple, dict, tuple], Any]
_KERAS = ("keras", "tf_keras", "tensorflow")
# Arguments of a functional model's constructor that its graph gives.
_GRAPH = ("self", "inputs", "outputs", "name", "layers")
_STEPS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "call", "compile", "fit")


def is_functional(model: Any) -> bool:
    """Returns whether a model is a graph of layers: Sequential or Functional, and built."""
    return isinstance(model, keras.Model) and bool(getattr(model, "_is_graph_network", False))


def nested_models(model: Any) -> Iterator[Any]:
    """Yields the models inside a model that are no graphs of layers."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            if is_functional(layer):
                yield from nested_models(layer)
            else:
                yield layer


def activation_name(layer: Any) -> str:
    """Returns the name of a layer's activation, or an empty string."""
    activation = getattr(layer, "activation", None)
    # tfmot puts its own object around the activation of a wrapped layer.
    activation = getattr(activation, "activation", activation)
    if isinstance(activation, keras.layers.Layer):
        return type(activation).__name__
    return str(getattr(activation, "__name__", ""))


def is_keras_tensor(value: Any) -> bool:
    """Returns whether a value is a symbolic tensor of a functional model."""
    return hasattr(value, "_keras_history")


def layer_of(tensor: Any) -> Any:
    """Returns the layer that makes a tensor of a functional model."""
    return tensor._keras_history.layer


def _values_read(node: Any) -> list[Any]:
    """Returns the tensors whose values a call reads; those that only give a mask are left out."""
    if isinstance(node.layer, MaskOf):
        return list(node.keras_inputs[:1])
    masks = {id(mask) for mask in tf.nest.flatten(node.call_kwargs.get("mask"))}
    return [tensor for tensor in node.keras_inputs if id(tensor) not in masks]


def sources(layer: Any) -> list[Any]:
    """Returns the layers that a layer reads, one entry for each tensor of each call; masks are left out."""
    nodes = [node for node in layer.inbound_nodes if not node.is_input]
    return [layer_of(tensor) for node in nodes for tensor in _values_read(node)]


def tensors_read(tensor: Any) -> list[Any]:
    """Returns the tensors that the call reads which makes a tensor of a functional model; masks are left out."""
    history = tensor._keras_history
    node = history.layer.inbound_nodes[history.node_index]
    return [] if node.is_input else _values_read(node)


def readers(layer: Any) -> list[Any]:
    """Returns the layers that read a layer's output, one entry for each call."""
    return [node.layer for node in layer.outbound_nodes]


def called_layers(model: Any) -> list[Any]:
    """Returns the layer of each call in a model's graph, inputs too; none of a model that has no graph."""
    return [node.layer for nodes in getattr(model, "_nodes_by_depth", {}).values() for node in nodes]


def readers_by_call(model: Any, layer: Any) -> dict[int, list[tuple[Any, Any]]]:
    """Returns for each output tensor of a layer the (layer, its output tensor) of each call that reads it.

    Args:
        model: The functional model whose calls count.
        layer: A layer of it.
    """
    nodes = {id(node) for nodes in model._nodes_by_depth.values() for node in nodes}
    calls = [node for node in layer.inbound_nodes if id(node) in nodes]
    found: dict[int, list[tuple[Any, Any]]] = {id(t): [] for node in calls for t in tf.nest.flatten(node.outputs)}
    for node in layer.outbound_nodes:
        for tensor in _values_read(node) if id(node) in nodes else ():
            if id(tensor) in found:
                found[id(tensor)].append((node.layer, tf.nest.flatten(node.outputs)[0]))
    return found


def count_calls(layer: Any) -> int:
    """Returns how often a layer is called."""
    return len(layer.inbound_nodes)


def trained_layers(model: Any) -> Iterator[Any]:
    """Yields the layers of a model that no frozen model around them keeps from training; they may be frozen too."""
    for layer in model.layers if model.trainable else ():
        if is_functional(layer):
            yield from trained_layers(layer)
        else:
            yield layer


def serving_layers(model: Any) -> Iterator[Any]:
    """Yields the layers whose outputs lead to those of a model; what only adds to its loss or metrics is left out."""
    found: dict[int, Any] = {}
    ahead = output_layers(model)
    while ahead:
        layer = ahead.pop()
        if id(layer) not in found:
            found[id(layer)] = layer
            ahead += sources(layer)
    for layer in found.values():
        yield layer
        if is_functional(layer):
            yield from serving_layers(layer)


def has_mask(tensor: Any) -> bool:
    """Returns whether a symbolic tensor carries a mask."""
    return getattr(tensor, "_keras_mask", None) is not None


def reads_mask(layer: Any) -> bool:
    """Returns whether a layer, wrapped or not, computes with a mask in one of its calls."""
    inside = getattr(layer, "layer", layer)
    if "mask" not in inspect.signature(inside.call).parameters:
        return False
    nodes = [node for node in layer.inbound_nodes if not node.is_input]
    masked = any(has_mask(tensor) for node in nodes for tensor in node.keras_inputs)
    return masked or any(node.call_kwargs.get("mask") is not None for node in nodes)


def takes_training(layer: Any) -> bool:
    """Returns whether a layer's `call` has an argument `training`."""
    return bool(layer._expects_training_arg)


def input_layers(model: Any) -> list[Any]:
    """Returns the layer of each of `model.inputs`."""
    return [layer_of(tensor) for tensor in model.inputs]


def output_layers(model: Any) -> list[Any]:
    """Returns the layer that makes each of `model.outputs`."""
    return [layer_of(tensor) for tensor in model.outputs]


def _keys(structure: Any, names: Sequence[str]) -> list[str]:
    if isinstance(structure, dict) and len(structure) == len(names):
        # As `tf.nest` flattens it.
        return [str(key) for key in sorted(structure)]
    return list(names)


def input_keys(model: Any) -> list[str]:
    """Returns the name of each of `model.inputs`: its key in a dictionary, its layer's otherwise."""
    return _keys(model._nested_inputs, model.input_names)


def output_keys(model: Any) -> list[str]:
    """Returns the name of each of `model.outputs`: its key in a dictionary, its layer's otherwise."""
    return _keys(model._nested_outputs, model.output_names)


def output_names(model: Any) -> list[str]:
    """Returns the names by which losses and metrics know the outputs of a functional model, of Keras 2 or 3."""
    found: list[str] = []
    # A Sequential model of Keras 3 keeps its graph in a model of its own, and names of Keras 3 may repeat.
    for name in (getattr(model, "_functional", None) or model).output_names:
        others = (name, *(f"{name}_{i}" for i in range(1, 10_000)))
        found.append(next(other for other in others if other not in found))
    return found


def pack_inputs(model: Any, tensors: Sequence[Any]) -> Any:
    """Returns tensors, one for each of `model.inputs`, structured as the model was defined with."""
    return tf.nest.pack_sequence_as(model._nested_inputs, tensors)


def _pack_outputs(model: Any, tensors: Sequence[Any]) -> Any:
    return tf.nest.pack_sequence_as(model._nested_outputs, tensors)


class _Reusable:
    """Stands for the list of a tensor's copies that `Node.map_arguments` pops from."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def pop(self) -> Any:
        return self._tensor


def walk(
    model: Any,
    inputs: Sequence[Any],
    call: Call,
    path: tuple[str, ...] = (),
    training: Optional[bool] = None,
    passed: Callable[[Any, Any], Any] = lambda old, new: new,
) -> list[Any]:
    """Runs a functional model on other tensors, through `call` instead of its own layers.

    Args:
        model: A functional model.
        inputs: A tensor for each of `model.inputs`.
        call: Called as `call(layer, args, kwargs, path)` for each call of each layer, in order; it returns what the
            layer would. Layers of nested models come one by one, under the path of the models' names.
        path: Names of the models around this one.
        training: What the models around this one were called with.
        passed: Applied to each output tensor of a call, and the one that takes its place.

    Returns:
        A tensor for each of `model.outputs`.
    """
    values = {str(id(reference)): _Reusable(tensor) for reference, tensor in zip(model.inputs, inputs)}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input:
                continue
            args, kwargs = node.map_arguments(values)
            layer = node.layer
            if is_functional(layer):
                inner = layer._flatten_to_reference_inputs(args[0])
                mode = kwargs.get("training", training)
                outputs = walk(layer, inner, call, (*path, layer.name), mode)
            else:
                if training is not None and takes_training(layer):
                    kwargs = {**kwargs, "training": training}
                outputs = tf.nest.flatten(call(layer, args, kwargs, path))
            outputs = [passed(old, new) for old, new in zip(tf.nest.flatten(node.outputs), outputs)]
            values.update({key: _Reusable(tensor) for key, tensor in zip(node.flat_output_ids, outputs)})
    return [values[str(id(tensor))].pop() for tensor in model.outputs]


def rebuild(
    model: Any,
    call: Call,
    read: Callable[[Any], Any] = lambda tensor: tensor,
    passed: Callable[[Any, Any], Any] = lambda old, new: new,
    write: Callable[[int, Any], Any] = lambda index, tensor: tensor,
    make: Callable[..., Any] = keras.Model,
    input_configs: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Any:
    """Builds a functional model with the inputs and outputs of another, each layer called through `call`.

    Args:
        model: A functional model.
        call: As for `walk`.
        read: Applied to each new input tensor.
        passed: As for `walk`.
        write: Applied to the place of each output and its new tensor.
        make: Called as `keras.Model` is, with inputs, outputs and `name`; returns the model.
        input_configs: Other types ("dtype") and shapes ("batch_input_shape") of inputs, by the names of their layers.

    Returns:
        The model; inputs and outputs are structured as those of the other.
    """
    inputs = [
        keras.layers.InputLayer.from_config(_input_config(tensor, input_configs)).output for tensor in model.inputs
    ]
    added: list[tuple[Any, Any]] = []
    outputs = walk(model, [read(tensor) for tensor in inputs], _setting_aside(added, call), passed=passed)
    outputs = [write(index, tensor) for index, tensor in enumerate(outputs)]
    rebuilt = make(pack_inputs(model, inputs), _pack_outputs(model, outputs), name=model.name)
    for layer, tensor in added:
        if type(layer).__name__ == "AddLoss":
            rebuilt.add_loss(tensor)
        else:
            rebuilt.add_metric(tensor, name=layer.metric_name, aggregation=layer.aggregation)
    return rebuilt


def _setting_aside(added: list[tuple[Any, Any]], call: Call) -> Call:
    """Returns a call that keeps what `model.add_loss` and `add_metric` have added for the model that is built."""

    def set_aside(layer: Any, args: tuple, kwargs: dict, path: tuple) -> Any:
        if type(layer).__name__ not in ("AddLoss", "AddMetric"):
            return call(layer, args, kwargs, path)
        added.append((layer, args[0]))
        return args[0]

    return set_aside


def of_the_class_of(model: Any) -> Callable[..., Any]:
    """Returns what makes functional models of a model's own class, with its own `train_step` and arguments.

    The arguments of its constructor are read from `get_config`. A class that cannot be made so, and one of Keras 3,
    becomes a plain functional model, with a warning.
    """
    kind = type(model)
    if kind.__name__ in ("Functional", "Sequential", "Model") and kind.__module__.split(".")[0] in _KERAS:
        return keras.Model

    def make(inputs: Any, outputs: Any, name: str) -> Any:
        try:
            if not isinstance(model, keras.Model):
                raise TypeError("it is a class of Keras 3.")
            known = inspect.signature(kind.__init__).parameters
            arguments = {key: value for key, value in _config(model).items() if key in known and key not in _GRAPH}
            made = kind(inputs, outputs, name=name, **arguments)
            if is_functional(made):
                return made
            error: Exception = TypeError("its constructor makes no functional model.")
        except (TypeError, ValueError, AttributeError, NotImplementedError) as fault:
            error = fault
        plain = keras.Model(inputs, outputs, name=name)
        own = [name for name in _STEPS if getattr(kind, name, None) is not getattr(type(plain), name, None)]
        warnings.warn(
            f"quantize_model: The quantized copy of {model.name!r} is a plain functional model, without what "
            f"{kind.__name__} does by itself ({', '.join(own) or 'no method of training'}): {error} Let its "
            "constructor take (inputs, outputs, name=...) and arguments that its get_config returns, or put the "
            "quantized model into an object of the class yourself.",
            stacklevel=5,
        )
        return plain

    return make


def _config(model: Any) -> dict[str, Any]:
    try:
        return dict(model.get_config())
    except NotImplementedError:
        return {}


def _input_config(tensor: Any, others: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    config: dict[str, Any] = layer_of(tensor).get_config()
    return {**config, "batch_input_shape": tuple(tensor.shape), **others.get(config["name"], {})}
