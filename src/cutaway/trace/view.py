"""A view: the trace of one long text, small enough to keep, of which any other value is computed again when it is read.

Kept of a pass: what enters each block, and the q, k and v that attention multiplies. Scores and patterns, which grow
with the square of the length, leave a thumbnail of every head and are dropped. It knows a decoder and tokens; it does
not know text, nor what a head's pattern means.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cutaway.edit.edit import Edit, sites_of
from cutaway.edit.editor import Editor
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.select import Selection, select
from cutaway.ground.sites import all_sites, block_exit, embed_sites, multiplied
from cutaway.ground.whole import whole
from cutaway.model.architecture import size
from cutaway.model.decoder import Attention, Decoder
from cutaway.model.ops import Ops
from cutaway.model.parts import dtype_of
from cutaway.model.tap import Chain, Untapped, untapped
from cutaway.quant import native
from cutaway.text.pieces import Tokens
from cutaway.trace.pass_recorder import Enough, Recorder
from cutaway.trace.plan import Plan, Row, plan
from cutaway.trace.run import Copies
from cutaway.trace.trace import Trace

THUMBNAIL = 64  # cells a side, at most
SQUARES = ("attn.scores", "attn.pattern")
Watch = Callable[[int, Tensor], Any]  # block, its pattern [B, H, T, S]


class Head(NamedTuple):
    """One head: scores before the softmax, the pattern after it, and z, the values mixed by it."""

    scores: Float[Tensor, "B T S"]
    pattern: Float[Tensor, "B T S"]
    z: Float[Tensor, "B T K"]


class Recomputed(dict[str, Tensor]):
    """The kept values by site; any other site of the model is computed when it is read, and is not kept."""

    def __init__(self, kept: dict[str, Tensor], config: DecoderConfig, source: "Source") -> None:
        super().__init__(kept)
        self.config, self.source = config, source

    def __contains__(self, name: object) -> bool:
        return name in all_sites(self.config)

    def __missing__(self, name: str) -> Tensor:
        if name not in self:
            raise KeyError(name)
        return self.source.values(self, [name])[name]


@dataclass(frozen=True, repr=False, eq=False)
class View(Trace):
    """A Trace that keeps few values and computes the others when they are read, with the bits of the pass.

    view["blocks.3.mlp.post"] runs block 3 again on what entered it; view["attn.pattern", 5] and `head(5, 3)` only
    multiply the kept q and k. Loops, `nbytes` and `save` are of what is kept. The model must be as it was: a read
    raises BadArgument where its weights are others now. It pickles as a Trace of what is kept, without the model.

    thumbnails: bytes [L, B, H, t, t], each the largest weight of a square of the pattern, 255 for 1; t is 64, or the
    number of positions where there are fewer, and cell i begins at position i · positions // t. sizes: the L2 norm of
    what each block adds, "attn_out" and "mlp_out", [L, B, T]. roles: of each head, [L, B, H]: analysis/heads.py.
    """

    thumbnails: UInt8[Tensor, "L B H t t"] = field(kw_only=True)
    sizes: dict[str, Tensor] = field(kw_only=True)
    roles: dict[str, Tensor] = field(default_factory=dict, kw_only=True)
    source: "Source" = field(kw_only=True)

    def head(self, layer: int, head: int) -> Head:
        """One head's scores [B, T, S], pattern [B, T, S] and z [B, T, K], with the bits of the pass.

        Both count from 0, or from -1 back. Raises BadArgument for a block or a head that is not there.
        """
        config = self.config
        at = _index("block", layer, config.n_layers), _index("head", head, config.n_heads)
        return self.source.head(self.values_by_site, *at)

    def logits_at(self, position: int) -> Float[Tensor, "B V"]:
        """The logits at one column, without those of the others.

        As view["logits"][:, position]: bit for bit where the unembedding is in 8 bits; one in full precision may add
        the same products in another order where there are fewer rows.
        """
        return self.source.logits(self.values_by_site, [position])[:, 0]

    def logits_between(self, start: int, stop: int) -> Float[Tensor, "B W V"]:
        """The logits at some columns, as `logits_at`."""
        return self.source.logits(self.values_by_site, slice(start, stop))

    def read(self, sites: Selection) -> Trace:
        """A Trace of these sites, each block run once for all of its own. sites: as in lm.trace."""
        chosen, values = select(self.config, sites), dict[str, Tensor]()
        for _, names in groupby(chosen, _block):
            values |= self.source.values(self.values_by_site, list(names))
        return Trace(values, self.tokens, self.config, self.attention, self.model)

    def kept(self) -> Trace:
        """What is kept, as a Trace without the model."""
        return Trace(dict(self.items()), self.tokens, self.config, self.attention, self.model, plan=self.plan)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _same, (self.kept(),)

    def __repr__(self) -> str:
        texts, positions = self.tokens.ids.shape
        of = f"{texts} × {positions} tokens, {size(self.nbytes)} kept, every value can be read"
        return f"<View of {self.model or 'a model'}: {of}>"


def view(
    decoder: Decoder,
    tokens: Tokens,
    *,
    edits: Sequence[Edit] = (),
    watch: Watch | None = None,
    budget: int | float | str | None = None,
) -> View:
    """One pass, viewed. watch(block, pattern) sees each pattern before it is dropped.

    Other arguments and errors: lm.py: LM.view.
    """
    config, cost = decoder.config, view_plan(decoder, tokens, edits)
    if budget is not None:
        cost.within(budget)
    source, glance = Source(decoder, tokens, edits), Glance(config, tokens, watch)
    kept, editor = kept_sites(config, edits), Editor(edits, config, tokens)
    end = block_exit(config, config.n_layers - 1)
    after = list(all_sites(config))
    after = after[after.index(end) + 1 :]
    recorder = Recorder(kept, None if editor.wants(*after) else end, Copies(cost, tokens, None, None, decoder))
    with torch.no_grad(), suppress(Enough):
        decoder(tokens, tap=Chain(editor, glance, recorder))
    editor.finish()
    values = Recomputed({name: recorder.parts[name][0] for name in kept}, config, source)
    sizes = {name: torch.stack(glance.sizes[name]) for name in glance.sizes}
    return View(values, tokens, config, plan=cost, thumbnails=torch.stack(glance.thumbnails), sizes=sizes,
                source=source)  # fmt: skip


def kept_sites(config: DecoderConfig, edits: Sequence[Edit] = ()) -> list[str]:
    """The sites that a view keeps: the embeddings, what enters each block and leaves the last, the q, k and v that
    attention multiplies, and of scores and patterns those that are edited."""
    kept = {site.name for site in embed_sites(config)} | {block_exit(config, config.n_layers - 1)}
    kept |= {f"blocks.{i}.{name}" for i in range(config.n_layers) for name in ("resid_pre", "attn.v")}
    kept |= {name for i in range(config.n_layers) for name in multiplied(config, i)}
    kept |= {site for edit in edits for site in sites_of(edit, config) if site.endswith(SQUARES)}
    return [name for name in all_sites(config) if name in kept]


def view_plan(decoder: Decoder, tokens: Tokens, edits: Sequence[Edit] = ()) -> Plan:
    """What a view keeps, in bytes."""
    config, (batch, width) = decoder.config, tokens.ids.shape
    where = "host" if decoder.embed.token.weight.is_cpu else "device"
    cost = plan(config, kept_sites(config, edits), batch, width, dtype=dtype_of(decoder), where=where)
    side = min(THUMBNAIL, width)
    small = (batch, config.n_heads, side, side)
    rows = [Row(f"blocks.{i}.attn.thumbnails", small, torch.uint8) for i in range(config.n_layers)]
    return Plan((*cost.rows, *rows), where)


class Glance(Untapped):
    """A tap that looks at each pattern once, and measures what attention and the MLP add."""

    def __init__(self, config: DecoderConfig, tokens: Tokens, watch: Watch | None) -> None:
        self.watch, self.thumbnails = watch, list[Tensor]()
        self.sizes: dict[str, list[Tensor]] = {"attn_out": [], "mlp_out": []}
        self.kinds = {f"blocks.{i}.{kind}": (i, kind) for i in range(config.n_layers)
                      for kind in ("attn.pattern", *self.sizes)}  # fmt: skip

    def __call__(self, name: str, value: Tensor) -> Tensor:
        layer, kind = self.kinds.get(name, (0, ""))
        if kind == "attn.pattern":
            self.thumbnails.append(thumbnail(value))
            if self.watch is not None:
                self.watch(layer, value)
        elif kind:
            self.sizes[kind].append(value.float().norm(dim=-1))
        return value

    def wants(self, *names: str) -> bool:
        return not self.kinds.keys().isdisjoint(names)


def thumbnail(pattern_BHTS: Float[Tensor, "B H T S"]) -> UInt8[Tensor, "B H t s"]:
    """The pattern at most 64 cells a side, each the largest weight in it as a byte, 255 for 1."""
    t, s = pattern_BHTS.shape[-2:]
    if t > THUMBNAIL:
        pattern_BHTS = torch.stack([pattern_BHTS[:, :, a:b].amax(2) for a, b in _cells(t)], 2)
    if s > THUMBNAIL:
        pattern_BHTS = torch.stack([pattern_BHTS[..., a:b].amax(-1) for a, b in _cells(s)], -1)
    return (pattern_BHTS * 255).round().to(torch.uint8)


def _cells(count: int) -> list[tuple[int, int]]:
    edges = [i * count // THUMBNAIL for i in range(THUMBNAIL + 1)]
    return list(pairwise(edges))


class Source:
    """What a view computes its values from again: the decoder, the tokens and the edits of the pass."""

    def __init__(self, decoder: Decoder, tokens: Tokens, edits: Sequence[Edit]) -> None:
        self.decoder, self.tokens, self.edits = decoder, tokens, tuple(edits)
        config = decoder.config
        self.info = decoder.info(tokens, None, dtype_of(decoder))  # pyright: ignore[reportArgumentType]
        self.edited = {site for edit in edits for site in sites_of(edit, config)}
        entries = [f"blocks.{i}.resid_pre" for i in range(1, config.n_layers)]
        self.same = {block_exit(config, i): entry for i, entry in enumerate(entries) if entry not in self.edited}

    def values(self, kept: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        """Sites of one block, or of none."""
        config, same = self.decoder.config, {name: self.same.get(name, name) for name in names}
        found = {name: kept[other] for name, other in same.items() if dict.__contains__(kept, other)}
        missing = [name for name in names if name not in found]
        with torch.no_grad():
            if missing and all(name.endswith(SQUARES) for name in missing):
                layer = int(missing[0].split(".")[1])
                scores_BHTS = self._scores(kept, layer, slice(None))
                both = scores_BHTS, self._pattern(kept, layer, slice(None), scores_BHTS)
                found |= {f"blocks.{layer}.{name}": value for name, value in zip(SQUARES, both, strict=True)}
            elif missing and missing[0].startswith("blocks."):
                found |= self._in_block(kept, missing)
            elif missing:
                recorder = Recorder(missing, None if missing[-1] == "logits" else missing[-1])
                with suppress(Enough):
                    self.decoder.unembed(kept[block_exit(config, config.n_layers - 1)], Chain(self._editor(), recorder))
                found |= {name: parts[0] for name, parts in recorder.parts.items()}
        return {name: found[name] for name in names}

    def logits(self, kept: dict[str, Tensor], columns: list[int] | slice) -> Tensor:
        config = self.decoder.config
        end = block_exit(config, config.n_layers - 1)
        if any(site.startswith(("logits", "ln_final")) for site in self.edited):  # an edit counts columns
            return self.values(kept, ["logits"])["logits"][:, columns]
        with torch.no_grad():
            return self.decoder.unembed(kept[end][:, columns], untapped)

    def head(self, kept: dict[str, Tensor], layer: int, head: int) -> Head:
        """One head. Alone where the library computes it, which adds each head's numbers by themselves; else with the
        other heads of its block, as torch's matrix products may add in another order."""
        q, _ = multiplied(self.decoder.config, layer)
        attn, alibi = self._attention(layer), self.info.alibi_BH1S is not None
        together = alibi or attn.softcap is not None or self._by_torch(kept[q], layer)
        heads, at = (slice(None), head) if together else (slice(head, head + 1), 0)
        with torch.no_grad():
            scores_BHTS = self._scores(kept, layer, heads)
            pattern_BHTS = self._pattern(kept, layer, heads, scores_BHTS)
            z = f"blocks.{layer}.attn.z"
            if z in self.edited:
                z_BTK = self._in_block(kept, [z])[z][:, :, head]
            else:
                v_BSGK = self._groups(kept[f"blocks.{layer}.attn.v"], heads)
                z_BTK = attn.ops.mix(pattern_BHTS, v_BSGK)[:, :, at]
        return Head(scores_BHTS[:, at], pattern_BHTS[:, at], z_BTK)

    def _scores(self, kept: dict[str, Tensor], layer: int, heads: slice) -> Tensor:
        site = f"blocks.{layer}.attn.scores"
        if site in self.edited:
            return kept[site][:, heads]
        q_BTHK, k_BSGK = (kept[name] for name in multiplied(self.decoder.config, layer))
        attn, q_BTHK = self._attention(layer), q_BTHK[:, :, heads]
        q_BTHK = q_BTHK if attn.scale == 1 else q_BTHK * attn.scale
        return attn.scores(q_BTHK, self._groups(k_BSGK, heads), self.info)

    def _pattern(self, kept: dict[str, Tensor], layer: int, heads: slice, scores_BHTS: Tensor) -> Tensor:
        site = f"blocks.{layer}.attn.pattern"
        attn = self._attention(layer)
        if site in self.edited:
            return kept[site][:, heads]
        softmax = attn.ops.softmax
        return softmax(scores_BHTS) if attn.sinks is None else attn.sinks(scores_BHTS, softmax, heads)

    def _groups(self, x_BSGK: Tensor, heads: slice) -> Tensor:
        """The keys or values of these heads."""
        if heads == slice(None):
            return x_BSGK
        group = heads.start * x_BSGK.shape[2] // self.decoder.config.n_heads
        return x_BSGK[:, :, group : group + 1]

    def _attention(self, layer: int) -> Attention:
        return self.decoder.blocks[layer].attn  # pyright: ignore[reportReturnType,reportAttributeAccessIssue]

    def _by_torch(self, x: Tensor, layer: int) -> bool:
        return type(self._attention(layer).ops) is Ops or not native.usable(x)

    def _in_block(self, kept: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        """Sites of a block, which runs again on what entered it. What leaves it must be what left it in the pass."""
        config, layer = self.decoder.config, int(names[0].split(".")[1])
        entry, end = (f"blocks.{layer}.resid_pre", block_exit(config, layer))
        following = f"blocks.{layer + 1}.resid_pre" if layer + 1 < config.n_layers else end
        x_BTD, editor = kept[entry], self._editor()
        editor.by_site.pop(entry, None)  # it was kept as edited
        explicit = [f"blocks.{layer}.attn.pattern"] if self._by_torch(x_BTD, layer) else []  # as in the pass
        recorder = Recorder(dict.fromkeys((*names, end, *explicit)))
        self.decoder.blocks[layer](x_BTD, self.info, None, Chain(editor, recorder))
        unedited = following == end or following not in self.edited
        if unedited and not torch.equal(recorder.parts[end][0], kept[following]):
            found = f"another value of {end} than in the pass of this view"
            raise BadArgument(found, "the weights of then", "view the text again")
        return {name: recorder.parts[name][0] for name in names}

    def _editor(self) -> Editor:
        editor = Editor(self.edits, self.decoder.config, self.tokens)
        editor.passes.enter()  # the one pass that there was
        return editor


def _index(what: str, given: Any, count: int) -> int:
    number = whole(given)
    if number is None or not -count <= number < count:
        raise BadArgument(f"{what} {given!r}", f"0 to {count - 1}, or from -1 back", f"choose another {what}")
    return number % count


def _block(name: str) -> str:
    return name.split(".")[1] if name.startswith("blocks.") else ""


def _same(trace: Trace) -> Trace:
    return trace
