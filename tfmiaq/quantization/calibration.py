"""Post-training quantization: ranges, BatchNormalization statistics and rounding from unlabelled records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from tqdm.auto import tqdm

from tfmiaq._backend import QuantizeLayer, QuantizeWrapperV2, activation_quantizers, keras, tf, weight_quantizers
from tfmiaq._checks import AT_LEAST_ONE, SEED, Where, check, check_choice
from tfmiaq.quantization import quantizers
from tfmiaq.quantization.inspection import quantized_layers
from tfmiaq.quantization.layer_graph import LayerGraph, inner
from tfmiaq.quantization.layer_specs import is_relu
from tfmiaq.quantization.plan import check_finite, plan_model
from tfmiaq.quantization.ranges import set_range
from tfmiaq.quantization.reconstruction import Statistics, Unit, corrected, statistics_of_parts
from tfmiaq.quantization.transformations.functional import (
    count_calls,
    input_layers,
    layer_of,
    readers,
    takes_training,
    walk,
)

ROUNDING = ("learned", "nearest")
FEWEST_RECORDS = 16
_CHUNK = 128
# Values of a tensor, of each chunk of records, on which the end of its range is chosen.
_SAMPLE_OF_CHUNK = 20_000
_FLOAT, _QUANTIZED = "of_float", "quantized"
_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def calibrate(
    quantized: Any,
    x: Any,
    *,
    float_model: Optional[Any] = None,
    rounding: str = "learned",
    iterations: int = 500,
    batch_size: int = 32,
    seed: int = 0,
    verbose: bool = True,
) -> Any:
    """Quantizes a trained model without training: on a few unlabelled records, which need not be its members.

    Layer by layer, in the order in which they run, with the layers before already quantized:

    - Rounding up or down of each weight is learned, so that the layer, with the BatchNormalization and the ReLU that
      run fused with it, gives the outputs of the float layer (AdaRound, Nagel et al. 2020). From 3 bits on a weight
      goes to one of its two neighbouring levels, at 2 bits to 0 or to the level of its own sign, at 1 bit to one of the
      two signs. Steps have the least squared error.
    - Moving statistics of a BatchNormalization that folds into a quantized layer change by the difference between the
      quantized and the float network on the records. Without one, a bias takes the difference of the means.
    - Ranges of activations are taken from the records; the end of a ReLU's range has the least squared error at the
      bits that the policy has now.

    Layers that stay float are left alone, and so are constants. Embeddings are rounded to nearest. Layers that are
    called several times learn from the float network's inputs of all calls.

    Afterwards `set_policy` changes bits as usual, and ranges follow them. Weights have been rounded to the old bits:
    calibrate again, with `float_model`.

    Example:
        >>> quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(weight=4, activation=8))
        >>> buffer = tfmiaq.convert(tfmiaq.calibrate(quantized, x_records))

    Args:
        quantized: A model from `quantize_model`.
        x: Records without labels, shape (n, ...), n >= 16; a list, or a dictionary by input name, for a model of
            several inputs. Some hundreds are enough. Outputs of all of them, of a few layers at a time, are in memory.
        float_model: The model that `quantized` was made from: its weights are copied first. None for the float weights
            that `quantized` holds; they are those of the float model until it is trained or calibrated.
        rounding: "learned", or "nearest" for the nearest levels.
        iterations: Steps of Adam for each layer, at least 1.
        batch_size: Records in each step, at least 1; of the outputs of a convolution as many times 32 positions.
        seed: Seed of the order of the records.
        verbose: Show a progress bar where standard error is a terminal.

    Returns:
        `quantized`, which is changed in place.

    Raises:
        InvalidArgumentError: Arguments out of their ranges; an unknown rounding.
        TypeError: `float_model` is no model, or x holds no numbers.
        ValueError: A model that is not quantized or has weights that are NaN; records of another shape, with NaN, or
            fewer than 16; a float model of other layers.
    """
    check_choice("calibrate", "rounding", rounding, ROUNDING)
    options = check(
        "calibrate",
        iterations=(iterations, AT_LEAST_ONE),
        batch_size=(batch_size, AT_LEAST_ONE),
        seed=(seed, SEED),
        verbose=(verbose, Where(lambda value: isinstance(value, bool), "True or False")),
    )
    list(quantized_layers(quantized))
    records = _check_records(quantized, x)
    if float_model is not None:
        _copy_weights(float_model, quantized)
    check_finite(quantized, "calibrate")
    verbose = options.pop("verbose")
    if rounding == "nearest":
        options["iterations"] = 0
    units = sum(_has_rounding(layer) for layer in quantized.layers)
    with tqdm(total=units, desc="calibrate", disable=None if verbose else True) as bar:
        _Calibration(quantized, progress=bar, **options).run(records)
    return quantized


def _check_records(model: Any, x: Any) -> list[np.ndarray]:
    """Returns an array for each input of a model, in its order.

    Raises:
        TypeError, ValueError: As `calibrate`.
    """
    names = [layer.name for layer in input_layers(model)]
    if isinstance(x, dict):
        if set(x) != set(names):
            raise ValueError(
                f"calibrate: The model's inputs are {', '.join(names)}. Received {', '.join(map(str, x))}."
            )
        given = [x[name] for name in names]
    else:
        given = list(x) if isinstance(x, (list, tuple)) else [x]
    if len(given) != len(names):
        raise ValueError(f"calibrate: The model has {len(names)} inputs ({', '.join(names)}). Received {len(given)}.")
    arrays = []
    for name, array, tensor in zip(names, given, model.inputs):
        array = np.asarray(array)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"calibrate: Expected records as numbers for input {name!r}. Received {array.dtype}.")
        wanted = tuple(tensor.shape[1:])
        shape = array.shape[1:]
        if array.ndim != len(wanted) + 1 or any(w not in (None, s) for w, s in zip(wanted, shape)):
            raise ValueError(
                f"calibrate: Input {name!r} takes records of shape {wanted}. Received an array of shape {array.shape}; "
                "pass records alone, without labels."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
            raise ValueError(f"calibrate: NaN or infinity in {len(bad)} records of input {name!r}, the first {bad[0]}.")
        arrays.append(array.astype(tensor.dtype.as_numpy_dtype))
    counts = {len(array) for array in arrays}
    if len(counts) > 1:
        raise ValueError(f"calibrate: Expected equally many records for each input. Received {sorted(counts)}.")
    if min(counts) < FEWEST_RECORDS:
        raise ValueError(f"calibrate: Expected at least {FEWEST_RECORDS} records. Received {min(counts)}.")
    return arrays


def _copy_weights(float_model: Any, model: Any) -> None:
    """Sets all weights of a quantized model to those of the float model that it was made from."""
    # The flat graph is the same under every policy; one of this model's names might not fit another model.
    flat, _ = plan_model(float_model)
    originals = {layer.name: layer for layer in flat.model.layers}
    pairs, faults = [], []
    for layer in model.layers:
        copy = inner(layer)
        # Keras names the inputs of each model anew.
        if isinstance(copy, (QuantizeLayer, keras.layers.InputLayer)):
            continue
        original = originals.pop(copy.name, None)
        kernels = weight_quantizers(layer) if isinstance(layer, QuantizeWrapperV2) else []
        found: list[tuple[Any, Any]] = [
            (kernel, getattr(original, layer.quantize_config.kernel, kernel)) for kernel, _, _ in kernels
        ]
        theirs = {id(kernel) for _, kernel in found}
        ours = [v for v in copy.weights if all(v is not kernel for kernel, _, _ in kernels)]
        rest = [v for v in getattr(original, "weights", []) if id(v) not in theirs]
        found += zip(ours, rest)
        if type(original) is not type(copy) or len(ours) != len(rest) or any(a.shape != b.shape for a, b in found):
            faults.append(copy.name)
        pairs += found
    if faults or any(layer.weights for layer in originals.values()):
        names = faults or list(originals)
        raise ValueError(
            f"calibrate: float_model is not the model that the quantized one was made from. It differs in "
            f"{', '.join(names[:5])}."
        )
    for variable, value in pairs:
        variable.assign(value)


def _has_rounding(layer: Any) -> bool:
    is_wrapped = isinstance(layer, QuantizeWrapperV2) and bool(weight_quantizers(layer))
    return is_wrapped and not getattr(layer.quantize_config, "fixed", False)


class _Tensor:
    """What a tensor of the graph holds, in the float and in the quantized network: a value for each chunk of records.

    Args:
        of_float: Values in the float network.
        quantized: Values in the quantized network.
        readers: Number of calls that read it, after which the values are dropped.
    """

    def __init__(self, of_float: list[Any], quantized: list[Any], readers: int) -> None:
        self.of_float, self.quantized, self._readers = of_float, quantized, readers

    def release(self) -> None:
        self._readers -= 1
        if not self._readers:
            self.of_float, self.quantized = [], []


def _pass_on(quantizer: Any, inputs: Any, variables: Any) -> Any:
    """Stands for a quantizer in the float network."""
    return inputs


def _tensors_in(arguments: _Arguments) -> list[_Tensor]:
    """Returns the tensors of the graph that a call reads, each once."""
    return list({id(t): t for t in tf.nest.flatten(arguments) if isinstance(t, _Tensor)}.values())


def _kept(arguments: _Arguments) -> _Arguments:
    """Returns arguments whose values are not dropped when they are released."""
    return tf.nest.map_structure(
        lambda value: _Tensor(value.of_float, value.of_float, -1) if isinstance(value, _Tensor) else value, arguments
    )


class _Calibration:
    """One walk through both networks side by side."""

    def __init__(self, model: Any, iterations: int, batch_size: int, seed: int, progress: Any) -> None:
        self._model, self._progress = model, progress
        self._iterations, self._batch_size = iterations, batch_size
        self._generator = np.random.default_rng(seed)
        self._graph = LayerGraph.of_quantized(model)
        self._wrappers = {inner(layer).name: layer for layer in model.layers}
        # Of quantized layers that are called several times: arguments and outputs of each call in the float network.
        self._calls: dict[str, list[tuple[_Arguments, list[list[Any]]]]] = {}
        self._done: set[str] = set()

    def run(self, records: Sequence[np.ndarray]) -> None:
        """Calibrates the model."""
        kinds = (QuantizeLayer, QuantizeWrapperV2)
        shared = {layer.name for layer in self._model.layers if count_calls(layer) > 1 and isinstance(layer, kinds)}
        if shared:
            self._walk(records, lambda layer, args, kwargs, path: self._record(layer, (args, kwargs), shared))
        self._walk(records, lambda layer, args, kwargs, path: self._call(layer, (args, kwargs)))

    def _walk(self, records: Sequence[np.ndarray], call: Any) -> None:
        count = len(records[0])
        size = next((t.shape[0] for t in self._model.inputs if t.shape[0]), None)
        if size and size > count:
            raise ValueError(f"calibrate: The model takes batches of {size} records. Received {count} records.")
        starts = range(0, count - count % size, size) if size else range(0, count, _CHUNK)
        tensors = []
        for array, tensor in zip(records, self._model.inputs):
            parts = [tf.constant(array[start : start + (size or _CHUNK)]) for start in starts]
            tensors.append(_Tensor(parts, parts, len(readers(layer_of(tensor)))))
        walk(self._model, tensors, call)

    def _record(self, layer: Any, arguments: _Arguments, shared: set[str]) -> list[_Tensor]:
        outputs = _run(layer, arguments, _FLOAT, _pass_on)
        if layer.name in shared:
            self._calls.setdefault(layer.name, []).append((_kept(arguments), outputs))
        return _results(layer, arguments, outputs, outputs)

    def _call(self, layer: Any, arguments: _Arguments) -> list[_Tensor]:
        calls, quantized = self._calls.get(layer.name), None
        if layer.name not in self._done:
            self._done.add(layer.name)
            if calls:
                every, network, of_float = [given for given, _ in calls], _FLOAT, []
            else:
                every, network, of_float = [arguments], _QUANTIZED, _run(layer, arguments, _FLOAT, _pass_on)
            quantized = self._calibrate(layer, every, network)
        if calls:
            # The layer's weights are not the float ones any more.
            _, of_float = calls.pop(0)
            self._calls[layer.name] = calls
        if calls is not None or quantized is None:
            quantized = _run(layer, arguments, _QUANTIZED)
        return _results(layer, arguments, of_float, quantized)

    def _calibrate(self, layer: Any, calls: list[_Arguments], network: str) -> Optional[list[list[Any]]]:
        """Sets rounding, moving statistics and ranges of a layer, from what it reads in its calls.

        Returns:
            Its outputs of the last call in that network, quantized; or None where they were not computed.
        """
        if not isinstance(layer, (QuantizeLayer, QuantizeWrapperV2)):
            return None
        if _has_rounding(layer):
            self._round(layer, calls, network)
            self._progress.update()
        if self._graph.folds(inner(layer)):
            self._correct(inner(layer), calls[0])
        return _set_ranges(layer, calls, network, self._generator)

    def _round(self, wrapper: Any, calls: list[_Arguments], network: str) -> None:
        layer = wrapper.layer
        norm = self._graph.norm_behind(layer)
        following = self._graph.only_consumer(norm if norm is not None else layer)
        leads = following is not None and is_relu(following) and self._graph.leader(following) is layer
        unit = Unit(wrapper, norm, following if leads else None)
        self._progress.set_postfix_str(layer.name)
        read = [_tensors_in(arguments) for arguments in calls]
        inputs, float_inputs = (
            # A layer of the user's own may read several tensors.
            [part for (tensor,) in read for part in getattr(tensor, name)]
            if all(len(tensors) == 1 for tensors in read)
            else None
            for name in (network, _FLOAT)
        )
        unit.learn(inputs, float_inputs, self._iterations, self._batch_size, self._generator)

    def _correct(self, norm: Any, arguments: _Arguments) -> None:
        (tensor,) = _tensors_in(arguments)
        found = corrected(
            norm.epsilon,
            Statistics(norm.moving_mean.numpy(), norm.moving_variance.numpy()),
            statistics_of_parts(tensor.of_float),
            statistics_of_parts(tensor.quantized),
        )
        norm.moving_mean.assign(found.mean)
        norm.moving_variance.assign(found.variance)


def _run(layer: Any, arguments: _Arguments, network: str, by: Any = lambda *given: None) -> list[list[Any]]:
    """Returns the outputs of a layer, flat: for each a list of its values, one for each chunk.

    Args:
        layer: The layer.
        arguments: What it is called with; tensors of the graph as `_Tensor`.
        network: Of which network it reads the tensors.
        by: Stands for the quantizers, as for `quantizers.replaced`.
    """
    args, kwargs = arguments
    if takes_training(layer) and kwargs.get("training") is None:
        kwargs = {**kwargs, "training": False}
    read = _tensors_in(arguments)
    chunks = []
    with quantizers.replaced(by):
        for part in range(len(getattr(read[0], network)) if read else 1):
            given, named = tf.nest.map_structure(
                lambda value, part=part: getattr(value, network)[part] if isinstance(value, _Tensor) else value,
                (args, kwargs),
            )
            chunks.append(tf.nest.flatten(layer(*given, **named)))
    return [list(values) for values in zip(*chunks)]


def _results(layer: Any, arguments: _Arguments, of_float: list, quantized: list) -> list[_Tensor]:
    """Returns what a call gives, and releases what it has read."""
    for tensor in _tensors_in(arguments):
        tensor.release()
    return [_Tensor(*values, len(readers(layer))) for values in zip(of_float, quantized)]


def _set_ranges(
    layer: Any, calls: list[_Arguments], network: str, generator: np.random.Generator
) -> Optional[list[list[Any]]]:
    """Sets the range of a layer's outputs from what is in front of its quantizer.

    Returns:
        The outputs of the last call as `_run` does, or None where the layer has no range, or does more behind it.
    """
    # No layer has more than one range.
    found = next(((q, variables) for q, variables in activation_quantizers(layer) if "seen" in variables), None)
    if found is None:
        return None
    quantizer, variables = found
    seen: list[Any] = []

    def see(quantizer: Any, inputs: Any, variables: dict[str, Any]) -> Any:
        if "seen" not in variables:
            return None
        seen.append(inputs)
        return inputs

    for arguments in calls:
        outputs = _run(layer, arguments, network, see)
    lowest, largest, values = np.inf, -np.inf, []
    for inputs in seen:
        flat = inputs.numpy().ravel()
        lowest, largest = min(lowest, float(flat.min())), max(largest, float(flat.max()))
        values.append(flat[generator.integers(0, len(flat), _SAMPLE_OF_CHUNK)])
    set_range(quantizer, variables, lowest, largest, np.concatenate(values))
    if len(outputs) > 1 or any(output is not inputs for output, inputs in zip(reversed(outputs[0]), reversed(seen))):
        return None
    return [[quantizer(output, False, variables) for output in outputs[0]]]
