"""Rows of words as columns of text, the way the verbs print their tables.

It does not know what the words mean, and prints nothing.
"""

from collections.abc import Sequence

WIDTH = 80  # of the terminal that the verbs print for


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """One line a row, two spaces between columns; the columns numbered in `right` stand at their right border."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
