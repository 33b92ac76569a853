"""Who feeds whom in a flat model, and what each type of layer is to an int8 runtime."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Optional

from tfmiaq._backend import QuantizeLayer, QuantizeWrapperV2, keras
from tfmiaq.quantization.transformations import functional
from tfmiaq.quantization.transformations.functional import activation_name

_layers = keras.layers
KERNELS = {
    _layers.Dense: "kernel",
    _layers.Conv2D: "kernel",
    _layers.DepthwiseConv2D: "depthwise_kernel",
    _layers.Conv2DTranspose: "kernel",
    _layers.Embedding: "embeddings",
}
# What the converter folds a BatchNormalization into, each channel with its own scale.
FOLDABLE = (_layers.Conv2D, _layers.DepthwiseConv2D)
# Operations of TFLite that a ReLU runs fused with.
FUSES_RELU = (_layers.Dense, _layers.Conv2D, _layers.DepthwiseConv2D, _layers.Add, _layers.Subtract, _layers.Multiply)
# Layers whose output are codes of their input.
KEEP_CODES = (
    _layers.MaxPooling1D,
    _layers.MaxPooling2D,
    _layers.GlobalMaxPooling1D,
    _layers.GlobalMaxPooling2D,
    _layers.AveragePooling1D,
    _layers.AveragePooling2D,
    _layers.Flatten,
    _layers.Reshape,
    _layers.Permute,
    _layers.RepeatVector,
    _layers.ZeroPadding1D,
    _layers.ZeroPadding2D,
    _layers.Cropping1D,
    _layers.Cropping2D,
    _layers.UpSampling1D,
    _layers.UpSampling2D,
    _layers.Dropout,
    _layers.SpatialDropout1D,
    _layers.SpatialDropout2D,
    _layers.GaussianNoise,
    _layers.GaussianDropout,
    _layers.AlphaDropout,
    _layers.ActivityRegularization,
)
# TensorFlow operations that do the same, which Keras does not let us wrap.
KEEP_CODES_OPERATIONS = ("reshape", "transpose", "expand_dims", "squeeze", "getitem", "strided_slice", "identity")
# Layers whose output has a range of its own, at 8 bits.
RANGED = (
    _layers.Add,
    _layers.Subtract,
    _layers.Multiply,
    _layers.Concatenate,
    _layers.GlobalAveragePooling1D,
    _layers.GlobalAveragePooling2D,
    _layers.LeakyReLU,
)
# Activations whose output range TFLite fixes: lower and upper end in the steps of 1/256 and 1/128 that it takes.
FIXED = {"sigmoid": (0.0, 255 / 256), "softmax": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128)}
# What may stand before the network proper; it works on raw values and stays float.
PREPROCESSING = tuple(
    getattr(_layers, name)
    for name in (
        "Rescaling",
        "Normalization",
        "Resizing",
        "CenterCrop",
        "RandomFlip",
        "RandomRotation",
        "RandomZoom",
        "RandomTranslation",
        "RandomCrop",
        "RandomContrast",
        "RandomBrightness",
    )
)


def is_relu(layer: Any) -> bool:
    """Whether a layer is a ReLU or ReLU6."""
    if type(layer) is _layers.ReLU:
        return not layer.negative_slope and not layer.threshold and layer.max_value in (None, 6, 6.0)
    return type(layer) is _layers.Activation and activation_name(layer) == "relu"


def is_softmax(layer: Any) -> bool:
    """Whether a layer is a softmax, or ends in one."""
    return isinstance(layer, _layers.Softmax) or activation_name(layer) == "softmax"


def inner(layer: Any) -> Any:
    """The layer inside a wrapper, or the layer itself."""
    return layer.layer if isinstance(layer, QuantizeWrapperV2) else layer


def _before_range(layer: Any) -> Any:
    """Returns the layer inside a wrapper, or the one whose output a layer of ranges passes on."""
    while isinstance(layer, QuantizeLayer):
        layer = functional.sources(layer)[0]
    return inner(layer)


def ends_in_softmax(model: Any) -> bool:
    """Whether a model, quantized or not, ends in a softmax."""
    return is_softmax(_before_range(functional.output_layers(model)[0]))


def _is_linear(layer: Any, kinds: Iterable[Any]) -> bool:
    return type(layer) in kinds and activation_name(layer) in ("", "linear")


def operation(layer: Any) -> str:
    """Name of the TensorFlow operation that a layer stands for, or an empty string."""
    if type(layer).__name__ not in ("TFOpLambda", "SlicingOpLambda"):
        return ""
    return str(layer.symbol).rpartition(".")[2].strip("_")


class LayerGraph:
    """Who feeds whom in a flat model, quantized or not.

    Args:
        model: A flat functional model. Of a quantized one, the layers inside the wrappers count, and what only carries
            a range does not.
        aliases: Other names that a policy may use for layers.
        fixed: Names of convolutions by constants.
    """

    def __init__(self, model: Any, aliases: Mapping[str, Sequence[str]], fixed: Collection[str]) -> None:
        outer = {layer.name: layer for layer in model.layers if not isinstance(layer, QuantizeLayer)}
        self.layers = [inner(layer) for layer in outer.values()]
        self.aliases = aliases
        self.fixed = fixed
        self.outputs = {_before_range(layer).name for layer in functional.output_layers(model)}
        self.calls = {inner(layer).name: functional.count_calls(layer) for layer in outer.values()}
        self.inputs: dict[str, list[Any]] = {}
        self.consumers: dict[str, list[Any]] = {layer.name: [] for layer in self.layers}
        for layer in outer.values():
            reader = inner(layer)
            self.inputs[reader.name] = [_before_range(source) for source in functional.sources(layer)]
            for source in self.inputs[reader.name]:
                self.consumers[source.name].append(reader)
        self.front = self._front()

    @classmethod
    def of_quantized(cls, model: Any) -> LayerGraph:
        """The layer_graph of a model from `quantize_model`; its layers carry their other names."""
        configs = {w.layer.name: w.quantize_config for w in model.layers if isinstance(w, QuantizeWrapperV2)}
        fixed = {name for name, config in configs.items() if getattr(config, "fixed", False)}
        return cls(model, {name: tuple(config.aliases) for name, config in configs.items()}, fixed)

    def _front(self) -> set[str]:
        """Names of the inputs and of the preprocessing that reads nothing else."""
        front: set[str] = set()
        for layer in self.layers:
            inside = all(source.name in front for source in self.inputs[layer.name])
            if type(layer) is _layers.InputLayer or (type(layer) in PREPROCESSING and inside):
                front.add(layer.name)
        return front

    def only_consumer(self, layer: Any) -> Optional[Any]:
        """The single layer that reads this one, or None where several do or it is an output of the model."""
        consumers = self.consumers[layer.name]
        alone = len(consumers) == 1 and layer.name not in self.outputs and self.calls[layer.name] == 1
        return consumers[0] if alone and self.calls[consumers[0].name] == 1 else None

    def source(self, layer: Any) -> Optional[Any]:
        """The single layer that this one reads, if it is that one's only consumer."""
        inputs = self.inputs[layer.name]
        return inputs[0] if len(inputs) == 1 and self.only_consumer(inputs[0]) is layer else None

    def folds(self, layer: Any) -> bool:
        """Whether a BatchNormalization folds into the kernel before it."""
        source = self.source(layer) if type(layer) is _layers.BatchNormalization else None
        return source is not None and _is_linear(source, FOLDABLE)

    def leader(self, relu: Any) -> Optional[Any]:
        """The kernel that a ReLU layer is fused with, through BatchNormalization too."""
        source = self.source(relu)
        if source is not None and type(source) is _layers.BatchNormalization:
            source = self.source(source)
            return source if source is not None and _is_linear(source, FOLDABLE) else None
        return source if source is not None and _is_linear(source, FUSES_RELU) and type(source) in KERNELS else None

    def fuses_into_next(self, layer: Any) -> bool:
        """Whether the layer's output needs no range, since the next operation is fused with it."""
        consumer = self.only_consumer(layer)
        if consumer is None:
            return False
        if type(consumer) is _layers.BatchNormalization:
            return _is_linear(layer, FOLDABLE)
        if type(layer) is _layers.BatchNormalization:
            return is_relu(consumer) and self.folds(layer)
        return is_relu(consumer) and _is_linear(layer, FUSES_RELU)

    def weighted(self) -> list[Any]:
        """The layers whose weights a policy gives bits."""
        return [layer for layer in self.layers if type(layer) in KERNELS and layer.name not in self.fixed]

    def ends(self, neighbours: dict[str, list[Any]]) -> list[str]:
        """Names of the weighted layers from which `neighbours` lead to no other: the first, or the last."""
        weighted = {layer.name for layer in self.weighted()}
        order = self.layers if neighbours is self.inputs else reversed(self.layers)
        beyond: dict[str, bool] = {}
        for layer in order:
            near = neighbours[layer.name]
            beyond[layer.name] = any(beyond.get(other.name, False) or other.name in weighted for other in near)
        return [name for name in beyond if name in weighted and not beyond[name]]


def fault(layer: Any, layer_graph: LayerGraph) -> Optional[str]:
    """Why a layer cannot be quantized, or None."""
    kind = type(layer)
    if kind in KERNELS:
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            return "channels_first, which TFLite does not know"
        if kind is _layers.Dense and layer.kernel.shape.rank != 2:
            return "a kernel of more than two axes"
        return None
    if kind is _layers.BatchNormalization:
        return None if layer_graph.folds(layer) else "its shape is not static, or it does not normalize the last axis"
    if kind is _layers.ReLU:
        return None if is_relu(layer) else "only plain ReLU and ReLU6"
    if kind is _layers.Activation:
        name = activation_name(layer)
        return None if name in ("relu", "linear", *FIXED) else f"activation {name}"
    if kind in (*KEEP_CODES, *RANGED, _layers.Softmax, _layers.InputLayer):
        return None
    name = operation(layer)
    if name:
        return None if name in KEEP_CODES_OPERATIONS else f"operation {name}"
    return "layer type"
