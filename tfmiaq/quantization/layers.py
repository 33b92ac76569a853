"""The layers that quantized models are made of: tfmot's, with what saving and loading needs."""

from __future__ import annotations

from typing import Any

from tfmiaq._backend import QuantizeAwareActivation, QuantizeLayer, QuantizeWrapperV2, keras, tf, weight_quantizers

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

    def build(self, input_shape: Any) -> None:
        """Makes the quantizer's variables, once: a loaded model is built before it is called."""
        super().build(input_shape)
        self.built = True


@_register
class QuantizedOutput(ActivationRange):
    """Rounds a classifier's logits to a few levels below the largest, except in training.

    Its input stays a tensor of the .tflite: it hides nothing from an attacker who holds the file (`OutputBits`).

    Args:
        quantizer: A `quantizers.OutputQuantizer`.
    """


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
