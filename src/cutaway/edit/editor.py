"""The editor: a tap that applies edits, refuses invalid ones before the pass, and reports those that never acted.

It knows names, axes and indexes; it does not know what a value means.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cutaway.edit.edit import Edit, sites_of
from cutaway.edit.positions import FIRST_SITE, Passes, index_in, several
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.shapes import sizes
from cutaway.ground.sites import all_sites
from cutaway.ground.warn import warn
from cutaway.text.pieces import Tokens


class Editor:
    """Applies a list of edits in their order, in every pass of one run.

    prompt: the tokens of the first pass. new: how many tokens may be chosen after it. Raises BadArgument for an edit
    of a site that the model does not have, of an index out of range, or of a value that does not broadcast.
    """

    def __init__(self, edits: Sequence[Edit], config: DecoderConfig, prompt: Tokens, new: int = 1) -> None:
        self.passes, self.config = Passes(prompt), config
        self.edits = list(edits)
        self.changed: list[bool | None] = [None for _ in edits]  # None: never reached
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
        """None: an editor returns new tensors."""

    def finish(self) -> None:
        """After the run: raises BadArgument for an edit that was never reached, warns of one that changed nothing."""
        for edit, changed in zip(self.edits, self.changed, strict=True):
            if changed is None:
                expected = f"values of the {self.passes.step + 1} passes that ran, before the last one ended"
                do = "choose a site, step or position that the run reaches"
                raise BadArgument(f"{edit}, which was never reached", expected, do)
            if not changed:
                warn(f"{edit} changed nothing: the values there were so already")


class _Change:
    """One edit at one site, its value with the site's axes, B and T first, of size 1 where it is broadcast."""

    def __init__(self, edit: Edit, site: str, config: DecoderConfig, prompt: Tokens, new: int) -> None:
        self.edit = replace(edit, site=site)
        own_axes = all_sites(config)[site].shape.split()
        self.time_first = own_axes[1] == "T"
        self.axes = own_axes if self.time_first else [own_axes[0], own_axes[2], own_axes[1], *own_axes[3:]]
        self.wanted = self.edit.wanted(self.axes)
        longest = int(prompt.lengths.max()) + new - 1
        self.sizes = sizes(config) | {"B": len(prompt.ids), "T": longest, "S": longest, "1": 1}
        self._check_indexes(prompt, new)
        self.value = None if edit.value is None else self._expanded(own_axes, _tensor(edit.value))

    def __call__(self, value: Tensor, passes: Passes) -> Tensor | None:
        """The edited value, or None where this pass has no element to edit."""
        steps = several(self.edit.step)
        if steps is not None and passes.step not in steps:
            return None
        ordered = value if self.time_first else value.transpose(1, 2)
        indexes = [self._indexes(axis, dim, ordered, passes).to(value.device) for dim, axis in enumerate(self.axes)]
        here = torch.ones((), dtype=torch.bool, device=value.device)
        for index in indexes:
            here = here & (index >= 0)
        if "S" in self.axes:  # masked positions are not edited: not the future, which a cache does not hold
            earlier_BTS = passes.all_positions[:, None] <= passes.positions[:, :, None]
            here = here & earlier_BTS[:, :, None].to(value.device)
        if not here.any():
            return None
        changed = torch.where(here, self._changed(ordered, indexes, passes), ordered)
        return changed if self.time_first else changed.transpose(1, 2)

    def _changed(self, value: Tensor, indexes: list[Tensor], passes: Passes) -> Tensor:
        """What the value would be if the edit acted everywhere."""
        op, given = self.edit.op, None
        if op == "function":
            return self._by_function(value)
        if op == "zero":
            return torch.zeros_like(value)
        if self.value is not None:
            by_axis = zip(indexes, self.value.shape, strict=True)
            at = tuple(index.clamp(min=0) if size > 1 else torch.zeros_like(index) for index, size in by_axis)
            given = self.value.to(value)[at]
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
        made = self.edit.fn(own.clone())  # a copy, as the function may write into its argument
        if not isinstance(made, Tensor) or made.shape != own.shape:
            found = (
                f"a function for {self.edit.site} that returns {list(made.shape) if isinstance(made, Tensor) else made}"
            )
            raise BadArgument(found, f"{list(own.shape)}, the shape that it was given", "return the whole value")
        return made.to(value) if self.time_first else made.to(value).transpose(1, 2)

    def _indexes(self, axis: str, dim: int, value: Tensor, passes: Passes) -> Tensor:
        """For each index of an axis, its index among the wanted ones or -1, shaped to broadcast with the value."""
        wanted, lengths = self.wanted[dim], passes.prompt.lengths
        if axis == "T":
            return _on_axes(index_in(passes.positions, lengths, wanted), (0, dim), value.ndim)
        if axis == "S":
            return _on_axes(index_in(passes.all_positions, lengths, wanted), (0, dim), value.ndim)
        chosen, size = several(wanted), value.shape[dim]
        found = range(size) if chosen is None else [chosen.index(i) if i in chosen else -1 for i in range(size)]
        return _on_axes(torch.tensor(found, device=value.device), (dim,), value.ndim)

    def _expanded(self, own_axes: list[str], value: Tensor) -> Tensor:
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
            raise BadArgument(found, expected, "pass a number, or a tensor of such a shape")
        full = value.reshape(*(1,) * (len(free) - value.ndim), *value.shape)
        for dim, axis in enumerate(own_axes):
            if axis not in free:
                full = full.unsqueeze(dim)
        return full if self.time_first else full.transpose(1, 2)

    def _check_indexes(self, prompt: Tokens, new: int) -> None:
        """Raises BadArgument for an index beyond the end of its axis, or a step that the run does not take."""
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
                kinds = {"B": "text", "T": "position", "S": "source", "H": "head", "G": "key/value head"}
                found = f"{kinds.get(axis, 'neuron')} {beyond[0]} for {self.edit.site}"
                raise BadArgument(found, f"at most {end - 1}", "choose an index in this range")


def _tensor(value: float | Tensor) -> Tensor:
    """A number keeps all its digits, whatever the model's dtype."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")


def _on_axes(indexes: Tensor, dims: tuple[int, ...], ndim: int) -> Tensor:
    """Reshaped so that its axes are the axes `dims` of a tensor of so many axes."""
    shape = [1] * ndim
    for dim, size in zip(dims, indexes.shape, strict=True):
        shape[dim] = size
    return indexes.reshape(shape)


def _own_mean(value: Tensor, passes: Passes) -> Tensor:
    """Each text's mean over its real positions of this pass."""
    real = _on_axes((passes.positions >= 0).to(value.device), (0, 1), value.ndim)
    return torch.where(real, value, 0.0).sum(1, keepdim=True) / real.sum(1, keepdim=True)
