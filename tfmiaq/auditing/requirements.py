"""What an audit needs before it runs: of its records, its reference models and its queries."""

from __future__ import annotations

from typing import Any

from tfmiaq import _privacy_suite
from tfmiaq.attacks.base import (
    AUGMENTED_QUERIES,
    AUGMENTED_REFERENCES,
    OTHER_VERSION,
    PRIVACY_SUITE,
    PROBABILITIES,
    RECORDS,
    REFERENCE_MEMBERS,
    REFERENCE_MODELS,
    SCORES,
    WHOLE_OUTPUTS,
    Attack,
    Evidence,
)
from tfmiaq.attacks.registry import ATTACKS
from tfmiaq.signals.queries import AugmentedQueries, Queries
from tfmiaq.signals.reference_models import ReferenceModels
from tfmiaq.signals.reference_sets import warn_of_small_population
from tfmiaq.signals.reference_signals import ReferenceSignals
from tfmiaq.signals.signals import Signals

_WAYS = {
    SCORES: "the target gives labels",
    RECORDS: "needs the records themselves",
    REFERENCE_MODELS: "needs reference models: pass reference_models",
    REFERENCE_MEMBERS: "needs reference models that trained on audited records: splits='half'",
    AUGMENTED_QUERIES: "needs augmented queries: pass augmented_queries=True, and a target that can be queried",
    OTHER_VERSION: "needs another version of the target: pass other",
    AUGMENTED_REFERENCES: (
        "needs augmented queries of reference models: pass reference_models and augmented_queries=True"
    ),
    PROBABILITIES: "needs probabilities of classes, and the labels are values",
    WHOLE_OUTPUTS: "needs whole outputs of reference models that have as many classes as the target",
    PRIVACY_SUITE: f"needs tensorflow-privacy's suite: {_privacy_suite.HOW_TO_INSTALL}",
}


def check_reference_models(reference_models: Any, members: int, non_members: int, have_features: bool) -> None:
    """Raises an error for reference models that are none, or that cannot train on what is there; warns of weak ones."""
    if reference_models is None:
        return
    if isinstance(reference_models, ReferenceSignals):
        count = reference_models.trained_on.shape[1]
        if count != members + non_members:
            raise ValueError(
                f"audit: The reference models' signals are of {count} records. Expected those of {members} members and "
                f"then of {non_members} non-members."
            )
        return
    if not isinstance(reference_models, ReferenceModels):
        raise TypeError(
            "audit: Expected reference_models as tfmiaq.ReferenceModels(train_fn), as "
            "tfmiaq.signals.saved_references(outputs, labels, trained_on), or None. Received "
            f"{reference_models!r:.200}."
        )
    if not have_features:
        raise ValueError(
            "audit: x of members is None, and reference models train on records. Pass the records, or the outputs of "
            "models that are trained already: tfmiaq.signals.saved_references(outputs, labels, trained_on)."
        )
    warn_of_small_population(reference_models, members)


def can_make(make: Queries, x: Any) -> bool:
    """Returns whether augmented queries can be made of records: those which come with the package take numbers."""
    dtype = getattr(x, "dtype", None)
    return not isinstance(make, AugmentedQueries) or dtype is None or dtype.kind in "biuf"


def check_queries(make: Queries, x: Any, found: Signals) -> None:
    """Raises ValueError for records that the augmented queries which come with the package cannot be made of."""
    if not can_make(make, x):
        labels = " The target gives labels, and is attacked by such queries alone." if found.losses is None else ""
        raise ValueError(
            f"audit: Augmented queries change numbers a little, and records are {x.dtype}.{labels} Pass "
            "augmented_queries=function, from records and the number of a query to copies, or a target that gives "
            "scores, without augmented queries."
        )


def check_needs(chosen: list[Attack], reference_models: Any, has_other: bool, can_query: bool) -> None:
    """Raises ValueError for attacks that lack what they need, before any work is done."""
    available = {
        REFERENCE_MODELS: reference_models is not None,
        REFERENCE_MEMBERS: reference_models is None or getattr(reference_models, "splits", "half") == "half",
        OTHER_VERSION: has_other,
        AUGMENTED_QUERIES: can_query,
        AUGMENTED_REFERENCES: isinstance(reference_models, ReferenceModels) and can_query,
        PRIVACY_SUITE: _privacy_suite.is_installed(),
    }
    faults = [
        f"{attack.name!r} {_WAYS[need]}"
        for attack in chosen
        for need in sorted(attack.needs)
        if not available.get(need, True)
    ]
    if faults:
        raise ValueError(f"audit: {'; '.join(faults)}.")


def split(chosen: list[Attack], evidence: Evidence) -> tuple[list[Attack], dict[str, str]]:
    """Returns the attacks whose needs are met, and of all others why they do not run."""

    def reason(attack: Attack) -> str:
        return "; ".join(_WAYS[need] for need in sorted(attack.needs - available))

    available = evidence.available
    ready = [attack for attack in chosen if attack.needs <= available]
    skipped = {attack.name: reason(attack) for attack in chosen if attack not in ready}
    skipped.update({name: "was not chosen" for name, attack in ATTACKS.items() if attack not in chosen})
    return ready, skipped
