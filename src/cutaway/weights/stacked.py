"""Experts that a checkpoint stacks in one tensor, as transformers holds them in memory: each as a tensor of its own.

It knows the ends of such names, and no family; which rows are whose, the family's table says.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from cutaway.weights.files.lazy import LazyTensor, stored_plainly

STACKED = re.compile(r"(.*\.experts)\.((?:gate_up_proj|down_proj)(?:_bias)?)")  # [experts, ...]


def experts_apart(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors, of a stack `experts.down_proj` each expert's part as `experts.3.down_proj`; the others unchanged."""
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        stack = STACKED.fullmatch(name)
        parts = {f"{stack[1]}.{i}.{stack[2]}": _part(tensor, i) for i in range(tensor.n_rows)} if stack else {}
        found |= {own: part.renamed(own) for own, part in parts.items()} or {name: tensor}
    return found


def _part(tensor: LazyTensor, expert: int) -> LazyTensor:
    shape = tensor.shape[1:]
    if tensor.location is not None:
        file, start = tensor.location
        start += expert * prod(shape) * tensor.dtype.itemsize
        return stored_plainly(tensor.name, shape, tensor.dtype, file, start)
    return LazyTensor(tensor.name, shape, tensor.dtype, _Rows(tensor, expert))


@dataclass(frozen=True)
class _Rows:
    """fetch of one expert's tensor."""

    stack: LazyTensor
    expert: int

    def __call__(self, start: int, stop: int) -> Tensor:
        return self.stack.read(slice(self.expert, self.expert + 1))[0, start:stop]
