"""The tap: the only contact between the decoder and what watches or changes its values.

It knows names and values; it does not know what is done with them.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from cutaway.ground.errors import BadArgument


@runtime_checkable
class Tap(Protocol):
    """Called once with every value that has a name, where it is born; what it returns takes the value's place.

    A backend may compute several values in one call of its own. It then asks these questions about their names first,
    and calls the tap with none of them.
    """

    def __call__(self, name: str, value: Tensor) -> Tensor: ...

    def wants(self, *names: str) -> bool:
        """Whether one of these values must be computed by itself, even where a fused op would skip it."""
        ...

    def changes(self, *names: str) -> bool:
        """Whether it may return another value for one of these, or end the pass there. It then wants them, too."""
        ...

    def buffers(self, names: tuple[str, ...]) -> Any:
        """Memory where a backend may write the wanted ones of these values of one new token per text, instead of
        calling the tap with them (quant/native/buffers.py); None where there is none.
        """
        ...


def require_tap(tap: Any) -> None:
    """Raises BadArgument for an incomplete tap."""
    if not isinstance(tap, Tap):
        expected = "one with __call__, wants, changes and buffers"
        raise BadArgument(f"a tap of type {type(tap).__name__}", expected, "derive it from model/tap.py: Untapped")


class Untapped:
    """Every value passes, and none is wanted."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return value

    def wants(self, *names: str) -> bool:
        return False

    def changes(self, *names: str) -> bool:
        return False

    def buffers(self, names: tuple[str, ...]) -> Any:
        return None


class Chain:
    """Several taps as one: the value flows through them left to right."""

    def __init__(self, *taps: Tap) -> None:
        for tap in taps:
            require_tap(tap)
        self.taps = taps

    def __call__(self, name: str, value: Tensor) -> Tensor:
        for tap in self.taps:
            value = tap(name, value)
        return value

    def wants(self, *names: str) -> bool:
        return any(tap.wants(*names) for tap in self.taps)

    def changes(self, *names: str) -> bool:
        return any(tap.changes(*names) for tap in self.taps)

    def buffers(self, names: tuple[str, ...]) -> Any:
        """Those of the only tap that wants the values."""
        wanting = [tap for tap in self.taps if tap.wants(*names) or tap.changes(*names)]
        return wanting[0].buffers(names) if len(wanting) == 1 else None


untapped = Untapped()


def each_tapped(tap: Tap, names: Sequence[str], values: Sequence[Tensor]) -> Tensor:
    """The last of values that were computed together, after each has passed; the last of the names are theirs."""
    return [tap(name, value) for name, value in zip(names[-len(values) :], values, strict=True)][-1]
