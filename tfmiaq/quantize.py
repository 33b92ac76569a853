"""quantize_model: a Keras model in, the same model with a bit-width for each layer out."""

from __future__ import annotations

from typing import Any, Optional

from tfmiaq import quantize_configs, quantizers
from tfmiaq._backend import QuantizeWrapperV2, is_keras_3_model, keras, serialize_quantizer, tf, tfmot
from tfmiaq.policy import BitwidthPolicy, LayerBits

_layers = keras.layers
_KERNELS = {_layers.Dense: "kernel", _layers.Conv2D: "kernel", _layers.DepthwiseConv2D: "depthwise_kernel"}
_KEEP_CODES = (
    _layers.MaxPooling2D,
    _layers.GlobalMaxPooling2D,
    _layers.Flatten,
    _layers.Reshape,
    _layers.Dropout,
    _layers.Softmax,
    _layers.AveragePooling2D,
)
_KERNEL_ACTIVATIONS = ("linear", "relu", "softmax", "sigmoid", "tanh")
_WAY_OUT = (
    "Leave a layer float with BitwidthPolicy(..., layers={'name': LayerBits(weight=None, activation=None)}), "
    "or rebuild the model without it."
)


def _objects() -> dict[str, Any]:
    names = {}
    for module in (quantizers, quantize_configs):
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__:
                names[name] = value
    return names


def quantize_scope() -> Any:
    """A scope in which Keras can load a quantized model.

    Example:
        with tfmiaq.quantize_scope():
            model = keras.models.load_model("quantized.h5")

    Returns:
        A context manager.
    """
    return tfmot.quantization.keras.quantize_scope(_objects())


def load_model(path: str) -> Any:
    """Loads a quantized model that `model.save` wrote.

    Args:
        path: What was passed to `save`.

    Returns:
        The keras.Model.
    """
    with quantize_scope():
        return keras.models.load_model(path)


def _activation_name(layer: Any) -> str:
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))


def _is_relu(layer: Any) -> bool:
    if type(layer) is _layers.ReLU:
        return not layer.negative_slope and not layer.threshold and layer.max_value in (None, 6, 6.0)
    return type(layer) is _layers.Activation and _activation_name(layer) == "relu"


def _is_linear_kernel(layer: Any) -> bool:
    return type(layer) in _KERNELS and _activation_name(layer) == "linear"


class _Graph:
    """Who feeds whom in a functional model in which each layer is called once."""

    def __init__(self, model: Any) -> None:
        self.layers = list(model.layers)
        self.inputs: dict[str, list[Any]] = {}
        self.consumers: dict[str, list[Any]] = {layer.name: [] for layer in self.layers}
        self.shared: list[Any] = []
        for layer in self.layers:
            if len(layer.inbound_nodes) > 1:
                self.shared.append(layer)
            sources = [
                source
                for node in layer.inbound_nodes
                for source in tf.nest.flatten(node.inbound_layers)
                if source is not layer
            ]
            self.inputs[layer.name] = sources
            for source in sources:
                self.consumers[source.name].append(layer)
        self.outputs = set(model.output_names)

    def only_consumer(self, layer: Any) -> Optional[Any]:
        """The single layer that reads this one, or None where several do or it is an output of the model."""
        consumers = self.consumers[layer.name]
        return consumers[0] if len(consumers) == 1 and layer.name not in self.outputs else None

    def source(self, layer: Any) -> Optional[Any]:
        """The single layer that this one reads, if it is that one's only consumer."""
        inputs = self.inputs[layer.name]
        return inputs[0] if len(inputs) == 1 and self.only_consumer(inputs[0]) is layer else None

    def folds(self, layer: Any) -> bool:
        """Whether a BatchNormalization folds into the kernel before it."""
        source = self.source(layer)
        return source is not None and _is_linear_kernel(source)

    def leader(self, relu: Any) -> Optional[Any]:
        """The kernel that a ReLU layer is fused with, through BatchNormalization too."""
        source = self.source(relu)
        if source is not None and type(source) is _layers.BatchNormalization:
            source = self.source(source)
        return source if source is not None and _is_linear_kernel(source) else None

    def fuses_into_next(self, layer: Any) -> bool:
        """Whether the layer's output needs no range, since the next operation is fused with it."""
        consumer = self.only_consumer(layer)
        if consumer is None:
            return False
        if type(consumer) is _layers.BatchNormalization:
            return _is_linear_kernel(layer)
        return _is_relu(consumer)


def _fault(layer: Any, graph: _Graph) -> Optional[str]:
    """Why a layer cannot be quantized, or None."""
    kind = type(layer)
    if isinstance(layer, keras.Model):
        return "a model inside a model"
    if layer in graph.shared:
        return "called more than once"
    if kind in _KERNELS:
        if _activation_name(layer) not in _KERNEL_ACTIVATIONS:
            return f"activation {_activation_name(layer) or layer.activation!r}"
        return None
    if kind is _layers.BatchNormalization:
        if graph.folds(layer):
            return None
        return "it does not directly follow a Conv2D, DepthwiseConv2D or Dense layer without activation"
    if kind is _layers.ReLU:
        return None if _is_relu(layer) else "only plain ReLU and ReLU6"
    if kind is _layers.Activation:
        name = _activation_name(layer)
        return None if name in ("relu", "linear", "softmax") else f"activation {name}"
    if kind in (_layers.InputLayer, _layers.Add, _layers.Concatenate, _layers.GlobalAveragePooling2D):
        return None
    if kind in _KEEP_CODES:
        return None
    return "layer type"


def _check_model(model: Any) -> None:
    if is_keras_3_model(model):
        raise TypeError(
            f"quantize_model: Expected a Keras 2 model. Received the Keras 3 model {getattr(model, 'name', model)!r}. "
            "Rebuild it with tf_keras: set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported, or replace "
            "'import keras' by 'import tf_keras as keras' where the model is built, and copy the weights with "
            "set_weights(get_weights())."
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"quantize_model: Expected a keras.Model. Received {type(model).__name__}: {model!r:.200}.")
    if not model.built:
        raise ValueError(
            f"quantize_model: Model {model.name!r} is not built. Call model.build(input_shape), or begin it with an "
            "Input, before it is quantized."
        )
    if not getattr(model, "_is_graph_network", False):
        raise ValueError(
            f"quantize_model: Expected a Sequential or Functional model. Model {model.name!r} of type "
            f"{type(model).__name__} is subclassed, or was built without an Input: rebuild it with the functional API."
        )
    wrapped = [layer.name for layer in model.layers if isinstance(layer, QuantizeWrapperV2)]
    if wrapped:
        raise ValueError(f"quantize_model: Model {model.name!r} is quantized already (layers {', '.join(wrapped)}).")


def _check_supported(graph: _Graph, bits: dict[str, LayerBits]) -> None:
    faults = []
    for layer in graph.layers:
        fault = None if bits[layer.name].is_float else _fault(layer, graph)
        if fault:
            faults.append(f"  {layer.name} ({type(layer).__name__}): {fault}")
    if faults:
        raise ValueError("\n".join(["quantize_model cannot quantize these layers:", *faults, _WAY_OUT]))


def _check_honoured(graph: _Graph, policy: BitwidthPolicy, averaged: set[str]) -> None:
    """A rule that names one layer outright is honoured or refused, never skipped."""
    faults = []
    for pattern, bits in policy.rules:
        layer = next((layer for layer in graph.layers if layer.name == pattern), None)
        if layer is None or bits.is_float:
            continue
        if type(layer) not in _KERNELS and not _is_relu(layer):
            faults.append(f"  {pattern!r}: a {type(layer).__name__} has neither weights nor a ReLU to quantize")
        elif pattern in averaged and bits.activation not in (8, None):
            faults.append(f"  {pattern!r}: an AveragePooling2D reads it, which takes 8 bits; pass activation=8")
        elif type(layer) in _KERNELS and bits.activation not in (8, None):
            fused = any(graph.leader(other) is layer for other in graph.layers if _is_relu(other))
            if _activation_name(layer) != "relu" and not fused:
                faults.append(f"  {pattern!r}: no ReLU follows, so its output takes 8 bits; pass activation=8")
    if faults:
        raise ValueError("\n".join(["The policy asks for what cannot be done:", *faults]))


def _averaged(graph: _Graph, bits: dict[str, LayerBits]) -> set[str]:
    """Names of the layers whose codes an AveragePooling2D reads.

    Its int8 kernel rounds averages to its input's grid. At 8 bits that is as good as no rounding; at 2 it is another
    network.
    """
    names: set[str] = set()

    def trace(layer: Any) -> None:
        for source in graph.inputs[layer.name]:
            names.add(source.name)
            if type(source) in (*_KEEP_CODES, _layers.Concatenate):
                trace(source)

    for layer in graph.layers:
        if type(layer) is _layers.AveragePooling2D and not bits[layer.name].is_float:
            trace(layer)
    return names


def _plan(graph: _Graph, bits: dict[str, LayerBits]) -> dict[str, Any]:
    """A fresh QuantizeConfig for each layer that is quantized, by layer name."""
    plan: dict[str, Any] = {}
    for layer in graph.layers:
        if type(layer) is _layers.InputLayer:
            continue
        layer_bits = bits[layer.name]
        if layer_bits.is_float:
            # A quantized layer must read int8 values, whatever computed them.
            if any(not bits[consumer.name].is_float for consumer in graph.consumers[layer.name]):
                plan[layer.name] = quantize_configs.LinearQuantizeConfig()
            continue
        plan[layer.name] = _config(layer, layer_bits, graph)
    _move_ranges_behind_concatenations(graph, plan)
    return plan


def _config(layer: Any, bits: LayerBits, graph: _Graph) -> Any:
    fuses = graph.fuses_into_next(layer)
    if type(layer) in _KERNELS:
        return quantize_configs.KernelQuantizeConfig(
            kernel=_KERNELS[type(layer)],
            weight_bits=bits.weight,
            activation_bits=bits.activation,
            # The converter refuses Dense kernels with one scale per channel.
            per_channel=type(layer) is not _layers.Dense,
            quantize_activation=not fuses,
        )
    if _is_relu(layer):
        if bits.activation is None:
            return quantize_configs.PassThroughQuantizeConfig()
        return quantize_configs.ReluQuantizeConfig(bits.activation)
    has_range = (_layers.BatchNormalization, _layers.Add, _layers.Concatenate, _layers.GlobalAveragePooling2D)
    if type(layer) in has_range and not fuses:
        return quantize_configs.LinearQuantizeConfig()
    return quantize_configs.PassThroughQuantizeConfig()


def _relu_bits(layer: Any, config: Any) -> Optional[int]:
    if isinstance(config, quantize_configs.ReluQuantizeConfig):
        return config.bits
    if isinstance(config, quantize_configs.KernelQuantizeConfig) and _activation_name(layer) == "relu":
        return config.activation_bits
    return None


def _move_ranges_behind_concatenations(graph: _Graph, plan: dict[str, Any]) -> None:
    """All inputs of a TFLite concatenation share its output's scale: one range, behind it, serves them all."""
    for layer in graph.layers:
        feeders = graph.inputs[layer.name]
        if type(layer) is not _layers.Concatenate or layer.name not in plan:
            continue
        bits = [_relu_bits(feeder, plan.get(feeder.name)) for feeder in feeders]
        if any(b is None for b in bits) or any(graph.only_consumer(feeder) is None for feeder in feeders):
            continue
        for feeder in feeders:
            config = plan[feeder.name]
            if isinstance(config, quantize_configs.KernelQuantizeConfig):
                config.quantize_activation = False
            else:
                plan[feeder.name] = quantize_configs.PassThroughQuantizeConfig()
        plan[layer.name] = quantize_configs.ReluQuantizeConfig(max(b for b in bits if b is not None))


class _LayoutTransform(tfmot.quantization.keras.default_8bit.Default8BitQuantizeLayoutTransform):
    """tfmot's default transform, after which each layer gets the QuantizeConfig of the plan."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__()
        self._plan = plan

    def apply(self, model: Any, layer_quantize_map: Any) -> Any:
        transformed, quantize_map = super().apply(model, layer_quantize_map)
        for layer in transformed.layers:
            if layer.name in self._plan:
                quantize_map[layer.name] = {"quantize_config": self._plan[layer.name]}
            elif type(layer).__name__ == "QuantizeLayer":
                quantize_map[layer.name] = {"quantizer": serialize_quantizer(quantizers.LinearQuantizer(widen=True))}
        return transformed, quantize_map


class _Registry(tfmot.quantization.keras.default_8bit.Default8BitQuantizeRegistry):
    """The plan, for layers that tfmot asks about by themselves: those that stay float."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__()
        self._plan = plan

    def supports(self, layer: Any) -> bool:
        return layer.name in self._plan

    def get_quantize_config(self, layer: Any) -> Any:
        return self._plan[layer.name]


class _Scheme(tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme):
    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__()
        self._plan = plan

    def get_layout_transformer(self) -> Any:
        return _LayoutTransform(self._plan)

    def get_quantize_registry(self) -> Any:
        return _Registry(self._plan)


def quantize_model(model: Any, policy: Optional[BitwidthPolicy] = None) -> Any:
    """A copy of a Keras model, each layer quantized to the bits that a policy gives it.

    The copy carries the model's weights and is ready for `compile` and `fit` (quantization-aware training). Ranges of
    activations are taken from the first training batch on: train for at least one step before the outputs mean
    anything. The model that was passed stays as it is.

    Example:
        >>> quantized = tfmiaq.quantize_model(model)
        >>> quantized.compile("adam", "sparse_categorical_crossentropy")
        >>> quantized.fit(x_train, y_train, epochs=5)

    Args:
        model: A built Sequential or Functional Keras 2 model of Dense, Conv2D, DepthwiseConv2D, BatchNormalization,
            ReLU, Add, Concatenate, pooling, Flatten, Reshape, Dropout and Softmax layers. Other layers must be float
            in the policy.
        policy: Bit-widths by layer. None stands for `BitwidthPolicy.mia_default()`: weights of 2 bits and activations
            of 4, and 8 at both ends.

    Returns:
        A functional keras.Model. Its layers are named `quant_` plus the name of the layer they wrap.

    Raises:
        TypeError: A model of Keras 3, or no Keras model at all; a policy of another type.
        ValueError: A model that is not built, subclassed or quantized already; layers that cannot be quantized, all of
            them listed; a policy that names layers the model does not have, or asks for what cannot be done.
    """
    _check_model(model)
    policy = BitwidthPolicy.mia_default() if policy is None else policy
    if not isinstance(policy, BitwidthPolicy):
        raise TypeError(f"quantize_model: Expected a BitwidthPolicy or None as policy. Received {policy!r:.200}.")

    base = keras.models.clone_model(keras.Model(model.inputs, model.outputs, name=model.name))
    base.set_weights(model.get_weights())
    graph = _Graph(base)
    named = [layer for layer in graph.layers if type(layer) is not _layers.InputLayer]
    leaders = {layer.name: graph.leader(layer) for layer in named if _is_relu(layer)}
    bits = policy.resolve(
        names=[layer.name for layer in named],
        weighted=[layer.name for layer in named if type(layer) in _KERNELS],
        followers={name: leader.name for name, leader in leaders.items() if leader is not None},
    )
    bits.update({layer.name: LayerBits() for layer in graph.layers if layer.name not in bits})
    _check_supported(graph, bits)
    averaged = _averaged(graph, bits)
    _check_honoured(graph, policy, averaged)
    for name in averaged:
        if bits[name].activation is not None:
            bits[name] = LayerBits(bits[name].weight, 8)
    plan = _plan(graph, bits)
    if not plan:
        raise ValueError("quantize_model: The policy leaves every layer float; give at least one layer bits.")

    annotate = tfmot.quantization.keras.quantize_annotate_layer
    with quantize_scope():
        annotated = keras.models.clone_model(
            base, clone_function=lambda layer: annotate(layer) if layer.name in plan else layer
        )
        return tfmot.quantization.keras.quantize_apply(annotated, scheme=_Scheme(plan))
