"""How an object looks in a notebook: its text, and HTML that a floor above has registered to draw.

It does not know how anything is drawn: the floors that hold the data cannot know the one that draws it.
"""

from collections.abc import Callable
from typing import Any

LINES = 60  # of a text that a notebook shows beside the HTML; of a longer one, the repr
_drawn_by: list[Callable[[Any], str]] = []


def draw_with(html: Callable[[Any], str]) -> None:
    """Register what draws every Displayed: cutaway/__init__.py does, which is always imported first."""
    _drawn_by[:] = [html]


class Displayed:
    """What has a face in a notebook."""

    def _repr_html_(self) -> str | None:
        return _drawn_by[0](self) if _drawn_by else None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython's text: what print shows, where it is short; inside a list or a dict, the repr."""
        inside = cycle or len(getattr(printer, "stack", ())) > 1
        text = repr(self) if inside else str(self)
        printer.text(repr(self) if text.count("\n") > LINES else text)
