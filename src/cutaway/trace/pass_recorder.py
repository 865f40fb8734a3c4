"""Recording: a tap that keeps every value it was asked for, and changes none.

It knows names and tensors; it does not know which model they come from, nor where what it keeps will lie.
"""

from collections.abc import Callable, Iterable

from torch import Tensor

from cutaway.quant.native import Room

Keep = Callable[[str, Tensor], Tensor]  # site, value → what is kept of it
Places = Callable[[tuple[str, ...]], Room | None]  # sites → where a step writes those of them that are wanted


class Enough(Exception):
    """Raised inside a pass when its last wanted value is recorded: the rest need not be computed."""


def copied(name: str, value: Tensor) -> Tensor:
    """A copy: a cache or a later pass that reuses the memory does not change it."""
    return value.detach().clone()


class Recorder:
    """A tap that keeps values by site.

    A site reached again (the next step of a generation) is kept as a further part. last: the site after which the
    pass ends (Enough). keep: what is kept of a value. places: where steps write values themselves, which are then no
    parts. flows: whether what is kept goes on through the model, too, so that gradients reach it.
    """

    def __init__(
        self,
        sites: Iterable[str],
        last: str | None = None,
        keep: Keep = copied,
        places: Places | None = None,
        flows: bool = False,
    ) -> None:
        self.parts: dict[str, list[Tensor]] = {site: [] for site in sites}
        self.sites, self.last, self.flows = frozenset(self.parts), last, flows
        self.keep, self.places = keep, places

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.sites:
            kept = self.keep(name, value)
            self.parts[name].append(kept)
            value = kept if self.flows else value
        if name == self.last:
            raise Enough
        return value

    def wants(self, *names: str) -> bool:
        return self.last in names or not self.sites.isdisjoint(names)

    def changes(self, *names: str) -> bool:
        return self.flows and not self.sites.isdisjoint(names)

    def room(self, names: tuple[str, ...], places: int) -> Room | None:
        """Places for these; None where it keeps each value by itself, or is to end the pass after one."""
        return None if self.places is None or self.last in names else self.places(names)

    def rest(self) -> None:
        """Record no more; what was recorded stays."""
        self.sites = frozenset()
