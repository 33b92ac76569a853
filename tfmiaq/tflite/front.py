"""What stands in front of a network, which an integer file leaves out: a scale and an offset in its metadata."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmiaq._backend import keras
from tfmiaq.quantization.layer_graph import LayerGraph
from tfmiaq.quantization.transformations.functional import input_keys, input_layers, rebuild

_layers = keras.layers


def without_front(model: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Returns the model without its preprocessing, and by input the scale and the offset that replace it.

    Raises:
        ValueError: Preprocessing that is no scale and offset.
    """
    layer_graph = LayerGraph.of_quantized(model)
    inputs = {layer.name for layer in input_layers(model)}
    if layer_graph.front <= inputs:
        return model, {}
    normalization = {name: {"scale": 1.0, "offset": 0.0} for name in inputs}
    for layer in layer_graph.layers:
        if layer.name not in layer_graph.front - inputs:
            continue
        scale, offset = _scale_and_offset(layer)
        origin = _origin(layer, layer_graph)
        if layer.name not in (c.name for c in layer_graph.consumers[origin]) and len(layer_graph.consumers[origin]) > 1:
            raise ValueError(f"convert: Input {origin!r} is preprocessed in several ways; do that before the model.")
        known = normalization[origin]
        known["offset"] = np.add(np.multiply(known["offset"], scale), offset).tolist()
        known["scale"] = np.multiply(known["scale"], scale).tolist()

    def call(layer: Any, args: tuple, kwargs: dict, path: tuple) -> Any:
        return args[0] if layer.name in layer_graph.front else layer(*args, **kwargs)

    # The file's input takes what the preprocessing gave.
    types = {name: {"dtype": "float32"} for name in inputs if layer_graph.front & _readers(name, layer_graph)}
    keys = dict(zip((layer.name for layer in input_layers(model)), input_keys(model)))
    normalization = {keys[name]: known for name, known in normalization.items()}
    return rebuild(model, call, input_configs=types), normalization


def normalized_inside(model: Any) -> dict[str, dict[str, Any]]:
    """Returns the inputs that a Rescaling or Normalization of the model itself reads: they take values as they are."""
    layer_graph = LayerGraph.of_quantized(model)
    keys = dict(zip((layer.name for layer in input_layers(model)), input_keys(model)))
    origins = {
        _origin(layer, layer_graph)
        for layer in layer_graph.layers
        if layer.name in layer_graph.front and isinstance(layer, (_layers.Rescaling, _layers.Normalization))
    }
    return {keys[name]: {"scale": 1.0, "offset": 0.0} for name in origins if name in keys}


def _readers(name: str, layer_graph: LayerGraph) -> set[str]:
    return {layer.name for layer in layer_graph.consumers[name]}


def _origin(layer: Any, layer_graph: LayerGraph) -> str:
    while layer_graph.inputs[layer.name]:
        layer = layer_graph.inputs[layer.name][0]
    return str(layer.name)


def _scale_and_offset(layer: Any) -> tuple[Any, Any]:
    if isinstance(layer, _layers.Rescaling):
        return np.asarray(layer.scale, float), np.asarray(layer.offset, float)
    if isinstance(layer, _layers.Normalization) and not layer.invert:
        deviation = np.maximum(np.sqrt(np.asarray(layer.variance)), keras.backend.epsilon())
        return (1.0 / deviation).reshape(-1), (-np.asarray(layer.mean) / deviation).reshape(-1)
    if type(layer).__name__.startswith("Random"):
        return 1.0, 0.0
    raise ValueError(
        f"convert: {layer.name!r} ({type(layer).__name__}) in front of the network is no scale and offset, and an Edge "
        "TPU file holds no float operation. Do it before the model, or convert with target='mobile'."
    )
