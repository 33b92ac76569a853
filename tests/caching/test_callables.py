"""Fingerprints of objects that can be called."""

from __future__ import annotations

import dataclasses

from tfmiaq.caching import fingerprint


def _made(body, **fields):
    """An object of a class of one name, whose method runs a body."""

    @dataclasses.dataclass
    class Change:
        part: float = 0.1

        def __call__(self, x):
            return self._changed(x)

        _changed = body

    return Change(**fields)


def test_methods_that_a_call_runs_count():
    def once(self, x):
        return x + self.part

    def twice(self, x):
        return x + 2 * self.part

    assert fingerprint(_made(once)) == fingerprint(_made(once))
    assert fingerprint(_made(once)) != fingerprint(_made(twice))
    assert fingerprint(_made(once)) != fingerprint(_made(once, part=0.2))


class _Slotted:
    __slots__ = ("part",)

    def __init__(self, part):
        self.part = part

    def __call__(self, x):
        return x * self.part


def test_values_in_slots_count():
    assert fingerprint(_Slotted(0.1)) == fingerprint(_Slotted(0.1))
    assert fingerprint(_Slotted(0.1)) != fingerprint(_Slotted(0.9))
