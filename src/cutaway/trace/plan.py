"""The plan: what a trace will cost in bytes, site by site, before the pass runs.

Shapes follow from the config and the tokens alone. It does not know values, nor how they are computed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cutaway.ground.config import DecoderConfig
from cutaway.ground.display import Displayed
from cutaway.ground.errors import BadArgument
from cutaway.ground.shapes import sizes
from cutaway.ground.sites import all_sites
from cutaway.model.architecture import size

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Row:
    """What one site will take."""

    site: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True, repr=False)
class Plan(Displayed):
    """The cost of a trace. where: "device" (beside the weights), "host" or "disk", where its values will lie."""

    rows: tuple[Row, ...]
    where: str

    @property
    def bytes(self) -> int:
        """Of all values."""
        return sum(row.bytes for row in self.rows)

    @property
    def kinds(self) -> dict[str, int]:
        """Bytes of each pattern of sites, summed over the blocks, the largest first."""
        totals: dict[str, int] = {}
        for row in self.rows:
            kind = re.sub(r"^blocks\.\d+\.", "blocks.*.", row.site)
            totals[kind] = totals.get(kind, 0) + row.bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def within(self, budget: int | float | str) -> "Plan":
        """This plan. Raises BadArgument where it costs more than a budget in bytes, or in words such as "2 GB"."""
        most = _bytes(budget)
        if self.bytes <= most:
            return self
        largest = ", ".join(f"{kind} {size(cost)}" for kind, cost in list(self.kinds.items())[:3])
        found = f"a trace of {size(self.bytes)} ({largest})"
        narrower = next((kind for kind, cost in self.kinds.items() if cost <= most), None)
        narrower = narrower or next((row.site for row in self.rows if row.bytes <= most), None)
        do = f'record less, such as sites="{narrower}"' if narrower else "trace a shorter text, or allow more"
        raise BadArgument(found, f"at most {size(most)}, the budget", do)

    def as_data(self) -> dict[str, Any]:
        """The plan as JSON."""
        sites = {
            row.site: {"shape": list(row.shape), "dtype": _name(row.dtype), "bytes": row.bytes} for row in self.rows
        }
        return {"bytes": self.bytes, "where": self.where, "sites": sites}

    def __repr__(self) -> str:
        return f"<Plan: {len(self.rows)} sites, {size(self.bytes)} on the {self.where}; print it for each kind>"

    def __str__(self) -> str:
        """A line for each kind of site, the largest first, and the sum; at most 80 columns."""
        lines = [f"{'sites':<34}{'each':<22}{'values':>7}{'bytes':>12}"]
        for kind, cost in self.kinds.items():
            same_kind = [row for row in self.rows if re.sub(r"^blocks\.\d+\.", "blocks.*.", row.site) == kind]
            label = kind if len(same_kind) > 1 else same_kind[0].site
            lines.append(f"{label:<34}{list(same_kind[0].shape)!s:<22}{len(same_kind):>7}{size(cost):>12}")
        return "\n".join(
            [*lines, f"{len(self.rows)} site{'s' * (len(self.rows) != 1)}, {size(self.bytes)} on the {self.where}"]
        )


def plan(
    config: DecoderConfig,
    sites: Sequence[str],
    texts: int,
    positions: int,
    *,
    dtype: torch.dtype = torch.float32,
    as_dtype: torch.dtype | None = None,
    attended: int | None = None,
    where: str = "host",
) -> Plan:
    """The plan for recording so many texts and positions of each; attended: how many they attend to (None: as many).

    dtype: of the model's values; as_dtype: of the recorded ones, if another. Norms' divisors are float32 at least.
    """
    lengths = sizes(config) | {"B": texts, "T": positions, "S": attended or positions, "1": 1}
    table = all_sites(config)
    rows = []
    for site in sites:
        computed = torch.promote_types(dtype, torch.float32) if site.endswith(".scale") else dtype
        rows.append(Row(site, tuple(lengths[axis] for axis in table[site].shape.split()), as_dtype or computed))
    return Plan(tuple(rows), where)


def _bytes(budget: int | float | str) -> float:
    """Bytes of 2e9, "2 GB" or "500MB"."""
    written = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([a-z]*)\s*", str(budget).lower())
    try:
        most = float(written[1]) * UNITS[written[2]] if written else -1.0
    except (ValueError, KeyError):
        most = -1.0
    if most <= 0:
        raise BadArgument(f"budget={budget!r}", "a number of bytes above 0", 'pass for example "2 GB"')
    return most


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
