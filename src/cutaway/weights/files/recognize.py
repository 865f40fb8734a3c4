"""Recognizes folders and files that cannot be opened: the error names what they are, and what to do.

It reads names, sizes and a file's first bytes; it does not know tensors (packed.py), nor how weights are chosen.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cutaway.ground.errors import BadCheckpoint, CutawayError, ModelNotFound, UnsupportedModel
from cutaway.weights.files.which import index_of, listed, other_safetensors, weights_among

FORMATS = "model.safetensors or pytorch_model.bin, whole or with its index and shards, or one .gguf file"
ZIP = b"PK\x03\x04"
SAFETENSORS = b"\0\0\0\0{"  # from byte 4 on: the end of a header's length, and its first byte
LFS = b"version https://git-lfs.github.com/spec/v1"
DOWNLOAD_AGAIN = "fetch the file again"
LOOK_AT = 512  # bytes of a file that identify it
# First bytes, the format, what to do.
MAGIC = [
    (b"GGUF", "a GGUF file", "rename it to end in .gguf and pass its path"),
    (ZIP, "a zip archive", "unpack it and name the folder, or rename it to .bin where torch.save wrote it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\x89HDF", "an HDF5 file, as TensorFlow and Keras write them", "choose the model's safetensors or PyTorch files"),
    (b"tjgg", "a GGML file, older than GGUF", "fetch the model's .gguf file"),
    (b"fmgg", "a GGML file, older than GGUF", "fetch the model's .gguf file"),
    (b"lmgg", "a GGML file, older than GGUF", "fetch the model's .gguf file"),
]
# Patterns of files in a folder without weights that we open, what the folder is, what to do.
ONLY = [
    (("model_index.json",), "a diffusers pipeline, which makes pictures", "choose a language model"),
    (
        ("consolidated*.safetensors",),
        "weights under Mistral's own names",
        "fetch the model-….safetensors files and their index of the same model in Hugging Face's format",
    ),
    (
        ("consolidated*.pth",),
        "weights in Meta's original format",
        "fetch the model in Hugging Face's format (an id that ends in -hf), or convert it with transformers' "
        "convert_llama_weights_to_hf.py",
    ),
    (
        ("global_step*", "mp_rank_*_model_states.pt", "zero_pp_rank_*", "zero_to_fp32.py"),
        "a DeepSpeed training checkpoint, split over its processes",
        "run the zero_to_fp32.py that lies in it, which writes pytorch_model.bin",
    ),
    (
        ("*.distcp", "pytorch_model_fsdp*", "*/*.distcp"),
        "a distributed training checkpoint (FSDP), split over its processes",
        "join it with accelerate merge-weights, then name the folder that this writes",
    ),
    (("flax_model*.msgpack",), "weights for Flax only", "save them again for PyTorch: with transformers 4, "
     "from_pretrained(FOLDER, from_flax=True), then save_pretrained"),
    (("tf_model*.h5", "*.ckpt.index", "saved_model.pb"), "weights for TensorFlow only", "save them again for PyTorch: "
     "with transformers 4, from_pretrained(FOLDER, from_tf=True), then save_pretrained"),
    (("*.onnx", "onnx/*.onnx"), "an ONNX export only", "fetch the model that it was exported from"),
    (("openvino*.xml", "openvino*.bin"), "an OpenVINO export only", "fetch the model that it was exported from"),
    (("*.mlmodel", "*.mlpackage"), "a Core ML export only", "fetch the model that it was exported from"),
    (("weights*.npz",), "weights for MLX only (.npz)", "fetch the model that they were converted from"),
    (("*.engine", "*.plan"), "a TensorRT engine only", "fetch the model that it was built from"),
    (("*.nemo",), "a NeMo archive only", "fetch the model in Hugging Face's format"),
    (("ggml-*.bin", "*.ggml"), "a GGML file, older than GGUF", "fetch the model's .gguf file"),
    (("*.llamafile",), "a llamafile", "fetch the model's .gguf file"),
    (("optimizer.pt",), "what a training needs to go on, without the model", "name the folder that holds the weights"),
    (("*.pt", "*.pth", "*.ckpt"), "weights of torch.save under another name", "save model.state_dict() as "
     "pytorch_model.bin, under transformers' names"),
    (("*.zip", "*.tar", "*.tar.*", "*.tgz", "*.7z"), "an archive", "unpack it first"),
]  # fmt: skip
ADAPTER = "adapter_config.json"
ADAPTER_TENSORS = ("adapter_model.safetensors", "adapter_model.bin")  # in peft's order
UNFINISHED = ("*.incomplete", "*.part", "*.crdownload", "*.aria2", "*.download", "*.partial", "*.!ut")
HUB_DOWNLOADS = ".cache/huggingface/download"  # the folder that `hf download --local-dir` adds


def refuse_disguised(path: Path, expected: str, own: Iterable[bytes] = ()) -> None:
    """Raise BadCheckpoint, which names the format, where a file's content does not fit its name; own: its own magic."""
    with path.open("rb") as file:
        start = file.read(LOOK_AT)
    what = _disguise(path, start, tuple(own))
    if what is not None:
        raise BadCheckpoint(f"{path.name}, which is {what[0]}, in {path.parent}", expected, what[1])


def _disguise(path: Path, start: bytes, own: tuple[bytes, ...]) -> tuple[str, str] | None:
    """The file's real format, and what to do."""
    if not start:
        return "an empty file", DOWNLOAD_AGAIN
    if start.startswith(LFS):
        return _pointer(path.parent, start)
    head = start.lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "a web page saved in its place", "download the file itself, for example with hf download"
    if head.startswith(
        (b"invalid username or password", b"entry not found", b"access to model", b"repository not found")
    ):
        return "a refusal of the hub saved in its place", "log in with hf auth login and download the file itself"
    if start.count(0) == len(start) >= 64:
        return "zeros, as an interrupted download leaves them", DOWNLOAD_AGAIN
    if start[4:9] == SAFETENSORS and SAFETENSORS not in own:
        return "a safetensors file", "rename it to end in .safetensors"
    return next(
        ((what, do) for magic, what, do in MAGIC if start.startswith(magic) and magic not in own),
        None,
    )


def _pointer(folder: Path, start: bytes) -> tuple[str, str]:
    size = re.search(rb"^size (\d+)", start, re.MULTILINE)
    of = f" to a file of {size_text(int(size[1]))}" if size else ""
    return f"a Git LFS pointer{of}", f"run git lfs pull in {folder}, or download the file itself"


def size_text(nbytes: int) -> str:
    """1234567 → "1.2 MB"."""
    from cutaway.model.architecture import size  # here: only errors need it

    return size(nbytes)


def no_model(folder: Path, missing: str) -> CutawayError:
    """The error for a folder without its "config.json" or "weights", which names what the folder is instead."""
    names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    if not names:
        return ModelNotFound(f"an empty folder, {folder}", "a model's files in it", "name the folder that holds them")
    ours = weights_among(file.name for file in folder.iterdir() if file.is_file())
    # a folder with weights that we read is none of the other kinds, except a pipeline
    others = (_pipeline, _shards_without_index) if ours else (_adapter, _other_format)
    for recognize in (_dead_link, _unfinished, *others, _subfolders):
        error = recognize(folder, missing)
        if error is not None:
            return error
    if missing == "config.json":
        beside = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        found, expected = f"no config.json in {folder}, which holds {beside}", "a folder in Hugging Face's format"
        return ModelNotFound(found, expected, "name the folder that holds config.json and the weights")
    return BadCheckpoint(
        f"no weights in {folder}", FORMATS, "fetch the weights too, or name the folder that holds them"
    )


def adapter_in(folder: Path) -> Path | None:
    """The config of an adapter in the folder, or its tensors where it has no config; else None."""
    config = folder / ADAPTER
    return config if config.is_file() else adapter_tensors(folder)


def adapter_tensors(folder: Path) -> Path | None:
    """The tensors of an adapter in the folder."""
    return next((file for name in ADAPTER_TENSORS if (file := folder / name).is_file()), None)


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter's config, and no model's weights."""
    return (path / ADAPTER).is_file() and not weights_among(file.name for file in path.iterdir() if file.is_file())


def _adapter(folder: Path, missing: str) -> CutawayError | None:
    if adapter_in(folder) is None:
        return None
    config = json_or_nothing(folder / ADAPTER)
    base, kind = config.get("base_model_name_or_path"), str(config.get("peft_type") or "PEFT").replace("LORA", "LoRA")
    changes = base if base and isinstance(base, str) else "a base model that it does not name"
    found = f"a {kind} adapter in {folder}, not a model: it changes {changes}"
    do = "merge it first: peft's merge_and_unload(), then save_pretrained to a new folder"
    return UnsupportedModel(found, "a model with all its weights", do)


def _dead_link(folder: Path, missing: str) -> CutawayError | None:
    dead = [file.name for file in sorted(folder.iterdir()) if file.is_symlink() and not file.exists()]
    if not dead:
        return None
    found = f"{listed(dead)} in {folder}, a link to a file that is gone"
    return BadCheckpoint(found, "the file itself", "fetch the model again")


def _unfinished(folder: Path, missing: str) -> CutawayError | None:
    parts = [file for pattern in UNFINISHED for file in sorted(folder.glob(pattern))]
    parts += sorted((folder / HUB_DOWNLOADS).glob("*.incomplete"))
    if not parts:
        return None
    partial = f"{listed([file.name for file in parts])}, {size_text(sum(file.stat().st_size for file in parts))}"
    found = f"a download that did not end ({partial}) and no {missing} in {folder}"
    return BadCheckpoint(found, "all of the model's files", "run the download again, which goes on where it stopped")


def _other_format(folder: Path, missing: str) -> CutawayError | None:
    """Weights in a format that we do not read."""
    return _kind_of(folder, ONLY)


def _pipeline(folder: Path, missing: str) -> CutawayError | None:
    return _kind_of(folder, ONLY[:1])


def _kind_of(folder: Path, kinds: list[tuple[tuple[str, ...], str, str]]) -> CutawayError | None:
    for patterns, what, do in kinds:
        files = [file.relative_to(folder) for pattern in patterns for file in sorted(folder.glob(pattern))]
        if files:
            return UnsupportedModel(f"{what} ({listed(list(map(str, files)))}) in {folder}", FORMATS, do)
    return None


def _shards_without_index(folder: Path, missing: str) -> CutawayError | None:
    """Several weight files without an index."""
    names = [file.name for file in sorted(folder.iterdir()) if file.is_file()]
    several = other_safetensors(names) or [name for name in names if re.fullmatch(r"pytorch_model-.*\.bin", name)]
    if missing != "weights" or not several:
        return None
    kind = several[0].rpartition(".")[2]
    of_shards = index_of(several[0])
    index = of_shards or ("model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json")
    files = f"{len(several)} *.{kind} file{'s' if len(several) > 1 else ''}"
    found = f"{files} and no index in {folder} ({listed(several)})"
    do = f"fetch {index} too" if of_shards else "leave one of them in a folder of its own"
    return BadCheckpoint(found, f"{index}, or one file", do)


def _subfolders(folder: Path, missing: str) -> CutawayError | None:
    """Models in subfolders: checkpoints of a training, or a folder of several models."""
    patterns = ("*/config.json", "*/*/config.json", "*/snapshots/*/config.json", "*/*.gguf", "*/adapter_config.json")
    found = {file.parent.relative_to(folder) for pattern in patterns for file in folder.glob(pattern)}
    models = sorted(map(str, found), key=lambda name: (name.count("/"), *_natural(name)))
    if not models:
        return None
    nested = f"no {missing} in {folder}, but models in its subfolders {listed(models)}"
    return ModelNotFound(nested, "the folder of one model", f"name one of them, for example {folder / models[-1]}")


def _natural(name: str) -> list[tuple[int, str]]:
    """checkpoint-500 before checkpoint-1000."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def json_or_nothing(path: Path) -> dict[str, Any]:
    """What a JSON file says: {} where there is none, or no object in it."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
