"""The tap: the only contact between the decoder and whoever watches it or changes it.

It knows names and values; it does not know what a watcher does with them.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

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

    def room(self, names: tuple[str, ...], places: int) -> Any:
        """Where a step may itself write those of these values that are wanted, of so many places a text, so that the
        tap need not be called with them: an object that only such steps look into. None: there is no such room.
        """
        ...


class Untapped:
    """Nobody watches: every value passes, none is asked for."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return value

    def wants(self, *names: str) -> bool:
        return False

    def changes(self, *names: str) -> bool:
        return False

    def room(self, names: tuple[str, ...], places: int) -> Any:
        return None


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

    def room(self, names: tuple[str, ...], places: int) -> Any:
        """That of the only one who wants them."""
        wanting = [tap for tap in self.taps if tap.wants(*names) or tap.changes(*names)]
        return wanting[0].room(names, places) if len(wanting) == 1 else None


untapped = Untapped()


def unseen(step: Callable[[Any], Tensor | None], names: tuple[str, ...], places: int, tap: Tap) -> Tensor | None:
    """The result of a step that has these values inside (its room's order; "" for none), where nobody wants them or the
    step can write them where the tap keeps them. Else None: they must be made one by one."""
    if not tap.wants(*names):
        return step(None)
    room = tap.room(names, places)
    return None if room is None else step(room)


def show(tap: Tap, names: Iterable[str], values: Iterable[Tensor]) -> None:
    """Pass values that nobody replaces."""
    for name, value in zip(names, values, strict=True):
        tap(name, value)
