"""Keras callbacks for training quantized models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from tfmiaq import metrics, signals
from tfmiaq._backend import keras, tf
from tfmiaq._checks import AT_LEAST_ONE, SEED, InvalidArgumentError, check, integer, real
from tfmiaq.policy import BitwidthPolicy
from tfmiaq.quantization.quantize import set_policy

_EPOCH = integer(0)


class BitwidthSchedule(keras.callbacks.Callback):
    """Changes the bits of a quantized model as training goes on, for example 8, then 4, then 2.

    Example:
        >>> uniform = tfmiaq.BitwidthPolicy.uniform
        >>> schedule = tfmiaq.callbacks.BitwidthSchedule({0: uniform(8, 8), 5: uniform(4, 4), 10: uniform(2, 4)})
        >>> quantized.fit(x, y, epochs=20, callbacks=[schedule])

    Args:
        policies: For each epoch, counted from 0, at whose beginning the bits change, the policy that holds from then
            on. A fit that starts later (`initial_epoch`) starts with the policy that holds by then.

    Raises:
        TypeError: Values that are no policies, or keys that are no integers.
        ValueError: No policies, or epochs below 0; when training begins, a policy that the model cannot take.
    """

    def __init__(self, policies: Mapping[int, BitwidthPolicy]) -> None:
        super().__init__()
        if not isinstance(policies, Mapping):
            raise TypeError(
                f"BitwidthSchedule: Expected policies by epoch, as in {{0: policy}}. Received {policies!r:.200}."
            )
        if not policies:
            raise ValueError("BitwidthSchedule: Expected at least one policy, as in {0: policy}. Received none.")
        for epoch, policy in policies.items():
            if not isinstance(policy, BitwidthPolicy):
                raise TypeError(
                    "BitwidthSchedule: Expected policies by epoch, as in {0: policy}. "
                    f"Received {epoch!r}: {policy!r}."
                )
            if epoch not in _EPOCH:
                raise InvalidArgumentError(
                    f"BitwidthSchedule: Expected epochs from 0 on, as integers. Received {epoch!r}."
                )
        self.policies = {_EPOCH.plain(epoch): policies[epoch] for epoch in sorted(policies)}
        self._current: Optional[BitwidthPolicy] = None

    def on_train_begin(self, logs: Optional[dict[str, Any]] = None) -> None:
        """Tries every policy, so that one that does not fit the model raises an error before training."""
        variables = self.model.non_trainable_variables
        before = [variable.numpy() for variable in variables]
        for policy in self.policies.values():
            set_policy(self.model, policy)
        for variable, value in zip(variables, before):
            variable.assign(value)
        self._current = None

    def on_epoch_begin(self, epoch: int, logs: Optional[dict[str, Any]] = None) -> None:
        """Sets the policy of this epoch."""
        due = [policy for start, policy in self.policies.items() if start <= epoch]
        if due and due[-1] is not self._current:
            self._current = due[-1]
            set_policy(self.model, due[-1])


class LeakageMonitor(keras.callbacks.Callback):
    """Attacks the model at the end of each epoch, by its confidence on some members and non-members.

    Adds `leakage_auc`, `leakage_advantage` (TPR - FPR at the best threshold in hindsight, so that it is above 0 by
    chance already), `leakage_accuracy` (on the non-members) and `leakage_gap` (accuracy on members less that) to the
    epoch's logs, hence to `History` and, if it stands before TensorBoard in the list of callbacks, to TensorBoard.

    Example:
        >>> monitor = tfmiaq.callbacks.LeakageMonitor((x_train, y_train), (x_validation, y_validation))
        >>> history = model.fit(x_train, y_train, epochs=20, callbacks=[monitor, keras.callbacks.TensorBoard("logs")])
        >>> most_exposed = monitor.member_indices[np.argsort(-monitor.loss_trace_ranges)]

    Args:
        members: Pair (x, y) of training records; y integer classes (n,) or one-hot.
        non_members: The same of records that are not trained on, and not audited with later.
        sample: Number of records of each set that are scored; the same ones each time.
        batch_size: Records in one call of the model.
        every: Epochs from one attack to the next.
        seed: Seed of the sample.

    Attributes:
        member_indices: Shape (m,), which of the members are scored.

    Raises:
        TypeError: A set that is no pair (x, y).
        ValueError: As `audit`, for sets that are empty, unlike or with NaN; fewer than one record or epoch; a seed out
            of range.
    """

    def __init__(
        self,
        members: Any,
        non_members: Any,
        sample: int = 500,
        batch_size: int = 256,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        options = check(
            type(self).__name__,
            sample=(sample, AT_LEAST_ONE),
            batch_size=(batch_size, AT_LEAST_ONE),
            every=(every, AT_LEAST_ONE),
            seed=(seed, SEED),
        )
        generator = np.random.default_rng(options["seed"])
        sets = signals.check_records(members, non_members, type(self).__name__)
        (x, y), others = sets
        self.member_indices, labels = signals.sample((np.arange(len(y)), y), options["sample"], generator)
        self._members = x[self.member_indices], labels
        self._non_members = signals.sample(others, options["sample"], generator)
        self._traces: list[np.ndarray] = []
        self.batch_size = options["batch_size"]
        self.every = options["every"]
        self._call: Any = None
        self._watched: Any = None

    def on_train_begin(self, logs: Optional[dict[str, Any]] = None) -> None:
        """Traces a model once; `predict` would set up its own data pipeline for each sample."""
        self._traces = []
        model = self.model
        if model is not self._watched:
            self._watched = model
            self._call = tf.function(lambda x: model(x, training=False), reduce_retracing=True)

    def on_epoch_end(self, epoch: int, logs: Optional[dict[str, Any]] = None) -> None:
        """Attacks, and adds what it found to the logs."""
        if (epoch + 1) % self.every or logs is None:
            return
        sets = [("members", self._scores, self._members), ("non_members", self._scores, self._non_members)]
        inside, outside = signals.extract_sets(sets, self.batch_size)
        if inside.confidences is None or outside.confidences is None:
            raise ValueError(f"{type(self).__name__}: Expected a model that gives scores of at least two classes.")
        self._traces.append(np.asarray(inside.losses))
        auc = metrics.auc_estimate(inside.confidences, outside.confidences)
        _, accuracy = metrics.best_threshold(inside.confidences, outside.confidences)
        logs["leakage_auc"] = auc.value
        logs["leakage_advantage"] = 2 * accuracy - 1
        logs["leakage_gap"] = float(inside.correct.mean() - outside.correct.mean())
        logs["leakage_accuracy"] = float(outside.correct.mean())

    @property
    def loss_trace_ranges(self) -> np.ndarray:
        """How exposed each member is, without reference models: the interquartile range of its losses over the epochs.

        LT-IQR (Pollock, Shilov, Dodd, de Montjoye 2025, "Free record-level privacy risk evaluation"): the records whose
        losses fall late, and far, are those that LiRA finds. It orders the members and says nothing of others.

        Returns:
            Shape (m,), in nats, in the order of `member_indices`.

        Raises:
            ValueError: Fewer than two epochs were attacked since training began.
        """
        if len(self._traces) < 2:
            raise ValueError(
                f"{type(self).__name__}: A range of losses needs two attacked epochs or more. Received "
                f"{len(self._traces)}; train longer, or with a smaller `every`."
            )
        low, high = np.quantile(np.stack(self._traces), [0.25, 0.75], axis=0)
        return high - low

    def _scores(self, x: np.ndarray) -> np.ndarray:
        parts = [
            self._call(tf.convert_to_tensor(x[start : start + self.batch_size])).numpy()
            for start in range(0, len(x), self.batch_size)
        ]
        return np.concatenate(parts)


class LeakageEarlyStopping(LeakageMonitor):
    """Stops when accuracy no longer grows faster than leakage, and restores the best epoch.

    The score of an epoch is the accuracy on the sample of non-members less `weight` times the attack's advantage there
    (`LeakageMonitor`), as `leakage_score` in the logs. Accuracy on its own would go on as long as it gains anything.

    Example:
        >>> stopping = tfmiaq.callbacks.LeakageEarlyStopping((x_train, y_train), (x_validation, y_validation))
        >>> model.fit(x_train, y_train, epochs=50, callbacks=[stopping])

    Args:
        members: As `LeakageMonitor`.
        non_members: As `LeakageMonitor`.
        weight: Points of accuracy that a point of advantage is worth, 0 or more.
        patience: Epochs without a better score before training stops.
        sample: As `LeakageMonitor`; with few records the advantage is mostly chance.
        batch_size: As `LeakageMonitor`.
        every: As `LeakageMonitor`.
        seed: As `LeakageMonitor`.

    Raises:
        TypeError: As `LeakageMonitor`.
        ValueError: As `LeakageMonitor`; a weight below 0, a patience below 1.
    """

    def __init__(
        self,
        members: Any,
        non_members: Any,
        weight: float = 1.0,
        patience: int = 3,
        sample: int = 2000,
        batch_size: int = 256,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(members, non_members, sample, batch_size, every, seed)
        own = check(type(self).__name__, weight=(weight, real(0)), patience=(patience, AT_LEAST_ONE))
        self.weight = own["weight"]
        self.patience = own["patience"]
        self.best_epoch = -1
        self._best_score = -np.inf
        self._best_weights: Any = None

    def on_train_begin(self, logs: Optional[dict[str, Any]] = None) -> None:
        """Forgets the best epoch of an earlier training."""
        super().on_train_begin(logs)
        self.best_epoch, self._best_score, self._best_weights = -1, -np.inf, None

    def on_epoch_end(self, epoch: int, logs: Optional[dict[str, Any]] = None) -> None:
        """Attacks, and stops training if the score has not grown for `patience` epochs."""
        logs = {} if logs is None else logs
        super().on_epoch_end(epoch, logs)
        if "leakage_advantage" not in logs:
            return
        logs["leakage_score"] = logs["leakage_accuracy"] - self.weight * logs["leakage_advantage"]
        if logs["leakage_score"] > self._best_score:
            self.best_epoch, self._best_score = epoch, logs["leakage_score"]
            self._best_weights = self.model.get_weights()
        elif epoch - self.best_epoch >= self.patience:
            self.model.stop_training = True

    def on_train_end(self, logs: Optional[dict[str, Any]] = None) -> None:
        """Restores the weights of the best epoch."""
        if self._best_weights is not None:
            self.model.set_weights(self._best_weights)
