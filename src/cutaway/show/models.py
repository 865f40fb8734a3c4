"""The models on this machine that can be run, as data and as a list; nothing uses the network.

It reads config.json files and sizes; it does not know any weights.
"""

import textwrap
from pathlib import Path
from typing import Any

from cutaway.ground.errors import CutawayError, ModelNotFound
from cutaway.model.architecture import size
from cutaway.show.finding import Listing
from cutaway.show.layout import columns
from cutaway.weights import default_model
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.families import supported
from cutaway.weights.files.lora import open_adapter
from cutaway.weights.files.packed import refuse_packed_config
from cutaway.weights.files.recognize import is_adapter
from cutaway.weights.hub import cached, cached_ids
from cutaway.weights.opening import config_alone, default_int8

Row = dict[str, Any]  # name, family, folder, bytes on disk


def one(name: str, path: Path) -> Listing:
    """A named model, and its folder. Raises the errors of weights/families for one that cannot be run."""
    row = _described(name, path)
    return Listing({"models": [row]}, f"{_table([row])}\n  {row['folder']}")


def finding() -> Listing:
    """All of them: the default model, and what the hub's cache has."""
    default, hub = _default(), _hub_cache()
    where = "\n  ".join(f"{path}  {size(count)}" for path, count in default["folders"].items())
    where = where or "not here yet; the first run fetches it"
    lines = ["the hub's cache", _table(hub["hub_cache"]) if hub["hub_cache"] else "  no model that cutaway runs"]
    for row in hub["hub_not_whole"]:
        do = f"run `cutaway tokens hi --model {row['name']}` with the network on"
        lines.append(f"  {row['name']}: not whole, without {row['missing']}; {do}")
    lines += [f"  {row['name']}: {row['found']}; {row['do']}" for row in hub["hub_several"]]
    lines += [f"  and {hub['hub_others']} that it does not run"] if hub["hub_others"] else []
    families = textwrap.fill(f"model types that cutaway runs: {', '.join(supported())}", 80, subsequent_indent="  ")
    parts = [families, f"the default model\n{_table([default])}\n  {where}", "\n".join(lines)]
    return Listing({"families": supported(), "default": default, **hub}, "\n\n".join(parts))


def _hub_cache() -> dict[str, Any]:
    """The models of the hub's cache that can be run, those that are incomplete, those of which one file must be named,
    and how many others there are.
    """
    found: list[Row] = []
    not_whole: list[Row] = []
    several: list[Row] = []
    others = 0
    for name in cached_ids():
        try:
            path, lacks = cached(name)
            row: Row = {"name": name, "folder": None if path is None else str(path)}
            if path is not None and lacks in (None, "weights"):  # its config says whether cutaway runs it
                row = _described(name, path)
            not_whole.append(row | {"missing": lacks}) if lacks or path is None else found.append(row)
        except ModelNotFound as error:  # several models in one folder
            several.append({"name": name, "found": error.found, "do": error.do})
        except CutawayError:  # of a kind that cutaway does not run
            others += 1
    return {"hub_cache": found, "hub_not_whole": not_whole, "hub_several": several, "hub_others": others}


def _described(name: str, path: Path) -> Row:
    if is_adapter(path):
        kind = f"LoRA of {open_adapter(path).base}"
        return {"name": name, "family": kind, "folder": str(path), "bytes": on_disk(_kept_of(path))}
    checkpoint = open_checkpoint(path) if path.is_file() else config_alone(path)
    refuse_packed_config(checkpoint.config)
    return {"name": name, "family": checkpoint.model_type, "folder": str(path), "bytes": on_disk(_kept_of(path))}


def on_disk(path: Path) -> int:
    """Bytes of a file, or of those in a folder and below, each once: a snapshot's are links to those of another."""
    found = [file.stat() for file in (path, *path.rglob("*")) if file.is_file()]
    return sum({(file.st_dev, file.st_ino): file.st_size for file in found}.values())


def _kept_of(path: Path) -> Path:
    """Of a path in the hub's cache, all that it holds of that model, older snapshots too; else the path itself."""
    return next((each for each in path.parents if each.name.startswith("models--")), path)


def _default() -> Row:
    """The default model, and its folders if it is on this machine: as fetched, and the 8 bits made of it."""
    name = default_model.SMOLLM2.name
    try:
        path = default_model.fetch(offline=True)
    except CutawayError:
        return {"name": name, "family": None, "folder": None, "bytes": None, "folders": {}}
    kept = [folder for folder in (path.parent, default_int8(path)) if folder.is_dir()]
    folders = {str(folder): on_disk(folder) for folder in kept}
    return _described(name, path) | {"bytes": sum(folders.values()), "folders": folders}


def _table(rows: list[Row]) -> str:
    cells = [
        ("  " + row["name"], row["family"] or "", f"{size(row['bytes'])} on disk" if row["bytes"] is not None else "")
        for row in rows
    ]
    return columns(cells, right=(2,))
