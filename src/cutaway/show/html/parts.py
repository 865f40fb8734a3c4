"""What the HTML of a notebook is made of: escaped words, tables, parts that open, coloured pieces of text.

It does not know what they say. No colour is that of a page: text has the page's own, and colours let the page through.
"""

from collections.abc import Iterable, Sequence
from html import escape

from cutaway.show.colours import BELOW, RGB, hexed
from cutaway.show.marks import FONT

STYLE = (
    f".cutaway{{font:12px/1.5 {FONT}}} .cutaway pre{{font:inherit;color:inherit;margin:0;overflow-x:auto}} "
    ".cutaway .faint{opacity:.7} .cutaway .text{font-size:14px;white-space:pre-wrap;margin:4px 0} "
    ".cutaway details>:not(summary){margin-left:1.2em} .cutaway summary{cursor:pointer} "
    ".cutaway bdi{border-radius:2px;white-space:pre-wrap} .cutaway .wide{overflow-x:auto} "
    ".cutaway .bare{display:none} .cutaway small{display:block} "
    ".cutaway .drawings{display:flex;flex-wrap:wrap;gap:0 20px;align-items:flex-start} "
    ".cutaway table{font:inherit;border-collapse:collapse;table-layout:auto;margin:2px 0} "
    ".cutaway td,.cutaway th{padding:1px 8px;border:none;text-align:left!important;white-space:pre} "
    ".cutaway .right{text-align:right!important} .cutaway i{display:inline-block;height:8px} "
    ".cutaway .chip{display:inline-block;text-align:center;margin:1px;line-height:1.3}"
)
UNTRUSTED = '<div class="bare">run the cell, or trust this notebook, to see its pictures</div>'


def safe(words: object) -> str:
    """Escaped, for text and for attributes: a token may hold <script>."""
    return escape("".join(c if c >= " " or c in "\t\n" else "\ufffd" for c in str(words)))


def block(*parts: str) -> str:
    """All that a notebook shows of an object: the parts, with their style. A page without the style is readable too."""
    return f'<div class="cutaway"><style>{STYLE}</style>{"".join(parts)}</div>'


def line(html: str, faint: bool = False) -> str:
    return f'<div class="faint">{html}</div>' if faint else f"<div>{html}</div>"


def aside(words: str) -> str:
    """Words that are less than the others."""
    return f'<span class="faint">{safe(words)}</span>'


def pre(text: str) -> str:
    """A text as a terminal shows it."""
    return f"<pre>{safe(text)}</pre>"


def drawings(*parts: str) -> str:
    """As many of the <svg>s in a row as the page has room for.

    JupyterLab takes the styles and the drawings out of a notebook that it does not trust, and leaves the drawings'
    words: there, where no style shows them, they are hidden, and a sentence stands for them.
    """
    return f'{UNTRUSTED}<div class="drawings" hidden="hidden">{"".join(parts)}</div>'


def details(summary: str, body: str, opened: bool = False) -> str:
    """A part that opens at a click on its summary."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary><div>{body}</div></details>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table of cells in HTML; the columns numbered in `right` are right-aligned."""

    def cells(row: Sequence[str], kind: str) -> str:
        sides = (' class="right"' if number in right else "" for number in range(len(row)))
        return "".join(f"<{kind}{side}>{cell}</{kind}>" for side, cell in zip(sides, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if any(head) else ""
    return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'


def meter(share: float, pixels: int) -> str:
    """A bar, all of so many pixels for 1."""
    return f'<i style="width:{share * pixels:.0f}px;background:{hexed(BELOW)}"></i>'


def piece(words: str, rgb: RGB, share: float, title: str = "") -> str:
    """A piece of text, as it stands, on a colour that covers so large a share of the page; hovering tells the title."""
    colour = ' style="background:rgba({},{},{},{:.2f})"'.format(*rgb, share) if share else ""
    tip = f' title="{safe(title)}"' if title else ""
    return f"<bdi{tip}{colour}>{safe(words)}</bdi>"
