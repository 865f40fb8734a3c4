"""Trace: the values of one pass by site, with the tokens they belong to.

It knows how values are found and shown; it does not know how they were computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.display import Displayed
from cutaway.ground.errors import BadArgument
from cutaway.ground.select import nearest
from cutaway.ground.sites import all_sites, clean_name
from cutaway.model.architecture import size
from cutaway.text.pieces import Tokens
from cutaway.trace import trace_file
from cutaway.trace.plan import Plan


@dataclass(frozen=True, repr=False)
class Trace(Displayed, Mapping[str, Tensor]):
    """Values by site, in the order of the forward pass: trace["blocks.0.attn.pattern"] is a tensor [B, H, T, S].

    attention: "explicit" where the softmax was computed by name, "fused" where one op held neither scores nor pattern.
    positions: where not every position was recorded, those that were: the axis T of every value, in their order. plan:
    its cost.
    """

    values_by_site: dict[str, Tensor]
    tokens: Tokens
    config: DecoderConfig
    attention: str = "explicit"
    model: str = field(default="", compare=False)
    positions: tuple[int, ...] | None = None
    plan: Plan | None = field(default=None, compare=False, repr=False)

    def __getitem__(self, name: str) -> Tensor:
        clean = clean_name(name)
        if clean in self.values_by_site:
            return self.values_by_site[clean]
        if clean in all_sites(self.config):
            raise BadArgument(f"no {clean!r} in this trace", "a site that it recorded", "add it to sites=")
        names = nearest(clean, list(all_sites(self.config)))
        raise BadArgument(f"no site {name!r}", f"a site of this model, such as {names}", "correct the name")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and clean_name(name) in self.values_by_site

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_site)

    def __len__(self) -> int:
        return len(self.values_by_site)

    def save(self, path: str | Path) -> None:
        """Write it as one .safetensors file, which opens without the model. Raises BadArgument where it cannot be."""
        notes = {"attention": self.attention, "model": self.model, "positions": self.positions}
        trace_file.write(Path(path), self.values_by_site, self.tokens, self.config, notes)

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """A trace that was saved. Raises BadCheckpoint for another file, or an incomplete one."""
        values, tokens, config, notes = trace_file.read(Path(path))
        positions = None if notes["positions"] is None else tuple(notes["positions"])
        return cls(values, tokens, config, notes["attention"], notes["model"], positions)

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(value.nbytes for value in self.values())

    def __repr__(self) -> str:
        texts, positions = self.tokens.ids.shape
        of = f"{len(self)} site{'s' * (len(self) != 1)}, {size(self.nbytes)}, {texts} × {positions} tokens"
        names = f", {next(iter(self))} first" if len(self) else ""
        return f"<Trace of {self.model or 'a model'}: {of}{names}; print it for all>"

    def __str__(self) -> str:
        rows = [("site", "shape", "dtype", "bytes", "mean", "largest"), *map(self._row, self)]
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(
            [*lines, f"{len(self)} site{'s' * (len(self) != 1)}, {self.nbytes:,} bytes; attention: {self.attention}"]
        )

    def _row(self, name: str) -> tuple[str, str, str, str, str, str]:
        value = self[name]
        finite = value[value.isfinite()].float()  # masked scores are -inf by design
        mean, largest = (finite.mean(), finite.abs().max()) if finite.numel() else (float("nan"), float("nan"))
        dtype = str(value.dtype).removeprefix("torch.")
        return name, str(list(value.shape)), dtype, f"{value.nbytes:,}", f"{mean:.4g}", f"{largest:.4g}"
