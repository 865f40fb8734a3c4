"""A sweep of activation patching as data, drawn darker the more of the answer a patch restores, and as a map.

It does not know how a sweep is run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from cutaway.analysis.patching import Sweeps
from cutaway.show.finding import Finding, long_form
from cutaway.show.layout import WIDTH
from cutaway.show.pictures import Heatmap, Picture
from cutaway.text.table import visible

SHADES = " ░▒▓█"
CELLS = WIDTH - 10  # columns beside a row's number


@dataclass(frozen=True, eq=False, repr=False)
class PatchFinding(Finding):
    """`sweep.scores` on `sweep.axes`, such as ("block", "head"), of the pairs of texts together.

    site: which values of a block were patched. pieces: of the clean text, one a token; measure: the metric in words.
    """

    site: str
    sweep: Sweeps
    pieces: tuple[str, ...]
    measure: str

    @property
    def axes(self) -> Mapping[str, list[str]]:
        """Block or head; head or position, with the clean text's piece."""
        down, across = ([str(i) for i in range(n)] for n in self.sweep.scores.shape)
        if self.sweep.axes[1] == "position":
            across = [f"{i} {visible(p.encode())}" for i, p in zip(across, self.pieces, strict=True)]
        return dict(zip(self.sweep.axes, (down, across), strict=True))

    def to_dict(self) -> dict[str, Any]:
        sweep, spread = self.sweep, self.sweep.spread
        ends = {"clean": float(sweep.clean.mean), "corrupt": float(sweep.corrupt.mean), "direction": sweep.direction}
        data = {"model": self.model, "pairs": sweep.clean.texts, "site": self.site, **ends, "axes": list(sweep.axes)}
        data["scores"] = sweep.scores.tolist()
        return data if spread is None else data | {"spread": spread.tolist()}

    def records(self) -> list[dict[str, Any]]:
        return long_form(self.axes, score=self.sweep.scores, metric=self.sweep.values.mean, spread=self.sweep.spread)

    def __str__(self) -> str:
        clean, corrupt = float(self.sweep.clean.mean), float(self.sweep.corrupt.mean)
        pairs = self.sweep.clean.texts
        of = f" (means of {pairs} pairs)" if pairs > 1 else ""
        title = f"{self.measure}: clean {clean:.3f}, corrupt {corrupt:.3f}{of}"
        return "\n".join([*wrap(title, WIDTH), *self._map(), *self._strongest()])

    def _map(self) -> Iterator[str]:
        """A row a block (or head), a cell a head (or position), darker the nearer to 1.

        Where a row is wider than the terminal, its first cells are drawn, and a note counts the rest.
        """
        scores, axes = self.sweep.scores, self.sweep.axes
        count = scores.shape[1]
        wide = min(3, max(1, CELLS // count))
        drawn = min(count, CELLS // wide)
        hidden = f"  ({count - drawn} more on the right are not drawn; --json has them)" if drawn < count else ""
        yield f"{self.sweep.direction}: 0 is nothing of what lies between, 1 all of it"
        yield f"{axes[0]:>6} ↓  {axes[1]} →{hidden}"
        if wide == 3:
            yield f"{'':>6}  " + "".join(f"{j:>3}" for j in range(drawn))
        for i, row in enumerate(scores[:, :drawn].tolist()):
            yield (f"{i:>6}  " + "".join(_shade(score) * wide for score in row)).rstrip()
        yield "░ from 1/8, ▒ 3/8, ▓ 5/8, █ 7/8; - below -1/8, away from it. The strongest:"

    def _strongest(self) -> Iterator[str]:
        scores, spread, (down, across) = self.sweep.scores, self.sweep.spread, self.sweep.axes
        for index in scores.abs().flatten().argsort(descending=True)[:8].tolist():
            i, j = divmod(index, scores.shape[1])
            at = f" ({visible(self.pieces[j].encode())})" if across == "position" and self.pieces[j] else ""
            apart = "" if spread is None else f" ± {float(spread[i, j]):.3f}"
            yield f"  {down} {i}, {across} {j}{at}: {float(scores[i, j]):+.3f}{apart}"

    def pictures(self) -> list[Picture]:
        down, across = self.axes.values()
        title = f"{self.site} patched ({self.sweep.direction}): share of the {self.measure}"
        values, (row_axis, column_axis) = self.sweep.scores.float(), self.sweep.axes
        return [Heatmap(title, values, down, across, row_axis, column_axis, "share of the answer", diverging=True)]


def _shade(score: float) -> str:
    quarters = round(4 * score)
    return "-" if quarters < 0 else SHADES[min(4, quarters)]
