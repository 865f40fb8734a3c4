"""Faces: how a finding looks in a notebook (HTML with pictures, a PNG beside it) and on paper (.plot, .save_figure).

It knows pictures() and str(); it does not know which finding it is, nor how a picture is drawn.
"""

from pathlib import Path
from typing import Any

from cutaway.ground.display import Displayed
from cutaway.show.pictures import Picture

DPI = 110  # of the PNG beside the HTML


class Faces(Displayed):
    """What a finding inherits."""

    def pictures(self) -> list[Picture]:
        """What it is drawn from; empty where text says all."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        from cutaway.show.html.finding import finding

        return finding(self.pictures(), str(self))

    def _repr_png_(self) -> bytes | None:
        """For what shows no HTML. None without matplotlib, or where there is no picture."""
        from cutaway.show import figures

        pictures = self.pictures() if figures.installed() else []
        return figures.rendered(pictures, "png", DPI) if pictures else None

    def plot(self, ax: Any = None) -> Any:
        """Its pictures through matplotlib, as wide as a paper's column or page: the Axes, a list of several pictures.

        ax: draw on these, one for each picture. Raises BadArgument without matplotlib (`pip install
        'cutaway[figures]'`), or where there is no picture.
        """
        from cutaway.show import figures

        return figures.plot(self.pictures(), ax)

    def save_figure(self, path: str | Path) -> None:
        """Write its pictures as .svg (text is text), .pdf or .png. Raises BadArgument for another, and as plot."""
        from cutaway.show import figures

        figures.write(self.pictures(), Path(path))
