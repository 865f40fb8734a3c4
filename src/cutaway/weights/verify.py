"""Does a decoder hold its files' values? Every tensor of the files is read again and compared with the decoder's.

It starts from the files, name by name, not from the loader's plan; it does not know what the values mean.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cutaway.model.decoder import Decoder
from cutaway.quant.linear import Int8Linear
from cutaway.weights.checkpoint import Checkpoint
from cutaway.weights.files import is_saved
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.files.safetensors import open_safetensors
from cutaway.weights.match import EMBEDDING, HEAD, Names, Target, target_of
from cutaway.weights.quantizing import quantized_chunks, row_chunks
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
    parameters = {f"{n}.{leaf}" for n, m in decoder.named_modules() for leaf in _parameters(m)}
    return [*wrong, *sorted(parameters - seen)]


def _parameters(module: nn.Module) -> Iterator[str]:
    """The names of a module's own tensors, as a checkpoint has them."""
    stored = module.STORED if isinstance(module, Int8Linear) else ()
    apart = (*stored, *module._non_persistent_buffers_set)
    own = [*module._parameters.items(), *module._buffers.items()]
    yield from (name for name, part in own if part is not None and name not in apart)
    yield from ["weight"] if stored else []


def _holds(decoder: Decoder, target: Target, tensor: LazyTensor) -> bool:
    """Whether the decoder's rows equal the tensor's, in the decoder's dtype or as codes."""
    tensor = target.arranged(tensor)
    owner_name, _, leaf = target.parameter.rpartition(".")
    owner = decoder.get_submodule(owner_name)
    first = 0 if target.rows is None else target.rows.start
    if isinstance(owner, Int8Linear) and leaf == "weight":
        codes_NK, scale = owner.codes[first:], owner.scale[first:]
        return all(
            _same(codes_NK[start : start + len(part)], part) and _same(scale[start : start + len(part)], part_scale)
            for start, part, part_scale in quantized_chunks(tensor, owner.mode, target.transposed)
        )
    held = getattr(owner, leaf, None)
    chunks = row_chunks(tensor, target.transposed) if tensor.shape[1:] else [(0, tensor.read())]
    return held is not None and all(_same(held[first + at : first + at + len(part)], part) for at, part in chunks)


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
