"""`cutaway patch`: values of one text put into the pass over another, and what that does to the answer.

It shows the sweep; it does not know how one is run.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, NoSpecial, Offline, Quantize
from cutaway.apps.cli.running import busy, cut, open_model, print_json, read_texts, token_of
from cutaway.ground.errors import BadText

if TYPE_CHECKING:
    from cutaway.analysis.patching import Sweep

Clean = Annotated[str, typer.Argument(help="The text that has the answer.", show_default=False)]
Corrupt = Annotated[str, typer.Argument(help="One of as many tokens that has not.", show_default=False)]
Answer = Annotated[str, typer.Option(metavar="TEXT", help="The token that answers the clean text.", show_default=False)]
Wrong = Annotated[str | None, typer.Option(metavar="TEXT", help="The token that answers the corrupt one.")]
What = Annotated[str, typer.Option(help="heads, resid, attn, mlp, patterns, or head-positions (with --block).")]
Block = Annotated[int | None, typer.Option(help="The block of head-positions.")]
Direction = Annotated[str, typer.Option(help="denoise: clean values into the corrupt text; noise: the other way.")]
SHADES = " ░▒▓█"


def patch(
    clean: Clean,
    corrupt: Corrupt,
    answer: Answer,
    wrong: Wrong = None,
    what: What = "heads",
    block: Block = None,
    direction: Direction = "denoise",
    no_special_tokens: NoSpecial = False,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Which values carry the answer: activation patching, every place in turn. 1 is the whole answer, 0 none of it."""
    pair = read_texts([clean, corrupt])
    with busy("starting") as report:
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
        from cutaway.analysis.patching import logit_difference, logit_of, sweep

        right = token_of(lm, answer, "--answer")
        metric = logit_of(right) if wrong is None else logit_difference(right, token_of(lm, wrong, "--wrong"))
        tokens = [cut(lm, [text], no_special_tokens) for text in pair]
        counts = [each.ids.shape[1] for each in tokens]
        if counts[0] != counts[1]:
            found = f"texts of {counts[0]} and {counts[1]} tokens"
            raise BadText(found, "two texts of as many tokens", "change a word so that both are as long")
        found = sweep(lm.decoder, *tokens, metric, what, direction=direction, block=block)  # pyright: ignore
    if as_json:
        data = {"clean": found.clean, "corrupt": found.corrupt, "direction": direction, "axes": list(found.axes)}
        print_json({"model": lm.name, "what": what, **data, "scores": found.scores.tolist()})
    else:
        measure = "logit of the answer" if wrong is None else "answer's logit minus the wrong one's"
        print(_drawn(found, [lm.token_text(i) for i in tokens[0].ids[0].tolist()], measure))


def _shade(score: float) -> str:
    quarters = round(4 * score)
    return "-" if quarters < 0 else SHADES[min(4, quarters)]


def _more(hidden: int) -> str:
    return f"  ({hidden} more on the right are not drawn; --json has them)" if hidden else ""


def _drawn(found: "Sweep", pieces: list[str], measure: str) -> str:
    """A row a block (or head), a cell a head (or position), darker the nearer to 1; then the strongest, in numbers.

    Where a row is wider than the terminal, its first cells are drawn and the rest are said to be left out.
    """
    from cutaway.text.table import visible

    scores = found.scores
    wide = min(3, max(1, 70 // scores.shape[1]))
    lines = [
        f"{measure}: clean {found.clean:.3f}, corrupt {found.corrupt:.3f}",
        f"{found.direction}: 0 is nothing of what lies between, 1 all of it",
    ]
    drawn = min(scores.shape[1], 70 // wide)
    lines.append(f"{found.axes[0]:>6} ↓  {found.axes[1]} →" + _more(scores.shape[1] - drawn))
    if wide == 3:
        lines.append(f"{'':>6}  " + "".join(f"{j:>3}" for j in range(drawn)))
    for i, row in enumerate(scores[:, :drawn].tolist()):
        lines.append((f"{i:>6}  " + "".join(_shade(score) * wide for score in row)).rstrip())
    lines.append("░ from 1/8, ▒ 3/8, ▓ 5/8, █ 7/8; - below -1/8, away from it. The strongest:")
    order = scores.abs().flatten().argsort(descending=True)[:8].tolist()
    for place in order:
        i, j = divmod(place, scores.shape[1])
        at = f" ({visible(pieces[j].encode())})" if found.axes[1] == "position" else ""
        lines.append(f"  {found.axes[0]} {i}, {found.axes[1]} {j}{at}: {float(scores[i, j]):+.3f}")
    return "\n".join(lines)
