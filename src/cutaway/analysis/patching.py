"""Which values matter? Activation patching: values of one text in the pass over another, one at a time.

Two texts of the same length have different answers. "denoise" patches the clean text's value into the corrupt text's
pass: a value that restores the answer is sufficient. "noise" patches the corrupt value into the clean pass: a value
that breaks the answer is necessary. The score is 0 where nothing changed and 1 where the answer is the other text's.
Trust it for the pair of texts and the metric that were chosen; components that back each other up hide one another.
Sources: Meng et al. 2022 (arXiv 2202.05262), Wang et al. 2022 (arXiv 2211.00593), Heimersheim and Nanda 2024 (arXiv
2404.15255). This file knows values and weights; it does not know text.

A sweep is batched: each row of a batch is the same text with another patch. The pass starts at the patched block, from
the recorded residual stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.many import Average, average
from cutaway.analysis.metric import Metric
from cutaway.analysis.resume import from_block
from cutaway.ground.errors import BadArgument, BadText
from cutaway.ground.sites import all_sites
from cutaway.model.decoder import Decoder
from cutaway.model.tap import Tap
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace

# The axes of a sweep, and the sites of a block that it may patch: the first where none is given.
SITES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("block", "head"): ("attn.z", "attn.pattern"),
    ("block", "position"): ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "attn.z", "mlp.post"),
    ("head", "position"): ("attn.z",),
}
Target = tuple[int | None, int | None]  # (position, head) of a patch; None: all of them
DIRECTIONS = ("denoise", "noise")
AT_ONCE = 32  # rows of a batch


@dataclass(frozen=True)
class Sweep:
    """The metric of every patch. values: with these axes, such as ("block", "head").

    clean, corrupt: the metric without a patch. direction: "denoise" or "noise", see the module.
    """

    values: Float[Tensor, "..."]
    axes: tuple[str, ...]
    clean: float
    corrupt: float
    direction: str

    @property
    def scores(self) -> Float[Tensor, "..."]:
        """0: the metric of the text that was run; 1: that of the text that the values came from."""
        base, source = (self.corrupt, self.clean) if self.direction == "denoise" else (self.clean, self.corrupt)
        return (self.values - base) / (source - base)


@dataclass(frozen=True)
class Sweeps:
    """The sweeps of several pairs of texts, averaged. Of one pair its own numbers.

    values: the metric of every patch, [*axes]; clean, corrupt: the metric without a patch. The scores are ratios of
    these averages, so that a pair whose metric hardly differs does not outweigh the others (as in TransformerLens's
    "exploratory analysis").
    """

    values: Average
    axes: tuple[str, ...]
    clean: Average
    corrupt: Average
    direction: str

    @property
    def scores(self) -> Float[Tensor, "..."]:
        """0: the metric of the texts that were run; 1: that of the texts that the values came from."""
        base, source = self._ends()
        return (self.values.mean - base) / (source - base)

    @property
    def spread(self) -> Float[Tensor, "..."] | None:
        """Of the metric of each patch over the pairs, in the unit of `scores`."""
        base, source = self._ends()
        return None if self.values.spread is None else self.values.spread / abs(source - base)

    def _ends(self) -> tuple[float, float]:
        corrupt, clean = float(self.corrupt.mean), float(self.clean.mean)
        return (corrupt, clean) if self.direction == "denoise" else (clean, corrupt)


def averaged(sweeps: Sequence[Sweep]) -> Sweeps:
    """Of pairs that were swept in the same way."""
    clean, corrupt = (
        average([torch.tensor(getattr(each, end), dtype=torch.float64, device="cpu") for each in sweeps])
        for end in ("clean", "corrupt")
    )
    return Sweeps(average([each.values for each in sweeps]), sweeps[0].axes, clean, corrupt, sweeps[0].direction)


def sweep(
    decoder: Decoder,
    clean: Tokens,
    corrupt: Tokens,
    metric: Metric,
    by: tuple[str, ...] = ("block", "head"),
    *,
    site: str | None = None,
    direction: Literal["denoise", "noise"] = "denoise",
    block: int | None = None,
    at_once: int = AT_ONCE,
) -> Sweep:
    """Each patch by itself, on two axes: ("block", "head"), all positions at once; ("block", "position"); or ("head",
    "position") of one `block`, which must be given. site: what is patched in a block, one of SITES[by].

    Raises BadArgument for texts that are not one each, of equal length, or where the metric is the same on both.
    """
    site = _checked_site(decoder, clean, corrupt, by, site, block)
    if direction not in DIRECTIONS:
        raise BadArgument(f"direction={direction!r}", " or ".join(DIRECTIONS), "pass one of the two")
    source_tokens, base_tokens = (clean, corrupt) if direction == "denoise" else (corrupt, clean)
    layers = range(decoder.config.n_layers) if block is None else [block]
    sites = [f"blocks.{layer}.{name}" for layer in layers for name in {site, "resid_pre"}] + ["logits"]
    source, base = run(decoder, source_tokens, sites), run(decoder, base_tokens, sites)
    source_value, base_value = (float(metric(trace["logits"][:, -1])[0]) for trace in (source, base))
    if source_value == base_value:
        found = f"texts for which the measure is the same, {base_value:.4g}"
        raise BadArgument(found, "two texts that it tells apart", "choose another answer, or other texts")
    heads, positions = range(decoder.config.n_heads), range(base_tokens.ids.shape[1])
    axes = {"block": layers, "head": heads, "position": positions}
    targets: list[Target] = [
        (position, head)
        for head in (heads if "head" in by else [None])
        for position in (positions if "position" in by else [None])
    ]
    rows = [
        metric(last_logits(decoder, base_tokens, base, layer, BatchedPatch(layer, site, some, source), len(some)))
        for layer in layers
        for some in chunks(targets, at_once)
    ]
    shape = [len(axes[axis]) for axis in by]
    ends = (source_value, base_value) if direction == "denoise" else (base_value, source_value)
    return Sweep(torch.cat(rows).reshape(shape).cpu(), by, *ends, direction)


def last_logits(decoder: Decoder, tokens: Tokens, base: Trace, layer: int, tap: Tap, rows: int) -> Float[Tensor, "N V"]:
    """Logits at the last position of a pass that starts at a block, from its recorded resid_pre, in `rows` rows."""
    resid_NTD = base[f"blocks.{layer}.resid_pre"].expand(rows, -1, -1).contiguous()
    ids_NT, mask_NT, positions_NT = (x.expand(rows, -1) for x in (tokens.ids, tokens.mask, tokens.positions))
    many = Tokens(ids_NT, mask_NT, positions_NT)
    with torch.inference_mode():
        resid_NTD = from_block(decoder, many, layer, resid_NTD, tap)
        return decoder.unembed(resid_NTD[:, -1:], tap)[:, 0].clone()


class BatchedPatch:
    """A tap that patches one target in each row of a batch, with the source's value or (None) with zero."""

    def __init__(self, layer: int, site: str, targets: Sequence[Target], source: Trace | None) -> None:
        self.site, self.targets = f"blocks.{layer}.{site}", targets
        self.value = None if source is None else source[self.site]
        self.head_dim = 1 if site == "attn.pattern" else 2

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name != self.site:
            return value
        patch = torch.zeros_like(value) if self.value is None else self.value.to(value).expand_as(value)
        patched = torch.zeros(value.shape[:3], dtype=torch.bool, device=value.device)
        for row, (position, head) in enumerate(self.targets):
            index = [row, slice(None), slice(None)]
            if head is not None:
                index[self.head_dim] = head
            if position is not None:
                index[1] = position
            patched[tuple(index)] = True
        if value.ndim == 3:  # no axis of heads
            return torch.where(patched.any(-1, keepdim=True), patch, value)
        return torch.where(patched[..., None], patch, value)

    def wants(self, *names: str) -> bool:
        return self.site in names

    changes = wants

    def buffers(self, names: tuple[str, ...]) -> None:
        """None: it changes them."""


def chunks(targets: Sequence[Target], count: int) -> Iterator[Sequence[Target]]:
    return (targets[start : start + count] for start in range(0, len(targets), count))


def require_pair(clean: Tokens, corrupt: Tokens) -> None:
    """Raises BadArgument unless both are one unpadded text, of equal length."""
    one, other = clean.ids.shape, corrupt.ids.shape
    if one[0] != 1 or other[0] != 1 or clean.padded or corrupt.padded:
        found = f"texts of {list(one)} and {list(other)} tokens"
        raise BadArgument(found, "one text each, not padded", "ask of each pair by itself")
    if one != other:
        found = f"texts of {one[1]} and {other[1]} tokens"
        raise BadText(found, "two texts of the same length", "change a word so that both are as long")


def _checked_site(
    decoder: Decoder, clean: Tokens, corrupt: Tokens, by: tuple[str, ...], site: str | None, block: int | None
) -> str:
    """The site that is patched."""
    require_pair(clean, corrupt)
    if by not in list(SITES):  # compared, not hashed: it may be anything
        names = ", ".join(f"({', '.join(axes)})" for axes in SITES)
        raise BadArgument(f"by={by!r}", f"one of {names}", 'pass for example by=("block", "position")')
    there = [name for name in SITES[by] if f"blocks.0.{name}" in all_sites(decoder.config)]
    if site is not None and (not isinstance(site, str) or site not in there):
        raise BadArgument(f"site={site!r} by {' and '.join(by)}", f"one of {', '.join(there)}", "pass one of these")
    layers = decoder.config.n_layers
    if ("block" not in by) != (block is not None) or not 0 <= (block or 0) < layers:
        found = f"by {' and '.join(by)} with block={block}"
        raise BadArgument(found, f"a block of 0 to {layers - 1} by head and position, and only there", "pass block=")
    return site or there[0]
