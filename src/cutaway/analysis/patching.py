"""Which values matter? Values of one text put into the pass over another, place by place, and what that does.

Two texts of the same length differ in what the model should answer. "denoise" puts the clean text's value at one place
into the corrupt text's pass: what restores the answer is enough for it. "noise" puts the corrupt value into the clean
pass: what breaks the answer is needed for it. The score is 0 where nothing changed and 1 where the answer is wholly the
other text's. Trust it for the pair of texts and the measure that were chosen; parts that stand in for each other hide
one another. Sources: Meng et al. 2022 (arXiv 2202.05262), Wang et al. 2022 (arXiv 2211.00593), Heimersheim and Nanda
2024 (arXiv 2404.15255). This file knows values and weights; it does not know text.

A sweep is batched: each row of a batch is the same text with another place patched. The blocks before the first patched
one are not computed again: their result is the stream that was recorded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.ground.errors import BadArgument
from cutaway.model.attention_mask import PassInfo, attention_mask
from cutaway.model.decoder import Decoder
from cutaway.model.tap import Tap
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace

What = Literal["resid", "attn", "mlp", "heads", "head-positions", "patterns"]
SITES = {
    "resid": "resid_pre", "attn": "attn_out", "mlp": "mlp_out", "heads": "attn.z", "head-positions": "attn.z",
    "patterns": "attn.pattern",
}  # fmt: skip
Metric = Callable[[Float[Tensor, "N V"]], Float[Tensor, "N"]]  # logits at the last place → a number each
AT_ONCE = 32  # rows of a batch


@dataclass(frozen=True)
class Sweep:
    """What each patch did. values: the metric, by place; axes: what the places are, such as ("block", "head").

    clean, corrupt: the metric without a patch. direction: "denoise" or "noise", see the module.
    """

    values: Float[Tensor, "..."]
    axes: tuple[str, ...]
    clean: float
    corrupt: float
    direction: str

    @property
    def scores(self) -> Float[Tensor, "..."]:
        """0: as the text that was run; 1: as the one that the values came from."""
        ran, gave = (self.corrupt, self.clean) if self.direction == "denoise" else (self.clean, self.corrupt)
        return (self.values - ran) / (gave - ran)


def logit_difference(answer: int, wrong: int) -> Metric:
    """The answer's logit minus the wrong one's."""
    return lambda logits_NV: logits_NV[:, answer] - logits_NV[:, wrong]


def logit_of(answer: int) -> Metric:
    """The answer's logit."""
    return lambda logits_NV: logits_NV[:, answer]


def sweep(
    decoder: Decoder,
    clean: Tokens,
    corrupt: Tokens,
    metric: Metric,
    what: What = "heads",
    *,
    direction: Literal["denoise", "noise"] = "denoise",
    block: int | None = None,
    at_once: int = AT_ONCE,
) -> Sweep:
    """Patch every place in turn. what: "resid", "attn", "mlp": block x position; "heads", "patterns": block x head,
    all positions; "head-positions": head x position of one block, which must be given.

    Raises BadArgument for texts that are not one each, of equal length, or an answer that the texts do not tell apart.
    """
    _check(decoder, clean, corrupt, what, block)
    given, ran = (clean, corrupt) if direction == "denoise" else (corrupt, clean)
    layers = range(decoder.config.n_layers) if block is None else [block]
    sites = [f"blocks.{layer}.{name}" for layer in layers for name in {SITES[what], "resid_pre"}]
    source, base = run(decoder, given, [*sites, "logits"]), run(decoder, ran, [*sites, "logits"])
    ends = {id(trace): float(metric(trace["logits"][:, -1])[0]) for trace in (source, base)}
    if ends[id(source)] == ends[id(base)]:
        found = f"texts for which the measure is the same, {ends[id(base)]:.4g}"
        raise BadArgument(found, "two texts that it tells apart", "choose another answer, or other texts")
    rows = []
    for layer in layers:
        places = _places(decoder, base, what)
        values = [
            metric(from_block(decoder, ran, base, layer, Rows(layer, what, some, source), len(some)))
            for some in chunks(places, at_once)
        ]
        rows.append(torch.cat(values))
    heads, positions = decoder.config.n_heads, ran.ids.shape[1]
    shape, axes = {
        "heads": ((len(layers), heads), ("block", "head")),
        "patterns": ((len(layers), heads), ("block", "head")),
        "head-positions": ((heads, positions), ("head", "position")),
    }.get(what, ((len(layers), positions), ("block", "position")))
    of_clean, of_corrupt = (source, base) if direction == "denoise" else (base, source)
    return Sweep(torch.cat(rows).reshape(shape), axes, ends[id(of_clean)], ends[id(of_corrupt)], direction)


def from_block(decoder: Decoder, tokens: Tokens, base: Trace, layer: int, tap: Tap, rows: int) -> Float[Tensor, "N V"]:
    """Logits at the last place of a pass that starts at a block, from its recorded resid_pre, in so many rows."""
    resid_NTD = base[f"blocks.{layer}.resid_pre"].expand(rows, -1, -1).contiguous()
    positions_NT = tokens.positions.expand(rows, -1)
    many = Tokens(tokens.ids.expand(rows, -1), tokens.mask.expand(rows, -1), positions_NT)
    cos_sin = None if decoder.rotary is None else decoder.rotary(positions_NT, resid_NTD.dtype)
    info = PassInfo(attention_mask(many, None), cos_sin)  # pyright: ignore[reportArgumentType]  a cached property is one
    with torch.inference_mode():
        resid_NTD = decoder.run_blocks(decoder.blocks[layer:], resid_NTD, info, None, tap)
        return decoder.unembed(resid_NTD[:, -1:], tap)[:, 0].clone()


class Rows:
    """A tap that patches another place in each row of a batch: (position or None, head or None)."""

    def __init__(
        self, layer: int, what: str, places: Sequence[tuple[int | None, int | None]], source: Trace | None
    ) -> None:
        self.site, self.places = f"blocks.{layer}.{SITES[what]}", places
        self.value = None if source is None else source[self.site]
        self.head_dim = 1 if what == "patterns" else 2

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name != self.site:
            return value
        other = torch.zeros_like(value) if self.value is None else self.value.to(value).expand_as(value)
        here = torch.zeros(value.shape[:3], dtype=torch.bool, device=value.device)
        for row, (position, head) in enumerate(self.places):
            at = [row, slice(None), slice(None)]
            if head is not None:
                at[self.head_dim] = head
            if position is not None:
                at[1] = position
            here[tuple(at)] = True
        if value.ndim == 3:  # no axis of heads
            return torch.where(here.any(-1, keepdim=True).to(value.device), other, value)
        return torch.where(here[..., None].to(value.device), other, value)

    def wants(self, *names: str) -> bool:
        return self.site in names

    changes = wants

    def buffers(self, names: tuple[str, ...]) -> None:
        """None: it changes them."""


def _places(decoder: Decoder, base: Trace, what: str) -> list[tuple[int | None, int | None]]:
    """Every (position, head) of one block that the sweep patches."""
    heads, positions = range(decoder.config.n_heads), range(base.tokens.ids.shape[1])
    if what in ("heads", "patterns"):
        return [(None, head) for head in heads]
    if what == "head-positions":
        return [(position, head) for head in heads for position in positions]
    return [(position, None) for position in positions]


def chunks(places: Sequence, count: int) -> Iterator[Sequence]:
    return (places[start : start + count] for start in range(0, len(places), count))


def _check(decoder: Decoder, clean: Tokens, corrupt: Tokens, what: str, block: int | None) -> None:
    one, other = clean.ids.shape, corrupt.ids.shape
    if one[0] != 1 or one != other or clean.padded or corrupt.padded:
        found = f"texts of {list(one)} and {list(other)} tokens"
        raise BadArgument(found, "one text each, of as many tokens", "change a word so that both are as long")
    if what not in SITES:
        raise BadArgument(f"what={what!r}", f"one of {', '.join(SITES)}", "pass one of these")
    layers = decoder.config.n_layers
    if (what == "head-positions") != (block is not None) or not 0 <= (block or 0) < layers:
        found = f"what={what!r} with block={block}"
        raise BadArgument(found, f"a block of 0 to {layers - 1} with head-positions, and only there", "pass block=")
