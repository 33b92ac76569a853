"""The layers that quantized models are made of: tfmot's, with what saving and loading needs."""

from __future__ import annotations

import inspect
from typing import Any

from tfmiaq._backend import QuantizeAwareActivation, QuantizeLayer, QuantizeWrapperV2, keras, tf, weight_quantizers
from tfmiaq.quantization.transformations.parts import activity_regularizer

_register = keras.utils.register_keras_serializable("tfmiaq")
# tfmot's own class around the activation of a wrapped layer. It is made known for loading only: registered under
# "tfmiaq", it would change the files of models that tfmot quantizes.
keras.utils.get_custom_objects().setdefault("QuantizeAwareActivation", QuantizeAwareActivation)


@_register
class ActivationRange(QuantizeLayer):
    """Gives the tensor that passes through it an int8 range: a network's input, or the output of a float layer.

    Args:
        quantizer: The quantizer that keeps the range.
    """

    def __init__(self, quantizer: Any, **kwargs: Any) -> None:
        super().__init__(quantizer, **kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Makes the quantizer's variables, once: a loaded model is built before it is called."""
        super().build(input_shape)
        self.built = True


@_register
class QuantizedOutput(ActivationRange):
    """Rounds a classifier's logits to a few levels below the largest, except in training.

    It hides from who can only ask. Its input stays a tensor of the .tflite, which who holds the file reads
    (`OutputBits`).

    Args:
        quantizer: A `quantizers.OutputQuantizer`.
    """


def _by_registered_name(config: Any) -> Any:
    """Returns a configuration whose classes go by the name that they are registered by, which .h5 files need."""
    if isinstance(config, dict):
        named = {"class_name": config["registered_name"]} if config.get("registered_name") else {}
        return {**{key: _by_registered_name(value) for key, value in config.items()}, **named}
    return [_by_registered_name(value) for value in config] if isinstance(config, list) else config


@_register
class NamedOutput(QuantizeLayer):
    """Passes an output of the model on under the name that the user gave it.

    The layer that makes the output has another one, `quant_` and perhaps the name of a part. Losses, metrics and sample
    weights go by the name of this one. It has no variables, and is no operation of a .tflite.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(None, autocast=False, **kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Makes no variables."""
        self.built = True

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns the inputs."""
        return tf.identity(inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the name."""
        return {key: value for key, value in super().get_config().items() if key != "quantizer"}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NamedOutput:
        """Returns a layer of that name."""
        return cls(**config)


@_register
class QuantizedLayer(QuantizeWrapperV2):
    """A layer whose weights and outputs are quantized.

    tfmot's wrapper lists the variables of the layer inside once or twice, depending on what was built first. In the
    .keras format variables go by their place in that list, so that what was saved did not load.

    Args:
        layer: The layer.
        quantize_config: What of it is quantized, and how.
    """

    def __init__(self, layer: Any, quantize_config: Any, **kwargs: Any) -> None:
        # tfmot calls the `call` of the layer inside, which adds no loss for its output and makes no mask.
        kwargs.setdefault("activity_regularizer", activity_regularizer(layer))
        super().__init__(layer, quantize_config, **kwargs)
        self.supports_masking = layer.supports_masking

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizedLayer:
        """Returns the layer of a configuration."""
        return super().from_config({**config, "layer": _by_registered_name(config["layer"])})

    def build(self, input_shape: Any) -> None:
        """Builds the layer inside, whose order of weights is kept, frozen or not."""
        keras.layers.Wrapper.build(self, input_shape)
        self._trainable_weights.extend(weight for weight in self.layer.weights if weight.trainable)
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        """Returns the quantized outputs of the layer inside; a mask goes to a layer that takes one."""
        if "mask" in kwargs and "mask" not in inspect.signature(self.layer.call).parameters:
            del kwargs["mask"]
        return super().call(inputs, training=training, **kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Returns the mask that the layer inside makes or passes on."""
        return self.layer.compute_mask(inputs, mask) if self.supports_masking else None

    @property
    def trainable_weights(self) -> list[Any]:
        """The weights that are trained: none of a layer that is frozen, or of a convolution by constants."""
        if not self.layer.trainable or getattr(self.quantize_config, "fixed", False):
            return []
        # While the layer inside computes, a tensor stands in the place of its kernel.
        kernels = [kernel for kernel, _, _ in getattr(self, "_weight_vars", ()) if kernel.trainable]
        trained = {id(weight) for weight in (*kernels, *self.layer.trainable_weights)}
        weights = self._dedup_weights([*self._trainable_weights, *self.layer.trainable_weights])
        return [weight for weight in weights if id(weight) in trained]

    @property
    def non_trainable_weights(self) -> list[Any]:
        """The other weights, in the order that they have in a layer that is trained, then bits and ranges."""
        trained = {id(weight) for weight in self.trainable_weights}
        weights = [*self._trainable_weights, *self.layer.weights, *self._non_trainable_weights]
        return [weight for weight in self._dedup_weights(weights) if id(weight) not in trained]

    def _own_variables(self) -> list[Any]:
        return [*(weight for weight, _, _ in weight_quantizers(self)), *self._non_trainable_weights]

    def save_own_variables(self, store: Any) -> None:
        """Stores the quantized weights, then bits and ranges; the layer inside stores the rest."""
        for index, variable in enumerate(self._own_variables()):
            store[str(index)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` stored."""
        variables = self._own_variables()
        if len(store.keys()) != len(variables):
            raise ValueError(
                f"Layer {self.name!r} has {len(variables)} variables of its own, and the file {len(store.keys())}: it "
                "is of another model, or of another version of tfmiaq."
            )
        for index, variable in enumerate(variables):
            variable.assign(store[str(index)])
