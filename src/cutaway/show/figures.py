"""Pictures on paper, through matplotlib: one style, the width of a column or of a page, text as text.

It knows a Picture; it does not know what was measured. The one module that imports matplotlib, when it first draws.
"""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from cutaway.ground.errors import BadArgument
from cutaway.ground.writing import whole_file
from cutaway.show.colours import ABOVE, BELOW, SERIES, hexed, limits, numbers
from cutaway.show.pictures import Bars, Heatmap, Lines, Picture
from cutaway.text.table import columns_of, cut, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 6.9  # inches: of a paper's column, and of its page
KINDS = (".svg", ".pdf", ".png")
STYLE: Any = {
    "font.size": 7, "axes.titlesize": 7, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.2,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "cutaway", "pdf.fonttype": 42, "savefig.dpi": 200,
}  # fmt: skip


def installed() -> bool:
    """Whether matplotlib is."""
    return find_spec("matplotlib") is not None


def figure(pictures: Sequence[Picture]) -> "Figure":
    """All pictures, one below the other. Raises BadArgument where matplotlib is not installed or nothing is drawn."""
    with _style():
        from matplotlib.figure import Figure

        sizes = [_size(picture) for picture in _some(pictures)]
        width = max(wide for wide, _ in sizes)
        drawn = Figure((width, sum(tall for _, tall in sizes)), layout="constrained")
        grid = drawn.add_gridspec(len(sizes), 1, height_ratios=[tall for _, tall in sizes])
        for row, picture in enumerate(pictures):
            draw(picture, drawn.add_subplot(grid[row, 0]))
    return drawn


def write(pictures: Sequence[Picture], path: Path) -> None:
    """The figure as .svg, .pdf or .png: under another name until it is whole. Raises BadArgument for another ending."""
    data = rendered(pictures, kind_of(path))
    with whole_file(path) as unfinished:
        unfinished.write_bytes(data)


def kind_of(path: Path) -> str:
    """svg, pdf or png. Raises BadArgument for any other ending, and where matplotlib is not installed."""
    if path.suffix.lower() not in KINDS:
        raise BadArgument(f"the figure {path}", "a name that ends in .svg, .pdf or .png", "name it so")
    require()
    return path.suffix.lower()[1:]


def rendered(pictures: Sequence[Picture], kind: str, dpi: int = 200) -> bytes:
    """The bytes of a figure; the same for the same pictures, since no date is written."""
    data, dated = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with _style():
        figure(pictures).savefig(data, format=kind, dpi=dpi, metadata=dated.get(kind))
    return data.getvalue()


def plot(pictures: Sequence[Picture], ax: Any = None) -> Any:
    """The pictures drawn on axes, new ones where none are given: one Axes, or a list where there are several.

    ax: an Axes for each picture. Raises BadArgument where their number differs or matplotlib is not installed.
    """
    require()
    from matplotlib import pyplot

    pyplot.draw_if_interactive()  # loads the backend: a notebook's turns "interactive" on, which _style would undo
    with _style():
        given = ax if isinstance(ax, list | tuple) else getattr(ax, "flat", [ax])
        axes = _new_axes(_some(pictures)) if ax is None else list(given)
        if len(axes) != len(pictures):
            titles = ", ".join(repr(picture.title) for picture in pictures)
            found = f"ax= with {len(axes)} for {len(pictures)} pictures: {titles}"
            raise BadArgument(found, "an Axes for each", "pass a list of them, or none")
        for picture, on in zip(pictures, axes, strict=True):
            draw(picture, on)
    return axes[0] if len(axes) == 1 else axes


def require() -> None:
    """Raises BadArgument where matplotlib is not installed."""
    if not installed():
        found, do = "no matplotlib in this Python", "install it with `pip install 'cutaway[figures]'`"
        raise BadArgument(found, "matplotlib, which draws figures", do)


def draw(picture: Picture, ax: "Axes") -> None:
    """One picture on axes."""
    ax.set_title(_plain(fill(picture.title, round(10 * _of(ax).get_figwidth()))))
    match picture:
        case Heatmap():
            _heatmap(picture, ax)
        case Lines():
            _lines(picture, ax)
        case Bars():
            _bars(picture, ax)


def _heatmap(picture: Heatmap, ax: "Axes") -> None:
    from matplotlib.colors import LinearSegmentedColormap

    rows, columns = picture.values.shape
    low, high = limits(picture.values.flatten().tolist(), picture.diverging)
    ends = [*([hexed(BELOW)] if low < 0 else []), "white", hexed(ABOVE)]
    values = picture.values.detach().cpu().float().numpy()
    colours = LinearSegmentedColormap.from_list("cutaway", ends)
    image = ax.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    _name(ax, "y", picture.rows, 60)
    _name(ax, "x", picture.columns, 40)
    ax.set(xlabel=picture.column_axis, ylabel=picture.row_axis)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    said = [] if picture.words is None or columns > 16 else picture.words
    if picture.words is None and columns <= 8 and rows <= 30:
        flat = numbers(values.flatten().tolist())
        said = [flat[i * columns : (i + 1) * columns] for i in range(rows)]
    for i, row in enumerate(said):
        for j, word in enumerate(row):
            ax.text(j, i, _plain(cut(visible(word), 12)), ha="center", va="center", fontsize=5 if columns > 8 else 6)
    _of(ax).colorbar(image, ax=ax, label=_plain(picture.unit), pad=0.01, fraction=0.05, aspect=30)


def _lines(picture: Lines, ax: "Axes") -> None:
    from itertools import cycle

    styles = cycle([(rgb, how) for how in ("-", "--", ":") for rgb in SERIES])
    for (name, series), (rgb, how) in zip(picture.series.items(), styles, strict=False):
        ax.plot(range(len(series)), series, how, color=hexed(rgb), label=_plain(name), marker=".", markersize=3)
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0) if _crosses_zero(picture) else None
    _name(ax, "x", picture.x, 30)
    ax.set(xlabel=picture.x_axis, ylabel=picture.unit)
    if len(picture.series) > 1:
        ax.legend(loc="best", fontsize=6)


def _of(ax: "Axes") -> "Figure":
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes are of a figure"
    return figure


def _crosses_zero(picture: Lines) -> bool:
    values = [value for series in picture.series.values() for value in series if math.isfinite(value)]
    return bool(values) and min(values) < 0 < max(values)


def _bars(picture: Bars, ax: "Axes") -> None:
    colours = [hexed(BELOW if value < 0 else ABOVE) for value in picture.values]
    ax.barh(range(len(picture.labels)), picture.values, color=colours, xerr=picture.spread, height=0.7,
            error_kw={"linewidth": 0.8, "capsize": 2})  # fmt: skip
    ax.axvline(0, color="0.3", linewidth=0.6)
    _name(ax, "y", picture.labels, 60)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel=picture.unit)


def _name(ax: "Axes", axis: str, names: Sequence[str], most: int) -> None:
    """The words on an axis, as many as there is room for."""
    at = range(0, len(names), -(-len(names) // most))
    words = [_plain(cut(names[i], 24)) for i in at]
    turned = axis == "x" and sum(map(columns_of, words)) > 40
    kwargs = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    (ax.set_xticks if axis == "x" else ax.set_yticks)(list(at), words, **kwargs)


def _size(picture: Picture) -> tuple[float, float]:
    """Inches, of a column or of a page, and as tall as the picture needs."""
    match picture:
        case Heatmap():
            rows, columns = picture.values.shape
            words = max((columns_of(word) for row in picture.words or [] for word in row), default=4)
            narrow = columns * min(words, 12) <= 36 or (picture.words is None and columns <= 16)
            heads = max(map(columns_of, picture.columns)) * 0.05
            return (COLUMN if narrow else PAGE), min(9.0, 0.9 + min(heads, 1.2) + rows * 0.12)
        case Lines():
            return (COLUMN if len(picture.x) <= 40 else PAGE), 2.2
        case Bars():
            return COLUMN, 0.7 + 0.13 * len(picture.labels)


def _new_axes(pictures: Sequence[Picture]) -> list[Any]:
    from matplotlib import pyplot

    sizes = [_size(picture) for picture in pictures]
    size = max(wide for wide, _ in sizes), sum(tall for _, tall in sizes)
    ratios = {"height_ratios": [tall for _, tall in sizes]}
    _, axes = pyplot.subplots(len(sizes), figsize=size, layout="constrained", squeeze=False, gridspec_kw=ratios)
    return list(axes.flat)


def _some(pictures: Sequence[Picture]) -> Sequence[Picture]:
    if not pictures:
        raise BadArgument("a result that is all text", "one with a picture", "print it instead")
    return pictures


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib, with the style of all figures. A letter that its font lacks is no warning: an SVG's reader has it."""
    require()
    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _plain(words: str) -> str:
    """Words in which matplotlib sees no formula."""
    return words.replace("$", r"\$")
