"""A folder's weights, and one reader for each format: a path becomes {name: lazy tensor}.

It does not know what the tensors are for, where the files came from, nor which names come first (which.py).

Every tensor of every shard is read; of two with one name, the one in the file whose name sorts last. The index lists
files, not tensors. Where there is a choice, a note names the weights that are read.
"""

import json
from pathlib import Path

from cutaway.ground.errors import BadCheckpoint, ModelNotFound, UnsupportedModel
from cutaway.weights.files.dequantized import dequantized
from cutaway.weights.files.gguf_split import parts_of
from cutaway.weights.files.lazy import LazyTensor, Note
from cutaway.weights.files.packed import refuse_packed
from cutaway.weights.files.recognize import (
    SAFETENSORS,
    ZIP,
    adapter_in,
    adapter_tensors,
    is_adapter,
    json_or_nothing,
    no_model,
    refuse_disguised,
)
from cutaway.weights.files.safetensors import open_safetensors
from cutaway.weights.files.torch_bin import open_torch_bin
from cutaway.weights.files.which import LAYOUTS, chosen, ggufs, listed, weights_among

SAVED = "quantized.json"  # of a folder that save.py wrote


def is_saved(path: Path) -> bool:
    """Whether this is a folder that save.py wrote."""
    return (path / SAVED).is_file()


def ignore_note(line: str) -> None:
    """The default of `note`: drops the line."""


def open_folder(
    path: Path, note: Note = ignore_note, named: object = None, quantization: object = None
) -> dict[str, LazyTensor]:
    """The tensors of a model's folder, by name; only headers are read.

    note(line): the choice of weights, where there is one. named: config.json's `transformers_weights`.
    quantization: its `quantization_config`. Raises BadCheckpoint where there are no weights or a shard is missing,
    UnsupportedModel where they are of another kind.
    """
    file = weights_of(path, named)
    others = _others(path, file)
    if others or file.name not in LAYOUTS:
        note(_choice(file, others))
    adapter = adapter_in(path)
    if adapter is not None:
        note(f"the adapter beside the weights ({adapter.name}) is not read: the model runs without it")
    tensors = _open_shards(file, note) if file.suffix == ".json" else open_file(file)
    tensors = dequantized(tensors, quantization, note)
    refuse_packed(tensors, file.name)
    return tensors


def open_file(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one .safetensors file, or one of torch.save. Raises BadCheckpoint."""
    if not path.is_file():
        raise BadCheckpoint(f"no file {path}", "a .safetensors file, or one of torch.save", "correct the path")
    return (open_safetensors if path.suffix == ".safetensors" else open_torch_bin)(path)


def weights_of(folder: Path, named: object) -> Path:
    """The file that a folder's weights are read from: tensors, or an index of shards.

    named: config.json's `transformers_weights`. Raises BadCheckpoint or UnsupportedModel, which describe the folder,
    where there is none.
    """
    name = chosen(_names(folder), str(folder), named)
    if name is None:
        raise no_model(folder, "weights")
    return folder / name


def named_in(folder: Path) -> object:
    """The folder's `transformers_weights` in config.json, or None."""
    return json_or_nothing(folder / "config.json").get("transformers_weights")


def files_of(path: Path) -> list[Path]:
    """The files that hold a model's tensors: one, or its shards or parts. Raises as weights_of."""
    if path.is_file():
        return parts_of(path)
    file = weights_of(path, named_in(path))
    return sorted({path / shard for shard in shard_names(file).values()}) if file.suffix == ".json" else [file]


def missing_from(folder: Path) -> str | None:
    """The missing files of a folder, in a few words; None where it is complete."""
    if is_saved(folder) or (is_adapter(folder) and adapter_tensors(folder)):
        return None
    if not (folder / "config.json").is_file():
        return "config.json"
    try:
        file = weights_of(folder, named_in(folder))
        missing = missing_shards(file) if file.suffix == ".json" else []
    except (BadCheckpoint, UnsupportedModel, ModelNotFound):
        return "weights"
    return listed(missing) if missing else None


def unsound(folder: Path) -> str | None:
    """What is wrong with the bytes of a folder's files, in the words of an error; None where their headers are sound.

    Raises UnsupportedModel where they are sound, but of a kind that does not run.
    """
    try:
        _refuse_pointers(folder)
        open_folder(folder, named=named_in(folder))
    except BadCheckpoint as error:
        return error.found
    return None


def missing_shards(index: Path) -> list[str]:
    """Names of the missing files of an index. Raises BadCheckpoint where it is no index."""
    return [file for file in sorted(set(shard_names(index).values())) if not (index.parent / file).is_file()]


def shard_names(index: Path) -> dict[str, str]:
    """{tensor name: file name} of an index file. Raises BadCheckpoint where it is not one."""
    refuse_disguised(index, "an index of shards")
    try:
        table = json.loads(index.read_bytes())["weight_map"]
        # a bare file name: an index must not lead out of its own folder
        sound = all(isinstance(file, str) and file == Path(file).name for file in table.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        table, sound = {}, False
    if not sound or not table:
        found = f"{index.name} without a usable weight_map"
        raise BadCheckpoint(found, '{"weight_map": {tensor name: file name}}', "fetch the file again")
    return table


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its ending (in any case) or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def model_path(path: Path, note: Note = ignore_note) -> Path:
    """The model that a path stands for: a folder in Hugging Face's format or a .gguf file.

    note(line): where that is another path. Raises as meant_by, and BadCheckpoint where a small file is a pointer.
    """
    meant = meant_by(path, note)
    if meant.is_dir():
        _refuse_pointers(meant)
    return meant


def meant_by(path: Path, note: Note = ignore_note) -> Path:
    """As model_path, without looking into the files.

    A folder without other weights stands for its one .gguf; a folder of the hub's cache, for its snapshot. Raises
    ModelNotFound for one file of a model or several .gguf.
    """
    if path.is_file():
        return _model_file(path)
    if not path.is_dir():
        raise ModelNotFound(f"no folder {path}", "a folder with config.json, or a .gguf file", "check its spelling")
    folder = _snapshot(path)
    models = ggufs(_names(folder))
    if models and not _other_weights(folder):
        if len(models) > 1:
            found = f"{len(models)} models in {folder}: {listed(models, most=8)}"
            do = f"name one of them, for example {folder / models[0]}"
            raise ModelNotFound(found, "one .gguf file", do)
        folder = folder / models[0]
    if folder != path:
        note(f"{folder} is what {path} holds, and is read")
    return folder


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.is_file()]


def _other_weights(folder: Path) -> bool:
    """Whether a folder has weights other than a .gguf, or a config.json that names some."""
    names = _names(folder)
    return SAVED in names or named_in(folder) is not None or len(weights_among(names)) > len(ggufs(names))


def _model_file(path: Path) -> Path:
    if is_gguf(path):
        refuse_disguised(path, "a GGUF file", [b"GGUF"])
        return path
    own = {".safetensors": [SAFETENSORS], ".bin": [ZIP], ".pt": [ZIP], ".pth": [ZIP]}.get(path.suffix, [])
    refuse_disguised(path, "a .gguf file, or a folder with config.json and the weights", own)
    beside = (path.parent / "config.json").is_file()
    do = f"name its folder, {path.parent}" if beside else "name a folder that holds config.json beside it"
    raise ModelNotFound(f"the file '{path}', a part of a model", "a folder with config.json, or a .gguf file", do)


def _snapshot(path: Path) -> Path:
    """The snapshot in a folder of the hub's cache (models--org--name), else the folder itself."""
    root = path.parent if path.name == "snapshots" else path
    if not (root / "snapshots").is_dir() or (root / "config.json").is_file():
        return path
    main = root / "refs" / "main"
    named = root / "snapshots" / main.read_text(encoding="utf-8").strip() if main.is_file() else root
    snapshots = [folder for folder in (root / "snapshots").iterdir() if folder.is_dir()]
    if named in snapshots:
        return named
    return snapshots[0] if len(snapshots) == 1 else path


def _refuse_pointers(folder: Path) -> None:
    """Refuse Git LFS pointers among the files that every run reads; weights are checked when they are opened."""
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            refuse_disguised(folder / name, "the file itself")


def _others(folder: Path, chosen_file: Path) -> list[Path]:
    """The other weights of a folder, without the shards of an index."""
    others = [folder / name for name in weights_among(_names(folder)) if name != chosen_file.name]
    indices = [file for file in [chosen_file, *others] if file.suffix == ".json"]
    shards = {shard for index in indices for shard in _shards(index)} - {chosen_file}
    return [file for file in others if file not in shards]


def _shards(index: Path) -> set[Path]:
    """The existing shards of an index."""
    try:
        shards = {index.parent / file for file in shard_names(index).values()}
    except BadCheckpoint:  # raised again where this index is read
        return set()
    return {shard for shard in shards if shard.is_file()}


def _choice(chosen_file: Path, others: list[Path]) -> str:
    """The note on which weights are read, and which are not."""
    if not others:
        return f"{chosen_file.name} is read, the only weights in {chosen_file.parent}"
    unread = []
    for other in others[:4]:
        shards = len(_shards(other)) if other.suffix == ".json" else 0
        unread.append(other.name + (f" and its {shards} shard{'s' if shards > 1 else ''}" if shards else ""))
    unread += [f"{len(others) - 4} more"] if len(others) > 4 else []
    many = len(unread) > 1 or " and " in unread[0]
    return f"{chosen_file.name} is read; {' and '.join(unread)} beside it {'are' if many else 'is'} not"


def _open_shards(index: Path, note: Note) -> dict[str, LazyTensor]:
    """Every tensor of every shard, merged as in transformers: in the order of the files' names, the last wins."""
    table = shard_names(index)
    files, missing = sorted(set(table.values())), missing_shards(index)
    if missing:
        found = f"{len(files) - len(missing)} of {len(files)} shards in {index.parent}"
        expected = f"also {listed(missing)}, as {index.name} names"
        raise BadCheckpoint(found, expected, "fetch the missing files")
    tensors: dict[str, LazyTensor] = {}
    last: dict[str, str] = {}
    for file in files:
        shard = open_file(index.parent / file)
        tensors |= shard
        last |= dict.fromkeys(shard, file)
    absent = [name for name in table if name not in tensors]
    if absent:
        note(f"{index.name} names {listed(absent)}, which no shard holds")
    moved = [name for name, file in table.items() if last.get(name, file) != file]
    if moved:
        note(f"{listed(moved)} is read from {last[moved[0]]}, where {index.name} names {table[moved[0]]}")
    return tensors
