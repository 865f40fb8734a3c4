"""`cutaway quantize`: a model written in 8 bits as a folder that opens at once.

It says what was written; it does not know how a weight becomes codes, nor what the folder holds.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.apps.cli.options import Debug, Json, Model, Offline, Unread
from cutaway.apps.cli.running import MODES, busy, note, print_json, require_known
from cutaway.ground.errors import BadArgument

if TYPE_CHECKING:
    from cutaway.model.decoder import Decoder

Paths = Annotated[
    list[str],
    typer.Argument(metavar="[MODEL] OUT", help="A model (the default one without it), and the folder to write."),
]
Mode = Annotated[str, typer.Option("--mode", "--quantize", metavar="HOW", help="int8, int8-pooled or int8-weight.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="LAYER", help="Leave it in full precision, as lm_head; may be repeated."),
]


def quantize(
    paths: Paths,
    mode: Mode = "int8",
    keep: Keep = None,
    model: Model = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
    dtype: Unread = None,
    device: Unread = None,
) -> None:
    """Write a model in 8 bits as a folder that opens at once."""
    source, out = _source_and_out(paths, model)
    require_known(mode, MODES)
    with busy("starting") as report:
        from cutaway.lm import load
        from cutaway.weights.opening import quantize as write

        folder = write(source, out, mode=mode, keep=keep or (), offline=offline, progress=report)
        lm = load(folder, quantize=mode, device="cpu")
        data = _data(lm.decoder, folder, mode)
    for line in lm.notes:
        note(line)
    print_json(data) if as_json else print(_page(data))


def _source_and_out(paths: list[str], model: str | None) -> tuple[str | None, Path]:
    """MODEL OUT, or OUT alone with --model or the default model."""
    if len(paths) > 2 or (len(paths) == 2 and model is not None):
        found = f"{len(paths)} names" + (" and --model" if model is not None else "")
        raise BadArgument(found, "MODEL and OUT", "name the model once, and the folder to write once")
    return (paths[0] if len(paths) == 2 else model), Path(paths[-1])


def _data(decoder: "Decoder", folder: Path, mode: str) -> dict[str, Any]:
    from cutaway.show.codes import saving

    size = sum(file.stat().st_size for file in folder.iterdir())
    return {"folder": str(folder), "mode": mode, "bytes": size, "int8": saving(decoder)}


def _page(data: dict[str, Any]) -> str:
    from cutaway.model.architecture import size
    from cutaway.show.codes import saved, shared

    int8 = data["int8"]
    how = "" if data["mode"] == "int8" else f" --quantize {data['mode']}"
    return (
        f"{data['folder']}: {size(data['bytes'])}, {data['mode']}\n"
        f"{len(int8['layers'])} layers in 8 bits: {size(int8['bytes'])} where float32 takes "
        f"{size(int8['bytes_float32'])}: {saved(int8['bytes_saved'])}{shared(int8)}\n"
        f"open it with --model {data['folder']}{how}"
    )
