"""What quantization does to each layer of a model, decided before anything is built."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import QuantizeWrapperV2, is_keras_3_model, keras
from tfmiaq.policy import BitwidthPolicy, LayerBits, OutputBits
from tfmiaq.quantization import quantize_configs
from tfmiaq.quantization.layer_graph import (
    FIXED,
    FOLDABLE,
    KEEP_CODES,
    KERNELS,
    RANGED,
    LayerGraph,
    fault,
    is_relu,
    is_softmax,
    operation,
)
from tfmiaq.quantization.transformations import keras3
from tfmiaq.quantization.transformations.copying import float32
from tfmiaq.quantization.transformations.expansions import FlatModel, flatten
from tfmiaq.quantization.transformations.folding import fold_into_convolutions
from tfmiaq.quantization.transformations.functional import activation_name, is_functional, layer_of, nested_models

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
    """Refuses a model with NaN or infinite weights.

    Raises:
        ValueError: Such weights; each layer that has them is named.
    """
    broken = [
        layer.name for layer in model.layers if any(not np.isfinite(weights).all() for weights in layer.get_weights())
    ]
    if broken:
        raise ValueError(
            f"{caller}: NaN or infinite weights in {', '.join(broken)} of model {model.name!r}. Its training diverged: "
            "load an earlier state, or train again at a lower learning rate."
        )


def _check_honoured(layer_graph: LayerGraph, policy: BitwidthPolicy, coarse: set[str], floats: dict[str, str]) -> None:
    """A rule that names one layer outright is honoured or refused, never skipped."""
    faults = []
    for pattern, bits in policy.rules:
        layer = next((layer for layer in layer_graph.layers if layer.name == pattern), None)
        if layer is None or bits.is_float:
            continue
        if layer.name in floats:
            faults.append(f"  {pattern!r}: a {type(layer).__name__} stays float: {floats[layer.name]}")
        elif type(layer) not in KERNELS and not is_relu(layer):
            faults.append(f"  {pattern!r}: a {type(layer).__name__} has neither weights nor a ReLU to quantize")
        elif pattern in coarse and bits.activation not in (8, None):
            faults.append(
                f"  {pattern!r}: a layer reads it that averages, or joins it with sums, which takes 8 bits; pass "
                "activation=8"
            )
        elif type(layer) in KERNELS and bits.activation not in (8, None):
            fused = any(layer_graph.leader(other) is layer for other in layer_graph.layers if is_relu(other))
            if activation_name(layer) != "relu" and not fused:
                faults.append(f"  {pattern!r}: no ReLU follows, so its output takes 8 bits; pass activation=8")
    if faults:
        raise ValueError("\n".join(["The policy asks for what cannot be done:", *faults]))


def _averages(layer: Any) -> bool:
    """Whether a layer computes new values and rounds them to the grid of its input."""
    if type(layer) is _layers.UpSampling2D:
        return bool(layer.interpolation != "nearest")
    return type(layer) in (_layers.AveragePooling1D, _layers.AveragePooling2D)


def _coarse_at_low_bits(layer_graph: LayerGraph, floats: dict[str, str]) -> set[str]:
    """Names of the layers whose codes must be of 8 bits, for the sake of a layer that reads them.

    The int8 kernel of a layer that averages, such as AveragePooling2D, rounds to its input's grid. At 8 bits that is as
    good as no rounding; at 2 it is another network. A concatenation has one scale for all that it joins: of 8 bits, if
    not all are ReLU outputs.
    """
    names: set[str] = set()

    def trace(layer: Any) -> None:
        for source in layer_graph.inputs[layer.name]:
            if source.name not in names:
                names.add(source.name)
                if type(source) in (*KEEP_CODES, _layers.Concatenate) or operation(source):
                    trace(source)

    for layer in layer_graph.layers:
        if layer.name in floats:
            continue
        if _averages(layer) or (type(layer) is _layers.Concatenate and not _joins_relus(layer, layer_graph, floats)):
            trace(layer)
    return names


def _joins_relus(layer: Any, layer_graph: LayerGraph, floats: dict[str, str]) -> bool:
    """Whether all that a concatenation joins are ReLU outputs."""

    def holds(source: Any) -> bool:
        if source.name in floats or source.name in layer_graph.front:
            return False
        if type(source) in (*KEEP_CODES, _layers.Concatenate):
            return all(map(holds, layer_graph.inputs[source.name]))
        return is_relu(source) or (type(source) in KERNELS and activation_name(source) == "relu")

    return all(map(holds, layer_graph.inputs[layer.name]))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What quantization does to each layer of a flat model.

    Attributes:
        flat: The model.
        configs: A fresh QuantizeConfig for each layer that is wrapped, by name.
        ranges: Names of the float layers, and of inputs, whose outputs quantized layers read.
        floats: For each layer that stays float, why.
        bits: Resolved bits by layer name.
        output: Bits of the model's answers, or None.
    """

    flat: FlatModel
    configs: dict[str, Any]
    ranges: frozenset[str]
    floats: dict[str, str]
    bits: dict[str, LayerBits]
    output: Optional[OutputBits] = None


def _configs(layer_graph: LayerGraph, bits: dict[str, LayerBits], floats: dict[str, str]) -> dict[str, Any]:
    plan = {
        layer.name: _config(layer, bits[layer.name], layer_graph)
        for layer in layer_graph.layers
        if layer.name not in layer_graph.front and layer.name not in floats and not operation(layer)
    }
    _move_ranges_behind_concatenations(layer_graph, plan)
    for name, config in plan.items():
        config.aliases = list(layer_graph.aliases.get(name, ()))
    return plan


def _config(layer: Any, bits: LayerBits, layer_graph: LayerGraph) -> Any:
    fuses = layer_graph.fuses_into_next(layer)
    if type(layer) in KERNELS:
        return quantize_configs.KernelQuantizeConfig(
            kernel=KERNELS[type(layer)],
            weight_bits=8 if layer.name in layer_graph.fixed else bits.weight,
            fixed=layer.name in layer_graph.fixed,
            activation_bits=bits.activation,
            per_channel=type(layer) in FOLDABLE,
            # Looked-up weights are codes already.
            quantize_activation=not fuses and type(layer) is not _layers.Embedding,
        )
    if is_relu(layer):
        if bits.activation is None:
            return quantize_configs.PassThroughQuantizeConfig()
        return quantize_configs.ReluQuantizeConfig(bits.activation)
    name = "softmax" if type(layer) is _layers.Softmax else activation_name(layer)
    if name in FIXED and layer_graph.consumers[layer.name] and layer.name not in layer_graph.outputs:
        return quantize_configs.FixedRangeQuantizeConfig(*FIXED[name])
    if type(layer) in (*RANGED, _layers.BatchNormalization) and not fuses:
        return quantize_configs.LinearQuantizeConfig()
    return quantize_configs.PassThroughQuantizeConfig()


def _relu_bits(layer: Any, layer_graph: LayerGraph, plan: dict[str, Any]) -> Optional[int]:
    """Bits of a tensor that holds nothing but ReLU outputs, or None for another."""
    config = plan.get(layer.name)
    if isinstance(config, quantize_configs.ReluQuantizeConfig):
        return config.bits
    if isinstance(config, quantize_configs.KernelQuantizeConfig) and activation_name(layer) == "relu":
        return config.activation_bits
    if type(layer) in KEEP_CODES and config is not None:
        return _relu_bits(layer_graph.inputs[layer.name][0], layer_graph, plan)
    return None


def _move_ranges_behind_concatenations(layer_graph: LayerGraph, plan: dict[str, Any]) -> None:
    """All inputs of a TFLite concatenation share its output's scale: one range, behind it, serves them all."""
    for layer in layer_graph.layers:
        if type(layer) is not _layers.Concatenate or layer.name not in plan:
            continue
        feeders = layer_graph.inputs[layer.name]
        bits = [_relu_bits(feeder, layer_graph, plan) for feeder in feeders]
        for feeder in feeders:
            config = plan.get(feeder.name)
            if layer_graph.only_consumer(feeder) is not layer or config is None:
                continue
            if isinstance(config, quantize_configs.KernelQuantizeConfig):
                config.quantize_activation = False
            elif isinstance(config, (quantize_configs.ReluQuantizeConfig, quantize_configs.LinearQuantizeConfig)):
                plan[feeder.name] = quantize_configs.PassThroughQuantizeConfig()
        known = [b for b in bits if b is not None]
        if len(known) == len(feeders):
            plan[layer.name] = quantize_configs.ReluQuantizeConfig(max(known))


def _convolvable(flat: FlatModel) -> list[str]:
    """Names of normalizations without a kernel to fold into, and of layers that are convolutions by constants."""
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
    """Whether every window of a pooling lies inside its input; DepthwiseConv2D takes square strides only."""
    whole = [(size - window) % stride == 0 and window <= stride for size, window, stride in _windows(pooling)]
    square = pooling.strides[0] == pooling.strides[1] and pooling.data_format == "channels_last"
    return square and (pooling.padding == "valid" or all(whole))


def _windows(pooling: Any) -> list[tuple[int, int, int]]:
    return list(zip(pooling.input_shape[1:3], pooling.pool_size, pooling.strides))


def _normalizes_last_axis(norm: Any) -> bool:
    return list(norm.axis) == [len(norm.input_shape) - 1]


def plan_model(model: Any, policy: Optional[BitwidthPolicy] = None) -> Plan:
    """Decides what becomes of each layer, and builds nothing that is quantized.

    Args:
        model: A built Sequential or Functional model, of Keras 2 or 3.
        policy: Bit-widths by layer; None for the default.

    Returns:
        The plan.

    Raises:
        TypeError, ValueError: As `quantize_model`.
    """
    if is_keras_3_model(model):
        model = keras3.rebuild(model)
    _check_model(model)
    policy = BitwidthPolicy.mia_default() if policy is None else policy
    if not isinstance(policy, BitwidthPolicy):
        raise TypeError(f"quantize_model: Expected a BitwidthPolicy or None as policy. Received {policy!r:.200}.")
    with float32():
        flat = flatten(model)
        flat = fold_into_convolutions(flat, _convolvable(flat))
    layer_graph = LayerGraph(flat.model, flat.aliases, flat.fixed)
    decided = decide(layer_graph, policy)
    if policy.output is not None:
        _check_outputs(flat.model, layer_graph, decided[2])
    return Plan(flat, *decided, policy.output)


def _check_outputs(model: Any, layer_graph: LayerGraph, floats: dict[str, str]) -> None:
    """Refuses output bits for what has no scores of classes to round, or has them in float."""
    for tensor in model.outputs:
        layer = layer_of(tensor)
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


def decide(
    layer_graph: LayerGraph, policy: BitwidthPolicy
) -> tuple[dict[str, Any], frozenset[str], dict[str, str], dict[str, LayerBits]]:
    """What a policy makes of each layer: the fields of `Plan` but the first.

    Raises:
        ValueError: A policy that names layers the model does not have, or asks for what cannot be done.
    """
    bits = _resolve(layer_graph, policy)
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
    coarse = _coarse_at_low_bits(layer_graph, floats)
    _check_honoured(layer_graph, policy, coarse, floats)
    for name in coarse:
        if bits[name].activation is not None:
            bits[name] = LayerBits(bits[name].weight, 8)
    configs = _configs(layer_graph, bits, floats)
    if not configs:
        raise ValueError("quantize_model: The policy leaves every layer float; give at least one layer bits.")
    ranges = frozenset(
        layer.name
        for layer in layer_graph.layers
        if (layer.name in layer_graph.front or layer.name in floats)
        and any(c.name not in floats and c.name not in layer_graph.front for c in layer_graph.consumers[layer.name])
    )
    return configs, ranges, floats, bits


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
