"""How a model is trained: epochs, learning rate, loss and augmentation, in one value.

TensorFlow is imported when a model is trained, so that the command line prints the fields and defaults without it.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._checks import AT_LEAST_ONE, InvalidArgumentError, check_fields, real
from tfmiaq.training import dp_sgd
from tfmiaq.training.dp_sgd import DPSGD, Guarantee

# Records above it are not made a tensor at once, which takes their memory twice more.
LARGE_BYTES = 2**28


def cosine_sgd(
    learning_rate: float, epochs: int, records: int, batch_size: int, weight_decay: Optional[float] = None
) -> Any:
    """Returns SGD with Nesterov momentum 0.9, whose rate falls from its peak to 0 along a cosine over a training."""
    from tfmiaq._backend import keras

    steps = epochs * -(-records // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return keras.optimizers.SGD(schedule, 0.9, True, weight_decay=weight_decay)


def flips_and_shifts(distance: float = 0.125) -> Any:
    """Returns layers that mirror images at random and shift them by up to `distance` times their height and width."""
    from tfmiaq._backend import keras

    shift = keras.layers.RandomTranslation(distance, distance, fill_mode="constant", interpolation="nearest")
    return keras.Sequential([keras.layers.RandomFlip("horizontal"), shift])


def _description(layer: Any) -> Any:
    """Returns what defines a preprocessing layer, or several: their types and settings, not names and shapes."""
    if hasattr(layer, "layers"):
        return [_description(inner) for inner in layer.layers]
    if not callable(getattr(layer, "get_config", None)):
        return layer
    config = {key: value for key, value in layer.get_config().items() if key not in ("name", "batch_input_shape")}
    return [type(layer).__name__, config]


def _mixed(x: Any, y: Any, alpha: float, seed: Any) -> tuple[Any, Any]:
    """Returns each record, and its soft label, mixed with another one of the batch, by a seed of two integers."""
    from tfmiaq._backend import tf

    count = tf.shape(x)[0]
    # Two gamma variables divided by their sum are beta variables. For a small alpha nearly all underflow 32 bits.
    one, two = tf.unstack(tf.random.stateless_gamma([2, count], seed, alpha, dtype=tf.float64))
    part = tf.cast(one / (one + two), tf.float32)
    other = tf.random.experimental.stateless_shuffle(tf.range(count), seed)

    def mix(values: Any) -> Any:
        values = tf.cast(values, tf.float32)
        weight = tf.reshape(part, [-1] + [1] * (values.shape.rank - 1))
        return weight * values + (1.0 - weight) * tf.gather(values, other)

    return mix(x), mix(y)


def _has_one_unit(model: Any) -> bool:
    return tuple(model.outputs[0].shape[1:]) == (1,)


@dataclasses.dataclass(frozen=True)
class TrainingRecipe:
    """How a model is trained. The defaults are those of fine-tuning a trained model.

    `defend`, `distill` and `cross_distill` take it. To train in another way, write a subclass and override `fit`.
    Finished work is kept by a recipe's fields and by the code of the methods that a subclass defines.

    Example:
        >>> recipe = tfmiaq.TrainingRecipe(epochs=24, learning_rate=0.1, weight_decay=5e-4)
        >>> model = recipe.fit(model, x_train, y_train)

    Attributes:
        epochs: Number of epochs.
        learning_rate: Peak of a cosine schedule, for SGD with Nesterov momentum 0.9. Above 0.
        batch_size: Records in a batch.
        loss: A Keras loss, such as those of `tfmiaq.losses`. None for a cross-entropy: of classes, or for a model of
            one output, a sigmoid or its logit, of 0 and 1.
        augment: Keras preprocessing layers (a layer or a Sequential) that change each training batch, or None.
        weight_decay: Part of each weight, times the learning rate, that a step subtracts from it. None for none.
        mixup: alpha of mixup (Zhang et al. 2018, section 2): each record of a batch, and its label, is mixed with
            another one, with weights drawn from Beta(alpha, alpha). 0 for none, or at least 0.01. For records whose
            values can be mixed, not for codes.
        dp: Clipping of each record's gradient, and noise (`tfmiaq.training.DPSGD`). None for plain steps.

    Raises:
        InvalidArgumentError: Fields out of their ranges; all of them are listed. dp with mixup, whose rows are of two
            records each.
    """

    epochs: int = 10
    learning_rate: float = 0.02
    batch_size: int = 64
    loss: Optional[Any] = None
    augment: Optional[Any] = None
    weight_decay: Optional[float] = None
    mixup: float = 0.0
    dp: Optional[DPSGD] = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            epochs=AT_LEAST_ONE,
            learning_rate=real(0, closed="neither"),
            batch_size=AT_LEAST_ONE,
            weight_decay=real(0, or_none=True),
            mixup=real(0.01, also=(0.0,)),
        )
        if self.loss is not None and not isinstance(self.loss, str) and not callable(self.loss):
            raise InvalidArgumentError(
                f"TrainingRecipe: Expected loss to be a Keras loss, its name or None. Received {self.loss!r:.200}."
            )
        if self.augment is not None and not callable(self.augment):
            raise InvalidArgumentError(
                f"TrainingRecipe: Expected augment to be a Keras layer or None. Received {self.augment!r:.200}."
            )
        if self.dp is not None and not isinstance(self.dp, DPSGD):
            raise InvalidArgumentError(f"TrainingRecipe: Expected dp to be a DPSGD or None. Received {self.dp!r:.200}.")
        if self.dp is not None and self.mixup:
            raise InvalidArgumentError(
                f"TrainingRecipe: dp clips gradients by record, and rows of mixup are of two records each. Expected "
                f"mixup=0 beside dp. Received {self.mixup:g}."
            )
        if self.dp is not None and self.dp.copies > 1 and self.augment is None:
            raise InvalidArgumentError(
                f"TrainingRecipe: Expected augment beside copies={self.dp.copies}: copies that are not changed are "
                "the same. Received None."
            )

    def get_config(self) -> dict[str, Any]:
        """Returns everything that defines the recipe, for its fingerprint.

        Layers of `augment` count by type and settings, so that building them changes nothing. A subclass counts by the
        code of its methods too.
        """
        methods = {
            f"{owner.__qualname__}.{name}": getattr(member, "__func__", member)
            for owner in type(self).__mro__
            if issubclass(owner, TrainingRecipe) and owner is not TrainingRecipe
            for name, member in vars(owner).items()
            if isinstance(getattr(member, "__func__", member), types.FunctionType) and not name.startswith("__")
        }
        return {**vars(self), "augment": _description(self.augment), "methods": methods}

    def fit(self, model: Any, x: np.ndarray, y: np.ndarray, callbacks: Sequence[Any] = ()) -> Any:
        """Trains a model in place and returns it.

        Args:
            model: A Keras model of one output.
            x: Records, shape (n, ...).
            y: Integer classes (n,), or soft labels (n, classes): then the loss is their cross-entropy.
            callbacks: Keras callbacks.

        Returns:
            The model.

        Raises:
            TypeError: No Keras model.
            InvalidArgumentError: Not a label for each record, a class that the model has no output for, NaN or
                infinity among records of numbers, or records of another shape than the model's.
        """
        check_recipe("TrainingRecipe.fit", self)
        _check_sets(model, x, y, self.augment is not None)
        y = self.labels(model, y)
        self.compile(model, len(x), y)
        if self.dp is not None:
            expected = min(self.batch_size, len(x)) if self.dp.poisson else None
            with dp_sgd.stepping(model, self.dp, expected):
                return self._fit(model, x, y, callbacks)
        return self._fit(model, x, y, callbacks)

    def _fit(self, model: Any, x: np.ndarray, y: np.ndarray, callbacks: Sequence[Any]) -> Any:
        from tfmiaq._backend import tf

        poisson = self.dp is not None and self.dp.poisson
        is_large = isinstance(x, np.ndarray) and x.nbytes > LARGE_BYTES
        if self.augment is None and not self.mixup and not poisson and not is_large:
            model.fit(x, y, batch_size=self.batch_size, epochs=self.epochs, verbose=0, callbacks=list(callbacks))
            return model
        records, labels = None if is_large else tf.constant(x), tf.constant(y)
        # TensorFlow keeps each function that it is given for as long as the process lives: not the records with it.
        held = [x]
        # It would take bytes in the other order for those of this machine.
        native = x.dtype.newbyteorder("=") if is_large else None

        def batch(chosen: Any) -> tuple[Any, Any]:
            seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
            if is_large:
                found = tf.numpy_function(lambda numbers: np.asarray(held[0][numbers], native), [chosen], native)
                found = tf.ensure_shape(found, [None, *x.shape[1:]])
            else:
                found = tf.gather(records, chosen)
            return self.batch(found, tf.gather(labels, chosen), seed)

        def sample(_: Any) -> Any:
            return tf.where(tf.random.uniform([len(x)]) < self.batch_size / len(x))[:, 0]

        if poisson:
            chosen = tf.data.Dataset.range(-(-len(x) // self.batch_size)).map(sample)
        else:
            chosen = tf.data.Dataset.range(len(x)).shuffle(len(x)).batch(self.batch_size)
        try:
            model.fit(chosen.map(batch).prefetch(2), epochs=self.epochs, verbose=0, callbacks=list(callbacks))
        finally:
            held.clear()
        return model

    def guarantee(self, records: int, delta: Optional[float] = None, model: Optional[Any] = None) -> Guarantee:
        """Returns what a training by this recipe guarantees for each of its records (differential privacy).

        It holds for labels that are the records' own: labels of teachers that were trained on the records carry what
        the teachers have learnt of them.

        Args:
            records: Number of training records.
            delta: Part of the guarantee that may fail. None for a tenth of a record, 0.1 / records, or 1e-5 if that is
                less.
            model: The model that is trained. One that is quantized has no guarantee: the ranges of its activations come
                from the records without noise. None for a float model.

        Returns:
            The guarantee, which prints as its epsilon, or as "no guarantee" with the reason.

        Raises:
            ImportError: There is an epsilon to compute, and no dp-accounting.
        """
        return dp_sgd.guarantee(self.dp, records, self.batch_size, self.epochs, delta, model)

    def labels(self, model: Any, y: np.ndarray) -> np.ndarray:
        """Returns the labels that a model is trained on: soft ones for mixup, else those that are given.

        Raises:
            InvalidArgumentError: Without a loss of the recipe, labels of a model of one unit that are not 0 and 1.
        """
        if _has_one_unit(model):
            y = np.asarray(y)
            if self.loss is None and y.size and (y.min() < 0 or y.max() > 1):
                raise InvalidArgumentError(
                    f"TrainingRecipe: The model has one output, for which the loss takes labels from 0 to 1. Received "
                    f"labels from {y.min():g} to {y.max():g}. Give the recipe a loss of theirs, or the model an output "
                    "for each class."
                )
            return y.astype(np.float32).reshape(-1, 1) if self.mixup else y
        if self.mixup and np.ndim(y) == 1:
            return np.eye(model.outputs[0].shape[-1], dtype=np.float32)[y]
        return np.asarray(y)

    def compile(self, model: Any, records: int, y: np.ndarray) -> None:
        """Compiles a model with the optimizer for a number of records, and with the loss for labels such as y."""
        from tfmiaq._backend import keras
        from tfmiaq.quantization.layer_graph import ends_in_sigmoid, ends_in_softmax
        from tfmiaq.training import per_record

        if self.dp is not None:
            per_record.check_model("TrainingRecipe", model)
        loss = self.loss
        if loss is None and _has_one_unit(model):
            loss = keras.losses.BinaryCrossentropy(from_logits=not ends_in_sigmoid(model))
        elif loss is None:
            kind = (
                keras.losses.CategoricalCrossentropy if np.ndim(y) == 2 else keras.losses.SparseCategoricalCrossentropy
            )
            loss = kind(from_logits=not ends_in_softmax(model))
        model.compile(cosine_sgd(self.learning_rate, self.epochs, records, self.batch_size, self.weight_decay), loss)

    def batch(self, x: Any, y: Any, seed: Any) -> tuple[Any, Any]:
        """Returns a batch as it is trained on: augmented, in as many copies as dp has, and mixed by a seed.

        The seed is two integers. The copies of a record stand together.
        """
        from tfmiaq._backend import tf

        if self.dp is not None and self.dp.copies > 1:
            x, y = tf.repeat(x, self.dp.copies, axis=0), tf.repeat(y, self.dp.copies, axis=0)
        if self.augment is not None:
            x = self.augment(x, training=True)
        return _mixed(x, y, self.mixup, seed) if self.mixup else (x, y)


FINE_TUNING = TrainingRecipe()
"""Trains a trained model on, after quantization."""

FROM_SCRATCH = TrainingRecipe(epochs=24, learning_rate=0.1, weight_decay=5e-4)
"""Trains a model that starts from random weights, such as the networks of benchmarks/frontier.py."""


CLIPPED = TrainingRecipe(epochs=30, learning_rate=2.0, batch_size=1600, dp=DPSGD(clip=1.0))
"""Trains the student of cross-distillation where all its trained layers are dense, and it has no BatchNormalization.

It is measured with 1,600 records, so that a step has all of them (docs/frontier.md). It guarantees nothing.
"""


def default_recipe(cross_distills: bool, model: Optional[Any] = None) -> TrainingRecipe:
    """Returns the recipe of a quantized model: from scratch with cross-distillation, else fine-tuning.

    With cross-distillation the quantized model starts from random weights, because a copy of the float model has the
    training records in its weights. Where all its trained layers are dense the recipe is `CLIPPED`, else, or without a
    model, `FROM_SCRATCH`.

    Args:
        cross_distills: Whether teachers label the records.
        model: The float model, or the student.
    """
    if not cross_distills:
        return FINE_TUNING
    return CLIPPED if model is not None and dp_sgd.is_dense(model) else FROM_SCRATCH


def _check_sets(model: Any, x: Any, y: Any, are_changed: bool) -> None:
    """Raises an error for records and labels that a training would find at its first step, or never."""
    from tfmiaq._backend import keras

    if not isinstance(model, keras.Model):
        raise TypeError(f"TrainingRecipe.fit: Expected a keras.Model. Received {type(model).__name__}.")
    shapes = [np.shape(part) for part in (x, y)]
    if not all(shapes) or not shapes[0][0] or shapes[0][0] != shapes[1][0]:
        counts = [shape[0] if shape else "no array" for shape in shapes]
        raise InvalidArgumentError(
            f"TrainingRecipe.fit: Expected records and a label for each. Received {counts[0]} records and {counts[1]} "
            "labels."
        )
    inputs: Any = model.inputs or ()
    wanted = tuple(inputs[0].shape[1:]) if len(inputs) == 1 and not are_changed else None
    # Keras gives records of one number an axis of their own.
    found = shapes[0][1:] or (1,)
    if wanted is not None and (
        len(wanted) != len(found) or any(size not in (None, own) for size, own in zip(wanted, found))
    ):
        raise InvalidArgumentError(
            f"TrainingRecipe.fit: The model takes records of shape {wanted}. Received records of shape {found}."
        )
    values = np.asarray(x)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InvalidArgumentError("TrainingRecipe.fit: Records hold NaN or infinity.")
    labels, outputs = np.asarray(y), list(model.outputs or ())
    classes = outputs[0].shape[-1] if len(outputs) == 1 and len(outputs[0].shape) == 2 else None
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or classes in (None, 1):
        return
    if labels.min() < 0 or labels.max() >= classes:
        raise InvalidArgumentError(
            f"TrainingRecipe.fit: The model has {classes} classes. Received labels from {labels.min()} to "
            f"{labels.max()}."
        )


def check_recipe(owner: str, recipe: Optional[Any]) -> None:
    """Raises InvalidArgumentError if a recipe is neither a TrainingRecipe nor None, or names no loss of Keras."""
    if recipe is not None and not isinstance(recipe, TrainingRecipe):
        raise InvalidArgumentError(f"{owner}: Expected a TrainingRecipe or None as recipe. Received {recipe!r:.200}.")
    if recipe is not None and isinstance(recipe.loss, str):
        from tfmiaq._backend import keras

        try:
            keras.losses.get(recipe.loss)
        except ValueError:
            raise InvalidArgumentError(
                f"{owner}: Expected the recipe's loss to be a Keras loss or its name. Received {recipe.loss!r:.200}."
            ) from None
