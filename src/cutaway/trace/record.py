"""Recording: a tap that keeps a copy of every value it was asked for, and changes none.

It knows names and tensors; it does not know which model they come from.
"""

from collections.abc import Iterable

from torch import Tensor


class Enough(Exception):
    """Raised inside a pass when its last wanted value is recorded: the rest need not be computed."""


class Recorder:
    """A tap that keeps values by site.

    A site reached again (the next step of a generation) is kept as a further part. What is kept is a copy: a cache
    or a later pass that reuses the memory does not change it. last: the site after which the pass ends (Enough).
    """

    def __init__(self, sites: Iterable[str], last: str | None = None) -> None:
        self.sites, self.last = frozenset(sites), last
        self.parts: dict[str, list[Tensor]] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.sites:
            self.parts.setdefault(name, []).append(value.detach().clone())
            if name == self.last:
                raise Enough
        return value

    def wants(self, name: str) -> bool:
        return name in self.sites

    def rest(self) -> None:
        """Record no more; what was recorded stays."""
        self.sites = frozenset()
