"""Which part of the model wrote this logit? Direct logit attribution, by block, head, neuron or source token.

What leaves the last block is a sum of everything written into it, and with the last norm's scale given the unembedding
is linear: so a token's logit, or the difference of two, is a sum of what each part gives it. Trust it for direct
effects only: what a part does through later parts counts as theirs, and the norm's scale, taken as given, hides what a
part does by changing it. Attention and MLP outputs, the last norm's bias and (in 8 bits) the head's rounding are rows
of their own, so the rows always sum to the logit. Source: Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits"; Wang et al. 2022, "Interpretability in the Wild" (arXiv 2211.00593). This file knows values and weights; it
does not know text.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.derived import (
    decomposed,
    final_bias,
    head_outputs,
    matrix,
    part_sites,
    through_final_norm,
    unembedding,
)
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.model.decoder import Decoder
from cutaway.trace.trace import Trace

BY = ("block", "head", "neuron", "token")


@dataclass(frozen=True)
class Attribution:
    """What each part gives to a logit, or to the difference of two, at one place. The parts sum to `logit`.

    what: names of the parts, in the order of the pass. values: what each gives.
    """

    what: tuple[str, ...]
    values: Float[Tensor, "N"]
    logit: float


def needed_sites(config: DecoderConfig, by: str) -> list[str]:
    """What a trace must hold. Raises BadArgument for an unknown `by`, or a model that derived.py refuses."""
    if by not in BY:
        raise BadArgument(f"by={by!r}", f"one of {', '.join(BY)}", "pass one of these")
    blocks = range(config.n_layers)
    inner = {"head": ("attn.z",), "neuron": ("mlp.post",), "token": ("attn.pattern", "attn.v"), "block": ()}[by]
    extra = [f"blocks.{i}.{name}" for i in blocks for name in inner]
    return [*part_sites(config), *extra, *(["ln_final.scale"] if config.final_norm else []), "logits"]


def attribute(
    trace: Trace,
    decoder: Decoder,
    token: int,
    versus: int | None = None,
    by: str = "block",
    text: int = 0,
    at: int = -1,
) -> Attribution:
    """What wrote the logit of `token` (minus that of `versus`) at place `at` of a text.

    by: "block", each embedding, attention and MLP; "head", attention split by head; "neuron", MLPs split by neuron;
    "token", each head's attention split by the position that it read. The trace must hold `needed_sites`.
    """
    needed_sites(decoder.config, by)
    read_D = unembedding(decoder, [token])[0]
    read_D = read_D if versus is None else read_D - unembedding(decoder, [versus])[0]
    place = (text, at)
    logits_V = trace["logits"][place]
    logit = float(logits_V[token] if versus is None else logits_V[token] - logits_V[versus])
    names, parts_LBTD = decomposed(trace)
    given_L = _given(parts_LBTD, trace, decoder, read_D, place)
    what, values = [], []
    for name, given in zip(names, given_L, strict=True):
        inside = _inside(name, by, trace, decoder, read_D, place)
        if inside is None:
            what, values = [*what, name], [*values, given[None]]
        else:
            rest = given - inside[1].sum()  # the layer's bias; in 8 bits its rounding, too
            what, values = [*what, *inside[0], f"{name}: bias"], [*values, inside[1], rest[None]]
    bias_D = final_bias(decoder)
    if bias_D is not None:
        what, values = [*what, "ln_final: bias"], [*values, (bias_D @ read_D)[None]]
    values_N = torch.cat([value.double() for value in values])
    rest = logit - float(values_N.sum())
    if abs(rest) > 1e-4 * max(1.0, abs(logit)):  # an 8-bit head rounds what it reads
        what, values_N = [*what, "rounding of the head"], torch.cat((values_N, values_N.new_tensor([rest])))
    return Attribution(tuple(what), values_N, logit)


def _given(
    part_XBTD: Float[Tensor, "*X B T D"], trace: Trace, decoder: Decoder, read_D: Tensor, place: tuple[int, int]
) -> Float[Tensor, "*X"]:
    """What parts of the stream give to the logit at a place."""
    row, at = place
    return through_final_norm(part_XBTD, trace, decoder)[..., row, at, :] @ read_D.to(part_XBTD)


def _inside(
    name: str, by: str, trace: Trace, decoder: Decoder, read_D: Tensor, place: tuple[int, int]
) -> tuple[list[str], Tensor] | None:
    """A part split further, without its bias: names and what each gives. None where it is not to be split."""
    attention = name.endswith("attn_out") and by in ("head", "token")
    if not attention and not (name.endswith("mlp_out") and by == "neuron"):
        return None
    layer = int(name.split(".")[1])
    if by == "neuron":
        scaled_D = _read_through_norm(trace, decoder, read_D, place)
        post_F = trace[f"blocks.{layer}.mlp.post"][place]
        neurons = [f"blocks.{layer}.mlp.post[{i}]" for i in range(len(post_F))]
        return neurons, post_F * (scaled_D @ matrix(decoder, f"blocks.{layer}.W_down").to(post_F))
    if by == "head":
        heads_HBTD = head_outputs(trace, decoder, layer).movedim(2, 0)
        heads = [f"blocks.{layer}.attn head {i}" for i in range(len(heads_HBTD))]
        return heads, _given(heads_HBTD, trace, decoder, read_D, place)
    return _by_source(layer, trace, decoder, read_D, place)


def _by_source(
    layer: int, trace: Trace, decoder: Decoder, read_D: Tensor, place: tuple[int, int]
) -> tuple[list[str], Tensor]:
    """Attention of a block split by the position read: sum over heads of pattern · (v @ W_O)."""
    row, at = place
    pattern_HS = trace[f"blocks.{layer}.attn.pattern"][row, :, at]
    sharing = decoder.config.n_heads // decoder.config.n_kv_heads
    v_SHK = trace[f"blocks.{layer}.attn.v"][row].repeat_interleave(sharing, 1)
    w_DHK = matrix(decoder, f"blocks.{layer}.W_O").unflatten(1, v_SHK.shape[1:]).to(v_SHK)
    read_HK = torch.einsum("d,dhk->hk", _read_through_norm(trace, decoder, read_D, place), w_DHK)
    given_S = torch.einsum("hs,shk,hk->s", pattern_HS, v_SHK, read_HK)
    seen = at % pattern_HS.shape[1] + 1
    return [f"blocks.{layer}.attn from {s}" for s in range(seen)], given_S[:seen]


def _read_through_norm(trace: Trace, decoder: Decoder, read_D: Tensor, place: tuple[int, int]) -> Float[Tensor, "D"]:
    """The direction of the stream that gives to the logit, the last norm at this place folded in."""
    norm = decoder.unembed.ln_final
    if norm is None:
        return read_D
    gained_D = read_D * norm.weight / trace["ln_final.scale"][place]
    return gained_D - gained_D.mean() if norm.centered else gained_D
