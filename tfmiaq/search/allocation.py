"""Allocations of bits: sensitivities of single choices, and integer programmes over them. No TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Optional

import numpy as np
from scipy import optimize, sparse
from tqdm.auto import tqdm

from tfmiaq.search.results import Candidate

# The bits of each search dimension, by its name ("layer/weight" or "layer/activation"); 8 where none are named.
Bits = dict[str, int]
Choices = Mapping[str, Sequence[int]]
Sensitivities = dict[tuple[str, int], tuple[float, float]]

FULL = 8
_BUDGETS = (0.0, 0.25, 0.5, 0.75, 1.0)


def score_singles(
    choices: Choices, score: Callable[[Bits], Candidate], quiet: Optional[bool]
) -> tuple[Candidate, dict[tuple[str, int], Candidate]]:
    """Returns the scores of 8 bits everywhere, and of each choice on its own with all others at 8 bits.

    Args:
        choices: The bits that each search dimension may have.
        score: Function that scores an allocation.
        quiet: As `disable` of tqdm.
    """
    single = [(name, bits) for name, widths in choices.items() for bits in widths if bits != FULL]
    progress = tqdm(total=1 + len(single), desc="sensitivities", disable=quiet)
    with progress:
        baseline = score({})
        progress.update()
        found = {}
        for name, bits in single:
            found[name, bits] = score({name: bits})
            progress.update()
    return baseline, found


def integer_programme(choices: Choices, sensitivities: Sensitivities, budget: float) -> Bits:
    """Returns the allocation of least leakage whose drops of accuracy, choice by choice, add up to at most a budget.

    One variable for each choice, one choice for each search dimension: the integer programme of HAWQ-V3 (Yao et al.
    2021, equation 5) with leakage in the place of its second-order sensitivity.

    Args:
        choices: The bits that each search dimension may have.
        sensitivities: The drops of leakage and of accuracy of each choice on its own; 0 where none are named.
        budget: Largest sum of the drops of accuracy.
    """
    columns = [(name, bits) for name, widths in choices.items() for bits in widths]
    gains = [sensitivities.get(column, (0.0, 0.0)) for column in columns]
    names = list(choices)
    one_each = sparse.csr_matrix(
        (np.ones(len(columns)), ([names.index(name) for name, _ in columns], np.arange(len(columns))))
    )
    losses = np.array([[max(0.0, accuracy) for _, accuracy in gains]])
    found = optimize.milp(
        -np.array([leakage for leakage, _ in gains]),
        constraints=[optimize.LinearConstraint(one_each, 1, 1), optimize.LinearConstraint(losses, -np.inf, budget)],
        integrality=np.ones(len(columns)),
        bounds=optimize.Bounds(0, 1),
    )
    if found.x is None:
        return {}
    return {name: bits for (name, bits), chosen in zip(columns, found.x) if chosen > 0.5}


def first_trials(choices: Choices, sensitivities: Sensitivities, max_accuracy_drop: float) -> list[Bits]:
    """Returns uniform allocations, and those of integer programmes for several budgets, each once."""
    widths = sorted({bits for own in choices.values() for bits in own})
    uniform = [
        {name: min(own, key=lambda bits, width=width: abs(bits - width)) for name, own in choices.items()}  # type: ignore[misc]
        for width in widths
    ]
    worst = sum(
        max(0.0, *(sensitivities.get((name, bits), (0.0, 0.0))[1] for bits in own)) for name, own in choices.items()
    )
    budgets = [max_accuracy_drop, *(fraction * worst for fraction in _BUDGETS)]
    found: list[Bits] = []
    for bits in [*uniform, *(integer_programme(choices, sensitivities, budget) for budget in budgets)]:
        if bits not in found:
            found.append(bits)
    return found
