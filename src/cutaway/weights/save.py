"""A quantized model as a folder: written once, then opened by mapping its file, without a copy.

The folder holds cutaway.safetensors (weights in 8 bits as they are stored in memory, and the tensors in full precision,
under our names), the model's own config.json and tokenizer files, and quantized.json, the manifest: layout, mode,
source and hashes. It does not know how a checkpoint is quantized.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from cutaway.ground.errors import BadArgument, BadCheckpoint, NoTokenizer
from cutaway.model.decoder import Decoder
from cutaway.quant.engine import use_native
from cutaway.quant.formats import Mode
from cutaway.quant.linear import Int8Linear, as_stored, layer_class, stored_shapes
from cutaway.text.from_folder import TOKENIZER_FILES, write_resolved
from cutaway.text.from_gguf import tokenizer_files_from_gguf
from cutaway.weights.checkpoint import Checkpoint, read_json
from cutaway.weights.default_model import MANIFEST as FETCHED
from cutaway.weights.default_model import sha256
from cutaway.weights.files import SAVED as MANIFEST
from cutaway.weights.files import files_of, is_saved
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.files.recognize import ADAPTER, adapter_tensors
from cutaway.weights.files.safetensors import open_safetensors, write_safetensors
from cutaway.weights.load import empty_decoder
from cutaway.weights.match import EMBEDDING, HEAD
from cutaway.weights.progress import Progress
from cutaway.weights.quantizing import MappedEmbedding

WEIGHTS = "cutaway.safetensors"
LAYOUT = 2  # of the folder; another number is refused by name
COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "LICENSE*")  # the model's own small files
NOT_COPIED = ("*.index.json", "*.index.*.json", FETCHED, MANIFEST, ADAPTER)  # of the checkpoint that the codes replace


def save(
    decoder: Decoder,
    checkpoint: Checkpoint,
    out: Path,
    *,
    name: str,
    progress: Progress | None = None,
) -> None:
    """Write a quantized decoder as the folder `out`, under a temporary name until it is complete.

    Raises BadArgument where `out` exists or the decoder is not quantized, OSError from the disk.
    """
    modes = {layer.mode for layer in decoder.modules() if isinstance(layer, Int8Linear)}
    if len(modes) != 1:
        raise BadArgument("no layer in 8 bits", "at least one", "pass mode='int8', and fewer layers to keep")
    if out.exists():
        raise BadArgument(f"{out}, which is there already", "a new folder", "choose another name, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        temporary.mkdir()
        tensors = _tensors(decoder)
        specs = {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()}
        write_safetensors(temporary / WEIGHTS, specs, tensors.__getitem__)
        notes = [*checkpoint.notes, *_write_small_files(checkpoint, temporary)]
        manifest = {
            "layout": LAYOUT,
            "mode": modes.pop(),
            "notes": notes,  # of the source, from when it was opened
            "source": {
                "name": name,
                "files": _source_hashes(checkpoint, progress),
                "bytes": source_bytes(checkpoint),
            },
            "files": {file.name: sha256(file) for file in sorted(temporary.iterdir())},
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_saved(checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device | str) -> Decoder:
    """The decoder of a saved folder: on a CPU its codes and embedding stay in the mapped file, elsewhere they move.

    Raises BadCheckpoint for another layout, or tensors other than those of config.json.
    """
    manifest = read_manifest(checkpoint.path)
    decoder = empty_decoder(checkpoint.facts)
    tensors = open_safetensors(checkpoint.path / WEIGHTS)
    mode: Mode = manifest["mode"]
    first = "." + layer_class(mode).STORED[0]
    layers = [name.removesuffix(first) for name in tensors if name.endswith(first)]
    shapes = _expected(decoder, layers, mode)
    if tensors.keys() != shapes.keys() or any(tensors[n].shape != shape for n, shape in shapes.items()):
        wrong = sorted(tensors.keys() ^ shapes.keys()) or [n for n, s in shapes.items() if tensors[n].shape != s]
        found = f"{wrong[0]!r} missing, unknown or of another shape in {checkpoint.path / WEIGHTS}"
        raise BadCheckpoint(found, "the tensors that config.json asks for", "quantize the model again")
    for name in layers:
        layer = decoder.get_submodule(name)
        assert isinstance(layer, nn.Linear), "_expected has checked it"
        shape = layer.out_features, layer.in_features
        parts = [_mapped_or_read(tensors[f"{name}.{leaf}"], device) for leaf in stored_shapes(shape, mode)]
        bias = tensors.get(f"{name}.bias")
        bias_N = None if bias is None else _mapped_or_read(bias, device)
        decoder.set_submodule(name, as_stored(parts, shape, bias_N, mode))
    _fill_rest(decoder, tensors, dtype, device)
    use_native(decoder)
    if decoder.rotary is not None:
        decoder.rotary.to(device)
    return decoder


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a saved folder. Raises BadCheckpoint for another layout, an unknown mode or a missing file."""
    manifest = read_json(folder / MANIFEST)
    if manifest.get("layout") != LAYOUT:
        found = f"layout {manifest.get('layout')!r} in {folder / MANIFEST}"
        raise BadCheckpoint(found, f"layout {LAYOUT}", "quantize the model again with this version of cutaway")
    if manifest.get("mode") not in get_args(Mode):
        found = f"mode {manifest.get('mode')!r} in {folder / MANIFEST}"
        raise BadCheckpoint(found, f"one of {', '.join(get_args(Mode))}", "quantize the model again")
    if not isinstance(manifest.get("files"), dict) or WEIGHTS not in manifest["files"]:
        raise BadCheckpoint(f"no hashes in {folder / MANIFEST}", "a hash of every file", "quantize the model again")
    missing = [name for name in manifest["files"] if not (folder / name).is_file()]
    if missing:
        found = f"no {missing[0]} in {folder}"
        raise BadCheckpoint(found, "the files that its manifest names", "quantize the model again")
    return manifest


def source_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the checkpoint's weights; of a saved folder, of those that it was made from."""
    if is_saved(checkpoint.path):
        return int(read_manifest(checkpoint.path)["source"]["bytes"])
    if checkpoint.in_memory:
        return sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    return sum(file.stat().st_size for file in _source_files(checkpoint)) if checkpoint.tensors else 0


def check_files(folder: Path, progress: Progress | None = None) -> list[str]:
    """Names of a saved folder's files. Raises BadCheckpoint for one with another hash than in the manifest."""
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        if progress:
            progress(0, 0, f"hashing {name}")
        found = sha256(folder / name)
        if found != expected:
            other = f"sha256 {found[:12]}… of {folder / name}"
            raise BadCheckpoint(other, f"{expected[:12]}…, as the manifest says", "quantize the model again")
    return list(manifest["files"])


def _tensors(decoder: Decoder) -> dict[str, Tensor]:
    """The decoder's tensors, without a tied head in full precision."""
    tied = decoder.config.tied_head and isinstance(decoder.unembed.head, nn.Linear)
    return {n: t for n, t in decoder.state_dict().items() if not (tied and n == HEAD)}


def _expected(decoder: Decoder, layers: list[str], mode: Mode) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a file in which these layers are quantized."""
    shapes = {n: tuple(p.shape) for n, p in decoder.state_dict().items()}
    if decoder.config.tied_head and HEAD.removesuffix(".weight") not in layers:
        del shapes[HEAD]
    for name in layers:
        rows, width = shapes.pop(f"{name}.weight", (0, 0))
        shapes |= {f"{name}.{leaf}": shape for leaf, (shape, _) in stored_shapes((rows, width), mode).items()}
    return shapes


def _mapped_or_read(tensor: LazyTensor, device: torch.device | str) -> Tensor:
    """On a CPU the mapped tensor; elsewhere, or where it cannot be mapped, a copy."""
    mapped = tensor.mapped() if torch.device(device).type == "cpu" else None
    return tensor.read().to(device) if mapped is None else mapped


def _fill_rest(
    decoder: Decoder, tensors: dict[str, LazyTensor], dtype: torch.dtype, device: torch.device | str
) -> None:
    """Norms, positions, the embedding: copied, except for a table of which only single rows are read."""
    for name, tensor in tensors.items():
        owner_name, _, leaf = name.rpartition(".")
        owner = decoder.get_submodule(owner_name)
        if isinstance(owner, Int8Linear):
            continue
        looked_up_only = name == EMBEDDING and isinstance(decoder.unembed.head, Int8Linear)
        if looked_up_only and torch.device(device).type == "cpu":
            decoder.embed.token = MappedEmbedding(_mapped_or_read(tensor, device), dtype)
            continue
        setattr(owner, leaf, nn.Parameter(tensor.read().to(device, dtype), requires_grad=False))
    if decoder.config.tied_head and isinstance(decoder.unembed.head, nn.Linear):
        decoder.unembed.head.weight = decoder.embed.token.weight


def _write_small_files(checkpoint: Checkpoint, folder: Path) -> tuple[str, ...]:
    """Write config.json and tokenizer files. Returns the notes of a tokenizer that was made from a GGUF."""
    config = checkpoint.config | {"tie_word_embeddings": checkpoint.facts.tied_head}  # as the tensors decided
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    if checkpoint.gguf_metadata is not None and checkpoint.tokenizer_path == checkpoint.path:
        for file in checkpoint.path.parent.glob("LICENSE*"):
            shutil.copyfile(file, folder / file.name)
        try:
            return tokenizer_files_from_gguf(checkpoint.gguf_metadata, folder)
        except NoTokenizer as error:  # ids run without one
            return (f"it was made without a tokenizer: {error}",)
    _copy_small_files(checkpoint.path, folder)
    if checkpoint.tokenizer_path != checkpoint.path:  # an adapter's, in place of its base's
        for name in TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
        _copy_small_files(checkpoint.tokenizer_path, folder)
    write_resolved(checkpoint.tokenizer_path, folder, checkpoint.model_type)
    return ()


def _copy_small_files(source: Path, folder: Path) -> None:
    for pattern in COPIED:
        for file in source.glob(pattern):
            if file.name != "config.json" and not any(file.match(other) for other in NOT_COPIED):
                shutil.copyfile(file, folder / file.name)


def _source_files(checkpoint: Checkpoint) -> list[Path]:
    """The files of a checkpoint's tensors, those of an adapter in them too."""
    adapter = checkpoint.adapter and adapter_tensors(checkpoint.adapter)
    return [*files_of(checkpoint.path), *([adapter] if adapter else [])]


def _source_hashes(checkpoint: Checkpoint, progress: Progress | None) -> dict[str, str]:
    files = _source_files(checkpoint)
    hashes = {}
    for number, file in enumerate(files):
        if progress:
            progress(number, len(files), f"hashing {file.name}")
        hashes[file.name] = sha256(file)
    return hashes
