"""One pass, watched: the tap that records, the one that edits, and the trace that comes of it.

It knows a decoder and tokens; it does not know text, nor how a token is chosen.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import torch
from torch import Tensor

from cutaway.edit.edit import Edit
from cutaway.edit.editor import Editor
from cutaway.edit.positions import Wanted, by_position, columns, several
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.select import Selection, select
from cutaway.ground.sites import all_sites
from cutaway.model.decoder import Decoder
from cutaway.model.parts import dtype_of
from cutaway.model.tap import Chain
from cutaway.quant.native import copy
from cutaway.quant.native.pages import alone, recorded_into
from cutaway.text.pieces import Tokens
from cutaway.trace.memory import Mapped, Memory
from cutaway.trace.pass_recorder import Enough, Recorder
from cutaway.trace.plan import Plan, plan
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
    if not isinstance(grad, bool):
        raise BadArgument(f"grad={grad!r}", "True or False", "pass grad=True for gradients")
    chosen = chosen_sites(decoder.config, sites, until)
    cost = planned(decoder, tokens, chosen, positions=positions, dtype=dtype, to=to)
    if budget is not None:
        cost.within(budget)
    last = until_site(decoder.config, until) or (chosen[-1] if chosen else None)
    if last == "logits":
        last = None  # nothing comes after it
    editor = Editor(edits, decoder.config, tokens)
    keep = _differentiable if grad else Copies(cost, tokens, positions, to, decoder)
    recorder = Recorder(chosen, last, keep, flows=grad)
    opened = keep.opened() if isinstance(keep, Copies) else nullcontext()
    with _with_gradients() if grad else torch.no_grad(), opened, suppress(Enough):
        decoder(tokens, tap=Chain(editor, recorder) if edits else recorder)
    editor.finish()
    values = {name: recorder.parts[name][0] for name in chosen}
    attention, recorded = attention_of(chosen, editor), several(positions)
    return Trace(values, tokens, decoder.config, attention, positions=recorded, plan=cost)


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
    return plan(
        decoder.config, chosen, batch, count, dtype=dtype_of(decoder), as_dtype=dtype, attended=longest, where=where
    )


def chosen_sites(config: DecoderConfig, sites: Selection, until: str | None = None) -> list[str]:
    """Names of the sites, none of them after `until`."""
    chosen, last = select(config, sites), until_site(config, until)
    names = list(all_sites(config))
    return chosen if last is None else [name for name in chosen if names.index(name) <= names.index(last)]


def until_site(config: DecoderConfig, until: str | None) -> str | None:
    """The last site of those that `until` means."""
    if until is not None and not isinstance(until, str):
        raise BadArgument(f"until={until!r}", "the name of a site", 'pass for example until="blocks.3.resid_post"')
    return None if until is None else select(config, until)[-1]


def attention_of(sites: Sequence[str], editor: Editor) -> str:
    """Which attention runs: its softmax by name only where a value inside it is recorded or edited."""
    asked = [*sites, *editor.by_site]
    return "explicit" if any(name.endswith(("attn.scores", "attn.pattern")) for name in asked) else "fused"


class Copies:
    """Copies the wanted positions of a value, in the dtype and to the memory asked for."""

    def __init__(self, cost: Plan, tokens: Tokens, positions: Wanted, to: Where, decoder: Decoder) -> None:
        self.tokens, self.positions = tokens, positions
        if positions is not None:
            columns(tokens, positions)  # a position that is not there is told before the pass
        self.rows = {row.site: row for row in cost.rows}
        sites = all_sites(decoder.config)
        self.every = len(self.rows) == len(sites)
        self.heads_first = {name for name, site in sites.items() if site.shape.startswith("B H")}
        device = decoder.embed.token.weight.device
        if cost.where == "disk":
            self.store = Mapped(_folder(to), cost.bytes, len(cost.rows))
        else:
            self.store = Memory(cost.bytes, device if to is None else torch.device(str(to)))
        self.beside, self.seen = to is None, set[int]()  # beside the weights; storages that hold a value
        self.taken = set[int]()  # of values that were computed into this memory and are not yet recorded

    def opened(self) -> AbstractContextManager[None]:
        """Within it ops compute values right into this memory, where every one is recorded, and as it is."""
        as_they_are = self.every and self.beside and self.positions is None
        as_they_are = as_they_are and all(row.dtype == torch.float32 for row in self.rows.values())
        usable = as_they_are and isinstance(self.store, Memory) and self.store.chunked
        return recorded_into(self._take) if usable else nullcontext()

    def _take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        value = self.store.take(shape, dtype)
        self.taken.add(value.data_ptr())
        return value

    def __call__(self, name: str, value: Tensor) -> Tensor:
        value = value.detach()
        if value.data_ptr() in self.taken and value.is_contiguous() and value.shape == self.rows[name].shape:
            self.taken.discard(value.data_ptr())
            return value
        if self.positions is not None:
            dims = (1, 2) if name in self.heads_first else (1, 1)
            value = by_position(value.transpose(*dims), self.tokens, self.positions).transpose(*dims)
        row = self.rows[name]
        if self.beside and self.positions is None and value.dtype == row.dtype and self._large_and_alone(value):
            return value
        return copy(self.store.take(row.shape, row.dtype), value)

    def _large_and_alone(self, value: Tensor) -> bool:
        """Whether a copy can be saved: nothing else lies in its memory, and the decoder writes into no value."""
        if not alone(value) or value.data_ptr() in self.seen:
            return False
        self.seen.add(value.data_ptr())
        return True


def _differentiable(name: str, value: Tensor) -> Tensor:
    """A copy that gradients flow through; where none flow yet, they begin here."""
    return value.clone() if value.requires_grad else value.detach().clone().requires_grad_()


@contextmanager
def _with_gradients() -> Iterator[None]:
    """Raises BadArgument inside torch.inference_mode(), where torch records nothing of what comes after either."""
    if torch.is_inference_mode_enabled():
        found = "grad=True inside torch.inference_mode()"
        raise BadArgument(found, "gradients that torch may record", "call it outside; torch.no_grad() does no harm")
    with torch.enable_grad():
        yield


def _folder(to: Where) -> Path:
    return to if isinstance(to, Path) else Path(tempfile.gettempdir())


def _kind(to: Where, decoder: Decoder) -> str:
    """ "device" or "host". Raises BadArgument for anything else."""
    try:
        device = decoder.embed.token.weight.device if to is None else torch.device(str(to))
    except RuntimeError as error:
        raise BadArgument(f"to={to!r}", '"cpu", a GPU, "disk" or a folder', 'pass to="cpu"') from error
    return "host" if device.type == "cpu" else "device"
