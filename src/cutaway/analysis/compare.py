"""What do 8 bits change? Two traces of the same tokens, in full precision and in int8, compared.

Site by site: the relative error |full - int8| / |full| and the cosine over all real positions, without padding. At the
end: the next-token distributions, as KL(full ‖ int8) in nats. A large error early need not change the answer, since
norms and the softmax attenuate it: judge by the distributions, and use the sites to locate the error. Outliers are why
LLM.int8() multiplies some columns in float (Dettmers et al. 2022, arXiv 2208.07339). This file knows values and
weights; it does not know text, nor how the two models were loaded.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites, block_exit
from cutaway.model.decoder import Decoder
from cutaway.quant.explain import int8_layers, layer_input, layer_input_sites
from cutaway.quant.formats import THRESHOLD
from cutaway.trace.trace import Trace

AT_ONCE = 64  # positions compared at a time in float64


@dataclass(frozen=True)
class Difference:
    """The difference of a site's values. cosine is NaN where one of the two is all zeros; largest: of one number."""

    relative_error: float
    cosine: float
    largest: float


@dataclass(frozen=True)
class OutlierLayer:
    """A layer whose input has outliers: the columns, and `tokens` of the `of` real positions."""

    layer: str
    site: str
    columns: tuple[int, ...]
    tokens: int
    of: int


@dataclass(frozen=True)
class NextTokens:
    """Next-token distributions of each text's real positions.

    kl: KL(full ‖ int8) in nats. agree: whether the most probable token is the same. full, int8: the most probable
    tokens after each text, as (id, probability), best first.
    """

    kl: tuple[tuple[float, ...], ...]
    agree: tuple[tuple[bool, ...], ...]
    full: tuple[tuple[tuple[int, float], ...], ...]
    int8: tuple[tuple[tuple[int, float], ...], ...]

    @property
    def mean_kl(self) -> float:
        values = [kl for text in self.kl for kl in text]
        return math.fsum(values) / len(values)

    @property
    def top1_agreement(self) -> float:
        """Share of the positions with the same most probable token."""
        values = [same for text in self.agree for same in text]
        return sum(values) / len(values)


def compared_sites(config: DecoderConfig) -> list[str]:
    """The sites of the comparison: each block's attn_out, mlp_out and output, the layers' inputs, the logits."""
    chosen = {"logits", *layer_input_sites(config).values()}
    for layer in range(config.n_layers):
        chosen |= {f"blocks.{layer}.attn_out", f"blocks.{layer}.mlp_out", block_exit(config, layer)}
    return [name for name in all_sites(config) if name in chosen]


def compare_sites(full: Trace, int8: Trace) -> dict[str, Difference]:
    """Every site of the first trace. Raises BadArgument where the second lacks one, or has other tokens."""
    _require_same_tokens(full, int8)
    return {site: _difference(site, full, int8) for site in full}


def outlier_layers(trace: Trace, decoder: Decoder) -> list[OutlierLayer]:
    """The decoder's 8-bit layers whose input has an |x| ≥ 6 at a real position.

    Raises BadArgument where the trace does not hold `layer_input_sites` of these layers.
    """
    sites, real_BT = layer_input_sites(decoder.config), trace.tokens.mask.bool()
    found = []
    for layer in int8_layers(decoder):
        x_PK = layer_input(decoder, layer, trace[sites[layer]])[real_BT]
        outlier_PK = x_PK.float().abs() >= THRESHOLD
        columns = tuple(outlier_PK.any(0).nonzero()[:, 0].tolist())
        if columns:
            found.append(OutlierLayer(layer, sites[layer], columns, int(outlier_PK.any(1).sum()), len(x_PK)))
    return found


def next_tokens(full: Trace, int8: Trace, top: int = 5) -> NextTokens:
    """The next-token distributions at every real position. Both traces must hold "logits"."""
    _require_same_tokens(full, int8)
    kl, agree, ends = [], [], []
    for row, mask_T in enumerate(full.tokens.mask.bool()):
        pair = full["logits"][row][mask_T], int8["logits"][row][mask_T]
        chunks = list(zip(*(logits_PV.split(AT_ONCE) for logits_PV in pair), strict=True))
        kl.append(tuple(x for a, b in chunks for x in kl_divergence(a, b).tolist()))
        agree.append(tuple(same for a, b in chunks for same in (a.argmax(-1) == b.argmax(-1)).tolist()))
        ends.append([most_probable(logits_PV[-1], top) for logits_PV in pair])
    return NextTokens(tuple(kl), tuple(agree), *(tuple(side) for side in zip(*ends, strict=True)))


def kl_divergence(full_PV: Float[Tensor, "P V"], int8_PV: Float[Tensor, "P V"]) -> Float[Tensor, "P"]:
    """KL(full ‖ int8) of the softmax of both rows of logits, in nats, in float64."""
    log_full_PV, log_int8_PV = full_PV.double().log_softmax(-1), int8_PV.double().log_softmax(-1)
    return (log_full_PV.exp() * (log_full_PV - log_int8_PV)).sum(-1)


def most_probable(logits_V: Float[Tensor, "V"], count: int) -> tuple[tuple[int, float], ...]:
    """The most probable tokens as (id, probability), best first."""
    top = logits_V.double().softmax(-1).topk(min(count, len(logits_V)))
    return tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def _difference(site: str, full: Trace, int8: Trace) -> Difference:
    """In float64, some positions at a time."""
    rows = zip(_positions(site, full).split(AT_ONCE), _positions(site, int8).split(AT_ONCE), strict=True)
    masked = site.endswith("attn.scores")
    sums_PN = torch.stack([_sums(a, b.to(a.device), masked) for a, b in rows])
    square, full_square, int8_square, dot = sums_PN[:, :4].sum(0).tolist()
    size = math.sqrt(full_square) * math.sqrt(int8_square)
    error = math.sqrt(square / full_square) if full_square else math.inf if square else 0.0
    return Difference(error, dot / size if size else math.nan, float(sums_PN[:, 4].max()))


def _positions(site: str, trace: Trace) -> Tensor:
    """The values at real positions, [P, ...]: the axis T is moved to the front."""
    value, by_head = trace[site], all_sites(trace.config)[site].shape == "B H T S"
    return (value.transpose(1, 2) if by_head else value)[trace.tokens.mask.bool()]


def _sums(full: Tensor, int8: Tensor, masked: bool) -> Float[Tensor, "5"]:
    """|a - b|², |a|², |b|², a·b and the largest |a - b|. Masked scores are -inf by design and left out."""
    a, b = full.double(), int8.double()
    if masked:
        a, b = a[~full.isneginf()], b[~full.isneginf()]
    apart = (a - b).abs()
    return torch.stack([apart.square().sum(), (a**2).sum(), (b**2).sum(), (a * b).sum(), apart.max()])


def _require_same_tokens(full: Trace, int8: Trace) -> None:
    one, other = full.tokens, int8.tokens
    same = one.ids.shape == other.ids.shape and all(
        torch.equal(a.cpu(), b.cpu()) for a, b in ((one.ids, other.ids), (one.mask, other.mask))
    )
    if not same:
        found = f"traces of other tokens, {list(one.ids.shape)} and {list(other.ids.shape)}"
        raise BadArgument(found, "two traces of the same tokens", "trace both models on one Tokens")
