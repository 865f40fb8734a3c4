"""Which component of the model wrote this logit? Direct logit attribution, by block, head, neuron or source token.

The residual stream after the last block is the sum of all components' outputs, and with the final norm's scale held
fixed the unembedding is linear: so a token's logit, or the difference of two, is a sum of contributions. Trust it for
direct effects only: a component's effect through later ones counts as theirs, and its effect on the norm's scale is
left out. The final norm's bias and (in 8 bits) the head's rounding are terms of their own, so the terms always sum to
the logit. Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Wang et al. 2022,
"Interpretability in the Wild" (arXiv 2211.00593). This file knows values and weights; it does not know text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.derived import (
    apply_final_norm,
    component_sites,
    decomposed,
    final_bias,
    head_outputs,
    matrix,
    unembedding,
)
from cutaway.analysis.many import Average, alone, average, batches, require_same_length
from cutaway.edit.positions import columns
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace

BY = ("block", "head", "neuron", "token")


@dataclass(frozen=True)
class Attribution:
    """Contributions to a logit, or to the difference of two, at one position. They sum to `logit`.

    what: names of the components, in the order of the pass. values: their contributions.
    """

    what: tuple[str, ...]
    values: Float[Tensor, "N"]
    logit: float


@dataclass(frozen=True)
class Attributions:
    """Those of several texts, averaged part by part; of one text its own. answers, against: the ids, one a text."""

    what: tuple[str, ...]
    values: Average
    logit: Average
    answers: tuple[int, ...]
    against: tuple[int, ...] | None


def attributions(
    decoder: Decoder,
    tokens: Tokens,
    answers: Sequence[int] | None = None,
    against: Sequence[int] | None = None,
    by: str = "block",
    position: int = -1,
) -> Attributions:
    """`attribute` of each text at one position, averaged. answers: one a text; None for each text's likeliest.

    Raises BadText for texts of different lengths where by is "token", as attribute and edit/positions.py: columns.
    """
    sites, found, chosen = needed_sites(decoder.config, by), [], []
    if by == "token":
        require_same_length(tokens, "to average each source position")
    columns(tokens, position)  # refused before a pass
    for batch in alone(tokens) if by == "token" else batches(tokens):
        # by="token" needs every position's v and a row of the pattern; the others one position of each site
        trace = run(decoder, batch, sites, positions=None if by == "token" else position)
        at = int(columns(batch, position)[0, 0]) if by == "token" else 0
        for text in range(len(batch.ids)):
            best = int(trace["logits"][text, at].argmax())
            answer = best if answers is None else answers[len(chosen)]
            versus = None if against is None else against[len(chosen)]
            found.append(attribute(trace, decoder, answer, versus, by, text, at))
            chosen.append(answer)
    # the head's rounding is a part of some texts only: nothing of the others' logits is unexplained
    what = max((each.what for each in found), key=len)
    values = [each.values.cpu() for each in found]
    padded = [torch.cat((v, v.new_zeros(len(what) - len(v)))) for v in values]
    logits = [torch.tensor(each.logit, dtype=torch.float64, device="cpu") for each in found]
    of_others = None if against is None else tuple(against)
    return Attributions(what, average(padded), average(logits), tuple(chosen), of_others)


def needed_sites(config: DecoderConfig, by: str) -> list[str]:
    """The sites that a trace must hold. Raises BadArgument for an unknown `by`, or a model that derived.py refuses."""
    if not isinstance(by, str) or by not in BY:
        raise BadArgument(f"by={by!r}", f"one of {', '.join(BY)}", "pass one of these")
    blocks = range(config.n_layers)
    inner = {"head": ("attn.z",), "neuron": ("mlp.post",), "token": ("attn.pattern", "attn.v"), "block": ()}[by]
    extra = [f"blocks.{i}.{name}" for i in blocks for name in inner]
    return [*component_sites(config), *extra, *(["ln_final.scale"] if config.final_norm else []), "logits"]


def attribute(
    trace: Trace,
    decoder: Decoder,
    token: int,
    versus: int | None = None,
    by: str = "block",
    text: int = 0,
    at: int = -1,
) -> Attribution:
    """What wrote the logit of `token` (minus that of `versus`) at position `at` of a text.

    by: "block", each embedding, attention and MLP; "head", attention split by head; "neuron", MLPs split by neuron;
    "token", each block's attention split by source position. The trace must hold `needed_sites`.
    """
    needed_sites(decoder.config, by)
    direction_D = unembedding(decoder, [token])[0]
    direction_D = direction_D if versus is None else direction_D - unembedding(decoder, [versus])[0]
    where = (text, at)
    logits_V = trace["logits"][where]
    logit = float(logits_V[token] if versus is None else logits_V[token] - logits_V[versus])
    names, outputs_LBTD = decomposed(trace)
    contributions_L = _contribution(outputs_LBTD, trace, decoder, direction_D, where)
    what, values = [], []
    for name, contribution in zip(names, contributions_L, strict=True):
        split = _split(name, by, trace, decoder, direction_D, where)
        if split is None:
            what, values = [*what, name], [*values, contribution[None]]
        else:
            rest = contribution - split[1].sum()  # the layer's bias; in 8 bits its rounding, too
            what, values = [*what, *split[0], f"{name}: bias"], [*values, split[1], rest[None]]
    bias_D = final_bias(decoder)
    if bias_D is not None:
        what, values = [*what, "ln_final: bias"], [*values, (bias_D @ direction_D)[None]]
    values_N = torch.cat([value.double() for value in values])
    rest = logit - float(values_N.sum())
    if abs(rest) > 1e-4 * max(1.0, abs(logit)):  # an 8-bit head quantizes its input
        what, values_N = [*what, "rounding of the head"], torch.cat((values_N, values_N.new_tensor([rest])))
    return Attribution(tuple(what), values_N, logit)


def _contribution(
    output_XBTD: Float[Tensor, "*X B T D"], trace: Trace, decoder: Decoder, direction_D: Tensor, where: tuple[int, int]
) -> Float[Tensor, "*X"]:
    """Contributions of components' outputs to the logit at (text, position)."""
    row, at = where
    return apply_final_norm(output_XBTD, trace, decoder)[..., row, at, :] @ direction_D.to(output_XBTD)


def _split(
    name: str, by: str, trace: Trace, decoder: Decoder, direction_D: Tensor, where: tuple[int, int]
) -> tuple[list[str], Tensor] | None:
    """A component split further, without its bias: names and contributions. None where `by` does not split it."""
    attention = name.endswith("attn_out") and by in ("head", "token")
    if not attention and not (name.endswith("mlp_out") and by == "neuron"):
        return None
    layer = int(name.split(".")[1])
    if by == "neuron":
        scaled_D = _direction_before_norm(trace, decoder, direction_D, where)
        post_F = trace[f"blocks.{layer}.mlp.post"][where]
        neurons = [f"blocks.{layer}.mlp.post[{i}]" for i in range(len(post_F))]
        return neurons, post_F * (scaled_D @ matrix(decoder, f"blocks.{layer}.W_down").to(post_F))
    if by == "head":
        heads_HBTD = head_outputs(trace, decoder, layer).movedim(2, 0)
        heads = [f"blocks.{layer}.attn head {i}" for i in range(len(heads_HBTD))]
        return heads, _contribution(heads_HBTD, trace, decoder, direction_D, where)
    return _by_source(layer, trace, decoder, direction_D, where)


def _by_source(
    layer: int, trace: Trace, decoder: Decoder, direction_D: Tensor, where: tuple[int, int]
) -> tuple[list[str], Tensor]:
    """Attention of a block split by source position: sum over heads of pattern · (v @ W_O)."""
    row, at = where
    pattern_HS = trace[f"blocks.{layer}.attn.pattern"][row, :, at]
    sharing = decoder.config.n_heads // decoder.config.n_kv_heads
    v_SHK = trace[f"blocks.{layer}.attn.v"][row].repeat_interleave(sharing, 1)
    w_DHK = matrix(decoder, f"blocks.{layer}.W_O").unflatten(1, v_SHK.shape[1:]).to(v_SHK)
    direction_HK = torch.einsum("d,dhk->hk", _direction_before_norm(trace, decoder, direction_D, where), w_DHK)
    contributions_S = torch.einsum("hs,shk,hk->s", pattern_HS, v_SHK, direction_HK)
    visible = at % pattern_HS.shape[1] + 1
    return [f"blocks.{layer}.attn from {s}" for s in range(visible)], contributions_S[:visible]


def _direction_before_norm(
    trace: Trace, decoder: Decoder, direction_D: Tensor, where: tuple[int, int]
) -> Float[Tensor, "D"]:
    """The unembedding direction in the residual stream, with the final norm at (text, position) folded in."""
    norm = decoder.unembed.ln_final
    if norm is None:
        return direction_D
    scaled_D = direction_D * norm.weight / trace["ln_final.scale"][where]
    return scaled_D - scaled_D.mean() if norm.centered else scaled_D
