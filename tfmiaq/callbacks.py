"""Keras callbacks for training quantized models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from tfmiaq._backend import keras
from tfmiaq.policy import BitwidthPolicy
from tfmiaq.quantize import set_policy


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
        if not policies:
            raise ValueError("BitwidthSchedule: Expected at least one policy, as in {0: policy}. Received none.")
        for epoch, policy in policies.items():
            if isinstance(epoch, bool) or not isinstance(epoch, int) or not isinstance(policy, BitwidthPolicy):
                raise TypeError(
                    "BitwidthSchedule: Expected policies by epoch, as in {0: policy}. "
                    f"Received {epoch!r}: {policy!r}."
                )
            if epoch < 0:
                raise ValueError(f"BitwidthSchedule: Expected epochs from 0 on. Received {epoch}.")
        self.policies = dict(sorted(policies.items()))
        self._current: Optional[BitwidthPolicy] = None

    def on_train_begin(self, logs: Optional[dict[str, Any]] = None) -> None:
        """Tries every policy, so that one that does not fit the model is refused before training."""
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
