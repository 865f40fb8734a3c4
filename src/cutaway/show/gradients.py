"""Gradient x input: how the answer would change with each input token, as data and as bars.

It does not know how a gradient is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from cutaway.analysis.many import Average
from cutaway.show.finding import Finding
from cutaway.show.layout import WIDTH, columns, plus_minus
from cutaway.show.pictures import Bars, Picture
from cutaway.text.table import cut, visible

BAR = 24
WIDE = 20  # columns of a token's text
VARIES = "(varies)"  # where the texts have different tokens


@dataclass(frozen=True, eq=False, repr=False)
class GradientsFinding(Finding):
    """`values.mean` [position], over the texts. pieces: one a position; measure: the metric in words."""

    values: Average
    pieces: tuple[str, ...]
    measure: str

    @property
    def axes(self) -> Mapping[str, list[str]]:
        """Positions, with the piece there."""
        return {"position": [f"{i} {visible(piece.encode())}".rstrip() for i, piece in enumerate(self.pieces)]}

    def to_dict(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = [
            {"position": i, "piece": piece, "value": value}
            for i, (piece, value) in enumerate(zip(self.pieces, self.values.mean.tolist(), strict=True))
        ]
        for row, spread in zip(rows, [] if self.values.spread is None else self.values.spread.tolist(), strict=False):
            row["spread"] = spread
        return {"model": self.model, "texts": self.values.texts, "measure": self.measure, "positions": rows}

    def records(self) -> list[dict[str, Any]]:
        return self.to_dict()["positions"]

    def __str__(self) -> str:
        largest, rows = max(float(self.values.mean.abs().max()), 1e-30), []
        for i, (piece, value) in enumerate(zip(self.pieces, self.values.mean.tolist(), strict=True)):
            bar = ("█" if value > 0 else "░") * round(BAR * abs(value) / largest)
            number = plus_minus(self.values.mean, self.values.spread, i)
            rows.append([str(i), cut(visible(piece.encode()), WIDE) or VARIES, number, bar])
        of = f", means of {self.values.texts} texts" if self.values.texts > 1 else ""
        title = f"{self.measure}: its change as a token's embedding grows, to first order{of}"
        return "\n".join([*wrap(title, WIDTH), columns(rows, right=(0, 2))])

    def pictures(self) -> list[Picture]:
        spread = None if self.values.spread is None else self.values.spread.tolist()
        title = f"{self.measure}: gradient × input"
        return [Bars(title, self.axes["position"], self.values.mean.tolist(), "logits", spread)]
