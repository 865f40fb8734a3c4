"""`cutaway check-files`: whether a folder that `cutaway quantize` wrote is unchanged, byte by byte.

It prints the result; it does not know what is in the files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.common import WithoutWeights, busy, verb
from cutaway.ground.errors import BadArgument

Folder = Annotated[str | None, typer.Argument(metavar="FOLDER", help="A folder that `cutaway quantize` wrote.")]
Model = Annotated[str | None, typer.Option(metavar="FOLDER", help="The same as FOLDER.")]
Offline = Annotated[bool, typer.Option("--offline", help="No effect here: no network is used.")]


@dataclass(frozen=True)
class OfFolder(WithoutWeights):
    """--model names a folder too."""

    model: Model = None
    offline: Offline = False


@verb
def check_files(options: OfFolder, folder: Folder = None) -> None:
    """Check the files of a quantized folder against their hashes."""
    if (folder is None) == (options.model is None):
        given = "no FOLDER" if folder is None else "a FOLDER and --model"
        raise BadArgument(given, "one folder", "name the folder to check once")
    with busy("hashing") as report:
        from cutaway.show.quantized import checked

        found = checked(Path(folder or options.model or ""), progress=report)
    options.print(found)
