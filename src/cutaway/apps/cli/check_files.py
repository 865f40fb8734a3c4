"""`cutaway check-files`: whether a folder that `cutaway quantize` wrote is still what was written, byte by byte.

It reads the files and their recorded hashes; it does not know what is in them.
"""

from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.options import Debug, Json, Unread
from cutaway.apps.cli.running import busy, print_json, require_known
from cutaway.ground.errors import BadArgument

Folder = Annotated[str | None, typer.Argument(metavar="FOLDER", help="A folder that `cutaway quantize` wrote.")]
Model = Annotated[str | None, typer.Option(metavar="FOLDER", help="The same as FOLDER.")]
Offline = Annotated[bool, typer.Option("--offline", help="No effect here: no network is used.")]


def check_files(
    folder: Folder = None,
    model: Model = None,
    as_json: Json = False,
    debug: Debug = False,
    offline: Offline = False,
    quantize: Unread = None,
    dtype: Unread = None,
    device: Unread = None,
) -> None:
    """Check the files of a quantized folder against their hashes."""
    require_known(quantize)
    path = _path(folder, model)
    with busy("hashing") as report:
        from cutaway.weights import files, save

        if not files.is_saved(path):
            found = f"no {save.MANIFEST} in {path}"
            raise BadArgument(found, "a folder that `cutaway quantize` wrote", "name such a folder")
        names = save.check_files(path, progress=report)
        mode = save.read_manifest(path)["mode"]
    if as_json:
        print_json({"folder": str(path), "mode": mode, "files": names, "sound": True})
    else:
        print(f"{path}: {len(names)} files are what was written ({mode})\n  {', '.join(names)}")


def _path(folder: str | None, model: str | None) -> Path:
    if (folder is None) == (model is None):
        found = "no FOLDER" if folder is None else "a FOLDER and --model"
        raise BadArgument(found, "one folder", "name the folder to check once")
    return Path(folder or model or "")
