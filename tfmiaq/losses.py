"""Losses that lower membership leakage: the model becomes no surer of its training records than of others.

They replace a cross-entropy in `compile`. Labels are integer classes (n,) or (n, 1), or one-hot rows. A model of one
unit, a sigmoid or its logit, is one of two classes; its labels are the probability of class 1, (n,) or (n, 1).
"""

from __future__ import annotations

import math
from typing import Any

from scipy import optimize

from tfmiaq._backend import keras, tf
from tfmiaq._checks import check, integer, real

_SMALLEST = 1e-7
_NOT_NEGATIVE = real(0)
_SHARE = real(0, 1)
# Logits over a smaller temperature overflow.
_TEMPERATURE = real(1e-6)


def _log_probabilities(predictions: Any, from_logits: bool) -> Any:
    if predictions.shape[-1] == 1:
        if from_logits:
            return tf.concat([tf.math.log_sigmoid(-predictions), tf.math.log_sigmoid(predictions)], -1)
        predictions = tf.concat([1 - predictions, predictions], -1)
    if from_logits:
        return tf.nn.log_softmax(predictions)
    return tf.math.log(tf.clip_by_value(predictions, _SMALLEST, 1.0))


def _one_hot(labels: Any, log_probabilities: Any) -> Any:
    classes = log_probabilities.shape[-1]
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank == 2 and labels.shape[-1] == classes:
        return tf.cast(labels, log_probabilities.dtype)
    flat = tf.reshape(labels, [tf.shape(log_probabilities)[0]])
    return tf.one_hot(tf.cast(flat, tf.int32), classes, dtype=log_probabilities.dtype)


def _of_two_classes(labels: Any, log_probabilities: Any) -> Any:
    """The probability of class 1 as that of both classes."""
    ones = tf.cast(tf.reshape(labels, [tf.shape(log_probabilities)[0], 1]), log_probabilities.dtype)
    return tf.concat([1 - ones, ones], -1)


def _entropy(log_probabilities: Any) -> Any:
    return -tf.reduce_sum(tf.exp(log_probabilities) * log_probabilities, axis=-1)


class _PrivacyLoss(keras.losses.Loss):
    """A cross-entropy with a term against memorization."""

    def __init__(self, from_logits: bool, name: str) -> None:
        super().__init__(name=name)
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        log_probabilities = _log_probabilities(y_pred, self.from_logits)
        as_rows = _of_two_classes if y_pred.shape[-1] == 1 else _one_hot
        return self.of(as_rows(y_true, log_probabilities), log_probabilities)

    def of(self, labels: Any, log_probabilities: Any) -> Any:
        """Returns the loss of each record, shape (n,), of one-hot labels and log-probabilities (n, classes)."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits, "name": self.name}


@keras.utils.register_keras_serializable("tfmiaq")
class RelaxLoss(_PrivacyLoss):
    """Holds the mean training loss at a level above zero (Chen et al. 2022, RelaxLoss, algorithm 1).

    While a batch's mean cross-entropy is above `alpha` it falls as usual. Below, one of two things happens: the
    gradient is followed upwards, or the outputs on correctly classified records are flattened: the soft label is their
    own probability of the true class, and the rest spread evenly. The paper alternates by epoch; here each batch draws
    one of the two.

    Args:
        alpha: The mean loss to hold, in nats, 0 or more.
        from_logits: Whether the model ends in logits instead of probabilities.
        name: Name of the loss.

    Raises:
        ValueError: alpha below 0.
    """

    def __init__(self, alpha: float = 1.0, from_logits: bool = False, name: str = "relax_loss") -> None:
        super().__init__(from_logits, name)
        self.alpha = check("RelaxLoss", alpha=(alpha, _NOT_NEGATIVE))["alpha"]

    def of(self, labels: Any, log_probabilities: Any) -> Any:
        losses = -tf.reduce_sum(labels * log_probabilities, axis=-1)
        above = tf.reduce_mean(losses) > self.alpha
        ascend = tf.where(above, losses - self.alpha, self.alpha - losses)
        own = tf.stop_gradient(tf.exp(-losses))[:, None]
        classes = int(log_probabilities.shape[-1])
        soft = labels * own + (1.0 - labels) * (1.0 - own) / (classes - 1)
        is_right = tf.equal(tf.argmax(log_probabilities, -1), tf.argmax(labels, -1))[:, None]
        flattened = -tf.reduce_sum(tf.where(is_right, soft, labels) * log_probabilities, axis=-1)
        flatten = tf.where(above, losses, flattened)
        return tf.where(tf.random.uniform(()) < 0.5, ascend, flatten)

    def get_config(self) -> dict[str, Any]:
        return {"alpha": self.alpha, **super().get_config()}


@keras.utils.register_keras_serializable("tfmiaq")
class ConfidencePenalty(_PrivacyLoss):
    """Cross-entropy minus `beta` times the entropy of the output (Pereyra et al. 2017, equation 2).

    Args:
        beta: Weight of the entropy, 0 or more.
        from_logits: Whether the model ends in logits instead of probabilities.
        name: Name of the loss.

    Raises:
        ValueError: beta below 0.
    """

    def __init__(self, beta: float = 0.1, from_logits: bool = False, name: str = "confidence_penalty") -> None:
        super().__init__(from_logits, name)
        self.beta = check("ConfidencePenalty", beta=(beta, _NOT_NEGATIVE))["beta"]

    def of(self, labels: Any, log_probabilities: Any) -> Any:
        losses = -tf.reduce_sum(labels * log_probabilities, axis=-1)
        return losses - self.beta * _entropy(log_probabilities)

    def get_config(self) -> dict[str, Any]:
        return {"beta": self.beta, **super().get_config()}


@keras.utils.register_keras_serializable("tfmiaq")
class Distillation(_PrivacyLoss):
    """Cross-entropy of soft labels at a temperature T, times T^2 (Hinton et al. 2015, section 2).

    Args:
        temperature: T, above 0. The labels are a teacher's probabilities at the same temperature.
        from_logits: Whether the model ends in logits instead of probabilities.
        name: Name of the loss.

    Raises:
        ValueError: A temperature of 0 or less.
    """

    def __init__(self, temperature: float = 1.0, from_logits: bool = False, name: str = "distillation") -> None:
        super().__init__(from_logits, name)
        self.temperature = check("Distillation", temperature=(temperature, _TEMPERATURE))["temperature"]

    def of(self, labels: Any, log_probabilities: Any) -> Any:
        softened = tf.nn.log_softmax(log_probabilities / self.temperature)
        return -tf.reduce_sum(labels * softened, axis=-1) * self.temperature**2

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature, **super().get_config()}


def high_entropy_label(classes: int, gamma: float) -> float:
    """Returns the probability p of the true class in a soft label whose entropy is gamma times the largest possible.

    The other classes share 1 - p evenly (Chen and Pattabiraman 2024, HAMP, section IV-B).

    Args:
        classes: Number of classes, at least 2.
        gamma: 0 (one-hot) to 1 (uniform).

    Returns:
        p, from 1 / classes to 1.

    Raises:
        ValueError: Fewer than 2 classes; gamma outside 0 to 1.
    """

    checked = check("high_entropy_label", classes=(classes, integer(2)), gamma=(gamma, _SHARE))
    classes, gamma = checked["classes"], checked["gamma"]

    def missing(p: float) -> float:
        rest = (1 - p) / (classes - 1)
        entropy = -sum(share * math.log(share) for share in (p, *[rest] * (classes - 1)) if share > 0)
        return entropy - gamma * math.log(classes)

    if gamma in (0, 1):
        return 1.0 if gamma == 0 else 1.0 / classes
    return float(optimize.brentq(missing, 1.0 / classes, 1.0 - 1e-15))


@keras.utils.register_keras_serializable("tfmiaq")
class HighEntropyLabels(_PrivacyLoss):
    """HAMP's training loss (Chen and Pattabiraman 2024, equation 4): soft labels of high entropy, and an entropy bonus.

    The divergence of the output from `high_entropy_label`, minus `alpha` times the entropy of the output.

    Args:
        gamma: Entropy of the labels over the largest possible one, 0 to 1.
        alpha: Weight of the entropy bonus, 0 or more.
        from_logits: Whether the model ends in logits instead of probabilities.
        name: Name of the loss.

    Raises:
        ValueError: gamma outside 0 to 1, alpha below 0.
    """

    def __init__(
        self, gamma: float = 0.8, alpha: float = 0.001, from_logits: bool = False, name: str = "high_entropy_labels"
    ) -> None:
        super().__init__(from_logits, name)
        checked = check("HighEntropyLabels", gamma=(gamma, _SHARE), alpha=(alpha, _NOT_NEGATIVE))
        self.gamma = checked["gamma"]
        self.alpha = checked["alpha"]

    def of(self, labels: Any, log_probabilities: Any) -> Any:
        classes = int(log_probabilities.shape[-1])
        own = high_entropy_label(classes, self.gamma)
        soft = labels * own + (1.0 - labels) * (1.0 - own) / (classes - 1)
        divergence = tf.reduce_sum(soft * (tf.math.log(soft + 1e-12) - log_probabilities), axis=-1)
        return divergence - self.alpha * _entropy(log_probabilities)

    def get_config(self) -> dict[str, Any]:
        return {"gamma": self.gamma, "alpha": self.alpha, **super().get_config()}
