"""The editor: a tap that does what edits say, refuses what cannot be done before the pass, and tells what never acted.

It knows names, axes and places; it does not know what a value means.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cutaway.edit.edit import Edit
from cutaway.edit.positions import FIRST_SITE, Passes, ranks, several
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.select import select
from cutaway.ground.shapes import sizes
from cutaway.ground.sites import all_sites
from cutaway.text.pieces import Tokens


class Editor:
    """Does a list of edits in their order, in every pass of one run.

    prompt: the tokens of the first pass. new: how many tokens may be chosen after it. Raises BadArgument for an edit
    whose site the model has not, whose place is out of range, or whose value does not fit there.
    """

    def __init__(self, edits: Sequence[Edit], config: DecoderConfig, prompt: Tokens, new: int = 1) -> None:
        self.passes, self.config = Passes(prompt), config
        self.edits = list(edits)
        self.changed: list[bool | None] = [None for _ in edits]  # None: its place was never reached
        self.by_site: dict[str, list[tuple[int, _Change]]] = {}
        for number, edit in enumerate(edits):
            for site in sites_of(edit, config):
                change = _Change(edit, site, config, prompt, new)
                self.by_site.setdefault(site, []).append((number, change))

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name == FIRST_SITE:
            self.passes.enter()
        for number, change in self.by_site.get(name, ()):
            edited = change(value, self.passes)
            if edited is not None:
                same = torch.equal(edited, value) or bool(((edited == value) | (edited.isnan() & value.isnan())).all())
                self.changed[number] = bool(self.changed[number]) or not same
                value = edited
        return value

    def wants(self, *names: str) -> bool:
        return not self.by_site.keys().isdisjoint(names)

    changes = wants

    def buffers(self, names: tuple[str, ...]) -> None:
        """None: it changes them."""

    def finish(self) -> None:
        """After the run: raises BadArgument for an edit that was never reached, warns of one that changed nothing."""
        for edit, changed in zip(self.edits, self.changed, strict=True):
            if changed is None:
                expected = f"a place in the {self.passes.step + 1} passes that ran, before the last one ended"
                do = "choose a site, step or position that the run reaches"
                raise BadArgument(f"{edit}, which was never reached", expected, do)
            if not changed:
                warnings.warn(f"{edit} changed nothing: the values there were so already", stacklevel=3)


def sites_of(edit: Edit, config: DecoderConfig) -> list[str]:
    """The sites that an edit means. Raises BadArgument where there is none."""
    names, blocks = select(config, edit.site), several(edit.block)
    if blocks is None:
        return names
    chosen = [name for name in names if name.startswith("blocks.") and int(name.split(".")[1]) in blocks]
    missing = set(blocks) - {int(name.split(".")[1]) for name in chosen}
    if missing:
        found = f"block {min(missing)} for {edit.site}"
        raise BadArgument(found, f"a block of 0 to {config.n_layers - 1} that the pattern holds", "choose such a block")
    return chosen


class _Change:
    """One edit at one site, its value laid out beside the site's: B and T first, one index an axis where it is 1."""

    def __init__(self, edit: Edit, site: str, config: DecoderConfig, prompt: Tokens, new: int) -> None:
        self.edit = replace(edit, site=site)
        own_axes = all_sites(config)[site].shape.split()
        self.time_first = own_axes[1] == "T"
        self.axes = own_axes if self.time_first else [own_axes[0], own_axes[2], own_axes[1], *own_axes[3:]]
        self.wanted = self.edit.wanted(self.axes)
        longest = int(prompt.lengths.max()) + new - 1
        self.sizes = sizes(config) | {"B": len(prompt.ids), "T": longest, "S": longest, "1": 1}
        self._check_places(prompt, new)
        self.value = None if edit.value is None else self._laid_out(own_axes, _tensor(edit.value))

    def __call__(self, value: Tensor, passes: Passes) -> Tensor | None:
        """The value with the edit in it, or None where this pass has no such place."""
        steps = several(self.edit.step)
        if steps is not None and passes.step not in steps:
            return None
        ordered = value if self.time_first else value.transpose(1, 2)
        places = [self._ranks(axis, dim, ordered, passes) for dim, axis in enumerate(self.axes)]
        places = [place.to(value.device) for place in places]
        here = torch.ones((), dtype=torch.bool, device=value.device)
        for place in places:
            here = here & (place >= 0)
        if "S" in self.axes:  # what a token does not see is not edited: not the future, as there is none in a cache
            earlier_BTS = passes.all_positions[:, None] <= passes.positions[:, :, None]
            here = here & earlier_BTS[:, :, None].to(value.device)
        if not here.any():
            return None
        changed = torch.where(here, self._changed(ordered, places, passes), ordered)
        return changed if self.time_first else changed.transpose(1, 2)

    def _changed(self, value: Tensor, places: list[Tensor], passes: Passes) -> Tensor:
        """What the value would be if the edit acted everywhere."""
        op, given = self.edit.op, None
        if op == "function":
            return self._by_function(value)
        if op == "zero":
            return torch.zeros_like(value)
        if self.value is not None:
            alike = zip(places, self.value.shape, strict=True)
            index = tuple(place.clamp(min=0) if size > 1 else torch.zeros_like(place) for place, size in alike)
            given = self.value.to(value)[index]
        if op == "mean" and given is None:
            return _own_mean(value, passes)
        assert given is not None, "every other operation has a value"
        if op == "add":
            return value + given
        if op == "scale":
            return value * given
        if op == "project_out":
            unit = given / given.norm(dim=-1, keepdim=True)
            return value - (value * unit).sum(-1, keepdim=True) * unit
        return given

    def _by_function(self, value: Tensor) -> Tensor:
        assert self.edit.fn is not None, "checked when the edit was made"
        own = value if self.time_first else value.transpose(1, 2)
        made = self.edit.fn(own.clone())  # a function that writes into what it gets spoils no value but its own
        if not isinstance(made, Tensor) or made.shape != own.shape:
            found = (
                f"a function for {self.edit.site} that returns {list(made.shape) if isinstance(made, Tensor) else made}"
            )
            raise BadArgument(found, f"{list(own.shape)}, the shape that it was given", "return the whole value")
        return made.to(value) if self.time_first else made.to(value).transpose(1, 2)

    def _ranks(self, axis: str, dim: int, value: Tensor, passes: Passes) -> Tensor:
        """For each index of an axis, its place among the wanted ones or -1, shaped to stand beside the value."""
        wanted, lengths = self.wanted[dim], passes.prompt.lengths
        if axis == "T":
            return _beside(ranks(passes.positions, lengths, wanted), (0, dim), value.ndim)
        if axis == "S":
            return _beside(ranks(passes.all_positions, lengths, wanted), (0, dim), value.ndim)
        chosen, size = several(wanted), value.shape[dim]
        places = range(size) if chosen is None else [chosen.index(i) if i in chosen else -1 for i in range(size)]
        return _beside(torch.tensor(places, device=value.device), (dim,), value.ndim)

    def _laid_out(self, own_axes: list[str], value: Tensor) -> Tensor:
        """The value with an axis for each of the site's, B and T first. Raises BadArgument where it does not fit."""
        if self.edit.op == "project_out" and (value.shape[-1:] != (self.sizes[own_axes[-1]],) or not value.any()):
            found = f"a direction {list(value.shape)} for {self.edit.site}" + (", all zeros" if not value.any() else "")
            raise BadArgument(found, f"[{self.sizes[own_axes[-1]]}], not all zeros", "pass a vector of the last axis")
        wanted = dict(zip(self.axes, self.wanted, strict=True))
        free = [axis for axis in own_axes if not isinstance(wanted[axis], int)]
        counts = [len(several(wanted[axis]) or range(self.sizes[axis])) for axis in free]
        fits = value.ndim <= len(free) and all(
            size in (1, count) for size, count in zip(reversed(value.shape), reversed(counts), strict=False)
        )
        if not fits:
            found = f"a value {list(value.shape)} for {self.edit.site}"
            expected = f"one that broadcasts to [{' '.join(free)}] = {counts}"
            raise BadArgument(found, expected, "pass a number, or a tensor of the place that the edit names")
        full = value.reshape(*(1,) * (len(free) - value.ndim), *value.shape)
        for dim, axis in enumerate(own_axes):
            if axis not in free:
                full = full.unsqueeze(dim)
        return full if self.time_first else full.transpose(1, 2)

    def _check_places(self, prompt: Tokens, new: int) -> None:
        """Raises BadArgument for an index beyond the end of its axis, or a step that no pass is."""
        steps = several(self.edit.step) or ()
        if steps and max(steps) >= new:
            expected = f"0 to {new - 1}, the passes of this run"
            raise BadArgument(f"step {max(steps)} for {self.edit.site}", expected, "choose a step that the run takes")
        rows = several(self.edit.text)
        lengths = prompt.lengths if rows is None or max(rows) >= len(prompt.ids) else prompt.lengths[list(rows)]
        for axis, wanted in zip(self.axes, self.wanted, strict=True):
            chosen, from_end = several(wanted) or (0,), axis in "TS"
            end = int(lengths.min()) + new - 1 if from_end else self.sizes[axis]
            beyond = [i for i in chosen if i >= end or i < (-int(lengths.min()) if from_end else 0)]
            if beyond:
                place = {"B": "text", "T": "position", "S": "source", "H": "head", "G": "key/value head"}
                found = f"{place.get(axis, 'neuron')} {beyond[0]} for {self.edit.site}"
                raise BadArgument(found, f"at most {end - 1}", "choose a place that is there")


def _tensor(value: float | Tensor) -> Tensor:
    """A number keeps all its digits, whatever the model's dtype."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")


def _beside(places: Tensor, dims: tuple[int, ...], ndim: int) -> Tensor:
    """Reshaped so that its axes stand at `dims` of a tensor of so many axes."""
    shape = [1] * ndim
    for dim, size in zip(dims, places.shape, strict=True):
        shape[dim] = size
    return places.reshape(shape)


def _own_mean(value: Tensor, passes: Passes) -> Tensor:
    """Each text's mean over its real positions of this pass."""
    real = _beside((passes.positions >= 0).to(value.device), (0, 1), value.ndim)
    return torch.where(real, value, 0.0).sum(1, keepdim=True) / real.sum(1, keepdim=True)
