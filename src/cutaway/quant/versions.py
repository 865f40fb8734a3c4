"""A version of some modules: a number that grows whenever one of them gains, loses or replaces a part.

It is kept by the modules' own tables of parts, also where torch.func writes into them. It does not know what relies on
it, nor what a part holds.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

TABLES = ("_parameters", "_buffers", "_modules")


def version_of(modules: Iterable[nn.Module]) -> int:
    """The version of all modules that were ever asked about; from now on it counts the changes of these, too."""
    for module in modules:
        for name in TABLES:
            table = vars(module)[name]
            if type(table) is not CountingTable:
                vars(module)[name] = CountingTable(table)
    return CountingTable.changes


def _counting(name: str) -> Callable[..., Any]:
    """dict's own method; what sees its count sees its change, too."""
    inner = getattr(dict, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        CountingTable.changes += 1
        return result

    return method


class CountingTable(dict[str, Any]):
    """A dict that counts every change of what it holds."""

    changes = 0

    __setitem__, __delitem__, __ior__ = _counting("__setitem__"), _counting("__delitem__"), _counting("__ior__")
    pop, popitem, clear = _counting("pop"), _counting("popitem"), _counting("clear")
    update, setdefault = _counting("update"), _counting("setdefault")
