"""How an object looks in a notebook: its text, and HTML that a floor above has registered to draw.

It does not know how anything is drawn: the floors that hold the data cannot know the one that draws it.
"""

from collections.abc import Callable, Sized
from dataclasses import fields
from typing import Any

WIDEST, LONGEST = 60, 600  # characters of one field in a repr, and of all
LINES = 60  # of a text that a notebook shows beside the HTML; of a longer one, the repr
_drawn_by: list[Callable[[Any], str]] = []


def draw_with(html: Callable[[Any], str]) -> None:
    """Register what draws every Displayed: cutaway/__init__.py does, which is always imported first."""
    _drawn_by[:] = [html]


def brief(self: Any) -> str:
    """A repr of a dataclass in one line: tensors by shape and dtype, long fields by their length, None not at all."""
    given = ((field.name, getattr(self, field.name)) for field in fields(self))
    said = ", ".join(f"{name}={_short(value)}" for name, value in given if value is not None)
    whole = f"{type(self).__name__}({said})"
    return whole if len(whole) <= LONGEST else whole[: LONGEST - 2] + "…)"


def _short(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    whole = repr(value) if not callable(value) else getattr(value, "__qualname__", type(value).__name__)
    if len(whole) <= WIDEST:
        return whole
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, Sized) else whole[: WIDEST - 1] + "…"


class Displayed:
    """What has a face in a notebook."""

    def _repr_html_(self) -> str | None:
        return _drawn_by[0](self) if _drawn_by else None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """The text that stands beside the HTML: what print shows, where it is short."""
        text = str(self)
        return {"text/plain": repr(self) if text.count("\n") > LINES else text}
