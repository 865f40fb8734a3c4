"""The recorder of one pass: a tap that keeps every value it was asked for, and changes none.

It knows names and tensors; it does not know which model they come from, nor where what it keeps will lie.
"""

from collections.abc import Callable, Iterable

from torch import Tensor

Keep = Callable[[str, Tensor], Tensor]  # site, value → what is recorded of it


class Enough(Exception):
    """Raised inside a pass when its last wanted value is recorded: the rest need not be computed."""


def copied(name: str, value: Tensor) -> Tensor:
    """A copy: a cache or a later pass that reuses the memory does not change it."""
    return value.detach().clone()


class Recorder:
    """A tap that keeps values by site.

    A site reached again (the next pass of a generation) is recorded as a further part. last: the site after which the
    pass ends (Enough). keep: what is recorded of a value. flows: whether that goes on through the model, too, so
    that gradients reach it.
    """

    def __init__(self, sites: Iterable[str], last: str | None = None, keep: Keep = copied, flows: bool = False) -> None:
        self.parts: dict[str, list[Tensor]] = {site: [] for site in sites}
        self.sites, self.last, self.keep, self.flows = frozenset(self.parts), last, keep, flows

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.sites:
            recorded = self.keep(name, value)
            self.parts[name].append(recorded)
            value = recorded if self.flows else value
        if name == self.last:
            raise Enough
        return value

    def wants(self, *names: str) -> bool:
        return self.last in names or not self.sites.isdisjoint(names)

    def changes(self, *names: str) -> bool:
        return self.last in names or (self.flows and not self.sites.isdisjoint(names))

    def buffers(self, names: tuple[str, ...]) -> None:
        """None: it keeps each value by itself."""

    def rest(self) -> None:
        """Record no more; what was recorded stays."""
        self.sites = frozenset()
