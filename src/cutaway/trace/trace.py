"""Trace: the values of one pass by site, with the tokens they belong to.

It knows how values are found and shown; it does not know how they were computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.display import Displayed
from cutaway.ground.errors import BadArgument
from cutaway.ground.packed import Kept
from cutaway.ground.select import ByName, full_name, select
from cutaway.ground.sites import all_sites
from cutaway.ground.whole import whole
from cutaway.model.architecture import size
from cutaway.text.pieces import Tokens
from cutaway.trace import trace_file
from cutaway.trace.plan import Plan


@dataclass(frozen=True, repr=False)
class Trace(Kept, Displayed, ByName[Tensor]):
    """Values by site, in the order of the forward pass: trace["attn.pattern", 0] is a tensor [B, H, T, S].

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

    def __getitem__(self, key: Any) -> Tensor:
        """trace["blocks.5.resid_post"], or trace["resid_post", 5]; trace["attn.pattern", 5, 3] is of head 3 alone.

        The block and the head count from 0, or from -1 back; of "attn.k" and "attn.v" it is a key/value head. Raises
        BadArgument for a name that the model has not, with the nearest ones, and for a value that was not recorded.
        """
        if isinstance(key, str) and key in self.values_by_site:
            return self.values_by_site[key]
        name, head = self._named(key)
        if name not in self.values_by_site:
            raise BadArgument(f"no {name!r} in this trace", "a site that it recorded", "add it to sites=")
        return self.values_by_site[name] if head is None else self._of_head(name, head)

    def __contains__(self, key: object) -> bool:
        if isinstance(key, str) and key in self.values_by_site:
            return True
        try:
            return self._named(key)[0] in self.values_by_site
        except BadArgument:
            return False

    def stack(self, sites: str) -> Tensor:
        """One value of many blocks as one tensor, the blocks first: stack("resid_post") is [L, B, T, D].

        sites: a pattern, such as "blocks.3-7.attn.z" for some blocks. Raises BadArgument where a value of the pattern
        was not recorded, or the values differ in shape.
        """
        names = select(self.config, sites)
        missing = [name for name in names if name not in self.values_by_site]
        if missing:
            found = f"{len(missing)} of the {len(names)} values of {sites!r} missing in this trace ({missing[0]} first)"
            raise BadArgument(found, "a trace of all of them", "add them to sites=, or name the blocks that it has")
        values = [self.values_by_site[name] for name in names]
        if len({value.shape for value in values}) > 1:
            found = f"{sites!r}, which is {names[0]} {list(values[0].shape)} and others of other shapes"
            raise BadArgument(found, "values of one shape", 'name one kind of value, such as "resid_post"')
        return torch.stack(values)

    def _named(self, key: Any) -> tuple[str, Any]:
        """The site's full name, and the head, None for all."""
        parts, names = key if isinstance(key, tuple) else (key,), list(all_sites(self.config))
        name = full_name("site", parts[:2] if len(parts) > 1 else key, names)
        if len(parts) > 3:
            raise BadArgument(f"trace[{key!r}]", "a site, its block and a head", "index the value that it gives")
        return name, parts[2] if len(parts) == 3 else None

    def _of_head(self, name: str, head: Any) -> Tensor:
        axes, number = all_sites(self.config)[name].shape.split(), whole(head)
        dim = next((dim for dim, axis in enumerate(axes) if axis in "HG"), None)
        if dim is None:
            raise BadArgument(f"head {head!r} of {name} [{' '.join(axes)}]", "a site with heads", "leave it out")
        value = self.values_by_site[name]
        if number is None or not -value.shape[dim] <= number < value.shape[dim]:
            expected = f"one of the {value.shape[dim]} heads, from 0 or from -1 back"
            raise BadArgument(f"head {head!r} of {name}", expected, "correct the head")
        return value.select(dim, number)

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
