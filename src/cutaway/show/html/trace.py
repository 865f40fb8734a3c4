"""A trace and its plan as HTML: the sites by kind, each with a small picture and its size.

It knows values and where they belong; it does not know how they were computed.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.ground.sites import all_sites
from cutaway.model.architecture import size
from cutaway.show.bitmap import thumbnail
from cutaway.show.colours import BELOW, limits, number
from cutaway.show.html.parts import aside, block, details, drawings, line, piece, pre, safe, table
from cutaway.show.marks import line as stroke
from cutaway.show.pictures import Bars
from cutaway.show.svg import svg
from cutaway.trace.plan import Plan
from cutaway.trace.trace import Trace

MOST = 2e9  # bytes of a trace whose values are read to be drawn at sight
PIECES = 60
PICTURE = (96, 40)  # pixels


def trace(values: Trace) -> str:
    """A row for each kind of site; of all blocks together."""
    kinds: dict[str, list[str]] = {}
    for name in values:
        kinds.setdefault(re.sub(r"^blocks\.\d+\.", "blocks.*.", name), []).append(name)
    drawn = values.nbytes <= MOST
    rows = [_kind(values, kind, names, drawn) for kind, names in kinds.items()]
    head = ("site", "each", "values", "bytes", "size by block", "")
    pictures = (
        "size: the root of the mean square; picture: text 1, block × position (attention: its mean, query × key), "
        "warmer for larger, on a scale of logarithms"
    )
    said = f"{len(values)} site{'s' * (len(values) != 1)}, {size(values.nbytes)}; attention: {values.attention}"
    title = f"<b>{safe(values.model or 'a trace')}</b>  {safe(said)}"
    notes = line(pictures if drawn else f"more than {size(MOST)}: not drawn; print it for its values", faint=True)
    sites = details("all sites", pre("\n".join(f"{n}  {list(v.shape)}" for n, v in values.items())))
    return block(line(title), line(_pieces(values)), table(head, rows, (2, 3)), notes, sites)


def plan(cost: Plan) -> str:
    """Bytes by kind of site, and the table that print shows."""
    kinds = list(cost.kinds.items())[:30]
    unit, scale = ("MB", 1e6) if cost.bytes > 1e7 else ("kB", 1e3)
    names, amounts = [kind for kind, _ in kinds], [of / scale for _, of in kinds]
    picture = Bars(f"a trace of {size(cost.bytes)}", names, amounts, unit)
    return block(drawings(svg(picture)), details("as a table", pre(str(cost))))


def _pieces(values: Trace) -> str:
    if values.tokens.pieces is None:
        return line(f"{list(values.tokens.ids.shape)} ids", faint=True)
    first = values.tokens.pieces[0]
    more = f"… {len(first) - PIECES} more" if len(first) > PIECES else ""
    texts = f"  and {len(values.tokens.ids) - 1} more texts" if len(values.tokens.ids) > 1 else ""
    shown = "".join(piece(of.visible, BELOW, 0.12 + 0.12 * (i % 2)) for i, of in enumerate(first[:PIECES]))
    return shown + aside(more + texts)


def _kind(values: Trace, kind: str, names: Sequence[str], drawn: bool) -> tuple[str, ...]:
    first, axes = values[names[0]], all_sites(values.config)[names[0]].shape.split()
    label = kind if len(names) > 1 else names[0]
    shape = f"{' '.join(axes)} = {list(first.shape)}"
    cost = size(sum(values[name].nbytes for name in names))
    if not drawn:
        return safe(label), safe(shape), str(len(names)), cost, "", ""
    sizes = [_size(values[name]) for name in names]
    return safe(label), safe(shape), str(len(names)), cost, _spark(sizes), _picture(values, names, axes)


def _size(value: Tensor) -> float:
    """Root mean square of the finite values: masked scores are -inf by design."""
    finite = value.isfinite()
    squares = value.detach().float().square().where(finite, 0.0)
    return float((squares.sum() / finite.sum().clamp(min=1)).sqrt())


def _spark(sizes: Sequence[float]) -> str:
    """The sizes from the first block to the last, or the one."""
    if len(sizes) == 1:
        return number(sizes[0])
    top, (wide, tall) = max(sizes) or 1.0, (80, 20)
    points = [(2 + i * wide / (len(sizes) - 1), 2 + tall * (1 - s / top)) for i, s in enumerate(sizes)]
    told = f"{number(sizes[0])} → {number(sizes[-1])}, at most {number(top)}"
    start = f'<svg role="img" aria-label="{told}" width="{wide + 4}" height="{tall + 4}" style="vertical-align:middle">'
    return f'<span title="{told}">{start}{stroke(points, BELOW)}</svg> ≤ {number(top)}</span>'


def _picture(values: Trace, names: Sequence[str], axes: Sequence[str]) -> str:
    if axes[-1] == "S":
        mean_TS = torch.stack([values[name][0].detach().float().cpu() for name in names]).mean((0, 1))
        shown, told = mean_TS.masked_fill(mean_TS.isinf(), float("nan")), "query × key"
    else:
        flat = [values[name][0].detach().float().cpu().flatten(1) for name in names]
        shown, told = torch.stack([of.square().mean(1).sqrt() for of in flat]), "block × position"
    finite = shown[shown.isfinite() & (shown != 0)].abs()
    scale = finite.median() if finite.numel() else 1.0  # a few values are thousands of times the others
    logarithm = (shown.abs() / scale).log1p().copysign(shown)
    most = number(limits(shown.flatten().tolist(), False)[1])
    return thumbnail(logarithm, limits(logarithm.flatten().tolist(), False)[1], *PICTURE, f"{told}, at most {most}")
