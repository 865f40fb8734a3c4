"""One pass, watched: the tap that records, the one that edits, and the trace that comes of it.

It knows a decoder and tokens; it does not know text, nor how a token is chosen.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import ref

import torch
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites
from cutaway.model.decoder import Decoder
from cutaway.model.steps import plain
from cutaway.model.tap import Chain
from cutaway.text.pieces import Tokens
from cutaway.trace.edit import Edit
from cutaway.trace.editor import Editor
from cutaway.trace.places import Wanted, by_position, columns, several
from cutaway.trace.plan import Plan, plan
from cutaway.trace.record import Enough, Recorder
from cutaway.trace.select import Selection, select
from cutaway.trace.store import Mapped
from cutaway.trace.trace import Trace

Where = str | torch.device | Path | None


def run(
    decoder: Decoder,
    tokens: Tokens,
    sites: Selection = "*",
    *,
    edits: Sequence[Edit] = (),
    positions: Wanted = None,
    dtype: torch.dtype | None = None,
    to: Where = None,
    until: str | None = None,
    grad: bool = False,
    budget: int | float | str | None = None,
) -> Trace:
    """The trace of one pass. Arguments and errors: lm.py: LM.trace."""
    chosen = chosen_sites(decoder.config, sites, until)
    cost = planned(decoder, tokens, chosen, positions=positions, dtype=dtype, to=to)
    if budget is not None:
        cost.within(budget)
    last = until_site(decoder.config, until) or (chosen[-1] if chosen else None)
    keep = _differentiable if grad else _Keeper(cost, tokens, positions, dtype, to, decoder.config)
    editor, recorder = Editor(edits, decoder.config, tokens), Recorder(chosen, last, keep, flows=grad)
    with _with_gradients(decoder) if grad else torch.no_grad(), suppress(Enough):
        decoder(tokens, tap=Chain(editor, recorder) if edits else recorder)
    editor.finish()
    values = {name: recorder.parts[name][0] for name in chosen}
    attention, kept = attention_of(chosen, editor), several(positions)
    return Trace(values, tokens, decoder.config, attention, positions=kept, plan=cost, made_by=ref(decoder))


def planned(
    decoder: Decoder,
    tokens: Tokens,
    chosen: Sequence[str],
    *,
    positions: Wanted = None,
    dtype: torch.dtype | None = None,
    to: Where = None,
    new: int = 1,
) -> Plan:
    """What recording these sites costs; new: tokens that may be chosen, all but the last of which are read too."""
    batch, width = tokens.ids.shape
    longest = width if new == 1 else int(tokens.lengths.max()) + new - 1
    count = len(several(positions) or range(longest))
    where = "disk" if to == "disk" or isinstance(to, Path) else _kind(to, decoder)
    own = next(p.dtype for name, p in decoder.named_parameters() if ".ln1." in name)  # a kept table may be narrower
    return plan(decoder.config, chosen, batch, count, dtype=own, as_dtype=dtype, attended=longest, where=where)


def chosen_sites(config: DecoderConfig, sites: Selection, until: str | None = None) -> list[str]:
    """Names of the sites, none of them after `until`."""
    chosen, last = select(config, sites), until_site(config, until)
    names = list(all_sites(config))
    return chosen if last is None else [name for name in chosen if names.index(name) <= names.index(last)]


def until_site(config: DecoderConfig, until: str | None) -> str | None:
    """The last site of those that `until` means."""
    return None if until is None else select(config, until)[-1]


def attention_of(sites: Sequence[str], editor: Editor) -> str:
    """Which attention runs: its softmax by name only where somebody asks for a value inside it."""
    asked = [*sites, *editor.by_site]
    return "explicit" if any(name.endswith(("attn.scores", "attn.pattern")) for name in asked) else "fused"


class _Keeper:
    """Keeps the wanted positions of a value as a copy, in the dtype and at the place asked for."""

    def __init__(
        self, cost: Plan, tokens: Tokens, positions: Wanted, dtype: torch.dtype | None, to: Where, config: DecoderConfig
    ) -> None:
        self.tokens, self.positions, self.dtype = tokens, positions, dtype
        if positions is not None:
            columns(tokens, positions)  # a position that is not there is told before the pass
        self.heads_first = {name for name, site in all_sites(config).items() if site.shape.startswith("B H")}
        self.disk = Mapped(_folder(to), cost.bytes, len(cost.rows)) if cost.where == "disk" else None
        self.device = None if to is None or self.disk else to
        self.kept: set[int] = set()
        self.joined = {} if dtype is not None else _joined({row.site: row.bytes for row in cost.rows})

    def __call__(self, name: str, value: Tensor) -> Tensor:
        value = value.detach()
        if self.positions is not None:
            dims = (1, 2) if name in self.heads_first else (1, 1)
            value = by_position(value.transpose(*dims), self.tokens, self.positions).transpose(*dims)
        if self.disk is not None:
            return self.disk.put(value if self.dtype is None else value.to(self.dtype))
        kept = value.to(device=self.device, dtype=self.dtype)  # pyright: ignore[reportCallIssue,reportArgumentType]
        return self._own(name, kept)

    def _own(self, name: str, value: Tensor) -> Tensor:
        """The value itself, which no part of the model writes over (a house rule, tested), where its memory holds
        nothing but values that are kept; else a copy."""
        if value.untyped_storage().nbytes() == self.joined.get(name):
            return value
        value = value.contiguous()
        if value.untyped_storage().nbytes() != value.nbytes or value.data_ptr() in self.kept:
            return value.clone()  # a block reads what the one before it wrote
        self.kept.add(value.data_ptr())
        return value


def _joined(wanted: Mapping[str, int]) -> dict[str, int]:
    """Of the sites that are born side by side in one product, and all wanted: the bytes of that product."""
    sums = {}
    for site in wanted:
        stem, _, last = site.rpartition(".")
        for group in (("q", "k", "v"), ("pre", "pre_linear")):
            names = [f"{stem}.{name}" for name in group]
            if last in group and all(name in wanted for name in names):
                sums[site] = sum(wanted[name] for name in names)
    return sums


def _differentiable(name: str, value: Tensor) -> Tensor:
    """A copy that gradients flow through; where none flow yet, they begin here."""
    return value.clone() if value.requires_grad else value.detach().clone().requires_grad_()


@contextmanager
def _with_gradients(decoder: Decoder) -> Iterator[None]:
    """Gradients on, and the small steps in plain torch: native ones pass none."""
    with plain_steps(decoder), torch.enable_grad():
        yield


@contextmanager
def plain_steps(decoder: Decoder) -> Iterator[None]:
    """While this lasts, the decoder takes its small steps in plain torch."""
    usual = decoder.steps
    decoder.use(plain)
    try:
        yield
    finally:
        decoder.use(usual)


def _folder(to: Where) -> Path:
    return to if isinstance(to, Path) else Path(tempfile.gettempdir())


def _kind(to: Where, decoder: Decoder) -> str:
    """ "device" or "host". Raises BadArgument for a place that is none."""
    try:
        device = decoder.embed.token.weight.device if to is None else torch.device(str(to))
    except RuntimeError as error:
        raise BadArgument(f"to={to!r}", '"cpu", a GPU, "disk" or a folder', 'pass to="cpu"') from error
    return "host" if device.type == "cpu" else "device"
