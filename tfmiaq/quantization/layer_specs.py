"""What is known of each Keras layer type, in one registry that users can add to.

The plan, the summary, the alignment of biases and the verification of files read a layer type's `LayerSpec`. A type is
looked up exactly: a subclass may compute something else, and is registered by itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import keras
from tfmiaq.quantization.transformations.functional import activation_name
from tfmiaq.quantization.transformations.parts import ActivityLoss, ConstantDepthwiseConv2D

_layers = keras.layers
_Shape = Sequence[Optional[int]]


def _positions(shape: _Shape) -> int:
    return math.prod(size or 1 for size in shape[1:-1])


def at_each_output(kernel: _Shape, inputs: _Shape, outputs: _Shape) -> int:
    """Returns the multiply-adds of a kernel whose every weight is used once at each position of the output."""
    return math.prod(size or 1 for size in kernel) * _positions(outputs)


def at_each_input(kernel: _Shape, inputs: _Shape, outputs: _Shape) -> int:
    """Returns the multiply-adds of a kernel whose every weight is used once at each position of the input."""
    return math.prod(size or 1 for size in kernel) * _positions(inputs)


def no_multiply_adds(kernel: _Shape, inputs: _Shape, outputs: _Shape) -> int:
    """Returns 0: the kernel is a table."""
    return 0


def _never(layer: Any) -> bool:
    return False


def _no_fault(layer: Any) -> Optional[str]:
    return None


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """What a layer type is to an int8 runtime.

    Example:
        >>> tfmiaq.register_layer(MyDense, tfmiaq.LayerSpec(kernel="kernel", fuses_relu=True))

    Attributes:
        kernel: Attribute that holds the weights that a policy gives bits, or an empty string for a type without.
        per_channel: Whether each index of the kernel's last axis has a step of its own.
        folds_normalization: Whether the converter folds a BatchNormalization behind the layer into its kernel. That
            takes a kernel per channel.
        fuses_relu: Whether TFLite runs a ReLU behind the layer as a part of its operation.
        keeps_codes: Whether the output holds codes of the input, at its scale, as after pooling or reshaping.
        has_range: Whether the output has an 8-bit range of its own, as a sum has. Types with a kernel always have one.
        shares_scale: Whether all inputs take the output's scale, as those of a concatenation do.
        outputs_weights: Whether the output holds codes of the kernel, as a looked-up embedding does.
        preprocessing: Whether the layer may stand in front of the network, on raw values in float.
        channel_axes: Axes of the Keras kernel that together make up the channels of the output.
        stored_channel_axis: Axis of the output's channels in the kernel as TFLite stores it.
        multiply_adds: Called with the shapes of kernel, input and output; returns the multiply-adds for one record.
        averages: Called with a layer; returns whether it computes new values and rounds them to its input's codes.
        fault: Called with a layer; returns why that one cannot be quantized, or None.

    Raises:
        ValueError: Fields that contradict each other.
    """

    kernel: str = ""
    per_channel: bool = False
    folds_normalization: bool = False
    fuses_relu: bool = False
    keeps_codes: bool = False
    has_range: bool = False
    shares_scale: bool = False
    outputs_weights: bool = False
    preprocessing: bool = False
    channel_axes: tuple[int, ...] = (-1,)
    stored_channel_axis: int = 0
    multiply_adds: Callable[[_Shape, _Shape, _Shape], int] = at_each_output
    averages: Callable[[Any], bool] = _never
    fault: Callable[[Any], Optional[str]] = _no_fault

    def __post_init__(self) -> None:
        if self.folds_normalization and not self.per_channel:
            raise ValueError("LayerSpec: folds_normalization takes per_channel: each channel's step takes its factor.")
        if (self.per_channel or self.outputs_weights) and not self.kernel:
            raise ValueError("LayerSpec: per_channel and outputs_weights take a kernel: the name of its attribute.")
        if self.keeps_codes and (self.kernel or self.has_range):
            raise ValueError("LayerSpec: A type that keeps_codes has neither a kernel nor a range of its own.")

    def stored(self, kernel: np.ndarray) -> np.ndarray:
        """Returns a Keras kernel in TFLite's order of axes."""
        if len(self.channel_axes) > 1:
            # A depthwise kernel: channel and multiplier become one axis, behind one of size 1.
            return kernel.reshape(1, *kernel.shape[: -len(self.channel_axes)], -1)
        return np.moveaxis(kernel, self.channel_axes[0], self.stored_channel_axis)

    def of_channels(self, kernel_shape: Sequence[int], steps: np.ndarray) -> np.ndarray:
        """Returns one step for each channel of the output, from steps that broadcast to the kernel."""
        everywhere = np.broadcast_to(steps, tuple(kernel_shape))
        kept = {axis % everywhere.ndim for axis in self.channel_axes}
        return everywhere[tuple(slice(None) if axis in kept else 0 for axis in range(everywhere.ndim))].reshape(-1)


def _fault_of_dense(layer: Any) -> Optional[str]:
    return None if layer.kernel.shape.rank == 2 else "a kernel of more than two axes"


def _is_plain_relu(layer: Any) -> bool:
    return not layer.negative_slope and not layer.threshold and layer.max_value in (None, 6, 6.0)


def _fault_of_relu(layer: Any) -> Optional[str]:
    return None if _is_plain_relu(layer) else "only plain ReLU and ReLU6"


def _fault_of_activation(layer: Any) -> Optional[str]:
    name = activation_name(layer)
    return None if name in ("relu", "linear", *FIXED_RANGES) else f"activation {name}"


def _interpolates(layer: Any) -> bool:
    return bool(layer.interpolation != "nearest")


# Activations whose output range TFLite fixes: lower and upper end in the steps of 1/256 and 1/128 that it takes.
FIXED_RANGES = {"sigmoid": (0.0, 255 / 256), "softmax": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128)}
# TensorFlow operations that keep codes, which Keras does not let us wrap.
KEEP_CODES_OPERATIONS = ("reshape", "transpose", "expand_dims", "squeeze", "getitem", "strided_slice", "identity")

_KEEPS_CODES = LayerSpec(keeps_codes=True)
_AVERAGES = LayerSpec(keeps_codes=True, averages=lambda layer: True)
_HAS_RANGE = LayerSpec(has_range=True)
_MERGES = LayerSpec(has_range=True, fuses_relu=True)
_PREPROCESSING = LayerSpec(preprocessing=True)
_DEPTHWISE = LayerSpec(
    kernel="depthwise_kernel",
    per_channel=True,
    folds_normalization=True,
    fuses_relu=True,
    channel_axes=(-2, -1),
    stored_channel_axis=3,
)

_SPECS: dict[type, LayerSpec] = {
    _layers.Dense: LayerSpec(kernel="kernel", fuses_relu=True, fault=_fault_of_dense),
    _layers.Conv2D: LayerSpec(kernel="kernel", per_channel=True, folds_normalization=True, fuses_relu=True),
    _layers.DepthwiseConv2D: _DEPTHWISE,
    ConstantDepthwiseConv2D: _DEPTHWISE,
    _layers.Conv2DTranspose: LayerSpec(kernel="kernel", channel_axes=(-2,), multiply_adds=at_each_input),
    _layers.Embedding: LayerSpec(
        kernel="embeddings", outputs_weights=True, stored_channel_axis=1, multiply_adds=no_multiply_adds
    ),
    _layers.Add: _MERGES,
    _layers.Subtract: _MERGES,
    _layers.Multiply: _MERGES,
    _layers.Concatenate: LayerSpec(has_range=True, shares_scale=True),
    _layers.GlobalAveragePooling1D: _HAS_RANGE,
    _layers.GlobalAveragePooling2D: _HAS_RANGE,
    _layers.LeakyReLU: _HAS_RANGE,
    _layers.BatchNormalization: _HAS_RANGE,
    _layers.ReLU: LayerSpec(fault=_fault_of_relu),
    _layers.Activation: LayerSpec(fault=_fault_of_activation),
    _layers.Softmax: LayerSpec(),
    _layers.InputLayer: LayerSpec(),
    _layers.AveragePooling1D: _AVERAGES,
    _layers.AveragePooling2D: _AVERAGES,
    _layers.UpSampling2D: LayerSpec(keeps_codes=True, averages=_interpolates),
    **dict.fromkeys(
        (
            _layers.MaxPooling1D,
            _layers.MaxPooling2D,
            _layers.GlobalMaxPooling1D,
            _layers.GlobalMaxPooling2D,
            _layers.Flatten,
            _layers.Reshape,
            _layers.Permute,
            _layers.RepeatVector,
            _layers.ZeroPadding1D,
            _layers.ZeroPadding2D,
            _layers.Cropping1D,
            _layers.Cropping2D,
            _layers.UpSampling1D,
            _layers.Dropout,
            _layers.SpatialDropout1D,
            _layers.SpatialDropout2D,
            _layers.GaussianNoise,
            _layers.GaussianDropout,
            _layers.AlphaDropout,
            _layers.ActivityRegularization,
            ActivityLoss,
        ),
        _KEEPS_CODES,
    ),
    **dict.fromkeys(
        (
            _layers.Rescaling,
            _layers.Normalization,
            _layers.Resizing,
            _layers.CenterCrop,
            _layers.RandomFlip,
            _layers.RandomRotation,
            _layers.RandomZoom,
            _layers.RandomTranslation,
            _layers.RandomCrop,
            _layers.RandomContrast,
            _layers.RandomBrightness,
        ),
        _PREPROCESSING,
    ),
}
_UNKNOWN = LayerSpec()
# Types that stay float, for the counts of a summary.
_FLOAT_SPECS: dict[type, LayerSpec] = {
    _layers.DepthwiseConv1D: LayerSpec(kernel="depthwise_kernel"),
    _layers.SeparableConv1D: LayerSpec(kernel="depthwise_kernel"),
    _layers.SeparableConv2D: LayerSpec(kernel="depthwise_kernel"),
    _layers.Conv1DTranspose: LayerSpec(kernel="kernel", multiply_adds=at_each_input),
    _layers.Conv3DTranspose: LayerSpec(kernel="kernel", multiply_adds=at_each_input),
}


def register_layer(layer_type: Any, spec: LayerSpec) -> None:
    """Makes a layer type known to `quantize_model` and everything behind it.

    The type needs a `get_config` that returns the arguments of its constructor, and Keras must know it when a saved
    model is loaded (`keras.utils.register_keras_serializable`).

    Example:
        >>> class ChannelShuffle(tfmiaq.keras.layers.Layer): ...
        >>> tfmiaq.register_layer(ChannelShuffle, tfmiaq.LayerSpec(keeps_codes=True))

    Args:
        layer_type: A subclass of `tfmiaq.keras.layers.Layer`. Its own subclasses are not meant.
        spec: What the type is to an int8 runtime.

    Raises:
        TypeError: No layer type; no LayerSpec.
        ValueError: A type that is registered already.
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, _layers.Layer)):
        raise TypeError(
            f"register_layer: Expected a subclass of tfmiaq.keras.layers.Layer. Received {layer_type!r:.200}."
        )
    if issubclass(layer_type, keras.Model):
        raise TypeError(f"register_layer: Expected a layer. Received the model {layer_type!r:.200}; pass its layers.")
    if not isinstance(spec, LayerSpec):
        raise TypeError(f"register_layer: Expected a tfmiaq.LayerSpec. Received {spec!r:.200}.")
    if layer_type in _SPECS:
        raise ValueError(f"register_layer: Layer type {layer_type.__name__} is registered already.")
    _SPECS[layer_type] = spec


def is_registered(layer: Any) -> bool:
    """Returns whether a layer's type has a LayerSpec."""
    return type(layer) in _SPECS


def spec_of(layer: Any) -> LayerSpec:
    """Returns the LayerSpec of a layer's type; for one that is not registered, a spec in which nothing holds."""
    return _SPECS.get(type(layer), _UNKNOWN)


def spec_for_counts(layer: Any) -> LayerSpec:
    """Returns the spec by which weights and multiply-adds are counted, also those of layers that stay float."""
    for base in type(layer).__mro__:
        spec = _SPECS.get(base) or _FLOAT_SPECS.get(base)
        if spec is not None:
            return spec
    return LayerSpec(kernel="kernel") if getattr(layer, "kernel", None) is not None else _UNKNOWN


def has_range_by_call(layer: Any) -> bool:
    """Returns whether a layer has no weights, and each of its calls takes a range of its own."""
    if type(layer) in (_layers.ReLU, _layers.Activation):
        return True
    spec = spec_of(layer)
    return spec.has_range and not spec.kernel and not layer.weights


def is_relu(layer: Any) -> bool:
    """Returns whether a layer is a ReLU or ReLU6."""
    if type(layer) is _layers.ReLU:
        return _is_plain_relu(layer)
    return type(layer) is _layers.Activation and activation_name(layer) == "relu"


def is_softmax(layer: Any) -> bool:
    """Returns whether a layer is a softmax, or ends in one."""
    return isinstance(layer, _layers.Softmax) or activation_name(layer) == "softmax"


def operation(layer: Any) -> str:
    """Returns the name of the TensorFlow operation that a layer stands for, or an empty string."""
    if type(layer).__name__ not in ("TFOpLambda", "SlicingOpLambda"):
        return ""
    return str(layer.symbol).rpartition(".")[2].strip("_")


def keeps_codes(layer: Any) -> bool:
    """Returns whether a layer's output holds codes of its input; layers of TensorFlow operations count too."""
    return spec_of(layer).keeps_codes or operation(layer) in KEEP_CODES_OPERATIONS
