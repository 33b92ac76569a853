"""Quantizes a Keras model with a bit-width for each layer, changes the bits, and loads quantized models."""

from __future__ import annotations

import contextlib
import os
import warnings
from typing import Any, Optional

from tfmiaq._backend import activation_quantizers, tf, weight_quantizers
from tfmiaq.loading.keras_files import open_keras_model
from tfmiaq.policy import BitwidthPolicy
from tfmiaq.quantization import layers, quantize_configs, quantizers
from tfmiaq.quantization.inspection import quantized_layers, quantized_outputs
from tfmiaq.quantization.layer_graph import LayerGraph, before_range
from tfmiaq.quantization.layer_specs import is_softmax
from tfmiaq.quantization.plan import Plan, plan_layers, plan_model
from tfmiaq.quantization.transformations import copying
from tfmiaq.quantization.transformations.expansions import FlatModel
from tfmiaq.quantization.transformations.functional import (
    input_layers,
    layer_of,
    of_the_class_of,
    output_layers,
    output_names,
    rebuild,
)

_WAY_OUT = (
    "Leave a layer float with BitwidthPolicy(..., layers={'name': LayerBits(weight=None, activation=None)}), "
    "or rebuild the model without it."
)


def load_model(
    path: Any,
    *,
    trust: bool = False,
    custom_objects: Optional[dict[str, Any]] = None,
    max_bytes: Optional[int] = None,
    max_seconds: Optional[float] = None,
) -> Any:
    """Loads a Keras model, quantized or not, from a file that may come from anyone.

    The file is read before Keras sees it. It may name the classes of Keras, tfmot and tfmiaq, and what is registered;
    `tfmiaq.keras.models.load_model` opens it without that check, and runs what it names.

    Example:
        >>> quantized.save("quantized.keras")
        >>> quantized = tfmiaq.load_model("quantized.keras")

    Args:
        path: A .keras file, an .h5 file, or the folder of a SavedModel.
        trust: Open the file as Keras does. It can run any code. SavedModels and Lambda layers take it.
        custom_objects: Classes and functions by the name that the file has for them, as Keras takes them.
        max_bytes: Bytes that the file's arrays may take in memory; None for 4 GiB.
        max_seconds: Seconds that Keras may take to make the model; None for 300. No limit with `trust`.

    Returns:
        The keras.Model. A .keras file of Keras 3 gives a model of that Keras, not compiled; `quantize_model` takes it.

    Raises:
        TypeError: No path.
        ValueError: No such file, a damaged one, one of more bytes or work, or one that names what it may not; the
            error lists it.
    """
    # A folder holds the traced functions themselves.
    is_folder = isinstance(path, (str, os.PathLike)) and os.path.isdir(path)
    with contextlib.nullcontext() if is_folder else quantizers.passed_on():
        return open_keras_model(
            path, trust=trust, custom_objects=custom_objects, max_bytes=max_bytes, max_seconds=max_seconds
        )


def _refuse_floats(floats: dict[str, str], model: Any) -> None:
    kinds = {layer.name: type(layer).__name__ for layer in model.layers}
    faults = [f"  {name} ({kinds[name]}): {reason}" for name, reason in floats.items()]
    if faults:
        raise ValueError("\n".join(["quantize_model cannot quantize these layers:", *faults, _WAY_OUT]))


def quantize_model(model: Any, policy: Optional[BitwidthPolicy] = None, strict: bool = False) -> Any:
    """Returns a copy of a Keras model, each layer quantized to the bits that a policy gives it.

    The copy carries the model's weights and is ready for `compile` and `fit` (quantization-aware training). Ranges of
    activations are taken from the first training batch on: train for at least one step before you use the outputs, or
    call `calibrate`, which takes no labels and no training. The model that was passed stays as it is.

    Layers of mixed precision compute in float32: an int8 kernel adds up more digits than a float16 has.

    Nested models are inlined; a policy names their layers by their own names, or by path ("backbone/conv1"). Layers
    that TFLite has no single int8 kernel for are replaced by those it has (a SeparableConv2D by "name_depthwise" and
    "name_pointwise"). What cannot be quantized stays float, with a warning; `tfmiaq.summary(model)` shows it before.

    Example:
        >>> quantized = tfmiaq.quantize_model(model)
        >>> quantized.compile("adam", "sparse_categorical_crossentropy")
        >>> quantized.fit(x_train, y_train, epochs=5)

    Args:
        model: A built Sequential or Functional model. One of Keras 3 is rebuilt in Keras 2 (tf_keras) first.
        policy: Bit-widths by layer. None stands for `BitwidthPolicy.mia_default()`: weights of 2 bits and activations
            of 4, and 8 at both ends.
        strict: Raise an error for layers that cannot be quantized, unless the policy leaves them float.

    Returns:
        A functional keras.Model, of the model's own class where that has a `train_step` of its own. Inputs and outputs
        keep their names and their structure; layers are named `quant_` plus the name of the layer they wrap.

    Raises:
        TypeError: No Keras model; a policy of another type.
        ValueError: A model that is not built, subclassed or quantized already; layers of Keras 3 that Keras 2 does not
            have; with `strict`, layers that cannot be quantized, all of them listed; a policy that names layers the
            model does not have, or cannot be honoured.
    """
    flat, plan = plan_model(model, policy)
    surprises = {
        name: reason
        for name, reason in plan.floats.items()
        if not plan.bits[name].is_float and not reason.startswith("preprocessing")
    }
    if strict:
        _refuse_floats(surprises, flat.model)
    elif surprises:
        warnings.warn(
            f"{len(surprises)} layers stay float: {', '.join(f'{n} ({r})' for n, r in list(surprises.items())[:5])}"
            f"{', ...' if len(surprises) > 5 else ''}. tfmiaq.summary(model) lists them; strict=True refuses them.",
            stacklevel=2,
        )
    with copying.float32(), quantizers.passed_on():
        quantized = _apply(flat, plan, model)
    if not model.trainable:
        quantized.trainable = False
    return quantized


@tf.autograph.experimental.do_not_convert
def _called(layer: Any, args: tuple, kwargs: Optional[dict[str, Any]] = None) -> Any:
    """Returns the outputs of a layer of this project, which AutoGraph would rewrite: that takes a third of a build."""
    return copying.call_copy(layer, args, kwargs or {})


def _apply(flat: FlatModel, plan: Plan, original: Any) -> Any:
    copies: dict[str, Any] = {}

    def copied(layer: Any, args: tuple) -> Any:
        if layer.name not in copies:
            layer_plan = plan.layers.get(layer.name)
            taken = layer_plan is None and layer.name in names and layer.name not in outputs_of_model
            name = f"{layer.name}_float" if taken else None
            copy = copying.copy_layer(layer, copying.shapes_of(args[0]) if args else None, name)
            copies[layer.name] = (
                copy if layer_plan is None else layers.QuantizedLayer(copy, quantize_configs.from_plan(layer_plan))
            )
        return copies[layer.name]

    def ranged(name: str, tensor: Any) -> Any:
        if name not in plan.ranges or not tensor.dtype.is_floating:
            return tensor
        key = f"{name}_range"
        if key not in copies:
            copies[key] = layers.ActivationRange(quantizers.LinearQuantizer(widen=name in inputs), name=key)
        return _called(copies[key], (tensor,))

    def rounded(name: str, tensor: Any) -> Any:
        assert plan.output is not None
        quantizer = quantizers.OutputQuantizer(plan.output.bits, plan.output.clip)
        return layers.QuantizedOutput(quantizer, name=f"{name}_output")(tensor)

    def call(layer: Any, args: tuple, kwargs: dict, path: tuple) -> Any:
        is_rounded = plan.output is not None and layer.name in outputs_of_model
        if is_rounded and is_softmax(layer):
            args = (rounded(layer.name, args[0]), *args[1:])
        copy = copied(layer, args)
        outputs = (_called if layer.name in plan.layers else copying.call_copy)(copy, args, kwargs)
        if is_rounded and not is_softmax(layer):
            return rounded(layer.name, outputs)
        return outputs if isinstance(outputs, (list, tuple)) else ranged(layer.name, outputs)

    def passed(old: Any, new: Any) -> Any:
        if id(old) not in plan.tensors:
            return new
        name = f"{plan.tensors[id(old)]}_range"
        if name in copies:
            name = next(other for i in range(1, 10_000) if (other := f"{name}_{i}") not in copies)
        copies[name] = layers.ActivationRange(quantizers.LinearQuantizer(), name=name)
        return _called(copies[name], (new,))

    def named(index: int, tensor: Any) -> Any:
        if layer_of(tensor).name == names[index] or names[index] in inputs:
            return tensor
        return layers.NamedOutput(name=names[index])(tensor)

    inputs = {layer.name for layer in input_layers(flat.model)}
    outputs_of_model = {before_range(layer).name for layer in output_layers(flat.model)}
    names = output_names(original)
    return rebuild(
        flat.model,
        call,
        read=lambda tensor: ranged(layer_of(tensor).name, tensor),
        write=named,
        make=of_the_class_of(original),
        passed=passed,
    )


def set_policy(model: Any, policy: BitwidthPolicy) -> None:
    """Changes the bits of a quantized model, in place; nothing is rebuilt or traced again.

    Bits are variables of the model. A policy can be changed between two epochs of `fit`, or between two calls of
    `predict`: the ranges of activations follow the bits by themselves.

    Example:
        >>> tfmiaq.set_policy(quantized, tfmiaq.BitwidthPolicy.uniform(weight=1, activation=2))

    Args:
        model: A model from `quantize_model`.
        policy: Bit-widths by layer.

    Raises:
        TypeError: No policy.
        ValueError: A model that is not quantized; a policy that names layers it does not have, cannot be honoured, or
            would quantize what is float or make float what is quantized: that takes `quantize_model`.
    """
    if not isinstance(policy, BitwidthPolicy):
        raise TypeError(f"set_policy: Expected a BitwidthPolicy. Received {policy!r:.200}.")
    wrappers = list(quantized_layers(model))
    plan = plan_layers(LayerGraph.of_quantized(model), policy)
    faults, settings = [], []
    for wrapper in wrappers:
        layer_plan = plan.layers.get(wrapper.layer.name)
        wanted = [] if layer_plan is None else quantize_configs.from_plan(layer_plan).quantizers(wrapper.layer)
        owned = [(q, v) for _, q, v in weight_quantizers(wrapper)] + activation_quantizers(wrapper)
        if [type(quantizer) for quantizer in wanted] != [type(quantizer) for quantizer, _ in owned]:
            faults.append(f"  {wrapper.layer.name}")
        settings += [(v["bits"], q.bits) for q, (_, v) in zip(wanted, owned) if "bits" in v]
    outputs = list(quantized_outputs(model))
    if bool(outputs) != (policy.output is not None):
        faults.append(f"  the model's outputs, which {'have' if outputs else 'do not have'} bits of their own")
    if faults:
        raise ValueError(
            "\n".join(
                [
                    "set_policy changes bits, not what is quantized. These layers would become float or stop being so:",
                    *faults,
                    "Pass the policy to tfmiaq.quantize_model with the float model.",
                ]
            )
        )
    for variable, bits in settings:
        variable.assign(float(bits))
    if policy.output is not None:
        for _, variables in (pair for layer in outputs for pair in activation_quantizers(layer)):
            variables["bits"].assign(float(policy.output.bits))
            variables["clip"].assign(policy.output.clip)
