"""Which layers feed which in a flat model, and what runs fused with what."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Optional

from tfmiaq._backend import QuantizeLayer, QuantizeWrapperV2, keras
from tfmiaq.quantization.layer_specs import (
    KEEP_CODES_OPERATIONS,
    is_registered,
    is_relu,
    is_softmax,
    operation,
    spec_of,
)
from tfmiaq.quantization.transformations import functional
from tfmiaq.quantization.transformations.functional import activation_name

_layers = keras.layers


def inner(layer: Any) -> Any:
    """Returns the layer inside a wrapper, or the layer itself."""
    return layer.layer if isinstance(layer, QuantizeWrapperV2) else layer


def before_range(layer: Any) -> Any:
    """Returns the layer inside a wrapper, or the one whose output a layer of ranges passes on."""
    while isinstance(layer, QuantizeLayer):
        layer = functional.sources(layer)[0]
    return inner(layer)


def ends_in_softmax(model: Any) -> bool:
    """Returns whether a model, quantized or not, ends in a softmax."""
    return is_softmax(before_range(functional.output_layers(model)[0]))


def ends_in_sigmoid(model: Any) -> bool:
    """Returns whether a model, quantized or not, ends in a sigmoid."""
    return activation_name(before_range(functional.output_layers(model)[0])) == "sigmoid"


def _is_linear(layer: Any) -> bool:
    return activation_name(layer) in ("", "linear")


def _takes_norm(layer: Any) -> bool:
    """Returns whether a BatchNormalization behind a layer folds into it."""
    return spec_of(layer).folds_normalization and _is_linear(layer)


def _only_reader(model: Any, read: Sequence[tuple[Any, Any]], serving: Collection[int]) -> Optional[Any]:
    """Returns the only layer that reads a tensor; ranges are passed through, and what adds to the loss is left out."""
    read = [(layer, tensor) for layer, tensor in read if id(layer) in serving]
    if len(read) != 1:
        return None
    layer, tensor = read[0]
    if not isinstance(layer, QuantizeLayer):
        return inner(layer)
    behind = functional.readers_by_call(model, layer)[id(tensor)]
    return None if any(tensor is output for output in model.outputs) else _only_reader(model, behind, serving)


class LayerGraph:
    """Which layers feed which in a flat model, quantized or not.

    Args:
        model: A flat functional model. Of a quantized one, the layers inside the wrappers count, and what only carries
            a range does not.
        aliases: Other names that a policy may use for layers.
        fixed: Names of convolutions by constants.
    """

    def __init__(self, model: Any, aliases: Mapping[str, Sequence[str]], fixed: Collection[str]) -> None:
        # What only adds to the loss is no part of the file, and fuses with nothing.
        serving = {id(layer) for layer in functional.serving_layers(model)}
        serving.update(id(layer) for layer in functional.input_layers(model))
        outer = {
            layer.name: layer for layer in model.layers if not isinstance(layer, QuantizeLayer) and id(layer) in serving
        }
        self.masked = {inner(layer).name for layer in outer.values() if functional.reads_mask(layer)}
        self.layers = [inner(layer) for layer in outer.values()]
        self.aliases = aliases
        self.fixed = fixed
        self.outputs = {before_range(layer).name for layer in functional.output_layers(model)}
        self.calls = {inner(layer).name: functional.count_calls(layer) for layer in outer.values()}
        self.inputs: dict[str, list[Any]] = {}
        self.consumers: dict[str, list[Any]] = {layer.name: [] for layer in self.layers}
        for layer in outer.values():
            reader = inner(layer)
            self.inputs[reader.name] = [before_range(source) for source in functional.sources(layer)]
            for source in self.inputs[reader.name]:
                self.consumers[source.name].append(reader)
        ends = {id(tensor) for tensor in model.outputs}
        readers = {inner(layer).name: functional.readers_by_call(model, layer) for layer in outer.values()}
        self._alone = {
            name: {tensor: _only_reader(model, read, serving) for tensor, read in calls.items() if tensor not in ends}
            for name, calls in readers.items()
        }
        self._tensors = {name: tuple(calls) for name, calls in readers.items()}
        self.front = self._front()

    @classmethod
    def of_quantized(cls, model: Any) -> LayerGraph:
        """Returns the graph of a model from `quantize_model`; its layers carry their other names."""
        configs = {w.layer.name: w.quantize_config for w in model.layers if isinstance(w, QuantizeWrapperV2)}
        fixed = {name for name, config in configs.items() if getattr(config, "fixed", False)}
        return cls(model, {name: tuple(config.aliases) for name, config in configs.items()}, fixed)

    def _front(self) -> set[str]:
        """Returns the names of the inputs and of the preprocessing that reads nothing else."""
        front: set[str] = set()
        for layer in self.layers:
            inside = all(source.name in front for source in self.inputs[layer.name])
            if type(layer) is _layers.InputLayer or (spec_of(layer).preprocessing and inside):
                front.add(layer.name)
        return front

    def only_consumer(self, layer: Any) -> Optional[Any]:
        """Returns the only layer that reads this one, or None where several do or it is an output of the model."""
        consumers = self.consumers[layer.name]
        alone = len(consumers) == 1 and layer.name not in self.outputs and self.calls[layer.name] == 1
        return consumers[0] if alone and self.calls[consumers[0].name] == 1 else None

    def source(self, layer: Any) -> Optional[Any]:
        """Returns the only layer that this one reads, if nothing else reads that one; else None."""
        inputs = self.inputs[layer.name]
        return inputs[0] if len(inputs) == 1 and self.only_consumer(inputs[0]) is layer else None

    def folds(self, layer: Any) -> bool:
        """Returns whether a layer is a BatchNormalization that folds into the kernel before it."""
        source = self.source(layer) if type(layer) is _layers.BatchNormalization else None
        return source is not None and _takes_norm(source)

    def norm_behind(self, layer: Any) -> Optional[Any]:
        """Returns the BatchNormalization that folds into a layer's kernel, or None."""
        consumer = self.only_consumer(layer)
        return consumer if consumer is not None and self.folds(consumer) else None

    def leader(self, relu: Any) -> Optional[Any]:
        """Returns the layer with a kernel that a ReLU layer is fused with, through BatchNormalization too, or None."""
        source = self.source(relu)
        if source is not None and type(source) is _layers.BatchNormalization:
            return self.source(source) if self.folds(source) else None
        fused = source is not None and spec_of(source).kernel and spec_of(source).fuses_relu and _is_linear(source)
        return source if fused else None

    def fuses_into_next(self, layer: Any) -> bool:
        """Returns whether a layer's output needs no range, since the next operation is fused with it."""
        consumer = self.only_consumer(layer)
        if consumer is None:
            return bool(self._tensors[layer.name]) and not self.without_relu(layer)
        if type(consumer) is _layers.BatchNormalization:
            return _takes_norm(layer)
        if type(layer) is _layers.BatchNormalization:
            return is_relu(consumer) and self.folds(layer)
        return is_relu(consumer) and spec_of(layer).fuses_relu and _is_linear(layer)

    def without_relu(self, layer: Any) -> tuple[int, ...]:
        """Returns the `id` of the output tensor of each call of a layer that no ReLU is fused with.

        A call whose output is read by nothing but a ReLU runs that ReLU, however often either is called.
        """
        fuses = self.folds(layer) or (spec_of(layer).fuses_relu and _is_linear(layer))
        alone = self._alone[layer.name]
        return tuple(
            tensor
            for tensor in self._tensors[layer.name]
            if not (fuses and alone.get(tensor) is not None and is_relu(alone[tensor]))
        )

    def ranges_by_call(self, layer: Any) -> tuple[int, ...]:
        """Returns the `id` of each output tensor that takes a range of its own, since a ReLU fuses with other calls."""
        without = self.without_relu(layer)
        return without if 0 < len(without) < len(self._tensors[layer.name]) else ()

    def weighted(self) -> list[Any]:
        """Returns the layers whose weights a policy gives bits."""
        return [layer for layer in self.layers if spec_of(layer).kernel and layer.name not in self.fixed]

    def ends(self, neighbours: dict[str, list[Any]]) -> list[str]:
        """Returns the names of the weighted layers from which `neighbours` lead to no other: the first, or the last."""
        weighted = {layer.name for layer in self.weighted()}
        order = self.layers if neighbours is self.inputs else reversed(self.layers)
        beyond: dict[str, bool] = {}
        for layer in order:
            near = neighbours[layer.name]
            beyond[layer.name] = any(beyond.get(other.name, False) or other.name in weighted for other in near)
        return [name for name in beyond if name in weighted and not beyond[name]]


def fault(layer: Any, layer_graph: LayerGraph) -> Optional[str]:
    """Returns why a layer cannot be quantized, or None."""
    spec = spec_of(layer)
    if type(layer) is _layers.BatchNormalization:
        return None if layer_graph.folds(layer) else "its shape is not static, or it does not normalize the last axis"
    if layer.name in layer_graph.masked and is_registered(layer):
        return "it reads a mask, which no int8 kernel does"
    if is_registered(layer) and not spec.preprocessing:
        if spec.kernel and getattr(layer, "data_format", "channels_last") != "channels_last":
            return "channels_first, which TFLite does not know"
        return spec.fault(layer)
    name = operation(layer)
    if name:
        return None if name in KEEP_CODES_OPERATIONS else f"operation {name}"
    return "layer type"
