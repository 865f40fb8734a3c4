"""Edit: one change of a value in the pass, as data: which site, which operation, and where.

A list of edits is a recipe. This file only describes edits: edit/editor.py applies them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args, no_type_check, runtime_checkable

import torch
from torch import Tensor

from cutaway.edit.positions import Wanted, by_position, pick, several
from cutaway.ground.config import DecoderConfig
from cutaway.ground.display import brief
from cutaway.ground.errors import BadArgument
from cutaway.ground.select import select
from cutaway.ground.sites import all_sites, clean_name
from cutaway.ground.whole import indexes
from cutaway.text.pieces import Tokens

Operation = Literal["set", "add", "scale", "zero", "mean", "patch", "project_out", "function"]
OPERATIONS: tuple[str, ...] = get_args(Operation)
WHERE = ("block", "head", "expert", "neuron", "position", "source", "step", "text")
NEEDS_NO_VALUE = ("zero", "mean", "function")


@runtime_checkable
class Recorded(Protocol):
    """What an edit reads of a trace (trace/trace.py): values by site, and the tokens that they belong to."""

    @property
    def tokens(self) -> Tokens: ...
    @property
    def config(self) -> DecoderConfig: ...
    @property
    def positions(self) -> tuple[int, ...] | None: ...
    def __getitem__(self, name: str, /) -> Tensor: ...


@no_type_check  # it checks its values itself, in sentences: the tests' beartype would come before them
@dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """One change: `op` at the values of `site`, everywhere or where the other fields say.

    site: a name or a pattern ("attn.z" of every block, "blocks.3-7.attn.z"). op:
        set, patch: the value itself; patch is how a value of another trace is set.
        add, scale: value + it, value x it. zero: 0. project_out: value - (value · d) d, for the unit vector d along it.
        mean: it, or where it is None each text's own mean over the real positions of the pass.
        function: fn(values [B, T, ...]) → values of the same shape.
    value: a number, or a tensor that broadcasts to the edited elements: the site's axes in their order, without those
        of which one index was chosen: with head=9, [B, T, K], [T, K] or [K] fit "attn.z". T: the positions chosen.
    Where, each an index, several, or None for all: block; head (of "attn.k" and "attn.v" the key/value head); expert;
        neuron, the last axis whatever else it is; position, of the text's own tokens, padding not counted, from 0, or
        from -1 back from the prompt's end; source, the position attended to (scores and pattern); step, the pass that
        chooses new token number `step`: 0 reads the prompt; text, the row of the batch. Padding is never edited, nor
        masked scores and patterns.

    Raises BadArgument for an unknown op, a value for an op that takes none, or a missing value.
    """

    site: str
    op: Operation
    value: float | Tensor | None = None
    fn: Callable[[Tensor], Tensor] | None = None
    block: Wanted = None
    head: Wanted = None
    expert: Wanted = None
    neuron: Wanted = None
    position: Wanted = None
    source: Wanted = None
    step: Wanted = None
    text: Wanted = None

    __repr__ = brief

    def __post_init__(self) -> None:
        if not isinstance(self.site, str):
            raise BadArgument(f"the site {self.site!r}", "a name or a pattern", 'pass for example "blocks.0.attn.z"')
        if self.op not in OPERATIONS:
            raise BadArgument(f"the operation {self.op!r}", f"one of {', '.join(OPERATIONS)}", "pass one of these")
        for name in WHERE:
            chosen = indexes(name, getattr(self, name), signed=name == "position")  # only it counts from the end
            object.__setattr__(self, name, chosen)
        object.__setattr__(self, "site", clean_name(self.site))
        object.__setattr__(self, "value", _value(self))
        if (self.op == "function") != callable(self.fn):
            raise BadArgument(f"{self.op} with fn={self.fn!r}", "a function with op function, and only there",
                              "pass for example Edit.function(site, torch.relu)")  # fmt: skip

    @classmethod
    def set(cls, site: str, value: Any, **where: Any) -> "Edit":
        """The value is `value`."""
        return cls(site, "set", value, **where)

    @classmethod
    def add(cls, site: str, value: Any, **where: Any) -> "Edit":
        """`value` is added: a steering vector, for example."""
        return cls(site, "add", value, **where)

    @classmethod
    def scale(cls, site: str, factor: Any, **where: Any) -> "Edit":
        """Times `factor`."""
        return cls(site, "scale", factor, **where)

    @classmethod
    def zero(cls, site: str, **where: Any) -> "Edit":
        """All zeros: zero ablation."""
        return cls(site, "zero", **where)

    @classmethod
    def mean(cls, site: str, trace: Recorded | None = None, **where: Any) -> "Edit":
        """Mean ablation: the mean over all real positions of a trace, or of the text itself in the same pass."""
        edit = cls(site, "mean", **where)
        if trace is None:
            return edit
        _require_trace(trace)
        axes, value = _source(edit, trace)
        if "S" in axes:
            raise BadArgument(
                f"the mean of {edit.site} over a trace", "a site without an axis S", "use mean without one"
            )
        mean = value[trace.tokens.mask.bool()].mean(0)
        for dim in reversed(range(2, len(axes))):
            mean = pick(mean, dim - 2, edit.wanted(axes)[dim])
        return replace(edit, value=mean)

    @classmethod
    def patch(cls, site: str, trace: Recorded, **where: Any) -> "Edit":
        """The same elements' values in another trace, position by position; one text is broadcast.

        Without position=, all positions of that trace, whose texts must then be equally long.
        """
        _require_trace(trace)
        edit, tokens = cls(site, "patch", 0.0, **where), trace.tokens
        axes, value = _source(edit, trace)
        every = _all_positions(tokens) if edit.position is None or ("S" in axes and edit.source is None) else None
        edit = edit if edit.position is not None else replace(edit, position=every)
        value = by_position(value, tokens, edit.position)
        if "S" in axes:
            edit = edit if edit.source is not None else replace(edit, source=every)
            value = by_position(value.transpose(1, 3), tokens, edit.source).transpose(1, 3)
        if axes[1] != "T":
            value = value.transpose(1, 2)
        for dim, (axis, wanted) in reversed(list(enumerate(zip(axes, edit.wanted(axes), strict=True)))):
            one_text = axis == "B" and len(tokens.ids) == 1
            if axis in "TS" or one_text:  # picked above, and one text is broadcast
                value = value.select(dim, 0) if isinstance(wanted, int) or one_text else value
            else:
                value = pick(value, dim, wanted)
        return replace(edit, value=value)

    @classmethod
    def project_out(cls, site: str, direction: Any, **where: Any) -> "Edit":
        """The component along `direction`, a vector on the last axis, is removed."""
        return cls(site, "project_out", direction, **where)

    @classmethod
    def function(cls, site: str, fn: Callable[[Tensor], Tensor], **where: Any) -> "Edit":
        """fn of the site's value, where the edit acts."""
        return cls(site, "function", fn=fn, **where)

    def wanted(self, axes: Sequence[str]) -> list[Wanted]:
        """The indexes chosen on each axis of a site, by its letters. Raises BadArgument for an axis that it has not."""
        last = {} if axes[-1] in "SX" else {axes[-1]: self.neuron}
        heads = {"H": self.head, "G": self.head, "X": self.expert}
        chosen = {"B": self.text, "T": self.position, "S": self.source} | heads | last
        missing = [
            f"{name}={getattr(self, name)}"
            for name, letters in (("source", "S"), ("head", "HG"), ("expert", "X"), ("neuron", "1DEFKV"))
            if getattr(self, name) is not None and not set(letters) & set(axes)
        ]
        if missing:
            do = "leave it out, or name another site"
            raise BadArgument(f"{missing[0]} for {self.site} [{' '.join(axes)}]", "an axis that the site has", do)
        return [chosen[axis] for axis in axes]

    def as_data(self) -> dict[str, Any]:
        """The edit as JSON; numbers come back bit for bit. Raises BadArgument for a function, which is no data."""
        if self.fn is not None:
            raise BadArgument(f"{self}", "edits that are data", "write the function's effect as another operation")
        data: dict[str, Any] = {"site": self.site, "op": self.op}
        if self.value is not None:
            data["value"] = _as_json(self.value.tolist() if isinstance(self.value, Tensor) else self.value)
        chosen = {name: getattr(self, name) for name in WHERE}
        return data | {name: list(i) if isinstance(i, tuple) else i for name, i in chosen.items() if i is not None}

    @classmethod
    def from_data(cls, data: Any) -> "Edit":
        """The edit from `as_data`, or written by hand. Raises BadArgument for anything else."""
        known = ("site", "op", "value", *WHERE)
        if not isinstance(data, dict) or not {"site", "op"} <= data.keys() or not data.keys() <= set(known):
            expected = f"an edit with site, op, and of {', '.join(known[2:])} what it needs"
            do = 'write for example {"site": "blocks.0.attn.z", "op": "zero", "head": 3}'
            raise BadArgument(str(data)[:80], expected, do)
        if not isinstance(data["site"], str):
            raise BadArgument(f"the site {data['site']!r}", "a name or a pattern", "write it as a string")
        value = data.get("value")
        given: dict[str, Any] = {**data, "value": _from_json(value) if isinstance(value, list | str) else value}
        return cls(**given)

    def __str__(self) -> str:
        where = [f"{name} {_words(getattr(self, name))}" for name in WHERE if getattr(self, name) is not None]
        at = f" at {', '.join(where)}" if where else ""
        value = self.value
        if isinstance(value, Tensor) and value.ndim == 0:
            value = float(value)
        shown = "" if value is None else f" {list(value.shape)}" if isinstance(value, Tensor) else f" {value:g}"
        return f"{self.op}{shown} on {self.site}{at}"


def sites_of(edit: Edit, config: DecoderConfig) -> list[str]:
    """The sites that an edit matches. Raises BadArgument where there is none."""
    names, blocks = select(config, edit.site), several(edit.block)
    if blocks is None:
        return names
    chosen = [name for name in names if name.startswith("blocks.") and int(name.split(".")[1]) in blocks]
    missing = set(blocks) - {int(name.split(".")[1]) for name in chosen}
    if missing:
        found = f"block {min(missing)} for {edit.site}"
        raise BadArgument(found, f"a block of 0 to {config.n_layers - 1} that the pattern names", "choose such a block")
    return chosen


def _value(edit: Edit) -> float | Tensor | None:
    """A number, or a tensor of its own: a later change of the caller's changes no edit."""
    value = edit.value
    if (value is None) != (edit.op in NEEDS_NO_VALUE) and not (edit.op == "mean" and value is not None):
        found = f"{edit.op} {'without a value' if value is None else 'with a value'}"
        raise BadArgument(found, "a number or a tensor, except for zero and function", "pass value= where it belongs")
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value if value is None else float(value)
    try:
        if not isinstance(value, Tensor):
            # whatever the model's dtype, no bit of a number is lost
            value = torch.tensor(value, dtype=torch.float64, device="cpu")
        tensor = value.detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:  # rows of different lengths, words
        raise BadArgument(f"a value that is no tensor ({error})", "numbers", "pass a number or a tensor") from error
    if tensor.dtype is torch.bool or tensor.is_complex() or not tensor.numel():
        found = f"a value {list(tensor.shape)} of {tensor.dtype}"
        raise BadArgument(found, "real numbers, at least one", "pass a number or a tensor")
    return tensor if tensor.is_floating_point() else tensor.float()


def _require_trace(trace: Any) -> None:
    if not isinstance(trace, Recorded):
        raise BadArgument(f"a {type(trace).__name__}", "a trace", "pass what lm.trace(...) gave")


def _source(edit: Edit, trace: Recorded) -> tuple[list[str], Tensor]:
    """The site's axes, and its value in a trace, B and T first. Raises where the trace holds only some positions."""
    if trace.positions is not None:
        found = f"a trace of the positions {list(trace.positions)} alone"
        raise BadArgument(found, "a trace of whole texts", "record it without positions=")
    names = sites_of(edit, trace.config)
    if len(names) > 1:
        found = f"{len(names)} sites, {names[0]} to {names[-1]}, for one value of a trace"
        raise BadArgument(found, "one site", "choose one with block=, and make an edit for each")
    value, axes = trace[names[0]], all_sites(trace.config)[names[0]].shape.split()
    return axes, value if axes[1] == "T" else value.transpose(1, 2)


def _all_positions(tokens: Tokens) -> tuple[int, ...]:
    lengths = sorted(set(tokens.lengths.tolist()))
    if len(lengths) > 1:
        found, do = f"a trace of texts of {lengths} tokens", "pass position= to say which positions are patched"
        raise BadArgument(found, "texts of one length", do)
    return tuple(range(lengths[0]))


def _as_json(value: Any) -> Any:
    """Numbers that JSON does not have as words: "-inf"."""
    if isinstance(value, list):
        return [_as_json(part) for part in value]
    return value if math.isfinite(value) else str(value)


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(part) for part in value]
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise BadArgument(f"the value {value!r}", "numbers", 'write numbers, or "-inf"') from error


def _words(index: Wanted) -> str:
    """3, or 0 to 4, or 1, 5, 9."""
    if not isinstance(index, tuple):
        return str(index)
    if len(index) > 2 and index == tuple(range(index[0], index[-1] + 1)):
        return f"{index[0]} to {index[-1]}"
    return ", ".join(map(str, index[:6])) + (", …" if len(index) > 6 else "")
