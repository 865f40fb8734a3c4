"""The tap: the only contact between the decoder and whoever watches it or changes it.

It knows names and values; it does not know what a watcher does with them.
"""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Tap(Protocol):
    """Called once with every value that it wants, in order of birth; what it returns takes the value's place.

    It may be called with values that it does not want, too, where they are born anyway.
    """

    def __call__(self, name: str, value: Tensor) -> Tensor: ...

    def wants(self, name: str) -> bool:
        """Whether this value must be computed by itself, even where a fused kernel would skip it."""
        ...

    def changes(self, name: str) -> bool:
        """Whether what it returns for a value that it wants may be another: then what follows must be made of it."""
        ...


class Untapped:
    """Nobody watches: every value passes, none is asked for."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return value

    def wants(self, name: str) -> bool:
        return False

    def changes(self, name: str) -> bool:
        return False


class Chain:
    """Several taps as one: the value flows through them left to right."""

    def __init__(self, *taps: Tap) -> None:
        self.taps = taps

    def __call__(self, name: str, value: Tensor) -> Tensor:
        for tap in self.taps:
            value = tap(name, value)
        return value

    def wants(self, name: str) -> bool:
        return any(tap.wants(name) for tap in self.taps)

    def changes(self, name: str) -> bool:
        return any(tap.changes(name) for tap in self.taps)


untapped = Untapped()


def wants_any(tap: Tap, names: Iterable[str]) -> bool:
    """Whether one of these values must be computed by itself."""
    return tap is not untapped and any(map(tap.wants, names))


def changes_any(tap: Tap, names: Iterable[str]) -> bool:
    """Whether one of these values may be replaced."""
    return any(map(tap.changes, names))


def show(tap: Tap, names: Iterable[str], values: Iterable[Tensor]) -> None:
    """Pass values that nobody replaces."""
    for name, value in zip(names, values, strict=True):
        tap(name, value)
