"""A model by its name: found, fetched where need be, and opened as a decoder, in 8 bits or in full precision.

It knows names, files and precisions; it does not know text, nor what the model is used for.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from cutaway.ground.errors import BadArgument, BadCheckpoint
from cutaway.model.architecture import nbytes
from cutaway.model.decoder import Decoder
from cutaway.quant.formats import check_mode
from cutaway.quant.linear import as_stored, stored_shapes
from cutaway.quant.threads import use_threads
from cutaway.weights import default_model
from cutaway.weights.adapter import base_of, opened
from cutaway.weights.checkpoint import Checkpoint, open_checkpoint, read_config
from cutaway.weights.families import facts_of
from cutaway.weights.files import is_saved, missing_from, unsound
from cutaway.weights.files.lora import open_adapter
from cutaway.weights.files.packed import refuse_packed_config
from cutaway.weights.files.recognize import is_adapter
from cutaway.weights.hub import config_of_hub, resolve
from cutaway.weights.in_memory import named, of_transformers
from cutaway.weights.load import empty_decoder, load_decoder
from cutaway.weights.match import EMBEDDING, match
from cutaway.weights.progress import Progress
from cutaway.weights.quantizing import QuantizingLoader
from cutaway.weights.save import open_saved, read_manifest, save

AUTO = "auto"  # int8, or as a folder was saved
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def open_model(
    model: str | Path | nn.Module | None = None,
    *,
    quantize: str | None,
    keep: Sequence[str] = (),
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    threads: int | None = None,
) -> tuple[Decoder, Checkpoint, str]:
    """The decoder, the checkpoint that it came from, and its name. Arguments and errors: lm.py: load."""
    use_threads(threads)
    where, mode = device_of(device), _asked(quantize)
    if not isinstance(keep, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in keep):
        raise BadArgument(f"keep={keep!r}"[:200], "names of layers", 'pass for example keep=["lm_head"]')
    precision = dtype_of(dtype, where)  # wrong arguments are refused before anything is fetched
    if isinstance(model, nn.Module):
        mode, checkpoint = "int8" if mode == AUTO else mode, of_transformers(model)
        decoder = load_decoder(checkpoint, dtype=precision, device=where, quantize=mode, keep=keep, progress=progress)
        return decoder, checkpoint, named(model)
    if model is not None and not isinstance(model, str | Path):
        expected = "a name, a folder, a .gguf file, or a transformers model"
        raise BadArgument(f"model={model!r:.60}", expected, "pass for example a hub id")
    notes: list[str] = []
    path = resolve(None if model is None else str(model), offline=offline, progress=progress, note=notes.append)
    name = default_model.SMOLLM2.name if model is None else str(model)
    if model is None and mode in (AUTO, "int8") and not keep:
        path = _cached_quantized(path, progress)
    checkpoint = opened(path, offline=offline, progress=progress)
    checkpoint.notes[:0] = notes
    if is_saved(path):
        _require_same(path, mode, keep)
        return open_saved(checkpoint, dtype=precision, device=where), checkpoint, name
    mode = "int8" if mode == AUTO else mode
    decoder = load_decoder(checkpoint, dtype=precision, device=where, quantize=mode, keep=keep, progress=progress)
    return decoder, checkpoint, name


def reopened(
    checkpoint: Checkpoint,
    name: str,
    *,
    quantize: str | None,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress | None = None,
) -> Decoder:
    """The decoder of an opened model's files in another precision. name: as `open_model` gave it.

    Raises BadArgument for a folder that holds 8-bit weights only.
    """
    if is_saved(checkpoint.path):
        if name != default_model.SMOLLM2.name:
            do = "open the model that it was made from"
            raise BadArgument(f"{checkpoint.path}, which holds 8-bit weights only", "a model in full precision", do)
        checkpoint = open_checkpoint(resolve(None, offline=True, progress=progress))  # the folder was made from it
    return load_decoder(checkpoint, dtype=dtype, device=device, quantize=quantize, progress=progress)


def described(
    model: str | Path | None = None, *, offline: bool = False, progress: Progress | None = None
) -> tuple[Checkpoint, str]:
    """A model's checkpoint for its shapes, and its name: a folder with only a config.json will do.

    Of a hub's model that is not on this machine only config.json is fetched. Where the weights are complete, names and
    shapes of their tensors are read too, since these decide; where they are not (missing shards, a clone without its
    large files) a note says so. Raises the errors of `resolve` and `open_checkpoint`.
    """
    if model is None:
        return open_checkpoint(resolve(None, offline=offline, progress=progress)), default_model.SMOLLM2.name
    notes: list[str] = []
    path = config_of_hub(str(model), offline=offline, progress=progress, note=notes.append)
    if is_adapter(path):
        notes.append(f"{path} holds a LoRA adapter: shapes are those of its base")
        path = base_of(open_adapter(path), config_of_hub, offline=offline, progress=progress)
    checkpoint = _checkpoint_for_shapes(path)
    checkpoint.notes[:0] = notes
    return checkpoint, str(model)


def _checkpoint_for_shapes(path: Path) -> Checkpoint:
    """The checkpoint in a folder or file; of its config.json only, with a note, where the weights are incomplete."""
    if path.is_file() or is_saved(path) or not (path / "config.json").is_file():
        return open_checkpoint(path)
    lacks = missing_from(path)
    wrong = f"the weights in {path} lack {lacks}" if lacks else unsound(path)
    if wrong is None:
        return open_checkpoint(path)
    checkpoint = config_alone(path)
    refuse_packed_config(checkpoint.config)
    if lacks != "weights":
        checkpoint.notes.append(f"{wrong}: shapes are those of config.json")
    return checkpoint


def config_alone(folder: Path) -> Checkpoint:
    """The checkpoint of a folder's config.json, without tensors."""
    notes: list[str] = []
    config = read_config(folder, notes.append)
    return Checkpoint(folder, config, *facts_of(config, notes.append), {}, None, notes)


def outline(
    checkpoint: Checkpoint, *, quantize: str | None, dtype: str | torch.dtype | None, device: str | None = None
) -> Decoder:
    """The decoder that `open_model` would give, without its weights: shapes and dtypes on the meta device.

    An 8-bit folder is mapped, which is as fast. Arguments and errors: as in `open_model`.
    """
    where, mode = device_of(device), _asked(quantize)
    precision = dtype_of(dtype, where)
    if is_saved(checkpoint.path):
        _require_same(checkpoint.path, mode, ())
        return open_saved(checkpoint, dtype=precision, device="cpu")
    return _outline(checkpoint, "int8" if mode == AUTO else mode, precision, where)


def sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """Bytes of all weights, by precision: three dtypes, and 8 bits on a CPU."""
    cpu = torch.device("cpu")
    full = {name: nbytes(_outline(checkpoint, None, DTYPES[name], cpu)) for name in ("float32", "bfloat16", "float16")}
    return full | {"int8": nbytes(_outline(checkpoint, "int8", torch.float32, cpu))}


def _outline(checkpoint: Checkpoint, mode: str | None, dtype: torch.dtype, device: torch.device) -> Decoder:
    decoder = empty_decoder(checkpoint.facts).to(dtype)
    table = _table_dtype(checkpoint, decoder)
    if mode is None:
        return decoder
    quantizer = QuantizingLoader(decoder, mode, (), "meta")
    for name, layer in quantizer.layers.items():
        stored = stored_shapes(quantizer.shapes[name], quantizer.mode).values()
        parts = [torch.empty(shape, dtype=of_part, device="meta") for shape, of_part in stored]
        decoder.set_submodule(name, as_stored(parts, quantizer.shapes[name], layer.bias, quantizer.mode))
    if table is not None and device.type == "cpu":
        decoder.embed.token.to(table)  # it stays in its file, in the file's dtype
    return decoder


def _table_dtype(checkpoint: Checkpoint, decoder: Decoder) -> torch.dtype | None:
    """The dtype of the embedding in its file, or config.json's where there are no tensors; None: it is not mapped.

    Raises BadCheckpoint where the tensors do not fit the config.
    """
    if not checkpoint.tensors:
        name = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
        return DTYPES.get(str(name).removeprefix("torch."))
    plan = match(checkpoint.facts, checkpoint.family, checkpoint.tensors, decoder)
    tables = (checkpoint.tensors[name] for name, target in plan.items() if target.parameter == EMBEDDING)
    return next((table.dtype for table in tables if table.location is not None), None)


def quantize(
    model: str | Path | None,
    out: str | Path,
    *,
    mode: str = "int8",
    keep: Sequence[str] = (),
    offline: bool = False,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Path:
    """Write a model in 8 bits as the folder `out`, which is mapped when opened; arguments as in `load`.

    Raises BadArgument where `out` exists, or the model is in 8 bits already.
    """
    use_threads(threads)
    notes: list[str] = []
    path = resolve(None if model is None else str(model), offline=offline, progress=progress, note=notes.append)
    if is_saved(path):
        raise BadArgument(f"{path}, which is in 8 bits already", "a model in full precision", "use it as it is")
    checkpoint = opened(path, offline=offline, progress=progress)
    checkpoint.notes[:0] = notes
    cpu = torch.device("cpu")
    decoder = load_decoder(checkpoint, dtype=torch.float32, device=cpu, quantize=mode, keep=keep, progress=progress)
    name = default_model.SMOLLM2.name if model is None else str(model)
    save(decoder, checkpoint, Path(out), name=name, progress=progress)
    return Path(out)


def default_int8(path: Path) -> Path:
    """The folder of the default model in 8 bits, made at the first use, beside that of its .gguf."""
    return path.parent.with_name(f"{default_model.SMOLLM2.name}-int8")


def _cached_quantized(path: Path, progress: Progress | None) -> Path:
    """The default model's 8-bit folder, beside the fetched .gguf `path`; made at the first use.

    Where it cannot be written, `path` itself, which is then quantized while loading, each time.
    """
    source, folder = default_model.SMOLLM2, default_int8(path)
    if _is_of(folder, source):
        return folder
    try:
        with default_model.file_lock(folder.with_name(f"{folder.name}.lock"), progress):
            if not _is_of(folder, source):  # another process may have made it while this one waited
                if folder.exists():  # of another version, or of other values
                    shutil.rmtree(folder)
                quantize(None, folder, progress=progress)
        return folder
    except (BadArgument, OSError):  # a full or read-only disk; on Windows, another process was faster
        return folder if _is_of(folder, source) else path


def _is_of(folder: Path, source: default_model.Source) -> bool:
    """Whether a saved folder has this layout and was quantized from the source's file."""
    if not is_saved(folder):
        return False
    try:
        made_from = read_manifest(folder).get("source")
    except BadCheckpoint:
        return False
    return isinstance(made_from, dict) and made_from.get("files") == {source.file: source.gguf_sha256}


def _asked(quantize: str | None) -> str | None:
    """The mode, AUTO, or None for full precision. Raises BadArgument for a mode that does not exist."""
    mode = None if quantize == "none" else quantize
    if mode not in (None, AUTO):
        check_mode(mode)
    return mode


def _require_same(path: Path, mode: str | None, keep: Sequence[str]) -> None:
    """A saved model runs as it was saved."""
    saved = read_manifest(path)["mode"]
    if mode not in (AUTO, saved):
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
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # it asserts where built without CUDA
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
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BadArgument(f"dtype={str(dtype)!r}", f"one of {', '.join(DTYPES)}", "pass one of those")
    return DTYPES[dtype]
