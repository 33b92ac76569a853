"""Reference models that were trained elsewhere: their saved outputs, and which records each was trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfmiaq._checks import InvalidArgumentError
from tfmiaq.signals.labels import read_labels
from tfmiaq.signals.reference_signals import ReferenceSignals
from tfmiaq.signals.signals import extract_sets
from tfmiaq.signals.targets import SavedOutputs

_OWNER = "saved_references"


def saved_references(outputs: Any, labels: Any, trained_on: Any) -> ReferenceSignals:
    """Returns the signals of reference models whose outputs were saved, for `audit(reference_models=...)`.

    Example:
        >>> labels = np.concatenate([y_members, y_others])
        >>> references = tfmiaq.signals.saved_references(outputs, labels, masks)
        >>> tfmiaq.audit(target, (None, y_members), (None, y_others), reference_models=references)

    Args:
        outputs: Outputs of k models on the n audited records, members first: an array of shape (k, n, classes) or
            (k, n), or a list of k arrays, or of paths of .npy files. Of the kinds that `signals.extract` knows, but no
            labels.
        labels: Shape (n,) or as `signals.extract`, the labels of the same records.
        trained_on: Shape (k, n), bool or 0 and 1: whether the record was in the model's training set. All 0 for models
            that had none of the records.

    Raises:
        InvalidArgumentError: Fewer than 2 models; masks of another shape or with other values.
        ValueError: As `signals.extract`.
    """
    y = read_labels(labels, "the audited records", _OWNER, any_kind=True)
    models: Sequence[Any] = list(outputs)
    mask = np.asarray(trained_on)
    if len(models) < 2 or isinstance(outputs, (str, bytes, os.PathLike)):
        raise InvalidArgumentError(
            f"{_OWNER}: Expected outputs of at least 2 models, shape (k, n, classes) or a list of k arrays or paths. "
            f"Received {len(models)}."
        )
    if mask.shape != (len(models), len(y)) or not np.isin(mask, (0, 1)).all():
        raise InvalidArgumentError(
            f"{_OWNER}: Expected trained_on as an array of shape ({len(models)}, {len(y)}), True where the model was "
            f"trained on the record. Received shape {mask.shape} and type {mask.dtype}."
        )
    sets = [(f"records of model {i}", SavedOutputs(model), (None, y)) for i, model in enumerate(models)]
    found = extract_sets(sets)
    if any(part.losses is None for part in found):
        raise InvalidArgumentError(
            f"{_OWNER}: Received labels as outputs. Reference models are the attacker's own: give their scores."
        )
    return ReferenceSignals(
        features=np.stack([part.features for part in found]),
        trained_on=mask.astype(bool),
        outputs=np.stack([part.outputs for part in found]),
    )
