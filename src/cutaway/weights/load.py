"""Files → a loaded Decoder, tensor by tensor: each is read, converted and put in its place before the next.

Peak memory is the model and its largest tensor. It does not know a file format (files/), a family's names
(families/), nor what the values mean.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadCheckpoint
from cutaway.model.decoder import Decoder
from cutaway.weights.checkpoint import Checkpoint
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.progress import Progress
from cutaway.weights.quantizing import HEAD, Codes, MappedEmbedding, blocks

EMBEDDING = "embed.token.weight"


@dataclass(frozen=True)
class Target:
    """Where one checkpoint tensor goes: some rows of one of the decoder's parameters."""

    parameter: str
    rows: slice | None
    transposed: bool


def load_decoder(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    quantize: str | None = None,
    keep: Iterable[str] = (),
    progress: Progress | None = None,
) -> Decoder:
    """The decoder with its weights in `dtype` on `device`, its linear layers in 8 bits where `quantize` says how.

    Raises BadCheckpoint where a tensor is unknown, missing, of a wrong shape, or cannot be read; BadArgument for an
    unknown mode or a layer to keep that is not there; NotFinite for a weight that cannot be quantized.
    """
    decoder = empty_decoder(checkpoint.facts)
    codes = None if quantize is None else Codes(decoder, quantize, keep, device)
    plan = match(checkpoint, decoder)
    total, done = sum(checkpoint.tensors[name].nbytes for name in plan), 0
    for name, target in plan.items():
        if progress:
            progress(done, total, f"reading {name}")
        _put(decoder, target, checkpoint.tensors[name], dtype, device, codes)
        done += checkpoint.tensors[name].nbytes
    _finish(decoder, checkpoint, plan, codes, device)
    if progress:
        progress(total, total, "loaded")
    return decoder


def empty_decoder(facts: DecoderConfig) -> Decoder:
    """The decoder without its weights: shapes only, on no device."""
    with torch.device("meta"), _Unfilled():
        return Decoder(facts).eval().requires_grad_(False)


class _Unfilled(TorchFunctionMode):
    """Modules leave their new weights as they are: to fill shapes with noise, torch would import its compiler (1 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        named = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def _finish(
    decoder: Decoder, checkpoint: Checkpoint, plan: dict[str, Target], codes: Codes | None, device: torch.device | str
) -> None:
    """What waits for the last tensor: a tied head, the quantized layers, the frequencies' place."""
    if decoder.rotary is not None:
        decoder.rotary.to(device)
    if codes is not None:
        if checkpoint.facts.tied_head and codes.wants(f"{HEAD}.weight"):
            table = next(name for name, target in plan.items() if target.parameter == EMBEDDING)
            codes.put(f"{HEAD}.weight", None, checkpoint.tensors[table])
        codes.install(decoder)
    if checkpoint.facts.tied_head and isinstance(decoder.unembed.head, nn.Linear):
        decoder.unembed.head.weight = decoder.embed.token.weight


def match(checkpoint: Checkpoint, decoder: Decoder) -> dict[str, Target]:
    """Every checkpoint tensor's place. Nothing unmapped, nothing missing, every shape checked before a byte is read."""
    shapes = {name: tuple(p.shape) for name, p in decoder.named_parameters()}
    if checkpoint.facts.tied_head:
        del shapes["unembed.head.weight"]
    table = {_pattern(theirs): ours for theirs, ours in checkpoint.family.WEIGHTS.items()}
    unused = [_pattern(name) for name in checkpoint.family.UNUSED]
    plan: dict[str, Target] = {}
    for name, tensor in checkpoint.tensors.items():
        bare = _bare(name, checkpoint.family.PREFIXES, [*table, *unused])
        ours = next(
            (o.replace("{i}", m[1] if m.re.groups else "") for p, o in table.items() if (m := p.fullmatch(bare))),
            None,
        )
        tied_copy = checkpoint.facts.tied_head and ours == "unembed.head.weight"
        if tied_copy or any(p.fullmatch(bare) for p in unused):
            continue
        target = None if ours is None else _target(ours, checkpoint.facts)
        if target is None or target.parameter not in shapes:
            expected = f"only tensors that {checkpoint.model_type!r} with this config has"
            raise BadCheckpoint(f"the tensor {name!r}", expected, "use the config.json that belongs to these weights")
        _check_shape(name, tensor.shape, target, shapes[target.parameter])
        plan[name] = target
    _check_complete(plan, shapes, checkpoint)
    return plan


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(re.escape("{i}"), r"(\d+)"))


def _bare(name: str, prefixes: tuple[str, ...], known: list[re.Pattern[str]]) -> str:
    """The name without whichever prefix makes it a known one."""
    for prefix in prefixes:
        bare = name.removeprefix(prefix)
        if any(p.fullmatch(bare) for p in known):
            return bare
    return name


def _target(ours: str, facts: DecoderConfig) -> Target:
    parameter, _, part = ours.removesuffix(".T").partition("[")
    rows = _rows(part.rstrip("]"), facts) if part else None
    return Target(parameter, rows, ours.endswith(".T"))


def _rows(part: str, facts: DecoderConfig) -> slice:
    """Which rows of a joined matrix belong to one of its parts."""
    q, kv, f = facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head, facts.d_mlp
    start, size = {"q": (0, q), "k": (q, kv), "v": (q + kv, kv), "gate": (0, f), "up": (f, f)}[part]
    return slice(start, start + size)


def _check_shape(name: str, shape: tuple[int, ...], target: Target, whole: tuple[int, ...]) -> None:
    expected = whole if target.rows is None else (target.rows.stop - target.rows.start, *whole[1:])
    expected = expected[::-1] if target.transposed else expected
    if tuple(shape) != expected:
        found = f"the tensor {name!r} of shape {list(shape)}"
        raise BadCheckpoint(found, f"{list(expected)}", "use the config.json that belongs to these weights")


def _check_complete(plan: dict[str, Target], shapes: dict[str, tuple[int, ...]], checkpoint: Checkpoint) -> None:
    """Every row of every parameter comes from exactly one tensor."""
    filled: dict[str, int] = dict.fromkeys(shapes, 0)
    for target in plan.values():
        whole = shapes[target.parameter][0]
        filled[target.parameter] += whole if target.rows is None else target.rows.stop - target.rows.start
    for parameter, rows in filled.items():
        if rows != shapes[parameter][0]:
            theirs = [t for t, o in checkpoint.family.WEIGHTS.items() if _ours(o) == _ours(parameter)]
            layer = re.search(r"\d+", parameter)
            wanted = " and ".join(theirs).replace("{i}", layer[0] if layer else "")
            found = f"{'no' if not rows else 'more or less than one'} tensor for {parameter}"
            raise BadCheckpoint(found, f"{wanted} in the checkpoint", "fetch the whole checkpoint again")


def _ours(name: str) -> str:
    return re.sub(r"\.(\d+|\{i\})\.", ".#.", name.removesuffix(".T").partition("[")[0])


def _put(
    decoder: Decoder,
    target: Target,
    tensor: LazyTensor,
    dtype: torch.dtype,
    device: torch.device | str,
    codes: Codes | None,
) -> None:
    """Read one tensor into its place, as codes where it is to be quantized.

    An embedding table that only looks rows up (its head has codes of its own) stays in its file.
    """
    if codes is not None and codes.wants(target.parameter):
        codes.put(target.parameter, target.rows, tensor, target.transposed)
        return
    if codes is not None and target.parameter == EMBEDDING and codes.wants(f"{HEAD}.weight"):
        mapped = tensor.mapped() if torch.device(device).type == "cpu" else None
        if mapped is not None:
            decoder.embed.token = MappedEmbedding(mapped, dtype)
            return
    place = _place(decoder, target, dtype, device)
    for start, part in (
        blocks(tensor, target.transposed, at_once=64 << 20) if tensor.shape[1:] else [(0, tensor.read())]
    ):
        place[start : start + len(part)].copy_(part)


def _place(decoder: Decoder, target: Target, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """The rows that a tensor goes to, in a parameter that is made at its first use."""
    owner_name, _, leaf = target.parameter.rpartition(".")
    owner = decoder.get_submodule(owner_name)
    parameter: Tensor = getattr(owner, leaf)
    if parameter.is_meta:
        parameter = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=device), requires_grad=False)
        setattr(owner, leaf, parameter)
    return parameter.data if target.rows is None else parameter.data[target.rows]
