"""Validation of arguments: what a number may be, said once, and every fault of a call told together.

The model is scikit-learn's `_param_validation`: an argument has an `Interval`, and a value outside it raises one error
that is both a ValueError and a TypeError.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import pathlib
from collections.abc import Callable
from typing import Any, Optional

import numpy as np


class InvalidArgumentError(ValueError, TypeError):
    """One or more arguments are of another type, or out of their range. The message is one line, whatever was given."""

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


def _number(value: float) -> str:
    """Returns a bound as text, an integer with all its digits."""
    return str(value) if isinstance(value, int) else f"{value:g}"


@dataclasses.dataclass(frozen=True)
class Interval:
    """The numbers that an argument may be.

    Attributes:
        kind: `numbers.Integral` or `numbers.Real`. Booleans are neither; NumPy scalars are both.
        low: Lower end, or None for no lower end.
        high: Upper end, or None for no upper end.
        closed: Which ends belong to the interval: "both", "left", "right" or "neither". Infinity and NaN never do.
        or_none: Whether None is allowed too.
        none_means: What None stands for, as in "float"; for the message.
        also: Single values that are allowed beside the interval, as 0 is beside folds of at least 2.
    """

    kind: type
    low: Optional[float] = None
    high: Optional[float] = None
    closed: str = "both"
    or_none: bool = False
    none_means: str = ""
    also: tuple[float, ...] = ()

    def __contains__(self, value: Any) -> bool:
        if value is None:
            return self.or_none
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, self.kind):
            return False
        number = float(value)
        if number in self.also:
            return True
        if not math.isfinite(number):
            return False
        above = self.low is None or number > self.low or (number == self.low and self.closed in ("both", "left"))
        below = self.high is None or number < self.high or (number == self.high and self.closed in ("both", "right"))
        return above and below

    def plain(self, value: Any) -> Any:
        """Returns a contained value as a plain Python number, or None."""
        if value is None:
            return None
        return int(value) if self.kind is numbers.Integral else float(value)

    def __str__(self) -> str:
        noun = "an integer" if self.kind is numbers.Integral else "a finite number"
        low = None if self.low is None else _number(self.low)
        high = None if self.high is None else _number(self.high)
        if low is not None and high is not None:
            opening = f"from {low} to" if self.closed in ("both", "left") else f"above {low} and"
            closing = high if self.closed in ("both", "right") else f"below {high}"
            if opening.endswith("and") and closing == high:
                closing = f"up to {high}"
            text = f"{noun} {opening} {closing}"
        elif low is not None:
            text = f"{noun} of at least {low}" if self.closed in ("both", "left") else f"{noun} above {low}"
        elif high is not None:
            text = f"{noun} of at most {high}" if self.closed in ("both", "right") else f"{noun} below {high}"
        else:
            text = noun
        for value in self.also:
            text += f", or {_number(value)}"
        if self.or_none:
            text += f", or None{f' for {self.none_means}' if self.none_means else ''}"
        return text


def integer(low: Optional[int] = None, high: Optional[int] = None, **more: Any) -> Interval:
    """Returns an interval of integers; `more` are fields of `Interval`."""
    return Interval(numbers.Integral, low, high, **more)


def real(low: Optional[float] = None, high: Optional[float] = None, **more: Any) -> Interval:
    """Returns an interval of real numbers; `more` are fields of `Interval`."""
    return Interval(numbers.Real, low, high, **more)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The names that an argument may be.

    Attributes:
        names: The names.
    """

    names: tuple[str, ...]

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.names

    def plain(self, value: Any) -> Any:
        """Returns a contained value as it is."""
        return value

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.names))}"


@dataclasses.dataclass(frozen=True)
class Where:
    """Values that a function accepts.

    Attributes:
        accepts: Function that tells whether it accepts a value.
        text: What the values are, for the message.
    """

    accepts: Callable[[Any], bool]
    text: str

    def __contains__(self, value: Any) -> bool:
        return self.accepts(value)

    def plain(self, value: Any) -> Any:
        """Returns a contained value as it is."""
        return value

    def __str__(self) -> str:
        return self.text


def instance(text: str, *types: type, or_none: bool = False) -> Where:
    """Returns the values of some types, None among them if `or_none` says so; `text` describes them in the message."""
    return Where(lambda value: isinstance(value, types) or (or_none and value is None), text)


SEED = integer(0, 2**32 - 1)
AT_LEAST_ONE = integer(1)
N_JOBS = integer(1, also=(-1,), or_none=True, none_means="what joblib's context says")


def check(owner: str, **arguments: tuple[Any, Any]) -> dict[str, Any]:
    """Returns the values of arguments as plain Python values.

    Example:
        >>> check("audit", batch_size=(np.int64(256), integer(1)))
        {'batch_size': 256}

    Args:
        owner: The function or class that was given them, with which messages begin.
        **arguments: For each name, the value and what it may be: an `Interval`, `Choice` or `Where`.

    Raises:
        InvalidArgumentError: Values outside their intervals; all of them are listed.
    """
    faults = [
        f"Expected {name} to be {interval}. Received {value!r:.200}."
        for name, (value, interval) in arguments.items()
        if value not in interval
    ]
    if faults:
        raise InvalidArgumentError(f"{owner}: {' '.join(faults)}")
    return {name: interval.plain(value) for name, (value, interval) in arguments.items()}


def check_fields(instance: Any, **intervals: Any) -> None:
    """Checks fields of a frozen dataclass, and sets them to plain Python numbers.

    Raises:
        InvalidArgumentError: As `check`.
    """
    given = {name: (getattr(instance, name), interval) for name, interval in intervals.items()}
    for name, value in check(type(instance).__name__, **given).items():
        object.__setattr__(instance, name, value)


def as_path(owner: str, name: str, value: Any) -> pathlib.Path:
    """Returns a path that was given as a text or as a path.

    Raises:
        InvalidArgumentError: It is of another type, or empty.
    """
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise InvalidArgumentError(f"{owner}: Expected {name} to be a path. Received {value!r:.200}.")
    return pathlib.Path(value)


def check_choice(owner: str, name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Checks that a value is one of some names.

    Raises:
        InvalidArgumentError: It is none of them; the nearest is offered.
    """
    if value in choices:
        return
    import difflib

    nearest = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise InvalidArgumentError(
        f"{owner}: Unknown {name} {value!r:.200}. Expected one of {', '.join(map(repr, choices))}.{hint}"
    )
