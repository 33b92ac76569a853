"""tensorflow-privacy's membership inference suite, as scores for each record."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfmiaq.auditing.signals import Signals

# Names as in the report, and as tensorflow-privacy's AttackType spells them.
ATTACKS = {
    "threshold": "THRESHOLD_ATTACK",
    "logistic regression": "LOGISTIC_REGRESSION",
    "multi-layer perceptron": "MULTI_LAYERED_PERCEPTRON",
    "random forest": "RANDOM_FOREST",
    "k nearest neighbours": "K_NEAREST_NEIGHBORS",
}
# The suite's grid searches split each of two folds in three.
SMALLEST_SET = 12


def _import_suite() -> tuple[Any, Any]:
    # tensorflow_privacy imports the estimator API, which TensorFlow 2.16 and later do not have, unless told not to.
    sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        data_structures,
        membership_inference_attack,
    )

    return data_structures, membership_inference_attack


@contextlib.contextmanager
def _seeded_and_quiet(seed: int) -> Iterator[None]:
    """The suite draws from NumPy's global generator and logs each step: seed it, hush it, put both back."""
    state, level = np.random.get_state(), logging.root.manager.disable
    np.random.seed(seed)
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Grid candidates that do not converge.
            yield
    finally:
        logging.disable(level)
        np.random.set_state(state)


def scores(attack: str, members: Signals, non_members: Signals, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Membership scores of one attack of the suite; higher means member.

    A trained attack scores each record by a model that did not train on it (two folds).

    Args:
        attack: A key of `ATTACKS`.
        members: Signals of n members.
        non_members: Signals of m non-members.
        seed: Seed of folds and attack models.

    Returns:
        Scores of the members (n,) and of the non-members (m,).
    """
    structures, suite = _import_suite()
    data = structures.AttackInputData(
        logits_train=members.logits,
        logits_test=non_members.logits,
        labels_train=members.labels,
        labels_test=non_members.labels,
        loss_train=members.losses,
        loss_test=non_members.losses,
    )
    with _seeded_and_quiet(seed):
        result = suite.run_attacks(data, attack_types=[structures.AttackType[ATTACKS[attack]]])
    single = result.single_attack_results[0]
    return np.asarray(single.membership_scores_train), np.asarray(single.membership_scores_test)
