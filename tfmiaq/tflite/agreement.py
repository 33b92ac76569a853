"""How closely the outputs of a .tflite agree with those of the trained model, in steps of their int8 scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import QuantizeLayer, activation_quantizers, number, tf, weight_quantizers
from tfmiaq.quantization import quantizers
from tfmiaq.quantization.inspection import quantized_layers
from tfmiaq.quantization.layer_graph import inner
from tfmiaq.quantization.layer_specs import keeps_codes
from tfmiaq.quantization.transformations.functional import (
    activation_name,
    output_keys,
    output_layers,
    pack_inputs,
    sources,
)

# Steps that outputs may differ by on average, and the most, where every activation has 8 bits: kernels and Keras round
# sums to neighbouring codes, and each layer may pass that on.
MEAN_STEPS = 4.0
LARGEST_STEPS = 8.0
# Networks of up to so many kernels are allowed that; roundings of more add up as the root of their number.
_KERNELS = 16
# Up to so many records are run through the layers one by one: `predict` would trace them first, which takes longer.
_EAGER_RECORDS = 128
# Share of the numbers for which one activation of few bits may fall to the neighbouring level.
_TIPPED = 0.02


@dataclasses.dataclass(frozen=True)
class OutputAgreement:
    """How closely one output of a .tflite agrees with that of the trained model.

    Rounding explains a mean of 4 steps and a largest difference of 8. Where activations have b < 8 bits, one that lies
    between two levels may be rounded to either, which is a difference of 255 / (2^b - 1) steps of 8 bits. That comes on
    top: once to the largest difference, and for 2 % of the numbers to the mean. A network of n > 16 kernels is allowed
    sqrt(n / 16) times as much, as independent roundings add up. Files of the layers in
    `tests/quantization/test_layers.py` differ by up to 1.8 steps in the mean (3.5 on four random records) and 7 at most
    with activations of 4 bits, and by 5.3 and 21 with those of one bit; that of NASNetMobile, of 373 kernels, by up to
    29 (`docs/applications.md`).

    Attributes:
        name: Name of the output.
        step: Value of one step: the int8 scale of the output, or of what is dequantized to it. Behind a sigmoid, tanh
            or softmax it is what one step of its input moves, if that is more. Where float layers make the output, it
            is 1/255 of the trained model's range on the records.
        mean_steps: Mean difference, in steps.
        largest_steps: Largest difference, in steps.
        mean_allowed: Mean difference that rounding explains, in steps.
        largest_allowed: Largest difference that rounding explains, in steps.
        largest_difference: Largest difference, as a number.
        agreement: Share of records, or of positions, on which both choose the same class, 0 to 1. Of an output of one
            unit, the share on which both lie on the same side of the threshold: probability 0.5 behind a sigmoid, 0
            otherwise. Of one unit of a model that is compiled with a loss of regression, the share on which the error
            is one that rounding explains.
    """

    name: str
    step: float
    mean_steps: float
    largest_steps: float
    mean_allowed: float
    largest_allowed: float
    largest_difference: float
    agreement: float

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the differences."""
        return self.mean_steps <= self.mean_allowed and self.largest_steps <= self.largest_allowed

    def __str__(self) -> str:
        return (
            f"output {self.name} differs by {self.mean_steps:.1f} steps of {self.step:.3g} in the mean and "
            f"{self.largest_steps:.1f} at most; rounding explains {self.mean_allowed:.1f} and "
            f"{self.largest_allowed:.1f}"
        )


def predict(model: Any, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the outputs of a Keras model by name, for a model of a fixed batch too.

    Args:
        model: A functional model.
        arrays: One array for each of `model.inputs`.
    """
    count = len(arrays[0])
    batch = next((tensor.shape[0] for tensor in model.inputs if tensor.shape[0]), None)
    if batch and count % batch:
        arrays = [np.concatenate([a, np.repeat(a[-1:], batch - count % batch, axis=0)]) for a in arrays]
    if count > _EAGER_RECORDS:
        found = tf.nest.flatten(model.predict(pack_inputs(model, arrays), batch_size=batch, verbose=0))
    else:
        found = [np.concatenate(parts) for parts in zip(*_called(model, arrays, batch or 32))]
    return {name: np.asarray(output)[:count] for name, output in zip(output_keys(model), found)}


def _called(model: Any, arrays: list[np.ndarray], batch: int) -> Iterator[list[np.ndarray]]:
    """Yields the outputs of one batch after the other."""
    for start in range(0, len(arrays[0]), batch):
        pieces = [tf.constant(array[start : start + batch]) for array in arrays]
        outputs = model(pack_inputs(model, pieces), training=False)
        yield [output.numpy() for output in tf.nest.flatten(outputs)]


def compare_outputs(
    model: Any,
    trained: Mapping[str, np.ndarray],
    stored: Mapping[str, np.ndarray],
    steps: Mapping[str, Optional[float]],
) -> list[OutputAgreement]:
    """Returns how closely each output of a file agrees with the model's; those of several outputs go by name.

    Args:
        model: The quantized model.
        trained: Its outputs by name.
        stored: The file's outputs by name.
        steps: The value of one step of each output of the file, or None.

    Raises:
        ValueError: A file of other outputs, or outputs of other shapes.
    """
    if len(trained) == 1 == len(stored):
        (name,) = trained
        stored, steps = {name: next(iter(stored.values()))}, {name: next(iter(steps.values()))}
    if set(stored) != set(trained):
        raise ValueError(
            f"verify: The file has the outputs {', '.join(stored)}, and the model {', '.join(trained)}: it is of "
            "another model."
        )
    tip = 255.0 / (2.0 ** _fewest_bits(model) - 1.0)
    tip = tip if tip > 1 else 0.0
    kernels = sum(bool(weight_quantizers(wrapper)) for wrapper in quantized_layers(model))
    depth = max(1.0, kernels / _KERNELS) ** 0.5
    mean_allowed, largest_allowed = (MEAN_STEPS + _TIPPED * tip) * depth, (LARGEST_STEPS + tip) * depth
    found = []
    for index, (name, expected) in enumerate(trained.items()):
        if stored[name].shape != expected.shape:
            raise ValueError(
                f"verify: Output {name!r} has shape {stored[name].shape} in the file and {expected.shape} in the model."
            )
        differences = np.abs(stored[name].astype(np.float64) - expected.astype(np.float64))
        step = steps[name] or max(float(np.ptp(expected)), 1e-6) / 255
        found.append(
            OutputAgreement(
                name=name,
                step=step,
                mean_steps=float(differences.mean()) / step,
                largest_steps=float(differences.max()) / step,
                mean_allowed=mean_allowed,
                largest_allowed=largest_allowed,
                largest_difference=float(differences.max()),
                agreement=float(
                    np.mean(
                        _same(stored[name], expected, model, index, differences <= largest_allowed * step),
                    )
                ),
            )
        )
    return found


def _same(stored: np.ndarray, trained: np.ndarray, model: Any, index: int, close: np.ndarray) -> np.ndarray:
    """Returns for each record, or position, whether both outputs say the same."""
    if trained.ndim > 1 and trained.shape[-1] > 1:
        return np.asarray(stored.argmax(-1) == trained.argmax(-1))
    if _is_regression(model, index):
        return close
    threshold = 0.5 if _ends_in_sigmoid(output_layers(model)[index]) else 0.0
    return np.asarray((stored > threshold) == (trained > threshold))


def _ends_in_sigmoid(layer: Any) -> bool:
    """Returns whether a layer is a sigmoid, or passes one on, as ranges, names and reshaping do."""
    while isinstance(layer, QuantizeLayer) or keeps_codes(inner(layer)):
        layer = sources(layer)[0]
    return activation_name(inner(layer)) == "sigmoid"


def _is_regression(model: Any, index: int) -> bool:
    """Returns whether a compiled model trains an output by a distance between numbers."""
    loss = getattr(model, "loss", None)
    if isinstance(loss, dict):
        names = (output_keys(model)[index], model.output_names[index])
        loss = next((loss[name] for name in names if name in loss), None)
    elif isinstance(loss, (list, tuple)):
        loss = loss[index] if index < len(loss) else None
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")
    return str(name).lower() in _DISTANCES


_DISTANCES = (
    *("mse", "mae", "mape", "msle", "huber", "huber_loss", "log_cosh", "logcosh", "poisson", "cosine_similarity"),
    *(f"mean_{kind}_error" for kind in ("squared", "absolute", "absolute_percentage", "squared_logarithmic")),
)


def _fewest_bits(model: Any) -> int:
    bits = [
        round(number(variables["bits"]))
        for wrapper in quantized_layers(model)
        for quantizer, variables in activation_quantizers(wrapper)
        if isinstance(quantizer, quantizers.ReluQuantizer)
    ]
    return min(bits, default=8)
