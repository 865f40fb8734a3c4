"""`cutaway perplexity`: how well a model predicts a long text, in one number with its protocol.

It reads the file and prints the result; it does not know how a token is scored.
"""

from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, busy, decoded, read_texts, verb
from cutaway.ground.errors import BadArgument, BadText

WINDOW = 2048  # of the published figures
File = Annotated[
    str, typer.Argument(metavar="FILE", help='A text in UTF-8; "-" is standard input.', show_default=False)
]
Window = Annotated[
    int | None, typer.Option(help=f"Tokens of one pass; without it {WINDOW}, or the context if smaller.")
]
Stride = Annotated[
    int | None, typer.Option(help="Tokens from one window's start to the next's; the window without it.")
]
Limit = Annotated[int | None, typer.Option(help="Use only so many tokens of the file; all without it.")]


@verb
def perplexity(options: Options, file: File, window: Window = None, stride: Stride = None, limit: Limit = None) -> None:
    """Measure how surprised a model is by a text file.

    Windows follow one another; with --stride below --window they overlap, and only a window's last tokens
    are scored.
    """
    text = read_texts([file])[0] if file == "-" else _read(file)
    with busy("starting") as report:
        context = options.config(report).n_positions
        window = min(WINDOW, context) if window is None else window
        stride = window if stride is None else stride
        _check(window, stride, limit, context)  # raises before weights are read
        lm = options.load(report)
        found = lm.perplexity(text, window=window, stride=stride, limit=limit, progress=report)
    options.print(found)


def _read(file: str) -> str:
    text = decoded(Path(file).read_bytes(), file)
    if not text:
        raise BadText(f"an empty file, {file}", "a text", "name a file that holds one")
    return text


def _check(window: int, stride: int, limit: int | None, context: int) -> None:
    if not 2 <= window <= context:
        expected = f"2 to {context}, the model's context"
        raise BadArgument(f"--window {window}", expected, "choose a window in between")
    if not 1 <= stride <= window:
        raise BadArgument(f"--stride {stride}", f"1 to {window}, the window", "choose a stride in between")
    if limit is not None and limit < 2:
        raise BadArgument(f"--limit {limit}", "2 or above, as the first token is not scored", "choose a larger limit")
