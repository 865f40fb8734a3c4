"""Does a decoder hold its files' values? Every tensor of the files is read again and compared with the decoder's.

It starts from the files, name by name, not from the loader's plan; it does not know what the values mean.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from cutaway.model.decoder import Decoder
from cutaway.quant.int8 import quantize_weight
from cutaway.quant.linear import Int8Linear
from cutaway.weights.checkpoint import Checkpoint
from cutaway.weights.files import is_saved
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.files.safetensors import open_safetensors
from cutaway.weights.match import EMBEDDING, HEAD, Names, Target, target_of
from cutaway.weights.quantizing import row_chunks
from cutaway.weights.save import WEIGHTS


def differing(checkpoint: Checkpoint, decoder: Decoder) -> list[str]:
    """Names of the files' tensors whose values the decoder does not have, and of its parameters that no file has.

    Head and embedding table are compared separately: where the files have one tensor for both, both must hold it.
    """
    if is_saved(checkpoint.path):
        return _differing_saved(checkpoint, decoder)
    names = Names(checkpoint.family)
    wrong, seen = [], set()
    for name, tensor in checkpoint.tensors.items():
        spec = names.ours(name)
        if spec == "":
            continue
        target = None if spec is None else target_of(spec, checkpoint.facts)
        if target is None or not _holds(decoder, target, tensor):
            wrong.append(name)
        seen.add(target.parameter if target else name)
    ends = {EMBEDDING: HEAD, HEAD: EMBEDDING}
    for end, other in ends.items():
        if other in seen and end not in seen:
            only = next(n for n in checkpoint.tensors if names.ours(n) == other)
            wrong += [] if _holds(decoder, Target(end, None, False), checkpoint.tensors[only]) else [f"{only} as {end}"]
            seen.add(end)
    weights = {name.replace(".codes", ".weight") for name in decoder.state_dict() if not name.endswith(".scale")}
    return [*wrong, *sorted(weights - seen)]


def _holds(decoder: Decoder, target: Target, tensor: LazyTensor) -> bool:
    """Whether the decoder's rows equal the tensor's, in the decoder's dtype or as codes."""
    owner_name, _, leaf = target.parameter.rpartition(".")
    owner = decoder.get_submodule(owner_name)
    held = getattr(owner, "codes" if isinstance(owner, Int8Linear) and leaf == "weight" else leaf, None)
    if held is None:
        return False
    first = 0 if target.rows is None else target.rows.start
    for start, part in row_chunks(tensor, target.transposed) if tensor.shape[1:] else [(0, tensor.read())]:
        rows = slice(first + start, first + start + len(part))
        if isinstance(owner, Int8Linear) and leaf == "weight":
            part, scale = quantize_weight(part)
            if not _same(owner.scale[rows], scale):
                return False
        if not _same(held[rows], part):
            return False
    return True


def _same(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and torch.equal(ours.cpu(), theirs.to(ours.dtype))


def _differing_saved(checkpoint: Checkpoint, decoder: Decoder) -> list[str]:
    ours, theirs = decoder.state_dict(), open_safetensors(checkpoint.path / WEIGHTS)
    return list(_unequal(ours, theirs)) + sorted(set(ours) - set(theirs) - {HEAD})


def _unequal(ours: dict[str, Tensor], theirs: dict[str, LazyTensor]) -> Iterator[str]:
    for name, tensor in theirs.items():
        if name not in ours or not _same(ours[name], tensor.read()):
            yield name
    if HEAD in ours and HEAD not in theirs and not _same(ours[HEAD], theirs[EMBEDDING].read()):
        yield HEAD
