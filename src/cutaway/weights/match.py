"""Which tensor of a checkpoint goes where: every name becomes rows of one parameter of the decoder, or is refused.

The tensors decide, the config only says: a head of its own is used where the file has one. It reads names and shapes;
it does not know file formats, nor what is done with a tensor.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadCheckpoint
from cutaway.ground.layers import block_weights
from cutaway.model.decoder import Decoder
from cutaway.weights.config_reader import CONFIG
from cutaway.weights.families import Family
from cutaway.weights.files.lazy import LazyTensor

EMBEDDING, HEAD = "embed.token.weight", "unembed.head.weight"

# What training tools put around or into names: torch.nn.DataParallel and DistributedDataParallel, torch.compile, FSDP,
# activation checkpointing, peft around one layer; before them, a multimodal model around the language model, peft,
# Lightning, and a name of another family's.
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|base_layer)\."
)
OUTER = re.compile(r"(base_model\.model|model|language_model|text_model|transformer)\.")
# Buffers that older versions of transformers saved, and that follow from the config.
BUFFERS = re.compile(r"(.+\.)?(rotary_emb\.(inv_freq|cos_cached|sin_cached)|masked_bias|position_ids)")
Tensors = Mapping[str, LazyTensor]


@dataclass(frozen=True)
class Target:
    """Where one checkpoint tensor goes: some rows of one of the decoder's parameters.

    order: which row of the tensor each of these is, where they stand in another order (of a transposed one, which
    column). heads: of a vector that is stored as a matrix, a row for each head.
    """

    parameter: str
    rows: slice | None
    transposed: bool
    order: Tensor | None = None
    heads: int | None = None

    def arranged(self, tensor: LazyTensor) -> LazyTensor:
        """The tensor with its rows as the parameter has them."""
        if self.heads is not None:
            return tensor.rearranged((prod(tensor.shape),), Tensor.flatten)
        order = self.order
        if order is not None and self.transposed:
            return tensor.rearranged(tensor.shape, lambda rows: rows[:, order], group=1)
        return tensor if order is None else tensor.permuted(order)


class Names:
    """The checkpoint names of one family, in our words."""

    def __init__(self, family: Family) -> None:
        self.prefixes = family.PREFIXES
        self.known = [(_pattern(theirs), ours) for theirs, ours in family.WEIGHTS.items()]
        self.known += [(_pattern(name), "") for name in family.UNUSED]

    def ours(self, name: str) -> str | None:
        """The right side of the family's table for a checkpoint name; "" for what carries nothing, None for unknown."""
        bare = WRAPPERS.sub("", name)
        while True:
            for prefix in self.prefixes:
                for pattern, ours in self.known:
                    if found := pattern.fullmatch(bare.removeprefix(prefix)):
                        for letter, number in zip(("{i}", "{j}"), found.groups(), strict=False):
                            ours = ours.replace(letter, number)
                        return ours
            if not (outer := OUTER.match(bare)):
                return "" if BUFFERS.fullmatch(bare) else None
            bare = bare[outer.end() :]


def decided_head(
    config: Mapping[str, Any],
    facts: DecoderConfig,
    family: Family,
    tensors: Tensors,
    note: Callable[[str], None],
) -> DecoderConfig:
    """The facts with the head that the tensors have: the embedding's table again, or one of its own.

    note(line): where the tensors overrule what config.json says of them. A head that is missing though config.json
    says in so many words that it is not tied, is left for `match` to refuse.
    """
    names = Names(family)
    theirs = {ours: name for name in tensors if (ours := names.ours(name)) in (EMBEDDING, HEAD)}
    table, head = theirs.get(EMBEDDING), theirs.get(HEAD)
    if table and head:
        if not facts.tied_head or _equal(tensors[table], tensors[head]):
            return facts
        note(f"config.json ties the head to the embedding, but {head!r} differs from {table!r}: it is used as it is")
        return replace(facts, tied_head=False)
    one = table or head
    if facts.tied_head or one is None or config.get("tie_word_embeddings") is False:
        return facts
    note(f"{one!r} is the embedding and the head: the files have no other, and config.json does not say")
    return replace(facts, tied_head=True)


def match(
    facts: DecoderConfig, family: Family, tensors: Tensors, decoder: Decoder, source: str = CONFIG
) -> dict[str, Target]:
    """Where every checkpoint tensor goes. Nothing unmapped, nothing missing, every shape checked before a byte is read.

    A tied head's tensor goes nowhere beside the table's. source: the file the facts are from. Raises BadCheckpoint.
    """
    do = "use the config.json that belongs to these weights" if source == CONFIG else f"fetch {source} again"
    shapes = {name: tuple(p.shape) for name, p in decoder.named_parameters()}
    names = Names(family)
    ours = {name: names.ours(name) for name in tensors}
    if facts.tied_head:
        del shapes[HEAD]
        only_head = EMBEDDING not in ours.values()
        ours = {n: (EMBEDDING if only_head else "") if o == HEAD else o for n, o in ours.items()}
    plan: dict[str, Target] = {}
    for name, spec in ours.items():
        if spec == "":
            continue
        target = None if spec is None else target_of(spec, facts)
        if target is None or target.parameter not in shapes:
            raise BadCheckpoint(f"the tensor {name!r}", "only tensors that a model of this config has", do)
        expected = _shape(target, shapes[target.parameter])
        if tuple(tensors[name].shape) != expected:
            raise BadCheckpoint(f"{name!r} of shape {list(tensors[name].shape)}", f"{list(expected)}", do)
        plan[name] = target
    _check_complete(plan, shapes, family)
    return plan


def target_of(spec: str, facts: DecoderConfig) -> Target:
    """The right side of a family's table, read.

    [q]: the rows of W_Q in a packed matrix. [head 3]: those of one head. [heads]: all, stored with a row for each head.
    [q k v by group]: packed for each key/value head in turn; [q v k by quarter]: for each quarter of the heads;
    [gate up by unit]: for each unit of the MLP.
    """
    parameter, _, part = spec.removesuffix(".T").removesuffix("]").partition("[")
    if " by " in part:
        letters, _, unit = part.partition(" by ")
        parts = {"group": facts.n_kv_heads, "quarter": 4, "unit": facts.d_mlp}[unit]
        return Target(parameter, None, spec.endswith(".T"), _order(letters.split(), parts, facts))
    if part == "heads":
        return Target(parameter, None, False, heads=facts.n_heads if ".q_" in parameter else facts.n_kv_heads)
    if part.startswith("head "):
        start = int(part.removeprefix("head ")) * facts.d_head
        return Target(parameter, slice(start, start + facts.d_head), False)
    return Target(parameter, _rows(part, facts) if part else None, spec.endswith(".T"))


def _rows(part: str, facts: DecoderConfig) -> slice:
    return next(weight.rows for weight in block_weights(facts) if weight.symbol.lower() == f"w_{part}")


def _order(letters: Sequence[str], parts: int, facts: DecoderConfig) -> Tensor:
    """For each of our rows its row in a matrix of so many parts, each with its share of these letters' rows in turn."""
    rows = [_rows(letter, facts) for letter in letters]
    each = [torch.arange(r.start, r.stop, device="cpu").view(parts, -1) for r in rows]
    ours = torch.cat(each, 1)
    order = torch.empty(ours.numel(), dtype=torch.long, device="cpu")
    order[ours.flatten()] = torch.arange(len(order), device="cpu")
    return order


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{[ij]\\\}", r"(\\d+)", re.escape(name)))


def _equal(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors hold the same values; what lies at the same bytes of a file is not read."""
    if one.shape != other.shape:
        return False
    if one.location is not None and (one.location, one.dtype) == (other.location, other.dtype):
        return True
    step = max(1, (16 << 20) * one.n_rows // max(one.nbytes, 1))
    runs = (slice(start, start + step) for start in range(0, one.n_rows, step))
    wide = torch.promote_types(one.dtype, other.dtype)
    return all(torch.equal(one.read(rows).to(wide), other.read(rows).to(wide)) for rows in runs)


def _shape(target: Target, whole: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a tensor that fills these rows of a parameter."""
    if target.heads is not None:
        return target.heads, whole[0] // target.heads
    rows = whole if target.rows is None else (target.rows.stop - target.rows.start, *whole[1:])
    return rows[::-1] if target.transposed else rows


def _check_complete(plan: dict[str, Target], shapes: dict[str, tuple[int, ...]], family: Family) -> None:
    """Every row of every parameter comes from exactly one tensor."""
    filled: dict[tuple[str, int], str] = {}
    counts = dict.fromkeys(shapes, 0)
    for name, target in plan.items():
        start = 0 if target.rows is None else target.rows.start
        if other := filled.get((target.parameter, start)):
            raise BadCheckpoint(f"{other!r} and {name!r} for the same weights", "one of them", "remove the other")
        filled[target.parameter, start] = name
        counts[target.parameter] += shapes[target.parameter][0] if target.rows is None else target.rows.stop - start
    for parameter, rows in counts.items():
        if rows != shapes[parameter][0]:
            theirs = [t for t, o in family.WEIGHTS.items() if _anonymous(o) == _anonymous(parameter)]
            wanted = " and ".join(theirs)
            for letter, number in zip(("{i}", "{j}"), re.findall(r"\d+", parameter), strict=False):
                wanted = wanted.replace(letter, number)
            found = f"{'no tensor' if not rows else 'only some tensors'} for {parameter}"
            do = "fetch the whole checkpoint again"
            if parameter == HEAD:
                do += ', or set "tie_word_embeddings": true in config.json if the embedding is the head too'
            raise BadCheckpoint(found, f"{wanted} in the checkpoint", do)


def _anonymous(name: str) -> str:
    return re.sub(r"\.(\d+|\{[ij]\})\.", ".#.", name.removesuffix(".T").partition("[")[0])
