"""What follows from recorded values: a head's or a neuron's output, the residual stream decomposed, the final norm.

Each is a function of a trace and the weights, exact up to rounding, with its formula; none is a site, so none changes
the pass. The residual stream is a sum of the components' outputs only in pre-norm models (all families but opt-350m);
others are refused. In 8 bits the dequantized weights are used, while the layer also quantized its input: outputs then
sum to the recorded value within that rounding. Source: Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits"; names as in TransformerLens's ActivationCache. This file knows values and weights; it does not know text.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.logit_lens import stream_sites
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.layers import all_weights
from cutaway.ground.shapes import sizes
from cutaway.ground.sites import parents_of
from cutaway.model.decoder import Decoder, Norm
from cutaway.trace.trace import Trace


def matrix(decoder: Decoder, name: str) -> Float[Tensor, "N K"]:
    """A weight by the name that formulas give it ("blocks.3.W_O", "W_U"); in 8 bits what its codes stand for.

    Raises BadArgument for the MLP's where that is a mixture of experts, each with its own.
    """
    table = all_weights(decoder.config)
    if name not in table and decoder.config.n_experts:
        block, _, symbol = name.rpartition(".")
        found, own = f"{name} of a model whose MLPs are {decoder.config.n_experts} experts", "mlp.experts.0"
        raise BadArgument(found, "a model with one MLP in each block", f"read an expert's, as {block}.{own}.{symbol}")
    weight = table[name]
    return decoder.get_submodule(weight.module).weight[weight.rows].detach()  # pyright: ignore[reportIndexIssue,reportReturnType]


def head_outputs(trace: Trace, decoder: Decoder, layer: int) -> Float[Tensor, "B T H D"]:
    """What each head adds to attention's output: z_h @ W_O[:, columns of h].T. All heads and b_O sum to attn_out, or to
    attn.out where a model norms or scales that before it is added (`as_added`)."""
    z_BTHK = trace[f"blocks.{layer}.attn.z"]
    w_DHK = matrix(decoder, f"blocks.{layer}.W_O").unflatten(1, z_BTHK.shape[2:])
    return torch.einsum("bthk,dhk->bthd", z_BTHK, w_DHK.to(z_BTHK))


def neuron_outputs(trace: Trace, decoder: Decoder, layer: int, neurons: Sequence[int]) -> Float[Tensor, "B T N D"]:
    """What each of these neurons adds to mlp_out: post_n · W_down[:, n]. All neurons and b_down sum to mlp_out."""
    post_BTF = trace[f"blocks.{layer}.mlp.post"]
    w_ND = matrix(decoder, f"blocks.{layer}.W_down").T[list(neurons)].to(post_BTF)
    return post_BTF[..., list(neurons)][..., None] * w_ND


def as_added(
    output_XBTD: Float[Tensor, "*X B T D"], trace: Trace, decoder: Decoder, layer: int, half: str
) -> Float[Tensor, "*X B T D"]:
    """A part of what attention (half "attn") or the MLP ("mlp") gives, as it is added to the residual stream: scaled,
    or through its norm with the recorded scale, without the norm's bias; unchanged in most models."""
    block: Any = decoder.blocks[layer]
    norm: Norm | None = block.ln1_post if half == "attn" else block.ln2_post
    return output_XBTD * block.resid_scale if norm is None else _through(norm, output_XBTD, trace)


def accumulated(trace: Trace) -> tuple[list[str], Float[Tensor, "L B T D"]]:
    """The residual stream before the first block and after each block, with the names of its sites."""
    names = stream_sites(trace.config)
    return names, torch.stack([trace[name] for name in names])


def decomposed(trace: Trace) -> tuple[list[str], Float[Tensor, "L B T D"]]:
    """The components' outputs: embedding, positions, each attn_out and mlp_out, with the names of their sites.

    They sum to the residual stream after the last block. Raises BadArgument for a post-norm model.
    """
    names = component_sites(trace.config)
    return names, torch.stack([trace[name] for name in names])


def component_sites(config: DecoderConfig) -> list[str]:
    """The sites that sum to the residual stream after the last block. Raises as `decomposed`."""
    if config.post_norm:
        expected = "one whose blocks add to it"
        raise BadArgument("a model that norms its residual stream after every sum", expected, "use another model")
    added = [f"blocks.{i}.{name}" for i in range(config.n_layers) for name in ("attn_out", "mlp_out")]
    return parents_of(config, "blocks.0.resid_pre") + added


def apply_final_norm(
    output_XBTD: Float[Tensor, "*X B T D"], trace: Trace, decoder: Decoder
) -> Float[Tensor, "*X B T D"]:
    """A component's output through the final norm, without its bias (`final_bias`): centered in LayerNorm, divided by
    the recorded scale, times the gain. With a fixed scale the norm is linear: a sum's terms stay its terms. Unchanged
    where the model has no final norm.
    """
    norm = decoder.unembed.ln_final
    if norm is None:
        return output_XBTD
    return _through(norm, output_XBTD, trace)


def _through(norm: Norm, x_XBTD: Float[Tensor, "*X B T D"], trace: Trace) -> Float[Tensor, "*X B T D"]:
    """The linear map that a norm is once its scale is fixed."""
    centered = x_XBTD - x_XBTD.mean(-1, keepdim=True) if norm.centered else x_XBTD
    scaled = centered / trace[f"{norm.site}.scale"]
    return scaled if norm.gain is None else scaled * norm.gain


def before(norm: Norm, direction_BD: Float[Tensor, "B D"], scale_B1: Float[Tensor, "B 1"]) -> Float[Tensor, "B D"]:
    """The direction before a norm that has this one's dot product after it, the norm's scale fixed."""
    scaled_BD = (direction_BD if norm.gain is None else direction_BD * norm.gain) / scale_B1
    return scaled_BD - scaled_BD.mean(-1, keepdim=True) if norm.centered else scaled_BD


def final_bias(decoder: Decoder) -> Float[Tensor, "D"] | None:
    """The final norm's bias, which belongs to no component."""
    norm = decoder.unembed.ln_final
    return None if norm is None or norm.bias is None else norm.bias.detach()


def unembedding(decoder: Decoder, tokens: Sequence[int]) -> Float[Tensor, "N D"]:
    """Each token's unembedding vector, project_out and the logits' scale folded in.

    Raises BadArgument for an id outside the vocabulary.
    """
    v = sizes(decoder.config)["V"]
    for token in tokens:
        if not 0 <= token < v:
            raise BadArgument(f"the token {token}", f"an id from 0 to {v - 1}", "pass a token of this model")
    w_NE = matrix(decoder, "W_U")[list(tokens)] * decoder.config.logit_scale
    project = decoder.unembed.project_out
    return w_NE if project is None else w_NE @ project.weight.detach()
