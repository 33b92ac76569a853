"""What an audit cannot do is told before anything is trained or queried."""

from __future__ import annotations

import numpy as np
import pytest

import tfmiaq


def _never(*_):
    raise AssertionError("Work began.")


def _sets(x):
    y = np.arange(len(x)) % 3
    half = len(x) // 2
    return (x[:half], y[:half]), (x[half:], y[half:])


_NUMBERS = np.random.default_rng(0).normal(size=(40, 4))
_WORDS = np.array([f"{'word' * (i % 3)}{i}" for i in range(40)])


@pytest.mark.parametrize("one", ["members", "non_members"])
def test_a_set_of_a_single_group_is_refused(one):
    groups = {"members": np.arange(20), "non_members": np.arange(20) + 100}
    groups[one][:] = groups[one][0]
    with pytest.raises(ValueError, match=f"audit: Expected {one} to be of at least 2 groups.*Received 1"):
        tfmiaq.audit(_never, *_sets(_NUMBERS), groups=tuple(groups.values()), verbose=False)


def test_a_population_of_a_single_group_is_refused():
    with pytest.raises(ValueError, match="ReferenceModels: Expected population_groups of at least 2 groups"):
        tfmiaq.ReferenceModels(
            _never, splits="disjoint", population=(_NUMBERS, np.zeros(40)), population_groups=np.zeros(40)
        )


def test_defend_splits_its_test_records_twice():
    with pytest.raises(ValueError, match=r"defend: Expected test to be of at least 4 groups.*Received 3"):
        tfmiaq.defend(_never, *_sets(_NUMBERS), groups=(np.arange(20), np.arange(20) % 3 + 100), verbose=False)


def test_reference_models_without_records_are_refused():
    members, non_members = _sets(_NUMBERS)
    saved = np.zeros((20, 3)), np.zeros((20, 3))
    with pytest.raises(ValueError, match=r"audit: x of members is None, and reference models train on records"):
        tfmiaq.audit(
            saved,
            (None, members[1]),
            (None, non_members[1]),
            reference_models=tfmiaq.ReferenceModels(_never, 2),
            verbose=False,
        )


def test_words_are_not_augmented_by_themselves():
    members, non_members = _sets(_WORDS)
    references = tfmiaq.ReferenceModels(_never, 2)

    def labels(x):
        return np.array([len(word) % 3 for word in x])

    with pytest.raises(ValueError, match=r"audit: Augmented queries change numbers.*<U.*The target gives labels"):
        tfmiaq.audit(labels, members, non_members, reference_models=references, verbose=False)
    report = tfmiaq.audit(labels, members, non_members, augmented_queries=lambda x, number: x, verbose=False)
    assert {attack.name for attack in report.attacks} == {"gap", "label-only"}

    def scores(x):
        return np.eye(3)[labels(x)] * 3

    with pytest.raises(ValueError, match=r"audit: Augmented queries change numbers.*records are <U.*Pass augmented"):
        tfmiaq.audit(scores, members, non_members, augmented_queries=True, verbose=False)
