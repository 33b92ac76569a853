"""Flags that are made from the fields of option dataclasses: their names, types, defaults and documentation."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from typing import Any

_SECTION = re.compile(r"^Attributes:\n((?:[ \t]+.*\n?|\n)+)", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)


def documented(options: type) -> dict[str, str]:
    """Returns the documentation of each field of a dataclass, from the section "Attributes:" of its docstring."""
    section = _SECTION.search(f"{inspect.getdoc(options)}\n")
    return {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(section[1] if section else "")}


def _first_sentence(text: str) -> str:
    sentence = re.split(r"\.\s+(?=[A-Z])", text)[0].rstrip(".")
    # Abbreviations keep their capitals.
    return sentence if sentence[1:2].isupper() else f"{sentence[:1].lower()}{sentence[1:]}"


def integers(text: str) -> tuple[int, ...]:
    """Returns the integers of a text with commas in between."""
    return tuple(int(part) for part in text.split(","))


def _type(options: type, name: str) -> Callable[[str], Any]:
    hint = typing.get_type_hints(options)[name]
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)] or [hint]
    return kinds[0] if kinds[0] in (int, float) else str


def add_fields(
    parser: Any,
    options: type,
    names: Iterable[str],
    *,
    defaults: Callable[[str], Any] = lambda name: None,
    **named: dict[str, Any],
) -> None:
    """Adds a flag for each of some fields of a dataclass.

    A flag that is not given is None, so that `given_fields` tells it from one that is, and the dataclass's own default
    applies. The help is the first sentence of the field's documentation, with the default.

    Args:
        parser: Parser, or group of one.
        options: The dataclass.
        names: Names of its fields.
        defaults: Function from a name to the text of a default that is not the field's own, or None.
        **named: For a field, further arguments of `add_argument`; "flag" for another name of the flag.
    """
    texts = documented(options)
    for name in names:
        arguments = dict(named.get(name, {}))
        default = defaults(name)
        if default is None:
            default = format_default(getattr(options, name))
        text = arguments.pop("text", None) or _first_sentence(texts[name])
        flag = arguments.pop("flag", name)
        if arguments.get("action") is None:
            arguments["type"] = _type(options, name)
        parser.add_argument(f"--{flag}", help=f"{text} ({default})".replace("%", "%%"), default=None, **arguments)


def format_default(value: Any) -> str:
    """Returns a default as the help shows it."""
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def given_fields(given: argparse.Namespace, options: type) -> dict[str, Any]:
    """Returns the fields of a dataclass whose flags were given."""
    names = [field.name for field in dataclasses.fields(options)]
    return {name: getattr(given, name) for name in names if getattr(given, name, None) is not None}
