"""Functional models as flat graphs of layers that TFLite has int8 kernels for.

Nested models are inlined, and layers that stand for several operations are replaced by those operations: a
SeparableConv2D by its two convolutions, a swish by a sigmoid and a product. What comes out computes what went in.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import keras, tf
from tfmiaq.quantization.layer_specs import has_range_by_call, spec_of
from tfmiaq.quantization.transformations.arguments import (
    FUSED_ACTIVATIONS,
    constraints,
    image_arguments,
    rest,
    rest_of,
    user_shape,
)
from tfmiaq.quantization.transformations.copying import (
    build,
    call_copy,
    copy_layer,
    copy_norm_of_images,
    in_float32,
    shapes_of,
)
from tfmiaq.quantization.transformations.functional import (
    activation_name,
    has_mask,
    is_keras_tensor,
    layer_of,
    readers,
    rebuild,
    serving_layers,
    takes_training,
    trained_layers,
)
from tfmiaq.quantization.transformations.parts import ActivityLoss, MaskOf, activity_regularizer, of_shape

_layers = keras.layers

# Arguments that the parts of a layer take over from it.
_SHARED = ("trainable", "dtype")


@dataclasses.dataclass(frozen=True)
class FlatModel:
    """A flat model, and the earlier names of its layers.

    Attributes:
        model: A functional model without nested models.
        aliases: For each layer, other names that a policy may use: its name inside a nested model, the path to it,
            and the name of the layer it is a part of.
        fixed: Names of convolutions by constants, which take 8 bits whatever the policy.
    """

    model: Any
    aliases: dict[str, tuple[str, ...]]
    fixed: frozenset[str] = frozenset()


class _Flattener:
    """Calls copies of layers, expanded where need be; each is copied once, or for each call that has its own range."""

    def __init__(self, model: Any) -> None:
        self.aliases: dict[str, tuple[str, ...]] = {}
        self._trained = {id(layer) for layer in trained_layers(model)}
        self._serving = {id(layer) for layer in serving_layers(model)}
        # For sequences and vectors that were images of height 1 just before, those images.
        self.images: dict[int, tuple[Any, Any]] = {}
        self._copies: dict[tuple[int, str, int], Any] = {}
        self._calls: dict[int, int] = {}
        self._originals: list[Any] = []  # Kept alive, so that no `id` is used twice.

    def __call__(self, layer: Any, args: tuple, kwargs: dict, path: tuple) -> Any:
        if has_range_by_call(layer):
            self._calls[id(layer)] = self._calls.get(id(layer), 0) + 1
        expanded = self._expanded(layer, args, kwargs, path) if id(layer) in self._serving else None
        if expanded is not None:
            return _Context(self, layer, path, {}).with_mask(expanded, args)
        copy = self.copied(layer, path, "", lambda name: copy_layer(layer, shapes_of(args[0]) if args else None, name))
        outputs = call_copy(copy, args, kwargs)
        if activity_regularizer(layer) is None or activity_regularizer(copy) is not None:
            return outputs
        return tf.nest.map_structure(_Context(self, layer, path, {}).with_loss, outputs)

    def _expanded(self, layer: Any, args: tuple, kwargs: dict, path: tuple) -> Any:
        """Calls what replaces a layer; returns None if nothing does."""
        if type(layer).__name__ == "TFOpLambda":
            return _expand_operation(_Context(self, layer, path, {}), layer, args, kwargs)
        expansion = _EXPANSIONS.get(type(layer), _expand_kernel if spec_of(layer).kernel else None)
        if expansion is None or len(args) != 1 or set(kwargs) - {"training"}:
            return None
        return expansion(_Context(self, layer, path, kwargs), layer, args[0])

    def copied(self, layer: Any, path: tuple, part: str, make: Callable[[str], Any]) -> Any:
        key = (id(layer), part, self._calls.get(id(layer), 0))
        if key not in self._copies:
            self._originals.append(layer)
            name = self._free_name(layer.name + part, path)
            self._copies[key] = make(name)
            if id(layer) not in self._trained:
                self._copies[key].trainable = False
            inside = "/".join((*path, layer.name))
            self.aliases[name] = tuple(dict.fromkeys((layer.name + part, layer.name, inside, inside + part)))
        return self._copies[key]

    def _free_name(self, name: str, path: tuple) -> str:
        candidates = itertools.chain((name, "_".join((*path, name))), (f"{name}_{i}" for i in itertools.count(1)))
        return next(candidate for candidate in candidates if candidate not in self.aliases)


class _Context:
    """Makes the parts of one expanded layer."""

    def __init__(self, flattener: _Flattener, layer: Any, path: tuple, kwargs: dict) -> None:
        self._flattener, self._layer, self._path, self._kwargs = flattener, layer, path, kwargs

    def call(self, part: str, kind: Any, inputs: Any, weights: Optional[list] = None, **config: Any) -> Any:
        """Calls the part of that suffix, which is made of a layer type, its configuration and weights if need be."""

        def make(name: str) -> Any:
            config_of_whole = in_float32(self._layer.get_config())
            shared = {key: config_of_whole[key] for key in _SHARED if key in config_of_whole}
            made = kind(**{**shared, **config, "name": name})
            if weights is not None:
                build(made, shapes_of(inputs))
                made.set_weights(weights)
            return made

        layer = self._flattener.copied(self._layer, self._path, part, make)
        return layer(inputs, **(self._kwargs if takes_training(layer) else {}))

    def expand(self, inputs: Any, shape: tuple[int, ...]) -> Any:
        """Calls a Reshape to an image, or finds the image that the inputs were."""
        known = self._flattener.images.get(id(inputs))
        if known is not None and tuple(known[1].shape[1:]) == shape:
            return known[1]
        return self.call("_expand", _layers.Reshape, inputs, target_shape=shape)

    def squeeze(self, image: Any, shape: tuple[int, ...]) -> Any:
        """Calls a Reshape from an image."""
        outputs = self.call("_squeeze", _layers.Reshape, image, target_shape=shape)
        self._flattener.images[id(outputs)] = (outputs, image)
        return outputs

    def on_image(self, inputs: Any, make: Callable[[str, Any], Any]) -> Any:
        """Calls a layer on the image that its inputs were, or returns None where they were none.

        Only there does it fuse with the convolution that made the image.
        """
        known = self._flattener.images.get(id(inputs))
        if known is None:
            return None
        image = known[1]
        layer = self._flattener.copied(self._layer, self._path, "", lambda name: make(name, image.shape))
        outputs = layer(image, **(self._kwargs if takes_training(layer) else {}))
        return self.squeeze(outputs, tuple(inputs.shape[1:]))

    def activate(self, activation: Any, inputs: Any) -> Any:
        """Calls an activation that does not fuse with the layer, as a part of its own."""
        if isinstance(activation, keras.layers.Layer):
            return self._flattener(activation, (inputs,), {}, self._path)
        name = getattr(activation, "__name__", "activation")
        if name == "linear":
            return inputs
        outputs = _expand_activation(self, activation, inputs, f"_{name}")
        if outputs is None:
            outputs = self.call(f"_{name}", _layers.Activation, inputs, activation=activation)
        return outputs if activity_regularizer(self._layer) is None else self.with_loss(outputs)

    def with_loss(self, outputs: Any) -> Any:
        """Calls a layer that adds to the loss what the user's layer did for its output."""
        regularizer = of_shape(
            "regularizer", activity_regularizer(self._layer), user_shape(self._layer, outputs.shape.rank)
        )
        return self.call("_loss", ActivityLoss, outputs, regularizer=regularizer)

    def with_mask(self, outputs: Any, args: tuple) -> Any:
        """Gives the outputs of the parts the mask that the layer passed on; operations pass none."""
        source = next((tensor for tensor in tf.nest.flatten(args) if has_mask(tensor)), None)
        if not getattr(self._layer, "supports_masking", False) or type(self._layer).__name__ == "TFOpLambda":
            return self.call("_mask", MaskOf, outputs) if has_mask(outputs) else outputs
        return outputs if source is None or has_mask(outputs) else self.call("_mask", MaskOf, [outputs, source])


def _expand_kernel(context: _Context, layer: Any, x: Any) -> Any:
    """Makes an activation that TFLite does not fuse a layer; the kernel keeps the name."""
    if activation_name(layer) in ("", *FUSED_ACTIVATIONS):
        return None
    config = {**layer.get_config(), "activation": None, "activity_regularizer": None}
    return context.activate(layer.activation, context.call("", type(layer), x, layer.get_weights(), **config))


def _precedes_norm(layer: Any) -> bool:
    return activation_name(layer) == "linear" and any(isinstance(r, _layers.BatchNormalization) for r in readers(layer))


def _expand_dense(context: _Context, layer: Any, x: Any) -> Any:
    if x.shape.rank > 2 or _precedes_norm(layer):
        return _expand_dense_over_axes(context, layer, x)
    return _expand_kernel(context, layer, x)


def _expand_dense_over_axes(context: _Context, layer: Any, x: Any) -> Any:
    """Makes a Dense layer over more than one axis a 1 x 1 convolution.

    The same for one with a BatchNormalization behind it: with a scale for each channel, that can be folded.
    """
    if None in x.shape[1:]:
        return None
    kernel, *bias = layer.get_weights()
    positions, channels = int(np.prod(x.shape[1:-1])), x.shape[-1]
    y = context.expand(x, (1, positions, channels))
    config = {**constraints(layer, "kernel", shape=kernel.shape), **rest_of(layer)}
    y = context.call("", _layers.Conv2D, y, [kernel[None, None], *bias], filters=layer.units, kernel_size=1, **config)
    y = context.activate(rest(layer), y)
    return context.squeeze(y, (*x.shape[1:-1], layer.units))


def _expand_separable(context: _Context, layer: Any, x: Any) -> Any:
    depthwise, pointwise, *bias = layer.get_weights()
    y = context.call(
        "_depthwise",
        _layers.DepthwiseConv2D,
        x,
        [depthwise],
        kernel_size=layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
        use_bias=False,
        **constraints(layer, "depthwise", "depthwise"),
    )
    config = {**constraints(layer, "pointwise"), **rest_of(layer)}
    data_format = {"data_format": layer.data_format}
    y = context.call(
        "_pointwise",
        _layers.Conv2D,
        y,
        [pointwise, *bias],
        filters=layer.filters,
        kernel_size=1,
        **data_format,
        **config,
    )
    return context.activate(rest(layer), y)


def _as_image(context: _Context, layer: Any, x: Any) -> Any:
    """Returns a sequence as an image of height 1, padded on the left where the convolution is causal."""
    y = context.expand(x, (1, *x.shape[1:]))
    if layer.padding == "causal":
        left = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        y = context.call("_pad", _layers.ZeroPadding2D, y, padding=((0, 0), (left, 0)))
    return y


def _expand_conv1d(context: _Context, layer: Any, x: Any) -> Any:
    """Makes a convolution over a sequence one over an image of height 1."""
    if None in x.shape[1:] or layer.data_format != "channels_last":
        return None
    kernel, *bias = layer.get_weights()
    y = _as_image(context, layer, x)
    config = {**constraints(layer, "kernel", shape=kernel.shape), **rest_of(layer), "groups": layer.groups}
    arguments = image_arguments(layer)
    y = context.call("", _layers.Conv2D, y, [kernel[None], *bias], filters=layer.filters, **arguments, **config)
    y = context.activate(rest(layer), y)
    return context.squeeze(y, tuple(y.shape[2:]))


def _expand_separable1d(context: _Context, layer: Any, x: Any) -> Any:
    if None in x.shape[1:] or layer.data_format != "channels_last":
        return None
    depthwise, pointwise, *bias = layer.get_weights()
    y = _as_image(context, layer, x)
    config = {"use_bias": False, "depth_multiplier": layer.depth_multiplier}
    arguments = {**image_arguments(layer), **constraints(layer, "depthwise", "depthwise", depthwise.shape), **config}
    y = context.call("_depthwise", _layers.DepthwiseConv2D, y, [depthwise[None]], **arguments)
    config = {**constraints(layer, "pointwise", shape=pointwise.shape), **rest_of(layer)}
    y = context.call(
        "_pointwise", _layers.Conv2D, y, [pointwise[None], *bias], filters=layer.filters, kernel_size=1, **config
    )
    y = context.activate(rest(layer), y)
    return context.squeeze(y, tuple(y.shape[2:]))


def _expand_activation(context: _Context, activation: Any, x: Any, part: str) -> Any:
    """Makes an activation of others, such as swish of sigmoid; returns None if it is none of these."""
    name = getattr(activation, "__name__", "")
    if name in ("swish", "silu"):
        return context.call(
            part, _layers.Multiply, [x, context.call(f"{part}_sigmoid", _layers.Activation, x, activation="sigmoid")]
        )
    if name == "relu6":
        return context.call(part, _layers.ReLU, x, max_value=6.0)
    if name == "hard_sigmoid":
        # Keras 2: clip(0.2 x + 0.5, 0, 1), here as relu6(1.2 x + 3) / 6.
        y = context.call(f"{part}_line", _layers.Rescaling, x, scale=1.2, offset=3.0)
        y = context.call(f"{part}_relu6", _layers.ReLU, y, max_value=6.0)
        return context.call(part, _layers.Rescaling, y, scale=1 / 6)
    return None


def _expand_relu(context: _Context, layer: Any, x: Any) -> Any:
    if layer.negative_slope and layer.max_value is None and not layer.threshold:
        return context.call("", _layers.LeakyReLU, x, alpha=float(layer.negative_slope))
    return context.on_image(x, lambda name, shape: copy_layer(layer, shape, name))


def _expand_norm(context: _Context, layer: Any, x: Any) -> Any:
    if list(layer.axis) != [x.shape.rank - 1]:
        return None
    return context.on_image(x, lambda name, shape: copy_norm_of_images(layer, shape, name))


def _expand_activation_layer(context: _Context, layer: Any, x: Any) -> Any:
    if activation_name(layer) == "relu":
        return context.on_image(x, lambda name, shape: copy_layer(layer, shape, name))
    return _expand_activation(context, layer.activation, x, "")


def _expand_merge(context: _Context, layer: Any, inputs: Any) -> Any:
    """Makes a sum or product of many a chain, each link with its own range: TFLite's Add and Mul are binary."""
    if not isinstance(inputs, (list, tuple)) or len(inputs) < 3:
        return None
    total = inputs[0]
    for i, tensor in enumerate(inputs[1:], start=1):
        part = "" if i == len(inputs) - 1 else f"_{i}"
        total = context.call(part, type(layer), [total, tensor])
    return total


def _expand_operation(context: _Context, layer: Any, args: tuple, kwargs: dict) -> Any:
    """Makes a TensorFlow operation the layer that computes the same; returns None if there is none."""
    symbol = str(layer.symbol).rpartition(".")[2]
    tensors = [value for value in tf.nest.flatten([args, kwargs]) if is_keras_tensor(value)]
    if symbol in ("relu", "relu6") and len(tensors) == 1:
        return context.call("", _layers.ReLU, tensors[0], max_value=6.0 if symbol == "relu6" else None)
    if symbol in ("sigmoid", "tanh", "softmax", "swish", "silu") and len(tensors) == 1 and set(kwargs) <= {"name"}:
        return context.activate(keras.activations.get("swish" if symbol == "silu" else symbol), tensors[0])
    merge = {"add": _layers.Add, "multiply": _layers.Multiply, "mul": _layers.Multiply, "subtract": _layers.Subtract}
    merge["sub"] = _layers.Subtract
    if symbol in merge and len(tensors) == 2 and tensors[0].shape == tensors[1].shape:
        return context.call("", merge[symbol], tensors)
    if symbol in merge and len(tensors) == 1:
        return _expand_affine(context, symbol, tensors[0], args, kwargs)
    return None


def _expand_affine(context: _Context, symbol: str, x: Any, args: tuple, kwargs: dict) -> Any:
    """Makes a sum or a product of a tensor and a number a Rescaling."""
    values = [v for v in (*args, *(kwargs.get(key) for key in ("y", "x"))) if isinstance(v, (int, float, np.number))]
    if len(values) != 1 or x is not args[0]:
        return None
    value = float(values[0])
    scale, offset = {"add": (1.0, value), "sub": (1.0, -value), "subtract": (1.0, -value)}.get(symbol, (value, 0.0))
    return context.call("", _layers.Rescaling, x, scale=scale, offset=offset)


# Layer types that are replaced by several layers, or by another. Other types with a kernel take `_expand_kernel`.
_EXPANSIONS: dict[Any, Any] = {
    _layers.Dense: _expand_dense,
    _layers.Conv1D: _expand_conv1d,
    _layers.SeparableConv2D: _expand_separable,
    _layers.SeparableConv1D: _expand_separable1d,
    _layers.ReLU: _expand_relu,
    _layers.Add: _expand_merge,
    _layers.Multiply: _expand_merge,
    _layers.Activation: _expand_activation_layer,
    _layers.BatchNormalization: _expand_norm,
}


def flatten(model: Any) -> FlatModel:
    """Returns a flat copy of a functional model, with the same weights and outputs.

    Args:
        model: A built functional model; models inside it must be functional too.

    Returns:
        The copy, and the other names of its layers.

    Raises:
        ValueError: A layer that cannot be copied.
    """
    flattener = _Flattener(model)
    for tensor in model.inputs:
        flattener.aliases[layer_of(tensor).name] = ()
    return FlatModel(rebuild(model, flattener), flattener.aliases)
