"""How tensors are pickled and copied: their own bytes, without the rest of the storage or file that they are views of.

It does not know modules, nor what a tensor is for.
"""

from typing import Any

import torch
from torch import Tensor


class Packed:
    """The bytes of a CPU tensor, by value: torch would write its whole storage, once for each view, and cannot send a
    mapped file to another process."""

    def __init__(self, value: Tensor) -> None:
        self.dtype, self.shape = value.dtype, tuple(value.shape)
        self.bytes = value.detach().contiguous().view(-1).view(torch.uint8).numpy()

    def tensor(self) -> Tensor:
        return torch.from_numpy(self.bytes).view(self.dtype).view(self.shape)


class Kept:
    """Base of what a run gives: it pickles, copies and saves as its own fields, without a model and without a graph of
    gradients. torch.save it as it is; torch.load wants weights_only=False, since it is no bare tensor."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: _packed(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _unpacked(value) for name, value in state.items()})


def pack(value: Tensor | None) -> "Tensor | Packed | None":
    """Packed where the tensor is a view of a larger storage on the CPU (elsewhere a copy), else itself."""
    if value is None or value.is_meta or value.untyped_storage().nbytes() <= value.nbytes:
        return value
    return Packed(value) if value.is_cpu else value.clone()


def unpack(value: "Tensor | Packed | None") -> Tensor | None:
    """The tensor that was packed."""
    return value.tensor() if isinstance(value, Packed) else value


def _packed(value: Any) -> Any:
    """The same, with the tensors in dicts, lists and tuples packed."""
    if isinstance(value, Tensor):
        return pack(value.detach() if value.grad_fn is not None else value)
    if type(value) is dict:
        return {name: _packed(part) for name, part in value.items()}
    return type(value)(map(_packed, value)) if type(value) in (list, tuple) else value


def _unpacked(value: Any) -> Any:
    if type(value) is dict:
        return {name: _unpacked(part) for name, part in value.items()}
    return type(value)(map(_unpacked, value)) if type(value) in (list, tuple) else unpack(value)
