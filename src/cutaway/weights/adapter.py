"""A LoRA adapter on its base: merged into the base's tensors as they are read, or as changes to the decoder's matrices.

Hu et al. 2021, arXiv 2106.09685. The sum is taken in float32, before any rounding to 8 bits. It knows names and shapes
of both; it does not know the adapter's files (files/lora.py), nor what reads the result.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.errors import BadCheckpoint, CutawayError, ModelNotFound, UnsupportedModel
from cutaway.ground.layers import all_weights
from cutaway.weights.checkpoint import Checkpoint, open_checkpoint
from cutaway.weights.files import is_saved
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.files.lora import Adapter, LowRank, open_adapter
from cutaway.weights.files.recognize import ADAPTER, is_adapter
from cutaway.weights.hub import resolve
from cutaway.weights.match import EMBEDDING, HEAD, Names, decided_head, target_of
from cutaway.weights.progress import Progress

AT_ONCE = 64  # rows that are computed together, from a multiple on: the same bits however many are asked for
APART = "load the base, and pass lm.adapter(FOLDER) to lm.edited"


@dataclass(frozen=True)
class Adapted(Checkpoint):
    """A base's checkpoint with an adapter in its tensors."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds both paths and notes; unpickling opens the files again."""
        assert self.adapter is not None, "`merged` has set it"
        return _open_again, (self.path.resolve(), self.adapter.resolve(), self.notes)


def opened(path: Path, *, offline: bool = False, progress: Progress | None = None) -> Checkpoint:
    """The checkpoint at a path; of a folder with an adapter, that of its base with the adapter merged.

    The base is found by its name in adapter_config.json, as any model's. Raises as open_checkpoint and resolve.
    """
    if not is_adapter(path):
        return open_checkpoint(path)
    adapter = open_adapter(path)
    return merged(open_checkpoint(base_of(adapter, offline=offline, progress=progress)), adapter)


def base_of(
    adapter: Adapter, find: Callable[..., Path] = resolve, *, offline: bool = False, progress: Progress | None = None
) -> Path:
    """The path of an adapter's base. find: hub.resolve, or hub.config_of_hub. Raises as that, naming the adapter."""
    if adapter.base is None:
        found = f"an adapter in {adapter.folder} whose {ADAPTER} names no base_model_name_or_path"
        raise ModelNotFound(found, "the model that it changes", f"write it there, or {APART}")
    try:
        base = find(adapter.base, offline=offline, progress=progress)
    except CutawayError as error:
        found = f"an adapter in {adapter.folder} without its base: {error.found}"
        raise type(error)(found, error.expected, f"correct base_model_name_or_path in {ADAPTER}, or {APART}") from error
    if is_saved(base) or is_adapter(base):
        kind = "8 bits" if is_saved(base) else "an adapter itself"
        found = f"an adapter in {adapter.folder} whose base {base} is {kind}"
        raise UnsupportedModel(found, "a base in full precision", APART)
    return base


def merged(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The base's checkpoint with the adapter in its tensors: still read lazily, changed layers as float32.

    Where one tensor is both table and head and the adapter changes one of them, the other stays, as in peft before its
    merge. Raises BadCheckpoint for a layer that the base does not have, or of another shape.
    """
    names = Names(checkpoint.family)
    tensors, config, facts = dict(checkpoint.tensors), checkpoint.config, checkpoint.facts
    theirs = {ours: name for name in tensors if (ours := names.ours(name))}
    changes = {f"{layer}.weight": update for layer, update in adapter.updates.items()}
    changed = {name: names.ours(name) for name in (*adapter.replaced, *changes)}  # peft saves a layer beside its update
    if facts.tied_head and {EMBEDDING, HEAD} & {*changed.values()}:
        for end, other in ((EMBEDDING, HEAD), (HEAD, EMBEDDING)):
            if end in theirs and other not in theirs:
                theirs[other] = next(name for name, ours in checkpoint.family.WEIGHTS.items() if ours == other)
                tensors[theirs[other]] = tensors[theirs[end]].renamed(theirs[other])
    for name, ours in changed.items():
        if ours not in theirs:
            raise _unknown(name, adapter, checkpoint)
        base = theirs[ours]
        update = changes.get(name)
        if update is None:
            tensors[base] = adapter.replaced[name].renamed(base)
        else:
            tensors[base] = _sum(tensors[base], update, update.table or ours.endswith(".T"), adapter)
    notes = [*checkpoint.notes, *_notes(adapter)]
    rows = tensors[theirs[EMBEDDING]].shape[0] if EMBEDDING in changed.values() else facts.vocab_size
    if rows != facts.vocab_size:  # tokens were added
        notes.append(f"the adapter brings an embedding of {rows} rows, where its base has {facts.vocab_size}")
        config, facts = config | {"vocab_size": rows}, replace(facts, vocab_size=rows)
    facts = decided_head(config, facts, checkpoint.family, tensors, notes.append)
    return Adapted(checkpoint.path, config, checkpoint.model_type, facts, tensors, checkpoint.gguf_metadata, notes,
                   adapter=adapter.folder)  # fmt: skip


def as_changes(checkpoint: Checkpoint, adapter: Adapter) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    """{our matrix: (scale · B [N, R], A [R, K]), or the matrix itself}, for edit/weights.py.

    Raises BadCheckpoint as `merged`, UnsupportedModel where the adapter changes what is no matrix of the table.
    """
    names, facts = Names(checkpoint.family), checkpoint.facts
    found: dict[str, Any] = {}
    parts = {f"{layer}.weight": update for layer, update in adapter.updates.items()}
    for name, part in (*adapter.replaced.items(), *parts.items()):
        spec = names.ours(name)
        if not spec:
            raise _unknown(name, adapter, checkpoint)
        target = target_of(spec, facts)
        inside = [
            weight
            for weight in all_weights(facts).values()
            if f"{weight.module}.weight" == target.parameter
            and (target.rows is None or weight.rows == target.rows)
            and weight.kind in ("linear", "projection")
        ]
        if not inside:
            what = f"{name!r} of the adapter in {adapter.folder}, which is no matrix that an edit can change"
            raise UnsupportedModel(what, "changes of matrices only", f"merge it: cutaway.load({str(adapter.folder)!r})")
        first, order = inside[0].rows.start, target.order  # of packed rows that stand otherwise
        for weight in inside:
            rows = slice(weight.rows.start - first, weight.rows.stop - first)
            if isinstance(part, LowRank):
                b_NR, a_RK = part.b.read().float(), part.a.read().float()
                b_NR = part.scale * (b_NR if order is None else b_NR[order])[rows]
                before = found.get(weight.name)
                found[weight.name] = (b_NR, a_RK) if before is None else before + b_NR @ a_RK
            else:
                whole = part.read().T if target.transposed else part.read()
                whole = whole if order is None else whole[order]
                found[weight.name] = whole[rows].contiguous()
    return found


def _sum(tensor: LazyTensor, update: LowRank, transposed: bool, adapter: Adapter) -> LazyTensor:
    """tensor + scale · B @ A, rows at a time. transposed: the tensor is stored as [inputs, outputs]."""
    a, b = update.a, update.b
    shape = (b.shape[0], a.shape[1])
    if tensor.shape != (shape[::-1] if transposed else shape):
        found = f"an update of shape {list(shape)} for {tensor.name!r} in {adapter.folder}"
        expected = f"{list(tensor.shape[::-1] if transposed else tensor.shape)}, as in its base"
        raise BadCheckpoint(found, expected, "name the model that the adapter was trained on as its base")

    def delta(rows: slice) -> Tensor:
        if transposed:
            return a.read().float()[:, rows].T @ b.read().float().T
        return b.read(rows).float() @ a.read().float()

    def fetch(start: int, stop: int) -> Tensor:
        first, last = start // AT_ONCE * AT_ONCE, min(-(-stop // AT_ONCE) * AT_ONCE, tensor.n_rows)
        runs = (slice(at, min(at + AT_ONCE, last)) for at in range(first, last, AT_ONCE))
        sums = [tensor.read(rows).float() + update.scale * delta(rows) for rows in runs]
        return (
            torch.cat(sums)[start - first : stop - first].clone() if sums else tensor.read(slice(start, stop)).float()
        )

    return replace(tensor, dtype=torch.float32, fetch=fetch, location=None, groups=None)


def _unknown(name: str, adapter: Adapter, checkpoint: Checkpoint) -> BadCheckpoint:
    found = f"{name!r} in the adapter in {adapter.folder}"
    expected = f"only layers of its base, {checkpoint.path} ({checkpoint.model_type})"
    return BadCheckpoint(found, expected, "name the model that the adapter was trained on as its base")


def _notes(adapter: Adapter) -> list[str]:
    ranks = sorted({update.a.shape[0] for update in adapter.updates.values()})
    of_rank = f" of rank {' and '.join(map(str, ranks))}" if ranks else ""
    whole = f", {len(adapter.replaced)} tensors replaced" if adapter.replaced else ""
    notes = [f"the LoRA adapter in {adapter.folder} is merged into {adapter.base}: "
             f"{len(adapter.updates)} matrices{of_rank}{whole}"]  # fmt: skip
    if adapter.revision not in (None, "main"):
        notes.append(f"{ADAPTER} names the revision {adapter.revision} of its base, and the one here is read")
    return notes


def _open_again(path: Path, folder: Path, notes: list[str]) -> Checkpoint:
    return replace(merged(open_checkpoint(path), open_adapter(folder)), notes=list(notes))
