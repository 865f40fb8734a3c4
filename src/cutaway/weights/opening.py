"""A model by its name: found, fetched where need be, and opened as a decoder, in 8 bits or in full precision.

It knows names, files and precisions; it does not know text, nor what is asked of the model.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from cutaway.ground.errors import BadArgument, BadCheckpoint
from cutaway.model.decoder import Decoder
from cutaway.quant.int8 import check_mode
from cutaway.quant.linear import Int8Linear
from cutaway.text.tokenizer import tokenizer_files_from_gguf
from cutaway.weights.checkpoint import Checkpoint, open_checkpoint
from cutaway.weights.hub import resolve
from cutaway.weights.load import load_decoder
from cutaway.weights.progress import Progress
from cutaway.weights.save import is_saved, open_saved, read_manifest, save

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def open_model(
    model: str | Path | None = None,
    *,
    quantize: str | None,
    keep: Sequence[str] = (),
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> tuple[Decoder, Checkpoint, str]:
    """The decoder, the checkpoint that it came from, and its name. Arguments and errors: lm.py: load."""
    where, mode = device_of(device), None if quantize == "none" else quantize
    precision = dtype_of(dtype, where)  # a wrong word is told before anything is fetched
    if mode is not None:
        check_mode(mode)
    path = resolve(None if model is None else str(model), offline=offline, progress=progress)
    name = path.name if model is None else str(model)
    if model is None and mode == "int8" and not keep:
        path = _kept_quantized(path, name, progress)
    checkpoint = open_checkpoint(path)
    if is_saved(path):
        _require_same(path, mode, keep)
        return open_saved(checkpoint, dtype=precision, device=where), checkpoint, name
    decoder = load_decoder(checkpoint, dtype=precision, device=where, quantize=mode, keep=keep, progress=progress)
    return decoder, checkpoint, name


def reopen(checkpoint: Checkpoint, like: Decoder) -> Decoder:
    """The checkpoint's decoder anew, in the precision of one that was opened from it."""
    modules = {name: module for name, module in like.named_modules() if isinstance(module, Int8Linear | nn.Linear)}
    modes = {module.mode for module in modules.values() if isinstance(module, Int8Linear)}
    norms = (weight for name, weight in like.named_parameters() if ".ln1." in name)
    dtype, device = next(norm.dtype for norm in norms), like.embed.token.weight.device
    if is_saved(checkpoint.path):
        return open_saved(checkpoint, dtype=dtype, device=device)
    mode = modes.pop() if modes else None
    kept = [
        name for name, module in modules.items() if mode and isinstance(module, nn.Linear) and ".project_" not in name
    ]
    return load_decoder(checkpoint, dtype=dtype, device=device, quantize=mode, keep=kept)


def quantize(
    model: str | Path | None,
    out: str | Path,
    *,
    mode: str = "int8",
    keep: Sequence[str] = (),
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a model in 8 bits as the folder `out`, which opens at once; arguments as in `load`.

    Raises BadArgument where `out` is there already, or the model is in 8 bits already.
    """
    path = resolve(None if model is None else str(model), offline=offline, progress=progress)
    if is_saved(path):
        raise BadArgument(f"{path}, which is in 8 bits already", "a model in full precision", "use it as it is")
    checkpoint = open_checkpoint(path)
    cpu = torch.device("cpu")
    decoder = load_decoder(checkpoint, dtype=torch.float32, device=cpu, quantize=mode, keep=keep, progress=progress)
    name = path.name if model is None else str(model)
    save(decoder, checkpoint, Path(out), tokenizer_files_from_gguf, name=name, progress=progress)
    return Path(out)


def _kept_quantized(path: Path, name: str, progress: Progress | None) -> Path:
    """The default model in 8 bits, kept beside the fetched one; made at the first use."""
    kept = path.with_name(f"{path.name}-int8")
    if is_saved(kept):
        try:
            read_manifest(kept)
            return kept
        except BadCheckpoint:  # of another version: it is ours to make anew
            shutil.rmtree(kept)
    try:
        return quantize(path, kept, progress=progress)
    except (BadArgument, OSError):  # another process made it meanwhile, or the disk is full: run without it
        return kept if is_saved(kept) else path


def _require_same(path: Path, mode: str | None, keep: Sequence[str]) -> None:
    """A saved model runs as it was saved."""
    saved = read_manifest(path)["mode"]
    if mode != saved:
        found = f"quantize={mode!r} for {path}, which was saved as {saved!r}"
        raise BadArgument(found, f"quantize={saved!r}", "load the model that it was made from")
    if keep:
        found = f"keep={list(keep)!r} for {path}, which is in 8 bits already"
        raise BadArgument(found, "no keep", "load the model that it was made from")


def device_of(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, dtype=torch.float32, device=where)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        raise BadArgument(f"device={str(device)!r}, which cannot be used here", "cpu, or a GPU that torch sees",
                          "pass device='cpu'") from error  # fmt: skip
    return where


def dtype_of(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype is None:
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if dtype not in DTYPES:
        raise BadArgument(f"dtype={str(dtype)!r}", f"one of {', '.join(DTYPES)}", "pass one of those")
    return DTYPES[str(dtype)]
