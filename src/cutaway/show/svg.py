"""Pictures as inline SVG: no script, text as text in the page's own colour, and colours that let the page through.

It knows a Picture; it does not know what was measured. Hovering over a cell, a bar or a point tells its number.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from cutaway.show.bitmap import bitmap
from cutaway.show.colours import ABOVE, BELOW, SERIES, limits, number, numbers, tint
from cutaway.show.marks import ROW, box, drawing, line, text, wide
from cutaway.show.pictures import Bars, Heatmap, Lines, Picture
from cutaway.text.table import cut, visible

WIDTH = 860  # pixels of a picture's widest plot; a narrower page scales it down
CELLS = 2000  # cells that are drawn one by one; a larger heatmap is one bitmap
NAME = 26  # columns of a label


def svg(picture: Picture) -> str:
    """The picture as one <svg> element."""
    match picture:
        case Heatmap():
            return _heatmap(picture)
        case Lines():
            return _lines(picture)
        case Bars():
            return _bars(picture)


def _heatmap(picture: Heatmap) -> str:
    rows, columns = picture.values.shape
    low, high = limits(picture.values.flatten().tolist(), picture.diverging)
    said, names = _said(picture), [cut(name, NAME) for name in picture.rows]
    left = max(map(wide, [*names, f"{picture.row_axis} ↓"])) + 10
    cell_x = max(wide(word) for row in said for word in row) + 10 if said else min(16.0, (WIDTH - left) / columns)
    cell_y = ROW if rows <= 80 else 1200 / rows
    heads, deep = _heads(picture.columns, cell_x)
    top = 2.2 * ROW + deep
    marks = [text(left - 10, top - 5, f"{picture.row_axis} ↓", "end", faint=True)]
    marks += [text(left, ROW * 1.7, f"{picture.column_axis} →", faint=True)]
    marks += [text(left - 10, top + (i + 0.7) * cell_y, names[i], "end") for i in _some(rows, cell_y)]
    marks += [text(left + x, top - 5, name, turned=turned) for x, name, turned in heads]
    if rows * columns > CELLS:
        marks += [bitmap(picture.values, high, left, top, columns * cell_x, rows * cell_y)]
    else:
        marks += _cells(picture, said, high, (left, top, cell_x, cell_y))
    below = top + rows * cell_y + 12
    marks += _legend(low, high, picture.unit, left, below)
    ends = [left + columns * cell_x, left + 260, *(left + x + (wide(n) * 0.6 if t else 0) for x, n, t in heads)]
    return drawing(picture.title, max(ends) + 4, below + ROW, marks)


def _said(picture: Heatmap) -> list[list[str]]:
    """What the cells say: their words, or their numbers where there is room for them; else nothing."""
    rows, columns = picture.values.shape
    if picture.words is not None:
        return [[cut(visible(word), 16) for word in row] for row in picture.words]
    if columns > 14 or rows > 40:
        return []
    flat = numbers(picture.values.flatten().tolist())
    return [flat[i * columns : (i + 1) * columns] for i in range(rows)]


def _cells(
    picture: Heatmap, said: Sequence[Sequence[str]], largest: float, frame: tuple[float, float, float, float]
) -> Iterator[str]:
    left, top, cell_x, cell_y = frame
    for i, row in enumerate(picture.values.tolist()):
        for j, value in enumerate(row):
            x, y = left + j * cell_x, top + i * cell_y
            at = f"{picture.row_axis} {picture.rows[i]}, {picture.column_axis} {picture.columns[j]}"
            word = f"{visible(picture.words[i][j])}, " if picture.words else ""
            value_in_words = "no value" if math.isnan(value) else f"{number(value)} {picture.unit}"
            rgb, share = tint(value, largest)
            yield box(x, y, cell_x - 1, cell_y - 1, rgb, share, f"{at}: {word}{value_in_words}")
            if said:
                yield text(x + (cell_x - 1) / 2, y + cell_y * 0.7, said[i][j], "middle")


def _heads(names: Sequence[str], cell: float) -> tuple[list[tuple[float, str, bool]], float]:
    """(x, label, turned) of each column that has room for its label, and the height of the labels."""
    names = [cut(name, NAME) for name in names]
    turned = max(map(wide, names)) > cell
    shown = [(j * cell + (cell * 0.6 if turned else 0), names[j], turned) for j in _some(len(names), cell)]
    return shown, max(map(wide, names)) * 0.85 if turned else ROW * 0.8


def _some(count: int, cell: float) -> range:
    """Which of so many rows or columns have room for a label of one line."""
    return range(0, count, max(1, math.ceil(12 / cell)))


def _legend(low: float, high: float, unit: str, left: float, top: float) -> Iterator[str]:
    """The scale in 40 steps, its ends, and its unit."""
    start, step = round(left + wide(number(low)) + 6), 3  # whole pixels, or the steps would show
    yield text(left, top + 10, number(low), faint=True)
    for i in range(40):
        rgb, share = tint(low + (high - low) * (i + 0.5) / 40, high)
        yield box(start + i * step, top, step, 12, rgb, share)
    yield text(start + 126, top + 10, f"{number(high)}  {unit}", faint=True)


def _lines(picture: Lines) -> str:
    low, high = _ends([value for series in picture.series.values() for value in series])
    ticks, labels = _ticks(low, high), [cut(name, NAME) for name in picture.x]
    across = min(WIDTH, max(360, 26 * len(picture.x)))
    step = across / max(1, len(picture.x) - 1)
    turned = max(map(wide, labels)) > step
    left = max([wide(number(tick)) for tick in ticks] + [wide(labels[0]) * 0.5 - 10] * turned) + 12
    top, tall = ROW * (2 + len(picture.series)), 220

    def at(i: int, value: float) -> tuple[float, float]:
        return left + step * i, top + tall * (1 - (value - low) / (high - low))

    marks = []
    for tick in ticks:
        y = at(0, tick)[1]
        marks += [line([(left, y), (left + across, y)], opacity=0.5 if tick == 0 else 0.15)]
        marks += [text(left - 8, y + 4, number(tick), "end")]
    for i in _some(len(labels), step):
        marks += [text(at(i, 0)[0], top + tall + 16, labels[i], "end" if turned else "middle", turned=turned)]
    for order, (name, series) in enumerate(picture.series.items()):
        rgb, y = SERIES[order % len(SERIES)], ROW * (order + 1.5)
        marks += [box(left, y, 14, 4, rgb, 1.0), text(left + 20, y + 6, name)]
        dashes = "" if order < len(SERIES) else "4 3"
        marks += [line([at(i, series[i]) for i in run], rgb, dashes=dashes) for run in _runs(series)]
        for i in (i for run in _runs(series) for i in run):
            (x, y), told = at(i, series[i]), f"{picture.x_axis} {picture.x[i]}: {number(series[i])} {picture.unit}"
            marks += [box(x - 2, y - 2, 4, 4, rgb, 1.0, f"{name}, {told}")]
    below = top + tall + ROW * 2 + (max(map(wide, labels)) * 0.85 if turned else 8)
    marks += [text(left, below, f"{picture.x_axis} →   {picture.unit} ↑", faint=True)]
    return drawing(picture.title, left + across + 12, below + 8, marks)


def _runs(series: Sequence[float]) -> list[range]:
    """The stretches of a series without a gap."""
    holes = [-1, *(i for i, value in enumerate(series) if not math.isfinite(value)), len(series)]
    return [range(a + 1, b) for a, b in pairwise(holes) if b - a > 1]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    low = 0.0 if 0 < low < 0.5 * high else low
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers between the ends."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step *= next(times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= 5)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _bars(picture: Bars) -> str:
    names = [cut(name, 40) for name in picture.labels]
    spread = picture.spread or [0.0] * len(names)
    reach = [end for v, s in zip(picture.values, spread, strict=True) for end in (v - s, v + s) if math.isfinite(end)]
    low, high = min([0.0, *reach]), max([0.0, *reach])
    low, high = (low, high) if high > low else (0.0, 1.0)
    left, across = max(map(wide, names)) + 10, 360
    per = across / (high - low)
    zero, said = left - low * per, numbers([*picture.values, *spread])
    marks = [line([(zero, ROW * 1.4), (zero, ROW * (1.6 + len(names)))], opacity=0.5)]
    for i, (name, value) in enumerate(zip(names, picture.values, strict=True)):
        y = ROW * (i + 1.6)
        shown = said[i] + (f" ± {said[len(names) + i]}" if picture.spread else "")
        marks += [text(left - 10, y + 12, name, "end"), text(left + across + 8, y + 12, shown)]
        if not math.isfinite(value):
            continue
        long = abs(value) * per
        rgb = ABOVE if value >= 0 else BELOW
        marks += [
            box(
                zero - (long if value < 0 else 0),
                y + 2,
                long,
                12,
                rgb,
                1.0,
                f"{picture.labels[i]}: {shown} {picture.unit}",
            )
        ]
        if picture.spread:
            ends = [zero + (value + sign * spread[i]) * per for sign in (-1, 1)]
            marks += [line([(x, y + 8) for x in ends]), *(line([(x, y + 5), (x, y + 11)]) for x in ends)]
    below = ROW * (len(names) + 2.6)
    marks += [text(left, below, picture.unit, faint=True)]
    return drawing(picture.title, left + across + 130, below + 8, marks)
