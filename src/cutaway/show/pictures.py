"""What a finding is drawn from: values with words on their axes, before anyone decides between text, HTML and figure.

It does not know which analysis the values come from, nor how they are drawn.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Heatmap:
    """values [rows, columns] on two axes with words; NaN where there is no value."""

    title: str
    values: Tensor
    rows: list[str]
    columns: list[str]
    row_axis: str  # what a row is: "block"
    column_axis: str
    unit: str  # of the values: "nats", "share of the answer"
    diverging: bool = False  # two colours around 0, of a scale that is as long on both sides
    words: list[list[str]] | None = None  # the token of a cell, which says it in place of its number


@dataclass(frozen=True)
class Lines:
    """One or several series over the same x."""

    title: str
    x: list[str]
    series: dict[str, list[float]]
    x_axis: str
    unit: str


@dataclass(frozen=True)
class Bars:
    """One value for each label, with its spread where many texts were averaged."""

    title: str
    labels: list[str]
    values: list[float]
    unit: str
    spread: list[float] | None = None


Picture = Heatmap | Lines | Bars
