"""A table of short cells drawn in plain characters, wrapped to a width; and bytes made visible.

It does not know what the cells mean.
"""

import codecs
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from cutaway.ground.errors import BadArgument

SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
HIDDEN = {"Cc", "Cf", "Cn", "Co", "Zs", "Zl", "Zp"}  # categories with no shape of their own, or none to trust
NARROWEST = 24


def visible(text: str | bytes) -> str:
    """Text on one line, its invisible characters shown: ␣ ↵ ⇥ ␍, and ⟨U+200B⟩ for any other; of bytes as below."""
    return "".join(map(_sign, text if isinstance(text, str) else characters(text)))


def characters(data: bytes) -> str:
    """The text of bytes, and ⟨F0·9F⟩ for those that are no character."""
    return data.decode("utf-8", "cutaway.hex")


def columns_of(text: str) -> int:
    """Columns that a terminal gives to a text: 2 for a wide East Asian character or emoji, 0 for a combining one."""
    return sum(_columns(character) for character in text)


def draw(title: str, rows: Mapping[str, Sequence[str]], width: int) -> str:
    """The title, then one line for each row, in aligned columns; columns that do not fit are wrapped below.

    Raises BadArgument for a width under 24, where no cell would fit beside its row's name.
    """
    if width < NARROWEST:
        raise BadArgument(f"a table {width} columns wide", f"at least {NARROWEST}", "make the width larger")
    label_width = max(columns_of(name) for name in rows)
    free = width - label_width
    cells = [[cut(cell, free - 3) for cell in column] for column in zip(*rows.values(), strict=True)]
    bands = ["\n".join(_band(list(rows), band, label_width)) for band in _bands(cells, free)]
    return "\n\n".join([cut(title, width) + "\n" + bands[0], *bands[1:]])


def _band(names: list[str], columns: list[list[str]], label_width: int) -> Iterator[str]:
    widths = [max(columns_of(cell) for cell in column) for column in columns]
    for row, name in enumerate(names):
        cells = (fit(column[row], width) for column, width in zip(columns, widths, strict=True))
        yield (fit(name, label_width) + "".join(f" │ {cell}" for cell in cells)).rstrip()


def _bands(columns: list[list[str]], free: int) -> Iterator[list[list[str]]]:
    """Columns in runs that fit in `free` characters, each column with the three characters before it."""
    band: list[list[str]] = []
    used = 0
    for column in columns:
        need = 3 + max(columns_of(cell) for cell in column)
        if band and used + need > free:
            yield band
            band, used = [], 0
        band.append(column)
        used += need
    yield band


def cut(text: str, width: int) -> str:
    """The text in at most so many columns, with an ellipsis where it was longer."""
    if columns_of(text) <= width:
        return text
    start, used = "", 1
    for character in text:
        used += _columns(character)
        if used > width:
            break
        start += character
    return start + "…"


def fit(text: str, width: int) -> str:
    """The text in exactly `width` columns: cut with an ellipsis, or filled with spaces. Wide characters take two."""
    text = cut(text, width)
    return text + " " * (width - columns_of(text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _sign(character: str) -> str:
    if character in SIGNS:
        return SIGNS[character]
    hidden = unicodedata.category(character) in HIDDEN
    return f"⟨U+{ord(character):04X}⟩" if hidden else character


def _as_hex(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)  # only ever called from bytes.decode, see `characters`
    return f"⟨{'·'.join(f'{byte:02X}' for byte in error.object[error.start : error.end])}⟩", error.end


codecs.register_error("cutaway.hex", _as_hex)
