"""Tokens as HTML: each text as coloured pieces with their ids, padding apart, and a table of every number that opens.

It does not know a model.
"""

from collections.abc import Iterator

from cutaway.show.colours import SERIES
from cutaway.show.html.parts import aside, block, details, line, piece, safe, table
from cutaway.text.pieces import Piece, Tokens

TEXTS, MOST = 20, 400  # texts, and tokens of each, that are drawn


def tokens(batch: Tokens) -> str:
    """A text a line, and under each the table of its pieces, ids, mask, positions and bytes."""
    rows = range(min(len(batch.ids), TEXTS))
    more = [line(f"… and {len(batch.ids) - TEXTS} more texts", faint=True)] if len(batch.ids) > TEXTS else []
    return block(*(part for row in rows for part in _text(batch, row)), *more)


def _text(batch: Tokens, row: int) -> Iterator[str]:
    real, columns = int(batch.lengths[row]), batch.ids.shape[1]
    padding = f" + {columns - real} padding" if columns > real else ""
    yield line(f"text {row + 1} of {len(batch.ids)}: {real} token{'s' * (real != 1)}{padding}", faint=True)
    ids, mask, positions = (x[row, :MOST].tolist() for x in (batch.ids, batch.mask, batch.positions))
    pieces = [None] * len(ids) if batch.pieces is None else batch.pieces[row][:MOST]
    shown = [_chip(*each) for each in zip(range(len(ids)), ids, mask, positions, pieces, strict=True)]
    more = aside(f" … and {columns - MOST} more") if columns > MOST else ""
    yield line("".join(shown) + more)
    cells = [_row(*each) for each in zip(ids, mask, positions, pieces, strict=True)]
    yield details("ids, mask, positions, bytes", table(("piece", "id", "mask", "position", "bytes"), cells, (1, 2, 3)))


def _chip(column: int, id: int, mask: int, position: int, of: Piece | None) -> str:
    """A piece above its id; padding is faint."""
    told = f"id {id}, position {position}" if mask else f"id {id}, padding: masked, at no position"
    if of is not None and of.bytes:
        told += f", bytes {of.bytes.hex(' ')}" + (f", characters {of.span[0]} to {of.span[1]}" if of.span else "")
    shown = piece("" if of is None else of.visible, SERIES[column % 4], 0.25 if mask else 0.0, told)
    return f'<span class="chip{"" if mask else " faint"}">{shown} <small class="faint">{id}</small></span>'


def _row(id: int, mask: int, position: int, of: Piece | None) -> tuple[str, ...]:
    shown, data = ("", "") if of is None else (safe(of.visible), of.bytes.hex(" "))
    return shown, str(id), str(mask), str(position) if mask else "", data
