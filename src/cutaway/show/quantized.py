"""A folder of 8-bit weights: what was written there, or that its files are still what was written; as data and as text.

It does not know how a weight becomes codes, nor what the folder holds.
"""

from pathlib import Path

from cutaway.ground.errors import BadArgument
from cutaway.model.architecture import size
from cutaway.model.decoder import Decoder
from cutaway.show.codes import saving, saving_line
from cutaway.show.finding import Listing
from cutaway.weights import files, save
from cutaway.weights.checkpoint import Checkpoint
from cutaway.weights.progress import Progress


def finding(decoder: Decoder, checkpoint: Checkpoint, folder: Path, mode: str) -> Listing:
    """What was written: the bytes of all files, and of the layers in 8 bits (show/codes.py: saving)."""
    count, int8 = sum(file.stat().st_size for file in folder.iterdir()), saving(decoder, checkpoint)
    text = (
        f"{folder}: {size(count)}, {mode}\n"
        f"{len(int8['layers'])} layers in 8 bits: {saving_line(int8)}\n"
        f"open it with --model {folder}"
    )
    return Listing({"folder": str(folder), "mode": mode, "bytes": count, "int8": int8}, text)


def checked(folder: Path, progress: Progress | None = None) -> Listing:
    """That each file has its recorded hash.

    Raises BadArgument for a folder that `quantize` did not write, and as save.check_files where a file differs.
    """
    if not files.is_saved(folder):
        found = f"no {save.MANIFEST} in {folder}"
        raise BadArgument(found, "a folder that `cutaway quantize` wrote", "name such a folder")
    names, mode = save.check_files(folder, progress=progress), save.read_manifest(folder)["mode"]
    text = f"{folder}: {len(names)} files are what was written ({mode})\n  {', '.join(names)}"
    return Listing({"folder": str(folder), "mode": mode, "files": names, "sound": True}, text)
