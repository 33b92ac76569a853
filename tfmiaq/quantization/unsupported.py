"""Models that cannot be the same network in a .tflite: one error before any training."""

from __future__ import annotations

from typing import Any

from tfmiaq._backend import keras
from tfmiaq.quantization.transformations.functional import input_layers, readers

_layers = keras.layers


def check_supported(model: Any) -> None:
    """Raises ValueError if a model reads strings, or keeps states between records; all such layers are listed.

    Args:
        model: A functional model; models inside it count too.
    """
    faults = []
    for layer in input_layers(model):
        if layer.dtype == "string":
            reading = ", ".join(f"{reader.name!r} ({type(reader).__name__})" for reader in readers(layer))
            faults.append(
                f"  {reading or 'the model'} reads the string input {layer.name!r}, and TFLite has no kernel for that: "
                "do it before the model, in tf.data, and begin the model with an Input of what it gives"
            )
    for layer in model._flatten_layers(include_self=False):
        inside = layer.forward_layer if isinstance(layer, _layers.Bidirectional) else layer
        if isinstance(inside, _layers.RNN) and inside.stateful:
            faults.append(
                f"  {layer.name!r} ({type(layer).__name__}) is stateful, and a .tflite keeps no state between runs: "
                "rebuild it with stateful=False, and pass states as inputs (initial_state) if need be"
            )
    if faults:
        raise ValueError("\n".join([f"quantize_model: Model {model.name!r} cannot be exported:", *faults]))
