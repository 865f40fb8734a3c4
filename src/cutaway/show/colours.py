"""The colours of every picture, in a notebook and on paper: warm is more, blue is below zero.

It does not know what is drawn. Both hues have a contrast of 4.5 to black and to white, so that text in the page's own
colour can be read on them in a light notebook and in a dark one.
"""

import math
from collections.abc import Iterable

RGB = tuple[int, int, int]
ABOVE: RGB = (200, 85, 0)  # Okabe and Ito's vermilion and blue, at a luminance of 0.18
BELOW: RGB = (10, 122, 191)
SERIES: tuple[RGB, ...] = (BELOW, ABOVE, (27, 138, 90), (176, 86, 155), (133, 116, 0), (107, 114, 128))


def hexed(rgb: RGB) -> str:
    """#c85500"""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def limits(values: Iterable[float], diverging: bool) -> tuple[float, float]:
    """The ends of a colour scale on which 0 is the page: from 0, or as far below as above. Never of no length."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    largest = max(map(abs, finite)) or 1.0
    return -largest if diverging or min(finite) < 0 else 0.0, largest


def tint(value: float, largest: float) -> tuple[RGB, float]:
    """A value's hue, and how much of it covers the page: nothing at 0 and NaN, all from ±largest on."""
    return (BELOW if value < 0 else ABOVE), 0.0 if math.isnan(value) else min(1.0, abs(value) / largest)


def number(value: float) -> str:
    """Three significant digits: 0.123, -12.3, 1,230, 1.2e-05."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def numbers(values: Iterable[float]) -> list[str]:
    """With as many decimals each as give the largest three digits; nothing for NaN."""
    values = list(values)
    largest = limits(values, diverging=True)[1]
    if not 1e-4 < largest < 1e6:
        return ["" if math.isnan(value) else number(value) for value in values]
    decimals = max(0, 2 - math.floor(math.log10(largest)))
    return [
        "" if math.isnan(value) else f"{round(value, decimals) + 0.0:,.{decimals}f}" for value in values
    ]  # no -0.00
