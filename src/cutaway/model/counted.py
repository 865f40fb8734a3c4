"""Counted: a module that notes whenever what it is made of changes, so that whoever relied on it need not look again.

It does not know who relies on it, nor what the parts are.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

TABLES = ("_parameters", "_buffers", "_modules")


class Counted(nn.Module):
    """`Counted.changes` grows with every attribute, parameter, buffer or module that any such module gains or loses,
    also where torch.func writes into its tables. What a tensor holds, and where, is not counted."""

    changes = 0

    def __init__(self) -> None:
        super().__init__()
        for name in TABLES:
            object.__setattr__(self, name, _Table(getattr(self, name)))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        Counted.changes += 1

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        Counted.changes += 1


def counted(table: dict[str, Any]) -> dict[str, Any]:
    """A module's table that counts its changes, holding what another one holds."""
    return _Table(table)


def _counting(name: str) -> Callable[..., Any]:
    """dict's own method; whoever sees its count sees its change, too."""
    inner = getattr(dict, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        Counted.changes += 1
        return result

    return method


class _Table(dict[str, Any]):
    """A dict that counts every change of what it holds."""

    __setitem__, __delitem__, __ior__ = _counting("__setitem__"), _counting("__delitem__"), _counting("__ior__")
    pop, popitem, clear = _counting("pop"), _counting("popitem"), _counting("clear")
    update, setdefault = _counting("update"), _counting("setdefault")
