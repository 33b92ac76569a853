"""JSON from outside: a value, or one error that names the text."""

from __future__ import annotations

import json
from typing import Any

_MOST_NESTED = 200


def parse_json(text: Any, name: str) -> Any:
    """Returns the value of a JSON text.

    Args:
        text: The text, or its bytes in UTF-8.
        name: What it is, with which errors begin.

    Raises:
        TypeError: No text.
        ValueError: No JSON, or more than 200 objects and lists inside one another.
    """
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"{name}: Expected a text. Received {type(text).__name__}.")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{name}: nested too deep. Expected at most {_MOST_NESTED} levels.") from error
    except ValueError as error:
        raise ValueError(f"{name}: not JSON ({error}).") from error
    level: list[Any] = [value]
    for _ in range(_MOST_NESTED):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError(f"{name}: nested too deep. Expected at most {_MOST_NESTED} levels.")


def _inside(value: Any) -> list[Any]:
    found = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in found if isinstance(item, (dict, list))]
