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

    def wants(self, *names: str) -> bool:
        """Whether one of these must be computed by itself, even where a fused kernel would skip it."""
        ...

    def changes(self, *names: str) -> bool:
        """Whether what it returns for one of these may be another value: then what follows must be made of it."""
        ...


class Untapped:
    """Nobody watches: every value passes, none is asked for."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return value

    def wants(self, *names: str) -> bool:
        return False

    def changes(self, *names: str) -> bool:
        return False


class Chain:
    """Several taps as one: the value flows through them left to right."""

    def __init__(self, *taps: Tap) -> None:
        self.taps = taps

    def __call__(self, name: str, value: Tensor) -> Tensor:
        for tap in self.taps:
            value = tap(name, value)
        return value

    def wants(self, *names: str) -> bool:
        return any(tap.wants(*names) for tap in self.taps)

    def changes(self, *names: str) -> bool:
        return any(tap.changes(*names) for tap in self.taps)


untapped = Untapped()


def show(tap: Tap, names: Iterable[str], values: Iterable[Tensor]) -> None:
    """Pass values that nobody replaces."""
    for name, value in zip(names, values, strict=True):
        tap(name, value)
