"""Files → a loaded Decoder, tensor by tensor: each is read, converted and stored before the next.

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
from cutaway.quant.engine import use_native
from cutaway.weights.checkpoint import Checkpoint
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.match import EMBEDDING, HEAD, Target, match
from cutaway.weights.progress import Progress
from cutaway.weights.quantizing import MappedEmbedding, QuantizingLoader, row_chunks


def load_decoder(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    quantize: str | None = None,
    keep: Iterable[str] = (),
    progress: Progress | None = None,
) -> Decoder:
    """The decoder with its weights in `dtype` on `device`, its linear layers in 8 bits where `quantize` names a mode.

    Raises BadCheckpoint where a tensor is unknown, missing, of a wrong shape, or cannot be read; BadArgument for an
    unknown mode or an unknown layer in `keep`; NotFinite for a weight that cannot be quantized.
    """
    decoder = empty_decoder(checkpoint.facts)
    quantizer = None if quantize is None else QuantizingLoader(decoder, quantize, keep, device)
    plan = match(checkpoint.facts, checkpoint.family, checkpoint.tensors, decoder, checkpoint.source)
    total, done = sum(checkpoint.tensors[name].nbytes for name in plan), 0
    for name, target in plan.items():
        if progress:
            progress(done, total, f"reading {name}")
        _load_tensor(decoder, target, checkpoint.tensors[name], dtype, device, quantizer)
        done += checkpoint.tensors[name].nbytes
    _finish(decoder, checkpoint, plan, quantizer, device)
    if progress:
        progress(total, total, "loaded")
    return decoder


def empty_decoder(facts: DecoderConfig) -> Decoder:
    """The decoder without its weights, on the meta device: shapes only."""
    with torch.device("meta"), _NoInit():
        return Decoder(facts).eval().requires_grad_(False)


class _NoInit(TorchFunctionMode):
    """Skips random initialization: on the meta device torch would import its compiler for it (1 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        named = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def _finish(
    decoder: Decoder,
    checkpoint: Checkpoint,
    plan: dict[str, Target],
    quantizer: QuantizingLoader | None,
    device: torch.device | str,
) -> None:
    """After the last tensor: the rotary frequencies' device, the quantized layers, a tied head."""
    if decoder.rotary is not None:
        decoder.rotary.to(device)
    if quantizer is not None:
        if checkpoint.facts.tied_head and quantizer.quantizes(HEAD):
            table = next(name for name, target in plan.items() if target.parameter == EMBEDDING)
            quantizer.load(HEAD, None, checkpoint.tensors[table])
        quantizer.install(decoder)
    if checkpoint.facts.tied_head and isinstance(decoder.unembed.head, nn.Linear):
        decoder.unembed.head.weight = decoder.embed.token.weight
    use_native(decoder)


def _load_tensor(
    decoder: Decoder,
    target: Target,
    tensor: LazyTensor,
    dtype: torch.dtype,
    device: torch.device | str,
    quantizer: QuantizingLoader | None,
) -> None:
    """Read one tensor into its parameter, or quantize it. An embedding table whose head is quantized stays in its
    file, since only single rows of it are read."""
    on_cpu = torch.device(device).type == "cpu"
    tensor = target.arranged(tensor)
    if quantizer is not None and quantizer.quantizes(target.parameter):
        quantizer.load(target.parameter, target.rows, tensor, target.transposed)
        return
    if quantizer is not None and target.parameter == EMBEDDING and quantizer.quantizes(HEAD) and on_cpu:
        mapped = tensor.mapped()
        if mapped is not None:
            decoder.embed.token = MappedEmbedding(mapped, dtype)
            return
    if target.rows is None and not target.transposed and tensor.dtype == dtype and on_cpu:
        _set(decoder, target.parameter, tensor.read())
        return
    destination = _destination(decoder, target, dtype, device)
    for start, part in (
        row_chunks(tensor, target.transposed, at_once=64 << 20) if tensor.shape[1:] else [(0, tensor.read())]
    ):
        destination[start : start + len(part)].copy_(part)


def _destination(decoder: Decoder, target: Target, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """The rows of a parameter that a tensor is read into; the parameter is allocated at its first use."""
    parameter = decoder.get_parameter(target.parameter)
    if parameter.is_meta:
        _set(decoder, target.parameter, torch.empty(parameter.shape, dtype=dtype, device=device))
        parameter = decoder.get_parameter(target.parameter)
    return parameter.data if target.rows is None else parameter.data[target.rows]


def _set(decoder: Decoder, parameter: str, value: Tensor) -> None:
    owner_name, _, leaf = parameter.rpartition(".")
    setattr(decoder.get_submodule(owner_name), leaf, nn.Parameter(value, requires_grad=False))
