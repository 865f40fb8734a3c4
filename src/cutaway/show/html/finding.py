"""A finding as HTML: its pictures, and under them the table that print shows, which opens.

It does not know which finding it is.
"""

from collections.abc import Sequence

from cutaway.show.html.parts import block, details, drawings, pre
from cutaway.show.pictures import Picture
from cutaway.show.svg import svg


def finding(pictures: Sequence[Picture], text: str) -> str:
    """The text alone where there is no picture."""
    if not pictures:
        return block(pre(text))
    return block(drawings(*map(svg, pictures)), details("as a table", pre(text)))
