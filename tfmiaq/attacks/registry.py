"""All attacks by name, and those that run by default."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional, Union

from tfmiaq.attacks.base import AUGMENTED_OUTPUTS, LABEL_AGREEMENT, Attack
from tfmiaq.attacks.bavaria import Bavaria
from tfmiaq.attacks.boosting import GradientBoosting, TwoVersions
from tfmiaq.attacks.difficulty import Difficulty
from tfmiaq.attacks.gap import Gap
from tfmiaq.attacks.label_only import LabelOnly
from tfmiaq.attacks.lira import LIRA
from tfmiaq.attacks.quantile import QuantileRegression
from tfmiaq.attacks.rmia import Rmia
from tfmiaq.attacks.shadow import ShadowModels
from tfmiaq.attacks.suite import SUITE
from tfmiaq.attacks.thresholds import Confidence, Entropy, ModifiedEntropy
from tfmiaq.attacks.whole_output import WHOLE_OUTPUT

ATTACKS: dict[str, Attack] = {}


def register(attack: Attack) -> None:
    """Makes an attack known to `tfmiaq.audit` by its name.

    Raises:
        TypeError: No Attack.
        ValueError: No name, or one that is taken.
    """
    if not isinstance(attack, Attack):
        raise TypeError(f"register: Expected an instance of tfmiaq.attacks.Attack. Received {attack!r}.")
    name = getattr(attack, "name", "")
    if not name or name in ATTACKS:
        raise ValueError(f"register: Expected a name that no attack has yet. Received {name!r}.")
    ATTACKS[name] = attack


for _attack in (
    Gap(),
    Confidence(),
    Entropy(),
    ModifiedEntropy(),
    GradientBoosting(),
    QuantileRegression(),
    LabelOnly(),
    TwoVersions(),
    ShadowModels(),
    *LIRA,
    Bavaria(),
    Difficulty(),
    *WHOLE_OUTPUT,
    Rmia(),
    Rmia(name="RMIA on augmented queries", of=AUGMENTED_OUTPUTS),
    Rmia(name="RMIA on label agreement", of=LABEL_AGREEMENT),
    *SUITE,
):
    register(_attack)

# What runs if no names are given: strongest for their cost by benchmarks/attacks.py and benchmarks/audit_cost.py.
DEFAULT = (
    "gap",
    "confidence",
    "entropy",
    "modified entropy by class",
    "gradient boosting",
    "label-only",
    "two versions",
    "shadow models",
    "LiRA",
    "RMIA",
    "BaVarIA",
    "difficulty calibration",
    "whole output",
    "whole output on augmented queries",
    "LiRA on augmented queries",
    "RMIA on augmented queries",
    "LiRA on label agreement",
    "RMIA on label agreement",
)


# In the place of names.
ALL = "all"


def choose(names: Optional[Union[str, Iterable[str]]]) -> list[Attack]:
    """Returns the attacks of these names; the default ones for None, and every one for "all".

    Raises:
        ValueError: Unknown names, or none.
    """
    if not isinstance(names, (Iterable, type(None))):
        raise ValueError(f"audit: Expected attacks to be names, 'all' or None. Received {names!r:.80}.")
    if isinstance(names, str) and names == ALL:
        return list(ATTACKS.values())
    chosen = list(DEFAULT) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in ATTACKS]
    if unknown or not chosen:
        raise ValueError(f"audit: Unknown attacks {unknown}. Expected some of {', '.join(map(repr, ATTACKS))}.")
    return [ATTACKS[name] for name in dict.fromkeys(chosen)]
