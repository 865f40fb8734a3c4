"""Packed: a tensor as it is pickled: its own bytes, without the rest of the storage or file that it is a view of.

It does not know modules, nor what the tensor is for.
"""

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


def pack(value: Tensor | None) -> "Tensor | Packed | None":
    """Packed where the tensor is a view of a larger storage on the CPU, else itself."""
    part = value is not None and value.is_cpu and value.untyped_storage().nbytes() > value.nbytes
    return Packed(value) if value is not None and part else value


def unpack(value: "Tensor | Packed | None") -> Tensor | None:
    """The tensor that was packed."""
    return value.tensor() if isinstance(value, Packed) else value
