"""Experts that a checkpoint stacks in one tensor, as transformers holds them in memory: each as a tensor of its own.

It knows the ends of such names, and no family; which rows are whose, the family's table says.
"""

import re
from collections.abc import Mapping

from cutaway.weights.files.lazy import LazyTensor

STACKED = re.compile(r"(.*\.experts)\.((?:gate_up_proj|down_proj)(?:_bias|\.weight)?)")  # [experts, ...]


def experts_apart(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors, of a stack `experts.down_proj` each expert's part as `experts.3.down_proj`; the others unchanged."""
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        stack = STACKED.fullmatch(name)
        parts = {f"{stack[1]}.{i}.{stack[2]}": tensor.part(i) for i in range(tensor.n_rows)} if stack else {}
        found |= {own: part.renamed(own) for own, part in parts.items()} or {name: tensor}
    return found
