"""What an SVG is made of: text, boxes, lines, and the frame around them.

It does not know what they stand for. Coordinates are pixels, from the upper left.
"""

from collections.abc import Iterable, Sequence
from html import escape

from cutaway.show.colours import RGB, hexed
from cutaway.text.table import columns_of

SIZE, LETTER, ROW = 11, 6.7, 17.0  # pixels: of the type, of one column of it, of a row
FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"


def wide(words: str) -> float:
    """Pixels that a text takes."""
    return columns_of(words) * LETTER


def drawing(title: str, width: float, height: float, marks: Iterable[str]) -> str:
    """One <svg> with its title above the marks, in the page's own colour; a narrower page scales it down."""
    width = max(width, wide(title) + 8)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{_safe(title)}" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" fill="currentColor" font-size="{SIZE}" '
        f'font-family="{FONT}" style="max-width:100%;height:auto;display:block;margin:0.4em 0">'
        f"{text(0, SIZE + 1, title, bold=True)}{''.join(marks)}</svg>"
    )


def text(
    x: float,
    y: float,
    words: str,
    anchor: str = "start",
    *,
    faint: bool = False,
    bold: bool = False,
    turned: bool = False,
) -> str:
    """A text from x on, around it ("middle") or up to it ("end"). turned: upwards by 60 degrees."""
    how = f' text-anchor="{anchor}"' if anchor != "start" else ""
    how += ' fill-opacity="0.7"' if faint else ""
    how += ' font-weight="bold"' if bold else ""
    how += f' transform="rotate(-60 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{how} xml:space="preserve">{_safe(words)}</text>'


def box(x: float, y: float, width: float, height: float, rgb: RGB, share: float, title: str = "") -> str:
    """A rectangle of which so large a share covers the page. title: what hovering tells."""
    at = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}"'
    start = f'<rect {at} fill="{hexed(rgb)}" fill-opacity="{share:.3g}"'
    return f"{start}><title>{_safe(title)}</title></rect>" if title else f"{start}/>"


def line(
    points: Sequence[tuple[float, float]], rgb: RGB | None = None, *, opacity: float = 1.0, dashes: str = ""
) -> str:
    """A line through the points, in the page's own colour if in no other."""
    stroke = "currentColor" if rgb is None else hexed(rgb)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    through = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    how = f'stroke="{stroke}" stroke-width="{1 if rgb is None else 1.6}" stroke-opacity="{opacity}"{dashed}'
    return f'<polyline points="{through}" fill="none" {how}/>'


def _safe(words: str) -> str:
    """Escaped, without the control characters that no SVG may hold."""
    return escape("".join(c if c >= " " or c in "\t\n" else "\ufffd" for c in words))
