"""Which component of the model wrote this logit? Direct logit attribution, by block, head, neuron or source token.

The residual stream after the last block is the sum of all components' outputs, and with the final norm's scale held
fixed the unembedding is linear: so a token's logit, or the difference of two, is a sum of contributions. Trust it for
direct effects only: a component's effect through later ones counts as theirs, and its effect on the norm's scale is
left out. The final norm's bias, the head's, its rounding in 8 bits and what a cap of the logits takes away are terms of
their own, so the terms always sum to the logit. Source: Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits"; Wang et al. 2022, "Interpretability in the Wild" (arXiv 2211.00593). This file knows values and weights; it
does not know text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.analysis.derived import (
    apply_final_norm,
    as_added,
    before,
    component_sites,
    decomposed,
    final_bias,
    head_outputs,
    matrix,
    unembedding,
)
from cutaway.analysis.many import Average, alone, average, batches, require_same_length
from cutaway.edit.edit import Edit
from cutaway.edit.positions import columns
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.model.decoder import Decoder, Norm
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
    edits: Sequence[Edit] = (),
) -> Attributions:
    """`attribute` of each text at one position, averaged. answers: one a text; None for each text's likeliest. edits:
    done in the pass; of few texts, since each batch of them is a pass of its own.

    Raises BadText for texts of different lengths where by is "token", as attribute and edit/positions.py: columns.
    """
    sites = needed_sites(decoder.config, by)
    if by == "token":
        require_same_length(tokens, "to average each source position")
        tokens = Tokens.from_ids(torch.cat([text.ids for text in alone(tokens)]))
    columns(tokens, position)  # refused before a pass
    found, chosen = [], []
    for batch in batches(tokens):
        # by="token" needs every position's v; the others one position of each site
        trace = run(decoder, batch, sites, edits=edits, positions=None if by == "token" else position)
        at_B = columns(batch, position)[:, 0] if by == "token" else torch.zeros_like(batch.last)
        rows = slice(len(chosen), len(chosen) + len(batch.ids))
        best = trace["logits"][torch.arange(len(at_B), device=at_B.device), at_B].argmax(-1).tolist()
        chosen += best if answers is None else answers[rows]
        versus = None if against is None else against[rows]
        found.append(_attributions(trace, decoder, chosen[rows], versus, by, at_B))
    # the head's rounding is a part of some texts only: nothing of the others' logits is unexplained
    what = max((names for names, _, _ in found), key=len)
    values = [row for _, values_BN, _ in found for row in values_BN.cpu()]
    padded = [torch.cat((row, row.new_zeros(len(what) - len(row)))) for row in values]
    logits = [logit for _, _, logit_B in found for logit in logit_B.double().cpu()]
    of_others = None if against is None else tuple(against)
    return Attributions(tuple(what), average(padded), average(logits), tuple(chosen), of_others)


def needed_sites(config: DecoderConfig, by: str) -> list[str]:
    """The sites that a trace must hold. Raises BadArgument for an unknown `by`, or a model that derived.py refuses."""
    if not isinstance(by, str) or by not in BY:
        raise BadArgument(f"by={by!r}", f"one of {', '.join(BY)}", "pass one of these")
    blocks = range(config.n_layers)
    inner = {"head": ("attn.z",), "neuron": ("mlp.post",), "token": ("attn.pattern", "attn.v"), "block": ()}[by]
    norm = {"head": ("ln1_post.scale",), "token": ("ln1_post.scale",), "neuron": ("ln2_post.scale",), "block": ()}[by]
    extra = [f"blocks.{i}.{name}" for i in blocks for name in (*inner, *(norm if config.added_norm else ()))]
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
    length = trace["logits"].shape[1]
    values = {site: value[text : text + 1] for site, value in trace.items()}
    one = Trace(values, trace.tokens, trace.config)
    at_B = torch.tensor([at % length], device=trace["logits"].device)
    what, values_BN, logit_B = _attributions(one, decoder, [token], None if versus is None else [versus], by, at_B)
    return Attribution(tuple(what), values_BN[0], float(logit_B[0]))


Where = tuple[Int[Tensor, "B"], Int[Tensor, "B"]]  # the position of each text


def _attributions(
    trace: Trace, decoder: Decoder, tokens: Sequence[int], versus: Sequence[int] | None, by: str, at_B: Int[Tensor, "B"]
) -> tuple[list[str], Float[Tensor, "B N"], Float[Tensor, "B"]]:
    """Names of the parts, and of each text their values and the logit."""
    where = torch.arange(len(at_B), device=at_B.device), at_B
    direction_BD = unembedding(decoder, tokens)
    logits_BV = trace["logits"][where]
    logit_B = logits_BV[where[0], torch.tensor(tokens, device=at_B.device)]
    if versus is not None:
        direction_BD = direction_BD - unembedding(decoder, versus)
        logit_B = logit_B - logits_BV[where[0], torch.tensor(versus, device=at_B.device)]
    names, outputs_LBTD = decomposed(trace)
    what, values = [], []
    for name, output_BTD in zip(names, outputs_LBTD, strict=True):
        contribution_B = _contribution(output_BTD, trace, decoder, direction_BD, where)
        split = _split(name, by, trace, decoder, direction_BD, where)
        if split is None:
            what, values = [*what, name], [*values, contribution_B[None]]
        else:
            rest_B = contribution_B - split[1].sum(0)  # the layer's bias; in 8 bits its rounding, too
            what, values = [*what, *split[0], f"{name}: bias"], [*values, split[1], rest_B[None]]
    bias_D = final_bias(decoder)
    if bias_D is not None:
        what, values = [*what, "ln_final: bias"], [*values, (direction_BD @ bias_D)[None]]
    if decoder.config.head_bias:
        what, values = [*what, "unembed: bias"], [*values, _head_bias(decoder, tokens, versus)[None]]
    values_BN = torch.cat([value.double() for value in values]).T
    rest_B = logit_B.double() - values_BN.sum(-1)
    if bool((rest_B.abs() > 1e-4 * logit_B.double().abs().clamp(min=1)).any()):  # of an 8-bit head, or a tanh
        name = "rounding of the head" if decoder.config.logit_softcap is None else "the cap of the logits"
        what, values_BN = [*what, name], torch.cat((values_BN, rest_B[:, None]), 1)
    return what, values_BN, logit_B


def _contribution(
    output_XBTD: Float[Tensor, "*X B T D"], trace: Trace, decoder: Decoder, direction_BD: Tensor, where: Where
) -> Float[Tensor, "*X B"]:
    """Contributions of components' outputs to the logit of each text."""
    normed_XBTD = apply_final_norm(output_XBTD, trace, decoder)
    return (normed_XBTD[..., where[0], where[1], :] * direction_BD.to(output_XBTD)).sum(-1)


def _split(
    name: str, by: str, trace: Trace, decoder: Decoder, direction_BD: Tensor, where: Where
) -> tuple[list[str], Float[Tensor, "X B"]] | None:
    """A component split further, without its bias: names and contributions. None where `by` does not split it."""
    attention = name.endswith("attn_out") and by in ("head", "token")
    if not attention and not (name.endswith("mlp_out") and by == "neuron"):
        return None
    layer = int(name.split(".")[1])
    if by == "neuron":
        scaled_BD = _direction_in_half(layer, "mlp", trace, decoder, direction_BD, where)
        post_BF = trace[f"blocks.{layer}.mlp.post"][where]
        neurons = [f"blocks.{layer}.mlp.post[{i}]" for i in range(post_BF.shape[-1])]
        return neurons, (post_BF * (scaled_BD @ matrix(decoder, f"blocks.{layer}.W_down").to(post_BF))).T
    if by == "head":
        heads_HBTD = as_added(head_outputs(trace, decoder, layer).movedim(2, 0), trace, decoder, layer, "attn")
        heads = [f"blocks.{layer}.attn head {i}" for i in range(len(heads_HBTD))]
        return heads, _contribution(heads_HBTD, trace, decoder, direction_BD, where)
    return _by_source(layer, trace, decoder, direction_BD, where)


def _by_source(
    layer: int, trace: Trace, decoder: Decoder, direction_BD: Tensor, where: Where
) -> tuple[list[str], Float[Tensor, "S B"]]:
    """Attention of a block split by source position: sum over heads of pattern · (v @ W_O)."""
    rows_B, at_B = where
    pattern_BHS = trace[f"blocks.{layer}.attn.pattern"][rows_B, :, at_B]
    sharing = decoder.config.n_heads // decoder.config.n_kv_heads
    v_BSHK = trace[f"blocks.{layer}.attn.v"].repeat_interleave(sharing, 2)
    w_DHK = matrix(decoder, f"blocks.{layer}.W_O").unflatten(1, v_BSHK.shape[2:]).to(v_BSHK)
    scaled_BD = _direction_in_half(layer, "attn", trace, decoder, direction_BD, where)
    direction_BHK = torch.einsum("bd,dhk->bhk", scaled_BD, w_DHK)
    contributions_SB = torch.einsum("bhs,bshk,bhk->sb", pattern_BHS, v_BSHK, direction_BHK)
    visible = int(at_B.max()) + 1
    return [f"blocks.{layer}.attn from {s}" for s in range(visible)], contributions_SB[:visible]


def _direction_before_norm(trace: Trace, decoder: Decoder, direction_BD: Tensor, where: Where) -> Float[Tensor, "B D"]:
    """The unembedding direction in the residual stream, with the final norm at each text's position folded in."""
    norm = decoder.unembed.ln_final
    return direction_BD if norm is None else before(norm, direction_BD, trace["ln_final.scale"][where])


def _direction_in_half(
    layer: int, half: str, trace: Trace, decoder: Decoder, direction_BD: Tensor, where: Where
) -> Float[Tensor, "B D"]:
    """The same in what attention ("attn") or the MLP gives, before it is scaled or normed and added."""
    block: Any = decoder.blocks[layer]
    norm: Norm | None = block.ln1_post if half == "attn" else block.ln2_post
    direction_BD = _direction_before_norm(trace, decoder, direction_BD, where)
    if norm is None:
        return direction_BD * block.resid_scale
    return before(norm, direction_BD, trace[f"{norm.site}.scale"][where])


def _head_bias(decoder: Decoder, tokens: Sequence[int], versus: Sequence[int] | None) -> Float[Tensor, "B"]:
    bias_V = decoder.unembed.head.bias.detach() * decoder.config.logit_scale
    return bias_V[list(tokens)] - (0 if versus is None else bias_V[list(versus)])
