"""The attacks of tensorflow-privacy's membership inference suite."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import numpy as np

from tfmiaq._privacy_suite import import_suite
from tfmiaq.attacks.base import PRIVACY_SUITE, PROBABILITIES, SCORES, Attack, Evidence
from tfmiaq.signals.signals import Signals

# The suite's grid searches split each of two folds in three.
SMALLEST_SET = 12
# Its attack models learn less from more columns than this.
_MOST_COLUMNS = 16


@contextlib.contextmanager
def _seeded_and_quiet(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator and silences the log, both of which the suite uses, and restores both."""
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


def _few_columns(found: Signals) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits and labels; of many classes the largest logits in falling order, and labels that are no index."""
    assert found.logits is not None
    if found.logits.shape[1] <= _MOST_COLUMNS:
        return found.logits, found.labels
    return -np.sort(-found.logits, axis=1)[:, :_MOST_COLUMNS], np.minimum(found.labels, _MOST_COLUMNS - 1)


class SuiteAttack(Attack):
    """One attack type of tensorflow-privacy, on logits, labels and losses.

    A trained attack scores each record by a model that did not train on it (two folds).

    Args:
        name: Name in the report.
        attack_type: Name of the suite's AttackType.
    """

    needs = frozenset({SCORES, PROBABILITIES, PRIVACY_SUITE})
    # Their grid searches are slow.
    splits = 1
    note = "known members and non-members (tensorflow-privacy)"

    def __init__(self, name: str, attack_type: str) -> None:
        self.name = name
        self.attack_type = attack_type

    def scores(self, evidence: Evidence) -> np.ndarray:
        structures, suite = import_suite(
            "membership_inference_attack.data_structures", "membership_inference_attack.membership_inference_attack"
        )
        inside, outside = evidence.target[evidence.is_member], evidence.target[~evidence.is_member]
        (logits_in, labels_in), (logits_out, labels_out) = _few_columns(inside), _few_columns(outside)
        data = structures.AttackInputData(
            logits_train=logits_in,
            logits_test=logits_out,
            labels_train=labels_in,
            labels_test=labels_out,
            loss_train=inside.losses,
            loss_test=outside.losses,
        )
        with _seeded_and_quiet(evidence.seed):
            result = suite.run_attacks(data, attack_types=[structures.AttackType[self.attack_type]])
        single = result.single_attack_results[0]
        scores = np.zeros(len(evidence.is_member))
        scores[evidence.is_member] = single.membership_scores_train
        scores[~evidence.is_member] = single.membership_scores_test
        return scores


SUITE = (
    SuiteAttack("threshold", "THRESHOLD_ATTACK"),
    SuiteAttack("logistic regression", "LOGISTIC_REGRESSION"),
    SuiteAttack("multi-layer perceptron", "MULTI_LAYERED_PERCEPTRON"),
    SuiteAttack("random forest", "RANDOM_FOREST"),
    SuiteAttack("k nearest neighbours", "K_NEAREST_NEIGHBORS"),
)
