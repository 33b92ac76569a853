"""A parser whose errors offer the nearest command, flag or choice."""

from __future__ import annotations

import argparse
import difflib
import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Optional

_FLAG = "--"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a question for the known name that is most like an unknown one, or an empty string where none is."""
    found = difflib.get_close_matches(name.lower(), list(known), 1)
    return f". Did you mean {found[0]} in the place of {name}?" if found else ""


class SuggestingParser(argparse.ArgumentParser):
    """An `ArgumentParser` of a program with commands, which also tells what was probably meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # An epilog's lines are kept: they show an example.
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self._words: list[str] = []

    def parse_known_args(  # type: ignore[override]
        self, args: Optional[Sequence[str]] = None, namespace: Optional[argparse.Namespace] = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Returns what `ArgumentParser` does; a flag that a command does not have is an error of that command."""
        self._words = [*(sys.argv[1:] if args is None else args)]
        given, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return given, unknown

    def error(self, message: str) -> NoReturn:
        """Prints the usage, the error and what was probably meant, and exits with status 2."""
        super().error(f"{message}{self._suggestions()}")

    def _suggestions(self) -> str:
        known = [flag for action in self._actions for flag in action.option_strings]
        flags = [word.partition("=")[0] for word in self._words if word.startswith(_FLAG) and word != _FLAG]
        unknown = [flag for flag in flags if not any(name.startswith(flag) for name in known)]
        told = [nearest(flag, known) for flag in unknown]
        for action in self._actions:
            if action.choices and not told:
                told += [nearest(word, map(str, action.choices)) for word in self._values(action)]
        return "".join(dict.fromkeys(told))

    def _values(self, action: argparse.Action) -> list[str]:
        """Returns what the command line gives an option, or the command, where that is no choice of it."""
        words = self._words
        if not action.option_strings:
            values = words[:1]
        else:
            values = [after for word, after in itertools.pairwise(words) if word in action.option_strings]
            values += [word.partition("=")[2] for word in words if word.partition("=")[0] in action.option_strings]
        return [value for value in values if value and action.choices and value not in action.choices]
