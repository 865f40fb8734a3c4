"""`cutaway quantize`: a model written in 8 bits as a folder that opens at once.

It prints what was written; it does not know how a weight becomes codes, nor what the folder holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from cutaway.apps.cli.common import MODES, Options, busy, note, verb
from cutaway.apps.cli.options import Unread
from cutaway.ground.errors import BadArgument

Paths = Annotated[
    list[str],
    typer.Argument(metavar="[MODEL] OUT", help="A model (the default one without it), and the folder to write."),
]
Mode = Annotated[
    str | None, typer.Option("--mode", "--quantize", metavar="HOW", help="int8, llm-int8 or llm-int8-pooled.")
]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="LAYER", help="Leave it in full precision, as lm_head; may be repeated."),
]


@dataclass(frozen=True)
class Written(Options):
    """What is written does not depend on device and dtype."""

    modes: ClassVar[Sequence[str]] = MODES
    quantize: Mode = "int8"
    dtype: Unread = None
    device: Unread = None


@verb
def quantize(options: Written, paths: Paths, keep: Keep = None) -> None:
    """Write a model in 8 bits as a folder that opens at once."""
    source, out = _source_and_out(paths, options.model)
    mode = options.quantize or "int8"
    with busy("starting") as report:
        from cutaway.lm import load
        from cutaway.show.quantized import finding
        from cutaway.weights.opening import quantize as write

        folder = write(
            source, out, mode=mode, keep=keep or (), offline=options.offline, progress=report, threads=options.threads
        )
        lm = load(folder, quantize=mode, device="cpu")
        found = finding(lm.decoder, lm.checkpoint, folder, mode)
    for line in lm.notes:
        note(line)
    options.print(found)


def _source_and_out(paths: list[str], model: str | None) -> tuple[str | None, Path]:
    """MODEL OUT, or OUT alone with --model or the default model."""
    if len(paths) > 2 or (len(paths) == 2 and model is not None):
        found = f"{len(paths)} names" + (" and --model" if model is not None else "")
        raise BadArgument(found, "MODEL and OUT", "name the model once, and the folder to write once")
    return (paths[0] if len(paths) == 2 else model), Path(paths[-1])
