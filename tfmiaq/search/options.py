"""Options of the search for bit-widths, without TensorFlow."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Optional

from tfmiaq._checks import AT_LEAST_ONE, Choice, InvalidArgumentError, Several, check_fields, integer, real

SAMPLERS = ("tpe", "nsga2", "random")


@dataclasses.dataclass(frozen=True)
class PolicySearch:
    """How `search_policy` and `defend` search bit-widths.

    Example:
        >>> options = tfmiaq.PolicySearch(n_trials=50, max_accuracy_drop=0.02)
        >>> result = tfmiaq.search_policy(model, (x_train, y_train), (x_validation, y_validation), options)

    Attributes:
        n_trials: Allocations of bits that are scored, beside each choice on its own. At least 1.
        max_accuracy_drop: Accuracy that the best policy may lose against 8 bits, from 0 to below 1.
        retrained: Candidates that are trained on their own, beside 8 bits everywhere. 0 for none, which trusts the
            shared model's estimates.
        sampler: Optuna's sampler: "tpe", "nsga2" or "random".
        weight_bits: Bits that weights may get, each from 1 to 8.
        activation_bits: Bits that ReLU outputs may get, each from 1 to 8.
        sample: Members and non-members that each allocation is attacked on, and validation records. At least 1.
        storage: URL of Optuna's storage, for a database that several machines share. None for the search's own folder.

    Raises:
        InvalidArgumentError: Fields out of their ranges; all of them are listed.
    """

    n_trials: int = 100
    max_accuracy_drop: float = 0.01
    retrained: int = 4
    sampler: str = "tpe"
    weight_bits: Sequence[int] = (1, 2, 3, 4, 8)
    activation_bits: Sequence[int] = (2, 3, 4, 8)
    sample: int = 2000
    storage: Optional[str] = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            n_trials=AT_LEAST_ONE,
            max_accuracy_drop=real(0, 1, closed="left"),
            retrained=integer(0),
            sampler=Choice(SAMPLERS),
            weight_bits=Several(integer(1, 8)),
            activation_bits=Several(integer(1, 8)),
            sample=AT_LEAST_ONE,
        )
        if self.storage is not None:
            _check_storage(self.storage)


def _check_storage(storage: Any) -> None:
    """Raises InvalidArgumentError unless a value is the URL of a database whose driver is installed."""
    is_url = isinstance(storage, str) and re.fullmatch(r"[a-z][\w+.-]*://\S+", storage)
    if not is_url:
        name = storage if isinstance(storage, str) and re.fullmatch(r"[\w.-]+", storage) else "search.db"
        raise InvalidArgumentError(
            f"PolicySearch: Expected storage to be the URL of a database, such as sqlite:///{name}, or None. Received "
            f"{storage!r:.200}."
        )
    from sqlalchemy import engine, exc

    try:
        engine.make_url(storage).get_dialect()
    except (exc.SQLAlchemyError, ImportError, ValueError) as error:
        raise InvalidArgumentError(
            f"PolicySearch: No database is reached by storage={storage!r:.200} ({' '.join(str(error).split()):.200})."
        ) from error
