"""Keras objects that stand in flat models for what a user's layer did besides computing its output.

A layer that is replaced by others had a shape of its own for its kernel, losses on its output, a mask. These objects
hold on to them, and are saved with the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Optional

from tfmiaq._backend import QuantizeLayer, keras, tf


def _register(kind: Any) -> Any:
    """Registers a class by both names: a .h5 file keeps the plain one of what stands inside a layer's configuration."""
    keras.utils.get_custom_objects().setdefault(kind.__name__, kind)
    return keras.utils.register_keras_serializable("tfmiaq")(kind)


@_register
class ConstantDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise convolution by constants: its kernel and bias are never trainable, whatever `trainable` says."""

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Makes a variable that no optimizer moves."""
        return super().add_weight(*args, **{**kwargs, "trainable": False})


@_register
class ActivityLoss(keras.layers.Layer):
    """Passes its input on, and adds the loss of an activity regularizer that the layer in front of it had.

    Args:
        regularizer: The regularizer, or its configuration.
    """

    def __init__(self, regularizer: Any, **kwargs: Any) -> None:
        super().__init__(activity_regularizer=keras.regularizers.get(regularizer), **kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """Returns the inputs."""
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "regularizer": keras.regularizers.serialize(self.activity_regularizer)}


@_register
class MaskOf(QuantizeLayer):
    """Gives a tensor the mask of another, or none: the operations in between passed it on otherwise.

    It is called with [tensor], whose mask is taken off, or with [tensor, masked tensor]. It has no variables, and is no
    operation of a .tflite.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(None, autocast=False, **kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Makes no variables."""
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Returns the first of the inputs."""
        return tf.identity(inputs[0])

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Returns the mask of the second input."""
        return mask[1] if isinstance(mask, (list, tuple)) and len(mask) > 1 else None

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the first input."""
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Returns the name."""
        return {key: value for key, value in super().get_config().items() if key != "quantizer"}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MaskOf:
        """Returns a layer of that name."""
        return cls(**config)


class _OfShape:
    """An object of Keras that sees a tensor in the shape that the user's layer had.

    Args:
        inner: The object, or its configuration.
        shape: That shape; -1 stands for the number of records.
    """

    def __init__(self, inner: Any, shape: Sequence[int]) -> None:
        self.inner = self._get(inner)
        self.shape = tuple(int(size) for size in shape)

    _get: Any
    _serialize: Any

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"inner": self._serialize(self.inner), "shape": list(self.shape)}


@_register
class ConstraintOfShape(_OfShape, keras.constraints.Constraint):
    """A constraint over the axes of the user's kernel."""

    _get = staticmethod(keras.constraints.get)
    _serialize = staticmethod(keras.constraints.serialize)

    def __call__(self, weights: Any) -> Any:
        return tf.reshape(self.inner(tf.reshape(weights, self.shape)), tf.shape(weights))


@_register
class RegularizerOfShape(_OfShape, keras.regularizers.Regularizer):
    """A regularizer of the user's kernel or output."""

    _get = staticmethod(keras.regularizers.get)
    _serialize = staticmethod(keras.regularizers.serialize)

    def __call__(self, values: Any) -> Any:
        return self.inner(tf.reshape(values, self.shape))


@_register
class InitializerOfShape(_OfShape, keras.initializers.Initializer):
    """An initializer of the user's kernel."""

    _get = staticmethod(keras.initializers.get)
    _serialize = staticmethod(keras.initializers.serialize)

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> Any:
        if math.prod(shape) != math.prod(self.shape):
            return self.inner(shape, dtype=dtype, **kwargs)
        return tf.reshape(self.inner(self.shape, dtype=dtype), shape)


@_register
class SummedRegularizer(keras.regularizers.Regularizer):
    """An activity regularizer that counts each record in full, as that of Keras 3 does; Keras 2 takes their mean.

    Args:
        inner: The regularizer, or its configuration.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = keras.regularizers.get(inner)

    def __call__(self, values: Any) -> Any:
        loss = self.inner(values)
        return loss * tf.cast(tf.shape(values)[0], loss.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"inner": keras.regularizers.serialize(self.inner)}


_KINDS = {"initializer": InitializerOfShape, "regularizer": RegularizerOfShape, "constraint": ConstraintOfShape}


def of_shape(kind: str, value: Any, shape: Optional[Sequence[int]]) -> Any:
    """Returns an initializer, regularizer or constraint that sees tensors in another shape; None as it is.

    Args:
        kind: "initializer", "regularizer" or "constraint".
        value: The object.
        shape: The shape, or None for the tensor's own.
    """
    return value if value is None or shape is None else _KINDS[kind](value, shape)


def activity_regularizer(layer: Any) -> Any:
    """Returns what a layer adds to the loss for its output, or None; also where its configuration does not hold it."""
    return getattr(layer, "_activity_regularizer", None)
