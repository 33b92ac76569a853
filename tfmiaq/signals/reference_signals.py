"""Signals of reference models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from tfmiaq.signals.signals import AUGMENTED, FEATURES


@dataclasses.dataclass(frozen=True)
class ReferenceSignals:
    """Signals of k reference models on the n audited records.

    Attributes:
        features: Shape (k, n, columns), as `Signals.features`.
        trained_on: Shape (k, n), bool: whether the record was in the model's training set.
        augmented: Shape (k, n, columns), as `Signals.augmented`, or None without augmented queries.
        outputs: Shape (k, n, classes), as `Signals.outputs`, or None where only features are known.
        augmented_outputs: Shape (k, n, 3, classes), as `Signals.augmented_outputs`, or None without augmented queries.
        hidden: Shape (k, n, columns), as `Signals.hidden`, or None.
        query: Where these are signals of the models' logits, those of their outputs; else None.
        set_size: Number of records that a model trained on, about; None where it is not known.
    """

    features: np.ndarray
    trained_on: np.ndarray
    augmented: Optional[np.ndarray] = None
    outputs: Optional[np.ndarray] = None
    augmented_outputs: Optional[np.ndarray] = None
    hidden: Optional[np.ndarray] = None
    query: Optional[ReferenceSignals] = None
    set_size: Optional[int] = None

    def feature(self, name: str) -> np.ndarray:
        """Returns a column of `signals.FEATURES`, shape (k, n), float64."""
        return self.features[..., FEATURES.index(name)].astype(np.float64)

    def augmented_feature(self, name: str) -> np.ndarray:
        """Returns a column of `signals.AUGMENTED`, shape (k, n), float64.

        Raises:
            ValueError: No augmented queries were made.
        """
        if self.augmented is None:
            raise ValueError("ReferenceSignals: No augmented queries were made of the reference models.")
        return self.augmented[..., AUGMENTED.index(name)].astype(np.float64)

    @property
    def confidences(self) -> np.ndarray:
        """Logit-scaled confidences, shape (k, n)."""
        return self.feature("confidence")

    @property
    def losses(self) -> np.ndarray:
        """Losses, shape (k, n)."""
        return self.feature("loss")

    def first(self, count: int) -> ReferenceSignals:
        """Returns the signals of the first models alone."""
        return self.of_models(slice(count))

    def of_models(self, index: Any) -> ReferenceSignals:
        """Returns the signals of some models.

        Args:
            index: What NumPy takes as an index of the first axis.
        """
        return self._each(lambda array: array[index])

    def of_records(self, index: Any) -> ReferenceSignals:
        """Returns the signals on some records, or on all in another order.

        Args:
            index: What NumPy takes as an index of the second axis.
        """
        return self._each(lambda array: array[:, index])

    def _each(self, change: Callable[[np.ndarray], np.ndarray]) -> ReferenceSignals:
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        query, size = arrays.pop("query"), arrays.pop("set_size")
        changed: dict[str, Any] = {name: None if a is None else change(a) for name, a in arrays.items()}
        return ReferenceSignals(**changed, query=None if query is None else query._each(change), set_size=size)

    def __repr__(self) -> str:
        models, records = self.trained_on.shape
        augmented = "" if self.augmented is None else ", with augmented queries"
        return f"ReferenceSignals({models} models, {records} records{augmented})"
