"""`cutaway perplexity`: what a model makes of a long text, in one number and the protocol that gives it meaning.

It reads the file and prints the result; it does not know how a token is scored.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, Offline, Quantize
from cutaway.apps.cli.running import busy, facts_of, find, open_model, print_json, read_texts
from cutaway.ground.errors import BadArgument, BadText

if TYPE_CHECKING:
    from cutaway.analysis.perplexity import Perplexity
    from cutaway.lm import LM

WINDOW = 2048  # of the published figures
File = Annotated[
    str, typer.Argument(metavar="FILE", help='A text in UTF-8; "-" is standard input.', show_default=False)
]
Window = Annotated[
    int | None, typer.Option(help=f"Tokens that are read together; without it {WINDOW}, or the context if smaller.")
]
Stride = Annotated[
    int | None, typer.Option(help="Tokens from one window's start to the next's; the window without it.")
]
Limit = Annotated[int | None, typer.Option(help="Use only so many tokens of the file; all without it.")]


def perplexity(
    file: File,
    window: Window = None,
    stride: Stride = None,
    limit: Limit = None,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure how surprised a model is by a text file.

    Windows stand one after another; with --stride below --window they overlap, and only a window's last tokens
    are scored.
    """
    text = _read(file)
    with busy("starting") as report:
        context = facts_of(find(model, offline=offline, report=report)).n_positions
        window = min(WINDOW, context) if window is None else window
        stride = window if stride is None else stride
        _check(window, stride, limit, context)  # told before weights are read
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
        from cutaway.analysis import perplexity as analysis

        ids = lm.tokenizer.tokenize(text).ids[0][:limit].to(lm.device)
        found = analysis.perplexity(lm.decoder, ids, window=window, stride=stride, progress=report)
    data = _data(lm, found, quantize, bos=int(ids[0]) == lm.tokenizer.bos_id)
    print_json(data) if as_json else print(_page(data))


def _read(file: str) -> str:
    if file == "-":
        return read_texts([file])[0]
    try:
        text = Path(file).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        do = "convert it first, for example with iconv"
        raise BadText(f"{file} that is no UTF-8 (byte {error.start})", "text in UTF-8", do) from error
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


def _data(lm: "LM", found: "Perplexity", quantize: str, *, bos: bool) -> dict[str, Any]:
    dtype = str(lm.decoder.get_parameter("blocks.0.ln1.weight").dtype)
    precision = {"quantize": quantize, "dtype": dtype.removeprefix("torch.")}
    return {"model": lm.name} | precision | vars(found) | {"bos": bos}


def _page(data: dict[str, Any]) -> str:
    one_by_one = data["stride"] == data["window"]
    how = "one after another" if one_by_one else f"one every {data['stride']:,} tokens"
    unscored = "first token of each is not scored"
    if not one_by_one:
        unscored = f"first scores all but its first token, the others their last {data['stride']:,} at most"
    several = data["windows"] > 1
    windows = f"{data['windows']:,} window{'s' * several} of {min(data['window'], data['tokens']):,} tokens"
    windows += " at most" * several
    bos = "BOS before the text" if data["bos"] else "no BOS"
    lines = [
        f"{data['model']}: {'full precision' if data['quantize'] == 'none' else data['quantize']}, {data['dtype']}",
        f"perplexity {data['perplexity']:.4f}   mean negative log likelihood {data['nll']:.5f} nats a token",
        f"protocol: {windows}, {how}; the",
        f"  {unscored};",
        f"  {bos}; {data['scored']:,} of {data['tokens']:,} tokens scored",
    ]
    return "\n".join(lines)
