"""Decides what quantization does to each layer of a model, before anything is built. Plans are frozen values."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import QuantizeWrapperV2, is_keras_3_model, keras
from tfmiaq.policy import BitwidthPolicy, LayerBits, OutputBits
from tfmiaq.quantization.layer_graph import LayerGraph, before_range, fault
from tfmiaq.quantization.layer_specs import FIXED_RANGES, is_relu, is_softmax, operation, spec_of
from tfmiaq.quantization.transformations import keras3
from tfmiaq.quantization.transformations.copying import float32
from tfmiaq.quantization.transformations.expansions import FlatModel, flatten
from tfmiaq.quantization.transformations.folding import fold_into_convolutions
from tfmiaq.quantization.transformations.functional import activation_name, is_functional, layer_of, nested_models
from tfmiaq.quantization.unsupported import check_supported

_layers = keras.layers


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"quantize_model: Expected a keras.Model. Received {type(model).__name__}: {model!r:.200}.")
    if not model.built:
        raise ValueError(
            f"quantize_model: Model {model.name!r} is not built. Call model.build(input_shape), or begin it with an "
            "Input, before it is quantized."
        )
    subclassed = [] if is_functional(model) else [model]
    subclassed += nested_models(model)
    if subclassed:
        raise ValueError(
            "quantize_model: Expected a Sequential or Functional model. "
            + "; ".join(
                f"Model {inner.name!r} of type {type(inner).__name__} is subclassed, or was built without an Input"
                for inner in subclassed
            )
            + ": rebuild it with the functional API."
        )
    wrapped = [layer.name for layer in model.layers if isinstance(layer, QuantizeWrapperV2)]
    if wrapped:
        raise ValueError(f"quantize_model: Model {model.name!r} is quantized already (layers {', '.join(wrapped)}).")
    check_finite(model, "quantize_model")


def check_finite(model: Any, caller: str) -> None:
    """Raises ValueError if a model has NaN or infinite weights; names each layer that has them."""
    broken = [
        layer.name for layer in model.layers if any(not np.isfinite(weights).all() for weights in layer.get_weights())
    ]
    if broken:
        raise ValueError(
            f"{caller}: NaN or infinite weights in {', '.join(broken)} of model {model.name!r}. Its training diverged: "
            "load an earlier state, or train again at a lower learning rate."
        )


def _check_honoured(
    layer_graph: LayerGraph, policy: BitwidthPolicy, averaged: set[str], floats: Mapping[str, str]
) -> None:
    """Raises ValueError if a rule that names one layer outright cannot be honoured."""
    faults = []
    for pattern, bits in policy.rules:
        layer = next((layer for layer in layer_graph.layers if layer.name == pattern), None)
        if layer is None or bits.is_float:
            continue
        has_kernel = bool(spec_of(layer).kernel)
        if layer.name in floats:
            faults.append(f"  {pattern!r}: a {type(layer).__name__} stays float: {floats[layer.name]}")
        elif not has_kernel and not is_relu(layer):
            faults.append(f"  {pattern!r}: a {type(layer).__name__} has neither weights nor a ReLU to quantize")
        elif pattern in averaged and bits.activation not in (8, None):
            faults.append(
                f"  {pattern!r}: a layer reads it that averages, or joins it with sums, which takes 8 bits; pass "
                "activation=8"
            )
        elif has_kernel and bits.activation not in (8, None):
            fused = any(layer_graph.leader(other) is layer for other in layer_graph.layers if is_relu(other))
            if activation_name(layer) != "relu" and not fused:
                faults.append(f"  {pattern!r}: no ReLU follows, so its output takes 8 bits; pass activation=8")
    if faults:
        raise ValueError("\n".join(["The policy has rules that cannot be honoured:", *faults]))


def _averaged(layer_graph: LayerGraph, floats: Mapping[str, str]) -> set[str]:
    """Returns the names of the layers whose outputs must have 8 bits, because of a layer that reads them.

    The int8 kernel of a layer that averages, such as AveragePooling2D, rounds to its input's grid. At 8 bits that is as
    good as no rounding; at 2 it is another network. A concatenation has one scale for all that it joins: of 8 bits, if
    not all are ReLU outputs.
    """
    names: set[str] = set()

    def trace(layer: Any) -> None:
        for source in layer_graph.inputs[layer.name]:
            if source.name not in names:
                names.add(source.name)
                spec = spec_of(source)
                if spec.keeps_codes or spec.shares_scale or operation(source):
                    trace(source)

    for layer in layer_graph.layers:
        if layer.name in floats:
            continue
        spec = spec_of(layer)
        if spec.averages(layer) or (spec.shares_scale and not _joins_relus(layer, layer_graph, floats)):
            trace(layer)
    return names


def _joins_relus(layer: Any, layer_graph: LayerGraph, floats: Mapping[str, str]) -> bool:
    """Returns whether all inputs of a concatenation are ReLU outputs."""

    def holds(source: Any) -> bool:
        if source.name in floats or source.name in layer_graph.front:
            return False
        spec = spec_of(source)
        if spec.keeps_codes or spec.shares_scale:
            return all(map(holds, layer_graph.inputs[source.name]))
        return is_relu(source) or (bool(spec.kernel) and activation_name(source) == "relu")

    return all(map(holds, layer_graph.inputs[layer.name]))


NO_RANGE = "none"
RELU_RANGE = "relu"
LINEAR_RANGE = "linear"
FIXED_RANGE = "fixed"


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What quantization does to one layer that it wraps.

    Attributes:
        output: The output's range: NO_RANGE where the layer keeps its input's codes, fuses into the next or gives float
            values, RELU_RANGE from 0 on, LINEAR_RANGE, or FIXED_RANGE where TFLite fixes it.
        activation_bits: Bits of that range, or None without one.
        limits: Lower and upper end of a FIXED_RANGE.
        kernel: Attribute that holds the kernel, or an empty string.
        weight_bits: Bits of the kernel, or None for float or without one.
        per_channel: Whether each index of the kernel's last axis has its own step.
        fixed: Whether the kernel is a constant, whose bits no policy changes.
        aliases: Other names of the layer that a policy may use.
    """

    output: str = NO_RANGE
    activation_bits: Optional[int] = None
    limits: Optional[tuple[float, float]] = None
    kernel: str = ""
    weight_bits: Optional[int] = None
    per_channel: bool = False
    fixed: bool = False
    aliases: tuple[str, ...] = ()

    def without_range(self) -> LayerPlan:
        """Returns the plan of the same layer with a reader's range in place of its own."""
        if self.output == FIXED_RANGE:
            return self
        return dataclasses.replace(self, output=NO_RANGE, activation_bits=None)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What quantization does to each layer of a flat model.

    Attributes:
        layers: The plan of each layer that is wrapped, by name. Read-only, as are the other mappings.
        ranges: Names of the float layers, and of inputs, whose outputs quantized layers read.
        floats: For each layer that stays float, why.
        bits: Bits that the policy gives each layer, by name.
        output: Bits of the model's outputs, or None.
        tensors: Names of layers by the `id` of each of their outputs that has an 8-bit range by itself, since the layer
            is called several times, and a ReLU fuses with other calls.
    """

    layers: Mapping[str, LayerPlan]
    ranges: frozenset[str]
    floats: Mapping[str, str]
    bits: Mapping[str, LayerBits]
    output: Optional[OutputBits] = None
    tensors: Mapping[int, str] = dataclasses.field(default_factory=dict)


def _plan_layers(
    layer_graph: LayerGraph, bits: Mapping[str, LayerBits], floats: Mapping[str, str]
) -> dict[str, LayerPlan]:
    plans: dict[str, LayerPlan] = {}
    for layer in layer_graph.layers:
        if layer.name in layer_graph.front or layer.name in floats or operation(layer):
            continue
        plans[layer.name] = _plan_layer(layer, bits[layer.name], layer_graph)
        if spec_of(layer).shares_scale:
            plans.update(_plan_joined(layer, layer_graph, plans))
    return plans


def _plan_layer(layer: Any, bits: LayerBits, layer_graph: LayerGraph) -> LayerPlan:
    spec, aliases = spec_of(layer), tuple(layer_graph.aliases.get(layer.name, ()))
    fuses = layer_graph.fuses_into_next(layer) or bool(layer_graph.ranges_by_call(layer))
    if spec.kernel:
        fixed = layer.name in layer_graph.fixed
        has_range = bits.activation is not None and not fuses and not spec.outputs_weights
        is_rectified = activation_name(layer) == "relu"
        return LayerPlan(
            output=NO_RANGE if not has_range else RELU_RANGE if is_rectified else LINEAR_RANGE,
            activation_bits=None if not has_range else bits.activation if is_rectified else 8,
            kernel=spec.kernel,
            weight_bits=8 if fixed else bits.weight,
            per_channel=spec.per_channel,
            fixed=fixed,
            aliases=aliases,
        )
    if is_relu(layer):
        output = NO_RANGE if bits.activation is None else RELU_RANGE
        return LayerPlan(output, bits.activation, aliases=aliases)
    name = "softmax" if is_softmax(layer) else activation_name(layer)
    if name in FIXED_RANGES and layer_graph.consumers[layer.name] and layer.name not in layer_graph.outputs:
        return LayerPlan(FIXED_RANGE, 8, FIXED_RANGES[name], aliases=aliases)
    if spec.has_range and not fuses:
        return LayerPlan(LINEAR_RANGE, 8, aliases=aliases)
    return LayerPlan(aliases=aliases)


def _relu_bits(layer: Any, layer_graph: LayerGraph, plans: Mapping[str, LayerPlan]) -> Optional[int]:
    """Returns the bits of a tensor that holds nothing but ReLU outputs, or None for another."""
    plan = plans.get(layer.name)
    if plan is None:
        return None
    if plan.output == RELU_RANGE:
        return plan.activation_bits
    return _relu_bits(layer_graph.inputs[layer.name][0], layer_graph, plans) if spec_of(layer).keeps_codes else None


def _plan_joined(layer: Any, layer_graph: LayerGraph, plans: Mapping[str, LayerPlan]) -> dict[str, LayerPlan]:
    """Returns the plans of a concatenation and of what only it reads: one range, behind it, serves them all.

    All inputs of a TFLite concatenation share its output's scale.
    """
    inputs = layer_graph.inputs[layer.name]
    bits = [_relu_bits(source, layer_graph, plans) for source in inputs]
    joined = {
        source.name: plans[source.name].without_range()
        for source in inputs
        if source.name in plans
        and source.name not in layer_graph.outputs
        and all(consumer is layer for consumer in layer_graph.consumers[source.name])
    }
    known = [b for b in bits if b is not None]
    if len(known) == len(inputs):
        joined[layer.name] = dataclasses.replace(plans[layer.name], output=RELU_RANGE, activation_bits=max(known))
    return joined


def _convolvable(flat: FlatModel) -> list[str]:
    """Returns the names of normalizations with no kernel to fold into, and of layers that are constant convolutions."""
    layer_graph = LayerGraph(flat.model, flat.aliases, flat.fixed)

    def is_one(layer: Any) -> bool:
        if layer.name in layer_graph.front or layer_graph.calls[layer.name] > 1:
            return False
        if type(layer) is _layers.BatchNormalization:
            return not layer_graph.folds(layer) and _normalizes_last_axis(layer) and None not in layer.input_shape[1:]
        if type(layer) is _layers.Rescaling:
            return None not in layer.input_shape[1:]
        return type(layer) is _layers.AveragePooling2D and None not in layer.input_shape[1:] and _pads_nothing(layer)

    return [layer.name for layer in layer_graph.layers if is_one(layer)]


def _pads_nothing(pooling: Any) -> bool:
    """Returns whether every window of a pooling lies inside its input; DepthwiseConv2D takes square strides only."""
    whole = [(size - window) % stride == 0 and window <= stride for size, window, stride in _windows(pooling)]
    square = pooling.strides[0] == pooling.strides[1] and pooling.data_format == "channels_last"
    return square and (pooling.padding == "valid" or all(whole))


def _windows(pooling: Any) -> list[tuple[int, int, int]]:
    return list(zip(pooling.input_shape[1:3], pooling.pool_size, pooling.strides))


def _normalizes_last_axis(norm: Any) -> bool:
    return list(norm.axis) == [len(norm.input_shape) - 1]


def plan_model(model: Any, policy: Optional[BitwidthPolicy] = None) -> tuple[FlatModel, Plan]:
    """Returns the flat model that will be quantized, and what becomes of each of its layers.

    Args:
        model: A built Sequential or Functional model, of Keras 2 or 3.
        policy: Bit-widths by layer; None for the default.

    Raises:
        TypeError, ValueError: As `quantize_model`.
    """
    if is_keras_3_model(model):
        model = keras3.rebuild(model)
    _check_model(model)
    check_supported(model)
    policy = BitwidthPolicy.mia_default() if policy is None else policy
    if not isinstance(policy, BitwidthPolicy):
        raise TypeError(f"quantize_model: Expected a BitwidthPolicy or None as policy. Received {policy!r:.200}.")
    with float32():
        flat = flatten(model)
        flat = fold_into_convolutions(flat, _convolvable(flat))
    layer_graph = LayerGraph(flat.model, flat.aliases, flat.fixed)
    plan = plan_layers(layer_graph, policy)
    if policy.output is not None:
        _check_outputs(flat.model, layer_graph, plan.floats)
    return flat, plan


def _check_outputs(model: Any, layer_graph: LayerGraph, floats: Mapping[str, str]) -> None:
    """Raises ValueError if there are no scores of classes to round, or they are float."""
    for tensor in model.outputs:
        layer = before_range(layer_of(tensor))
        if not tensor.shape.rank or (tensor.shape[-1] or 0) < 2:
            raise ValueError(
                f"quantize_model: BitwidthPolicy.output needs a score for each class. Output {layer.name!r} has shape "
                f"{tensor.shape}."
            )
        name = layer_graph.inputs[layer.name][0].name if is_softmax(layer) else layer.name
        if name in floats or activation_name(layer) in ("sigmoid", "tanh"):
            raise ValueError(
                f"quantize_model: BitwidthPolicy.output rounds the logits of a quantized layer, or those under a "
                f"softmax. Output {layer.name!r} {'stays float' if name in floats else 'ends in neither'}."
            )


def plan_layers(layer_graph: LayerGraph, policy: BitwidthPolicy) -> Plan:
    """Returns what a policy makes of each layer.

    Raises:
        ValueError: A policy that names layers the model does not have, or that cannot be honoured.
    """
    bits = _resolve(layer_graph, policy)
    floats = _floats(layer_graph, bits)
    averaged = _averaged(layer_graph, floats)
    _check_honoured(layer_graph, policy, averaged, floats)
    bits = {
        name: LayerBits(given.weight, 8) if name in averaged and given.activation is not None else given
        for name, given in bits.items()
    }
    layers = _plan_layers(layer_graph, bits, floats)
    if not layers:
        raise ValueError("quantize_model: The policy leaves every layer float; give at least one layer bits.")
    ranges = frozenset(
        layer.name
        for layer in layer_graph.layers
        if (layer.name in layer_graph.front or layer.name in floats)
        and any(c.name not in floats and c.name not in layer_graph.front for c in layer_graph.consumers[layer.name])
    )
    frozen = types.MappingProxyType
    tensors = {
        tensor: layer.name
        for layer in layer_graph.layers
        if layer.name in layers and (spec_of(layer).has_range or bits[layer.name].activation is not None)
        for tensor in layer_graph.ranges_by_call(layer)
    }
    return Plan(frozen(layers), ranges, frozen(floats), frozen(bits), policy.output, frozen(tensors))


def _floats(layer_graph: LayerGraph, bits: Mapping[str, LayerBits]) -> dict[str, str]:
    """Returns for each layer that stays float, why."""
    floats: dict[str, str] = {}
    for layer in layer_graph.layers:
        if layer.name in layer_graph.front:
            if type(layer) is not _layers.InputLayer:
                floats[layer.name] = "preprocessing, in front of the network"
        elif bits[layer.name].is_float:
            floats[layer.name] = "the policy leaves it float"
        elif (reason := fault(layer, layer_graph)) is not None:
            floats[layer.name] = reason
        elif layer_graph.folds(layer) and layer_graph.inputs[layer.name][0].name in floats:
            floats[layer.name] = "the layer that it folds into stays float"
    return floats


def _resolve(layer_graph: LayerGraph, policy: BitwidthPolicy) -> dict[str, LayerBits]:
    named = [layer for layer in layer_graph.layers if type(layer) is not _layers.InputLayer]
    leaders = {layer.name: layer_graph.leader(layer) for layer in named if is_relu(layer)}
    bits = policy.resolve(
        names=[layer.name for layer in named],
        first=layer_graph.ends(layer_graph.inputs),
        last=layer_graph.ends(layer_graph.consumers),
        followers={name: leader.name for name, leader in leaders.items() if leader is not None},
        aliases=layer_graph.aliases,
    )
    bits.update({layer.name: LayerBits() for layer in layer_graph.layers if layer.name not in bits})
    return bits
