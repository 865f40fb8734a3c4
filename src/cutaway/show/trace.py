"""What a trace holds, as data and as text: a table of its sites, the values of some, numbers decomposed.

It does not know how a value was computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cutaway.analysis.effect import Effect
from cutaway.explain.why import Why
from cutaway.ground.sites import all_sites
from cutaway.show.effect import effect_table
from cutaway.show.faces import Faces
from cutaway.show.layout import WIDTH, columns, dtype_name
from cutaway.show.pictures import Picture
from cutaway.show.sites import formula
from cutaway.show.trace_maps import maps
from cutaway.trace.trace import Trace


@dataclass(frozen=True)
class Recorded(Faces):
    """shown: the sites whose values are printed too. effect: of edits, if there were any. full: draw the table of all.

    token_text: the text of an id.
    """

    values: Trace
    shown: list[str]
    why: Sequence[Why]
    effect: Effect | None
    full: bool
    token_text: Callable[[int], str]

    def as_data(self) -> dict[str, Any]:
        sites = {name: _measure(value) for name, value in self.values.items()}
        sites |= {name: sites[name] | {"values": self.values[name].tolist()} for name in self.shown}
        return {
            "model": self.values.model, "tokens": self.values.tokens.as_data(), "attention": self.values.attention,
            "sites": sites, "why": [each.as_data() for each in self.why],
            "effect": self.effect and self.effect.as_data(),
        }  # fmt: skip

    def pictures(self) -> list[Picture]:
        return maps(self.values, self.shown or list(self.values))

    def __str__(self) -> str:
        parts = [] if self.effect is None else [effect_table(self.effect, self.token_text)]
        parts += [table(self.values)] if self.full else []
        return "\n\n".join([*parts, *(_values(self.values, name) for name in self.shown), *map(str, self.why)])


def table(values: Trace) -> str:
    """A line a site: shape, bytes, mean and largest size."""
    measured = {name: _measure(value) for name, value in values.items()}
    rows = [("site", "shape", "bytes", "mean", "largest")]
    for name, m in measured.items():
        mean, largest = ("" if m[key] is None else f"{m[key]:.4g}" for key in ("mean", "largest"))
        rows.append((name, str(m["shape"]), f"{m['bytes']:,}", mean, largest))
    dtypes = ", ".join(dict.fromkeys(m["dtype"] for m in measured.values()))
    count = f"{len(values)} site{'s' * (len(values) != 1)}"
    end = f"{count}, {values.nbytes:,} bytes of {dtypes}; attention: {values.attention}"
    return f"{columns(rows, right=(2, 3, 4))}\n{end}"


def _values(values: Trace, name: str) -> str:
    """One site: its axes, its formula, and its values, with the middle of long axes omitted."""
    value, site = values[name], all_sites(values.config)[name]
    numbers = np.array2string(
        value.cpu().float().numpy(), max_line_width=WIDTH, edgeitems=3, threshold=200, precision=4, suppress_small=True
    )
    return f"{name}  {site.shape} = {list(value.shape)}  {dtype_name(value)}\n  = {formula(site)}\n{numbers}"


def _measure(value: Tensor) -> dict[str, Any]:
    """Shape, dtype, bytes, and mean and largest size of the finite values: masked scores are -inf by design."""
    finite = value[value.isfinite()].float()
    mean, largest = (float(finite.mean()), float(finite.abs().max())) if finite.numel() else (None, None)
    return {
        "shape": list(value.shape), "dtype": dtype_name(value), "bytes": value.nbytes, "mean": mean, "largest": largest,
    }  # fmt: skip
