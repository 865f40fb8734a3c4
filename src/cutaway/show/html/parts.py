"""What the HTML of a notebook is made of: escaped words, tables, parts that open, coloured pieces of text.

It does not know what they say. No colour is that of a page: text has the page's own, and colours let the page through.
"""

from collections.abc import Iterable, Sequence
from html import escape

from cutaway.show.colours import RGB
from cutaway.show.marks import FONT

FAINT = "opacity:0.7"
MONO = f"font-family:{FONT.replace(chr(39), '&#x27;')};font-size:12px;line-height:1.5"


def safe(words: object) -> str:
    """Escaped, for text and for attributes: a token may hold <script>."""
    return escape("".join(c if c >= " " or c in "\t\n" else "\ufffd" for c in str(words)))


def block(*parts: str) -> str:
    """The parts, in letters of one width."""
    return f'<div style="{MONO}">{"".join(parts)}</div>'


def line(html: str, faint: bool = False) -> str:
    return f'<div style="{FAINT}">{html}</div>' if faint else f"<div>{html}</div>"


def pre(text: str) -> str:
    """A text as a terminal shows it."""
    return f'<pre style="{MONO};margin:0;white-space:pre;overflow-x:auto">{safe(text)}</pre>'


def details(summary: str, body: str, opened: bool = False) -> str:
    """A part that opens at a click on its summary, in HTML."""
    start = f'<details{" open" if opened else ""} style="margin:2px 0"><summary style="cursor:pointer">'
    return f'{start}{summary}</summary><div style="margin-left:1.2em">{body}</div></details>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table of cells in HTML; the columns numbered in `right` are right-aligned."""

    def cells(row: Sequence[str], kind: str) -> str:
        style = "padding:1px 8px;border:none;text-align:{};white-space:pre"
        sides = ("right" if number in right else "left" for number in range(len(row)))
        return "".join(f'<{kind} style="{style.format(s)}">{c}</{kind}>' for s, c in zip(sides, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if head else ""
    style = f"{MONO};border-collapse:collapse;margin:2px 0"
    return f'<div style="overflow-x:auto"><table style="{style}">{top}<tbody>{body}</tbody></table></div>'


def piece(words: str, rgb: RGB, share: float, title: str = "") -> str:
    """A piece of text, as it stands, on a colour that covers so large a share of the page; hovering tells the title."""
    colour = "rgba({},{},{},{:.2f})".format(*rgb, share)
    tip = f' title="{safe(title)}"' if title else ""
    return f'<bdi{tip} style="background:{colour};border-radius:2px;white-space:pre-wrap">{safe(words)}</bdi>'
