"""Counted: a module that notes whenever what it is made of changes, so that whoever relied on it need not look again.

It does not know who relies on it, nor what the parts are.
"""

from typing import Any

from torch import nn

TABLES = ("_parameters", "_buffers", "_modules")


class Counted(nn.Module):
    """`Counted.changes` grows with every attribute, parameter, buffer or module that any such module gains or loses,
    however it is put there (torch.func writes into a module's tables). What a tensor holds is not counted."""

    changes = 0

    def __init__(self) -> None:
        super().__init__()
        for name in TABLES:
            object.__setattr__(self, name, _Table(getattr(self, name)))

    def __setattr__(self, name: str, value: Any) -> None:
        Counted.changes += 1
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        Counted.changes += 1
        super().__delattr__(name)


class _Table(dict[str, Any]):
    """A dict that counts every change of what it holds."""

    def __setitem__(self, key: str, value: Any) -> None:
        Counted.changes += 1
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        Counted.changes += 1
        super().__delitem__(key)

    def pop(self, *args: Any) -> Any:
        Counted.changes += 1
        return super().pop(*args)

    def popitem(self) -> tuple[str, Any]:
        Counted.changes += 1
        return super().popitem()

    def clear(self) -> None:
        Counted.changes += 1
        super().clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        Counted.changes += 1
        super().update(*args, **kwargs)

    def setdefault(self, key: str, default: Any = None) -> Any:
        Counted.changes += 1
        return super().setdefault(key, default)

    def __ior__(self, other: Any) -> "_Table":
        Counted.changes += 1
        return super().__ior__(other)
