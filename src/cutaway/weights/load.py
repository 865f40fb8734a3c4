"""Files → a loaded Decoder, tensor by tensor: each is read, converted and put in its place before the next.

Peak memory is the model and its largest tensor. It does not know a file format (files/), a family's names
(families/), nor what the values mean.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cutaway.ground.config import DecoderConfig
from cutaway.model.decoder import Decoder
from cutaway.quant.ops import use_native
from cutaway.weights.checkpoint import Checkpoint
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.match import EMBEDDING, HEAD, Target, match
from cutaway.weights.progress import Progress
from cutaway.weights.quantizing import Codes, MappedEmbedding, blocks


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
    plan = match(checkpoint.facts, checkpoint.family, checkpoint.tensors, decoder, checkpoint.source)
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
        if checkpoint.facts.tied_head and codes.wants(HEAD):
            table = next(name for name, target in plan.items() if target.parameter == EMBEDDING)
            codes.put(HEAD, None, checkpoint.tensors[table])
        codes.install(decoder)
    if checkpoint.facts.tied_head and isinstance(decoder.unembed.head, nn.Linear):
        decoder.unembed.head.weight = decoder.embed.token.weight
    use_native(decoder)


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
    if codes is not None and target.parameter == EMBEDDING and codes.wants(HEAD):
        mapped = tensor.mapped() if torch.device(device).type == "cpu" else None
        if mapped is not None:
            decoder.embed.token = MappedEmbedding(mapped, dtype)
            return
    whole = target.rows is None and not target.transposed
    if whole and tensor.dtype == dtype and torch.device(device).type == "cpu":
        _set(decoder, target.parameter, tensor.read())
        return
    place = _place(decoder, target, dtype, device)
    for start, part in (
        blocks(tensor, target.transposed, at_once=64 << 20) if tensor.shape[1:] else [(0, tensor.read())]
    ):
        place[start : start + len(part)].copy_(part)


def _place(decoder: Decoder, target: Target, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """The rows that a tensor goes to, in a parameter that is made at its first use."""
    parameter = decoder.get_parameter(target.parameter)
    if parameter.is_meta:
        _set(decoder, target.parameter, torch.empty(parameter.shape, dtype=dtype, device=device))
        parameter = decoder.get_parameter(target.parameter)
    return parameter.data if target.rows is None else parameter.data[target.rows]


def _set(decoder: Decoder, parameter: str, value: Tensor) -> None:
    owner_name, _, leaf = parameter.rpartition(".")
    setattr(decoder.get_submodule(owner_name), leaf, nn.Parameter(value, requires_grad=False))
