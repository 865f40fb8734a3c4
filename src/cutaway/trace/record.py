"""Recording: a tap that keeps a copy of every value it was asked for, and changes none.

It knows names and tensors; it does not know which model they come from.
"""

from collections.abc import Iterable

from torch import Tensor


class Recorder:
    """A tap that keeps values by site.

    A site reached again (the next step of a generation) is kept as a further part. What is kept is a copy: a cache
    or a later pass that reuses the memory does not change it.
    """

    def __init__(self, sites: Iterable[str]) -> None:
        self.sites = frozenset(sites)
        self.parts: dict[str, list[Tensor]] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.sites:
            self.parts.setdefault(name, []).append(value.detach().clone())
        return value

    def wants(self, name: str) -> bool:
        return name in self.sites

    def rest(self) -> None:
        """Record no more; what was recorded stays."""
        self.sites = frozenset()
