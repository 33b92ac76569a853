"""Training on another model's answers, so that its training records are seen at second hand only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from scipy import special

from tfmiaq._backend import keras
from tfmiaq.auditing import signals
from tfmiaq.losses import Distillation
from tfmiaq.recipe import cosine_sgd
from tfmiaq.wiring import answers_probabilities


def distill(
    teacher: Any,
    student: Any,
    x: Any,
    *,
    temperature: float = 1.0,
    keep: float = 1.0,
    epochs: int = 10,
    batch_size: int = 64,
    optimizer: Optional[Any] = None,
    callbacks: Sequence[Any] = (),
    verbose: int = 0,
) -> Any:
    """Trains a student on what a teacher answers on reference records, which need no labels.

    The teacher's training records never reach the student: what it tells of them went through the teacher's answers on
    others (distillation for membership privacy, Shejwalkar and Houmansadr 2021). A quantized student takes its ranges
    from the reference records.

    Example:
        >>> student = tfmiaq.quantize_model(fresh_model, policy)
        >>> tfmiaq.distill(float_model, student, x_reference, epochs=20)

    Args:
        teacher: Any target of `tfmiaq.audit` that answers scores.
        student: A Keras model, quantized or not, which is compiled and trained in place.
        x: Reference records, shape (n, ...), like the teacher's training records, and none of them.
        temperature: Of the soft labels, above 0; higher ones are flatter.
        keep: Share of the reference records that is kept, above 0 and up to 1: those on which the teacher is surest,
            where its training records sway it least (section IV-B).
        epochs: Epochs of training.
        batch_size: Records in a batch.
        optimizer: Keras optimizer; SGD with Nesterov momentum and a cosine schedule from 0.05 if not given.
        callbacks: Keras callbacks of the training.
        verbose: As of `fit`.

    Returns:
        The History of the training.

    Raises:
        TypeError: A student that is no Keras model.
        ValueError: No records, NaN, a share or a temperature out of its range; a teacher that answers labels, or other
            numbers of classes than the student.
    """
    if not isinstance(student, keras.Model):
        raise TypeError(f"distill: Expected a keras.Model as student. Received {type(student).__name__}.")
    if not 0 < keep <= 1:
        raise ValueError(f"distill: Expected keep above 0 and up to 1. Received {keep!r}.")
    loss = Distillation(temperature, from_logits=not answers_probabilities(student))
    x = np.asarray(x)
    logits = signals.answers(teacher, x, batch_size)
    classes = student.outputs[0].shape[-1]
    if logits.shape[1] != classes:
        raise ValueError(f"distill: The teacher has {logits.shape[1]} classes, the student {classes}.")
    log_probabilities = logits - special.logsumexp(logits, axis=1, keepdims=True)
    entropies = -(np.exp(log_probabilities) * log_probabilities).sum(1)
    kept = np.sort(np.argsort(entropies, kind="stable")[: max(1, round(keep * len(x)))])
    soft = special.softmax(logits[kept] / temperature, axis=1).astype(np.float32)
    student.compile(optimizer or cosine_sgd(0.05, epochs, len(kept), batch_size), loss)
    return student.fit(x[kept], soft, batch_size=batch_size, epochs=epochs, callbacks=list(callbacks), verbose=verbose)
