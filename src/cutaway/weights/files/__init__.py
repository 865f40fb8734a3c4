"""One reader a format: a path becomes {name: lazy tensor}.

This file chooses among a folder's files; it does not know what the tensors are for, nor who fetched them.
"""

import json
from collections.abc import Callable
from pathlib import Path

from cutaway.ground.errors import BadCheckpoint
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.files.safetensors import open_safetensors
from cutaway.weights.files.torch_bin import open_torch_bin

Opener = Callable[[Path], dict[str, LazyTensor]]

# In the order of preference: safetensors before pickles, and an index before the file beside it.
LAYOUTS: list[tuple[str, Opener]] = [
    ("model.safetensors.index.json", open_safetensors),
    ("model.safetensors", open_safetensors),
    ("pytorch_model.bin.index.json", open_torch_bin),
    ("pytorch_model.bin", open_torch_bin),
]


def open_folder(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a model's folder, by name; nothing is read but headers.

    Takes the first of LAYOUTS that is there, else a single other *.safetensors file. Raises BadCheckpoint
    where there is none, or where a shard that an index names is missing.
    """
    for name, opener in LAYOUTS:
        file = path / name
        if file.is_file():
            return _open_shards(file, opener) if name.endswith(".index.json") else opener(file)
    others = sorted(path.glob("*.safetensors"))
    if len(others) == 1:
        return open_safetensors(others[0])
    found = f"no weights in {path}" if not others else f"{len(others)} *.safetensors files and no index in {path}"
    wanted = ", ".join(name for name, _ in LAYOUTS)
    raise BadCheckpoint(found, f"{wanted}, or one other *.safetensors file", "pass the folder that holds the weights")


def open_file(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one .safetensors file, or one that torch saved. Raises BadCheckpoint."""
    if not path.is_file():
        raise BadCheckpoint(f"no file {path}", "a .safetensors file, or one of torch.save", "correct the path")
    return (open_safetensors if path.suffix == ".safetensors" else open_torch_bin)(path)


def shard_names(index: Path) -> dict[str, str]:
    """{tensor name: file name} of an index file. Raises BadCheckpoint where it is not one."""
    try:
        table = json.loads(index.read_bytes())["weight_map"]
        # a bare file name: an index must not lead out of its own folder
        sound = all(isinstance(file, str) and file == Path(file).name for file in table.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        table, sound = {}, False
    if not sound or not table:
        found = f"{index.name} without a usable weight_map"
        raise BadCheckpoint(found, '{"weight_map": {tensor name: file name}}', "fetch the file again")
    return table


def _open_shards(index: Path, opener: Opener) -> dict[str, LazyTensor]:
    table = shard_names(index)
    files = sorted(set(table.values()))
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        found = f"{len(files) - len(missing)} of {len(files)} shards in {index.parent}"
        expected = f"also {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}, as {index.name} names"
        raise BadCheckpoint(found, expected, "fetch the missing files")
    shards = {file: opener(index.parent / file) for file in files}
    for name, file in table.items():
        if name not in shards[file]:
            raise BadCheckpoint(f"no {name!r} in {file}", f"it there, as {index.name} says", "fetch the files again")
    every = {name: tensor for shard in shards.values() for name, tensor in shard.items()}
    return every | {name: shards[file][name] for name, file in table.items()}  # the index decides between twins
