"""Training with per-record clipping and noise (DP-SGD), for float and quantized models.

The gradient of each record is clipped by its norm, which `per_record` finds in a backward pass without the gradient of
each record itself. One more backward pass then gives the sum of all clipped gradients.

TensorFlow is imported when a model is trained.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Optional

from tfmiaq._checks import AT_LEAST_ONE, InvalidArgumentError, check_fields, integer, real


@dataclasses.dataclass(frozen=True)
class DPSGD:
    """Per-record clipping and noise in each step of a training; see `TrainingRecipe`.

    A step takes the gradient of each record of the batch, scales it down to a norm of `clip` where it is above, adds
    normal noise of standard deviation `noise` times `clip` to their sum, and divides by the number of records (Abadi et
    al. 2016, algorithm 1). Clipping alone, without noise, is a training of its own, and lowers membership leakage in
    large batches (docs/defence.md); it guarantees nothing.

    BatchNormalization mixes the records of a batch, so it cannot be clipped by record: use GroupNormalization, or none.

    Example:
        >>> dp = tfmiaq.training.DPSGD(clip=1.0, noise=1.0, poisson=True)
        >>> recipe = tfmiaq.TrainingRecipe(epochs=50, learning_rate=2.0, batch_size=1600, dp=dp)
        >>> print(recipe.guarantee(records=50_000))

    Attributes:
        clip: Largest norm of a record's gradient, above 0. None clips nothing, and then there is no noise either.
        noise: Standard deviation of the noise in units of `clip`, 0 or more.
        poisson: Whether each batch is a Poisson sample: each record is in it by chance, `batch_size` of them on
            average. Accounting takes that for granted. False for batches of a shuffle.
        copies: How many augmented copies of a record its gradient is the mean of (De et al. 2022, section 3.2), for a
            recipe that augments. At least 1.
        at_once: Records whose gradients are computed at once, which bounds the memory of a large batch: the rest of it
            follows, and the sums add up. None for the whole batch.

    Raises:
        InvalidArgumentError: Fields out of their ranges, or noise without a clip; all of them are listed.
    """

    clip: Optional[float] = 1.0
    noise: float = 0.0
    poisson: bool = False
    copies: int = 1
    at_once: Optional[int] = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            clip=real(0, closed="neither", or_none=True),
            noise=real(0),
            copies=AT_LEAST_ONE,
            at_once=integer(1, or_none=True),
        )
        if not isinstance(self.poisson, bool):
            raise InvalidArgumentError(f"DPSGD: Expected poisson to be True or False. Received {self.poisson!r:.200}.")
        if self.noise and self.clip is None:
            raise InvalidArgumentError(
                "DPSGD: Expected a clip beside noise, which is measured in units of it. Received clip=None, "
                f"noise={self.noise:g}."
            )


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """What a training guarantees for each record.

    Attributes:
        epsilon: Bound of differential privacy when one record is added or left out, or None where there is none.
        delta: The delta that it goes with.
        reason: Why there is no epsilon, or why it means nothing. Empty where it means something.
    """

    epsilon: Optional[float]
    delta: float
    reason: str = ""

    def tpr_at_fpr(self, fpr: float) -> float:
        """Returns the largest TPR that any attack can have at an FPR (Kairouz et al. 2015, theorem 2.1)."""
        if self.epsilon is None:
            return 1.0
        # Beyond this any bound is 1.
        epsilon = min(self.epsilon, 700.0)
        return min(1.0, math.exp(epsilon) * fpr + self.delta, 1 - math.exp(-epsilon) * (1 - self.delta - fpr))

    def __str__(self) -> str:
        if self.epsilon is None:
            return f"no guarantee: {self.reason}"
        text = f"epsilon {self.epsilon:.2f} at delta {self.delta:g}: TPR up to {self.tpr_at_fpr(0.01):.3f} at 1 % FPR"
        return f"no guarantee that means anything: {self.reason} ({text})" if self.reason else text


def guarantee(
    dp: Optional[DPSGD], records: int, batch_size: int, epochs: int, delta: Optional[float], model: Optional[Any]
) -> Guarantee:
    """Returns what a training guarantees; `TrainingRecipe.guarantee` says how it is called."""
    delta = min(1e-5, 0.1 / records) if delta is None else delta
    if dp is None or dp.clip is None or not dp.noise:
        return Guarantee(None, delta, "the recipe has no noise")
    if not dp.poisson:
        return Guarantee(None, delta, "batches are no Poisson samples; give DPSGD(poisson=True)")
    if model is not None:
        from tfmiaq.quantization.inspection import is_quantized

        if is_quantized(model):
            return Guarantee(None, delta, "the ranges of a quantized model's activations come from records, noise-free")
    epsilon = _epsilon(dp.noise, min(1.0, batch_size / records), epochs * -(-records // batch_size), delta)
    found = Guarantee(epsilon, delta)
    if found.tpr_at_fpr(0.01) > 0.99:
        return dataclasses.replace(found, reason="an attack may find all members")
    return found


def _epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    try:
        import dp_accounting
        from dp_accounting import rdp
    except ImportError as error:
        raise ImportError(
            "An epsilon takes dp-accounting: pip install dp-accounting. A training without it is the same."
        ) from error
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    accountant = rdp.RdpAccountant()
    accountant.compose(step, steps)
    return float(accountant.get_epsilon(delta))


def _clipped_sum(model: Any, x: Any, y: Any, dp: DPSGD) -> tuple[list[Any], Any]:
    """Returns the sum of the clipped gradients of some records, and that of their losses."""
    from tfmiaq._backend import keras, tf
    from tfmiaq.training import per_record

    records = tf.shape(x)[0] // dp.copies
    with tf.GradientTape(persistent=True) as tape:
        with per_record.recorded(model) as calls:
            outputs = model(x, training=True)
        labels = y[:, None] if y.shape.rank == 1 else y
        labels = tf.cast(labels, outputs.dtype) if labels.dtype.is_floating else labels
        loss = model.loss if isinstance(model.loss, keras.losses.Loss) else keras.losses.get(model.loss)
        values = loss.call(labels, outputs) if isinstance(loss, keras.losses.Loss) else loss(labels, outputs)
        losses = tf.reduce_mean(tf.reshape(values, [records, -1]), 1)
    factors = tf.ones_like(losses)
    if dp.clip is not None:
        deltas = tape.gradient(losses, [call.outputs for call in calls], unconnected_gradients="zero")
        squares = [one for call, delta in zip(calls, deltas) for one in per_record.squares(call, delta, records)]
        norms = tf.sqrt(tf.add_n(squares))
        factors = dp.clip / tf.maximum(norms, dp.clip)
    gradients = tape.gradient(losses, model.trainable_variables, factors, unconnected_gradients="zero")
    return gradients, tf.reduce_sum(losses)


def gradients(
    model: Any, x: Any, y: Any, dp: DPSGD, seed: Any, expected: Optional[int] = None
) -> tuple[list[Any], Any]:
    """Returns the gradients of a step, in the order of a compiled model's trainable variables, and the mean loss.

    Args:
        model: The model.
        x: Rows, shape (records times copies, ...): the copies of a record stand together.
        y: Their labels, or soft labels.
        dp: Clip and noise.
        seed: Seed of the noise, two integers.
        expected: Records of a batch, for Poisson samples. None for those that there are.
    """
    from tfmiaq._backend import tf

    rows = tf.shape(x)[0]
    if dp.at_once is None:
        sums, loss = _clipped_sum(model, x, y, dp)
    else:
        size = dp.at_once * dp.copies

        def more(start: Any, sums: Any, loss: Any) -> Any:
            found, of_part = _clipped_sum(model, x[start : start + size], y[start : start + size], dp)
            return start + size, [one + other for one, other in zip(sums, found)], loss + of_part

        zeros = [tf.zeros_like(variable) for variable in model.trainable_variables]
        _, sums, loss = tf.while_loop(lambda start, *_: start < rows, more, [0, zeros, 0.0])
    if dp.noise and dp.clip is not None:
        seeds = [tf.random.experimental.stateless_fold_in(seed, index) for index in range(len(sums))]
        sums = [
            total + dp.noise * dp.clip * tf.random.stateless_normal(tf.shape(total), one)
            for total, one in zip(sums, seeds)
        ]
    there = tf.cast(tf.maximum(rows // dp.copies, 1), tf.float32)
    count = there if expected is None else float(expected)
    means = [total / count for total in sums]
    if model.losses:
        # Of weights alone, and so of no record.
        with tf.GradientTape() as tape:
            penalty = tf.add_n(model.losses)
        of_weights = tape.gradient(penalty, model.trainable_variables, unconnected_gradients="zero")
        means = [one + other for one, other in zip(means, of_weights)]
    return means, loss / there


@contextlib.contextmanager
def stepping(model: Any, dp: DPSGD, expected: Optional[int]) -> Iterator[None]:
    """Within it `fit` of a compiled model clips by record."""
    from tfmiaq._backend import keras, tf

    def train_step(data: Any) -> dict[str, Any]:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
        found, loss = gradients(model, x, y, dp, seed, expected)
        model.optimizer.apply_gradients(zip(found, model.trainable_variables))
        return {"loss": loss}

    model.__dict__["train_step"] = train_step
    model.train_function = None
    try:
        yield
    finally:
        del model.__dict__["train_step"]
        model.train_function = None


def is_dense(model: Any) -> bool:
    """Returns whether all layers of a model that have weights are Dense or BatchNormalization, quantized or not."""
    from tfmiaq._backend import QuantizeWrapperV2, keras

    if not isinstance(model, keras.Model):
        return False
    found = model._flatten_layers(recursive=True, include_self=False)
    plain = [layer for layer in found if layer.trainable_weights and not isinstance(layer, QuantizeWrapperV2)]
    return all(isinstance(layer, (keras.layers.Dense, keras.layers.BatchNormalization)) for layer in plain)


def has_batch_normalization(model: Any) -> bool:
    """Returns whether a model has a BatchNormalization layer."""
    from tfmiaq._backend import keras

    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers())


def without_batch_normalization(model: Any) -> Any:
    """Returns a copy of a float model without its BatchNormalization layers, with fresh weights.

    Layers without a bias in front of one get a bias, and convolutions get weights that keep the size of what goes
    through them and a ReLU (He et al. 2015, section 2.2). Use it for a network that is to be trained with `DPSGD`.

    Args:
        model: A functional or sequential Keras model.
    """
    from tfmiaq._backend import keras

    normalization = keras.layers.BatchNormalization
    before = {
        node.layer.name
        for layer in model.layers
        if isinstance(layer, normalization)
        for inbound in layer.inbound_nodes
        for node in inbound.parent_nodes
    }

    def plain(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, normalization):
            return keras.layers.Activation("linear", name=layer.name)
        if layer.name in before and config.get("use_bias") is False:
            config["use_bias"] = True
        # Normalization made up for small kernels: six separable convolutions without it give logits of 1e-7.
        if layer.name in before and isinstance(layer, keras.layers.DepthwiseConv2D):
            # Keras counts the channels in, of which a depthwise kernel reads one.
            channels = layer.input_shape[-1 if layer.data_format == "channels_last" else 1]
            config["depthwise_initializer"] = keras.initializers.VarianceScaling(2.0 * channels, "fan_in")
        elif layer.name in before and isinstance(layer, keras.layers.Conv2D):
            config["kernel_initializer"] = keras.initializers.VarianceScaling(2.0, "fan_in")
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=plain)
