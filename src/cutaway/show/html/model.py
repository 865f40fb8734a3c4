"""A model as HTML: its modules as a tree that opens, with shapes, parameters and bytes.

It reads sizes and dtypes only; it knows an LM by what it has, not by its class, which stands above.
"""

from collections.abc import Sequence
from typing import Any

from cutaway.model import architecture
from cutaway.model.architecture import Row, size
from cutaway.show.html.parts import aside, block, details, line, meter, safe

BAR = 120  # pixels of all bytes


def model(lm: Any) -> str:
    """The facts, the tree, and the notes."""
    rows = architecture.rows(lm.decoder)
    whole = sum(row.bytes * row.count for row in rows)
    facts = line(safe(architecture.facts(lm.config)), faint=True)
    notes = details("notes", "".join(line(safe(note)) for note in lm.notes)) if lm.notes else ""
    root = _title(lm.name, "", rows, whole)
    return block(details(root, facts + _tree([(row.name.split("."), row) for row in rows], whole), opened=True), notes)


def _tree(named: Sequence[tuple[list[str], Row]], whole: int) -> str:
    """Modules by the next part of their names, in their order."""
    parts, done = [], 0
    while done < len(named):
        head = named[done][0][0]
        group = [(names[1:], row) for names, row in named[done:] if names[0] == head]
        done += len(group)
        if len(group) == 1:
            (rest, row), *_ = group
            parts.append(_leaf(".".join([head, *rest]), row, whole))
            continue
        of = [row for _, row in group]
        if head == "blocks":
            group = [(names[1:], row) for names, row in group]
            head = f"blocks × {of[0].count}, all alike"
        parts.append(details(_title(head, "", of, whole), _tree(group, whole), opened=head.startswith("blocks")))
    return "".join(parts)


def _leaf(name: str, row: Row, whole: int) -> str:
    note = line(safe(row.note), faint=True) if row.note else ""
    return line(_title(name, f"{row.shape} {row.dtype}", [row], whole)) + note


def _title(name: str, shape: str, rows: Sequence[Row], whole: int) -> str:
    count, taken = (sum(getattr(row, what) * row.count for row in rows) for what in ("parameters", "bytes"))
    bar = meter(taken / max(whole, 1), BAR)
    return f"<b>{safe(name)}</b> {safe(shape)} {aside(f'{count:,} parameters, {size(taken)}')} {bar}"
