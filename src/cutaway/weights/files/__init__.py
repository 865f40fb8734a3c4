"""Which weights a folder means, and one reader a format: a path becomes {name: lazy tensor}.

It does not know what the tensors are for, nor where the files came from. The rule is transformers' own
(modeling_utils.py, _get_resolved_checkpoint_files) as far as that goes:

1. What config.json names as `transformers_weights`.
2. model.safetensors, else the shards that model.safetensors.index.json names; else pytorch_model.bin, else those of its
   index. A whole file comes before an index: shards beside it may be older, and nothing in the folder says so.
3. The same names with a variant's (model.fp16.safetensors), where there is one variant only.
4. One other *.safetensors file. 5. One .gguf file, the parts of a split one counting as one.

Every tensor of every shard is read; of two under one name, the one in the file whose name sorts last. The index says
which files there are, not which tensors. Where there was a choice, a note says what was taken.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from cutaway.ground.errors import BadCheckpoint, ModelNotFound, UnsupportedModel
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.files.packed import refuse_packed
from cutaway.weights.files.recognize import (
    SAFETENSORS,
    ZIP,
    adapter_of,
    listed,
    no_model,
    other_safetensors,
    refuse_disguised,
)
from cutaway.weights.files.safetensors import open_safetensors
from cutaway.weights.files.torch_bin import open_torch_bin

Opener = Callable[[Path], dict[str, LazyTensor]]
Note = Callable[[str], None]

LAYOUTS: list[tuple[str, Opener]] = [
    ("model.safetensors", open_safetensors),
    ("model.safetensors.index.json", open_safetensors),
    ("pytorch_model.bin", open_torch_bin),
    ("pytorch_model.bin.index.json", open_torch_bin),
]
SPLIT = re.compile(r"(.*)-(\d{5})-of-\d{5}\.gguf", re.IGNORECASE)
SAVED = "quantized.json"  # of a folder that save.py wrote


def unsaid(line: str) -> None:
    """A note that nobody reads."""


def open_folder(path: Path, note: Note = unsaid, named: str | None = None) -> dict[str, LazyTensor]:
    """The tensors of a model's folder, by name; nothing is read but headers.

    note(line): what was taken where there was a choice. named: config.json's `transformers_weights`. Raises
    BadCheckpoint where there are no weights or a shard is missing, UnsupportedModel where they are of another kind.
    """
    (file, opener), *others = _named(path, named) if named else weights_of(path)
    if others or not any(file.name == name for name, _ in LAYOUTS):
        note(_choice(file, [other for other, _ in others]))
    if adapter_of(path) is not None:
        note("the adapter beside the weights (adapter_config.json) is not read: the model runs without it")
    tensors = _open_shards(file, opener, note) if file.suffix == ".json" else opener(file)
    refuse_packed(tensors, file.name)
    return tensors


def open_file(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one .safetensors file, or one that torch saved. Raises BadCheckpoint."""
    if not path.is_file():
        raise BadCheckpoint(f"no file {path}", "a .safetensors file, or one of torch.save", "correct the path")
    return (open_safetensors if path.suffix == ".safetensors" else open_torch_bin)(path)


def weights_of(folder: Path) -> list[tuple[Path, Opener]]:
    """The files that a folder's weights start from, by the rule above: the one that is read, then the others.

    Raises BadCheckpoint or UnsupportedModel, which say what the folder is, where there is none.
    """
    found = [(folder / name, opener) for name, opener in LAYOUTS if (folder / name).is_file()]
    found = found or _variant(folder)
    others = other_safetensors(folder)
    if not found and len(others) == 1:
        found = [(others[0], open_safetensors)]
    if not found:
        raise no_model(folder, "weights")
    return found


def missing_from(folder: Path) -> str | None:
    """What a folder lacks to be run, in a few words; None where its files are all there."""
    if (folder / SAVED).is_file():
        return None
    if not (folder / "config.json").is_file():
        return "config.json"
    try:
        file, _ = weights_of(folder)[0]
        missing = missing_shards(file) if file.suffix == ".json" else []
    except (BadCheckpoint, UnsupportedModel, ModelNotFound):
        return "weights"
    return listed(missing) if missing else None


def missing_shards(index: Path) -> list[str]:
    """Names of the files that an index names and that are not there. Raises BadCheckpoint where it is no index."""
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
    """Whether a path is a GGUF file: by its ending, in capitals too, or by its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def model_path(path: Path, note: Note = unsaid) -> Path:
    """The folder in Hugging Face's format, or the .gguf file, that a file or folder means.

    A folder without other weights means its one .gguf; a folder of the hub's cache, its snapshot. note(line): where
    that is another path. Raises ModelNotFound for one file of a model or several .gguf, BadCheckpoint for a pointer.
    """
    if path.is_file():
        return _model_file(path)
    if not path.is_dir():
        raise ModelNotFound(f"no folder {path}", "a folder with config.json, or a .gguf file", "check its spelling")
    folder = _snapshot(path)
    if not any(_weights(folder)):
        ggufs = gguf_files(folder)
        if len(ggufs) > 1:
            found = f"{len(ggufs)} models in {folder}: {listed([file.name for file in ggufs], most=8)}"
            raise ModelNotFound(found, "one .gguf file", f"name one of them, for example {ggufs[0]}")
        folder = ggufs[0] if ggufs else folder
    if folder != path:
        note(f"{folder} is what {path} holds, and is read")
    if folder.is_dir():
        _refuse_pointers(folder)
    return folder


def gguf_files(folder: Path) -> list[Path]:
    """The .gguf models of a folder: the first part of a split one, and no part of a model that only sees (mmproj)."""
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() == ".gguf" and f.is_file())
    models = [file for file in files if not file.name.lower().startswith("mmproj")]
    return [file for file in models if not (part := SPLIT.fullmatch(file.name)) or int(part[2]) == 1]


def _weights(folder: Path) -> Iterator[Path]:
    """Files that a model's weights are read from, other than .gguf."""
    names = [SAVED, *(name for name, _ in LAYOUTS)]
    yield from (folder / name for name in names if (folder / name).is_file())
    yield from (file for file, _ in _variant(folder))
    yield from other_safetensors(folder)


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
    """The snapshot of a folder that the hub's client keeps for a model (models--org--name), else the folder itself."""
    home = path.parent if path.name == "snapshots" else path
    if not (home / "snapshots").is_dir() or (home / "config.json").is_file():
        return path
    main = home / "refs" / "main"
    named = home / "snapshots" / main.read_text(encoding="utf-8").strip() if main.is_file() else home
    all_of_them = [folder for folder in (home / "snapshots").iterdir() if folder.is_dir()]
    if named in all_of_them:
        return named
    return all_of_them[0] if len(all_of_them) == 1 else path


def _refuse_pointers(folder: Path) -> None:
    """Files that every run reads must be themselves; weights are looked at where they are opened."""
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            refuse_disguised(folder / name, "the file itself")


def _named(folder: Path, name: str) -> list[tuple[Path, Opener]]:
    """What config.json names."""
    sound = isinstance(name, str) and name == Path(name).name  # it must not lead out of its own folder
    if not sound or not name.endswith((".safetensors", ".safetensors.index.json")):
        found, expected = (
            f"transformers_weights={name!r} in config.json",
            "a safetensors file of its folder, or an index",
        )
        raise BadCheckpoint(found, expected, "use the model's own config.json")
    if not (folder / name).is_file():
        raise BadCheckpoint(f"no {name} in {folder}", "it there, as config.json names it", "fetch the missing file")
    return [(folder / name, open_safetensors)]


def _variant(folder: Path) -> list[tuple[Path, Opener]]:
    """LAYOUTS under the one variant's names that the folder has (transformers' _add_variant).

    Raises BadCheckpoint where it has several.
    """
    found: dict[str, list[tuple[Path, Opener]]] = {}
    for name, opener in LAYOUTS:
        stem, ending = name.rsplit(".", 1)
        for file in sorted(folder.glob(f"{stem}.*.{ending}")):
            variant = file.name.removeprefix(f"{stem}.").removesuffix(f".{ending}")
            if "." not in variant:
                found.setdefault(variant, []).append((file, opener))
    if len(found) > 1:
        files = [file.name for starts in found.values() for file, _ in starts]
        say = f"weights of {len(found)} variants in {folder} ({listed(files)})"
        raise BadCheckpoint(say, "one of them, or model.safetensors", "leave one of them in a folder of its own")
    return next(iter(found.values()), [])


def _choice(taken: Path, others: list[Path]) -> str:
    """The sentence that says which weights are read, and which are not."""
    if not others:
        return f"{taken.name} is read, the only weights in {taken.parent}"
    told = []
    for other in others:
        shards = _shards_there(other) if other.suffix == ".json" else 0
        told.append(other.name + (f" and its {shards} shard{'s' if shards > 1 else ''}" if shards else ""))
    many = len(told) > 1 or " and " in told[0]
    return f"{taken.name} is read; {' and '.join(told)} beside it {'are' if many else 'is'} not"


def _shards_there(index: Path) -> int:
    try:
        return len({file for file in shard_names(index).values() if (index.parent / file).is_file()})
    except BadCheckpoint:  # of an index that is not read either
        return 0


def _open_shards(index: Path, opener: Opener, note: Note) -> dict[str, LazyTensor]:
    """Every tensor of every shard, as transformers merges them: in the order of the files' names, the last wins."""
    table = shard_names(index)
    files, missing = sorted(set(table.values())), missing_shards(index)
    if missing:
        found = f"{len(files) - len(missing)} of {len(files)} shards in {index.parent}"
        expected = f"also {listed(missing)}, as {index.name} names"
        raise BadCheckpoint(found, expected, "fetch the missing files")
    tensors: dict[str, LazyTensor] = {}
    last: dict[str, str] = {}
    for file in files:
        shard = opener(index.parent / file)
        tensors |= shard
        last |= dict.fromkeys(shard, file)
    absent = [name for name in table if name not in tensors]
    if absent:
        note(f"{index.name} names {listed(absent)}, which no shard holds")
    moved = [name for name, file in table.items() if last.get(name, file) != file]
    if moved:
        note(f"{listed(moved)} is read from {last[moved[0]]}, where {index.name} names {table[moved[0]]}")
    return tensors
