"""A sweep of activation patching as data, and drawn: darker the more of the answer a patch restores.

It does not know how a sweep is run.
"""

from collections.abc import Iterator

from cutaway.analysis.patching import Sweep
from cutaway.show.finding import Listing
from cutaway.show.layout import WIDTH
from cutaway.text.table import visible

SHADES = " ░▒▓█"
CELLS = WIDTH - 10  # columns beside a row's number


def finding(model: str, what: str, sweep: Sweep, pieces: list[str], measure: str) -> Listing:
    """what: which values were patched. pieces: the clean text's, one a token. measure: the metric in words."""
    ends = {"clean": sweep.clean, "corrupt": sweep.corrupt, "direction": sweep.direction, "axes": list(sweep.axes)}
    data = {"model": model, "what": what, **ends, "scores": sweep.scores.tolist()}
    title = f"{measure}: clean {sweep.clean:.3f}, corrupt {sweep.corrupt:.3f}"
    return Listing(data, "\n".join([title, *_map(sweep), *_strongest(sweep, pieces)]))


def _map(sweep: Sweep) -> Iterator[str]:
    """A row a block (or head), a cell a head (or position), darker the nearer to 1.

    Where a row is wider than the terminal, its first cells are drawn, and a note counts the rest.
    """
    count = sweep.scores.shape[1]
    wide = min(3, max(1, CELLS // count))
    drawn = min(count, CELLS // wide)
    hidden = f"  ({count - drawn} more on the right are not drawn; --json has them)" if drawn < count else ""
    yield f"{sweep.direction}: 0 is nothing of what lies between, 1 all of it"
    yield f"{sweep.axes[0]:>6} ↓  {sweep.axes[1]} →{hidden}"
    if wide == 3:
        yield f"{'':>6}  " + "".join(f"{j:>3}" for j in range(drawn))
    for i, row in enumerate(sweep.scores[:, :drawn].tolist()):
        yield (f"{i:>6}  " + "".join(_shade(score) * wide for score in row)).rstrip()
    yield "░ from 1/8, ▒ 3/8, ▓ 5/8, █ 7/8; - below -1/8, away from it. The strongest:"


def _strongest(sweep: Sweep, pieces: list[str]) -> Iterator[str]:
    scores, (down, across) = sweep.scores, sweep.axes
    for index in scores.abs().flatten().argsort(descending=True)[:8].tolist():
        i, j = divmod(index, scores.shape[1])
        at = f" ({visible(pieces[j].encode())})" if across == "position" else ""
        yield f"  {down} {i}, {across} {j}{at}: {float(scores[i, j]):+.3f}"


def _shade(score: float) -> str:
    quarters = round(4 * score)
    return "-" if quarters < 0 else SHADES[min(4, quarters)]
