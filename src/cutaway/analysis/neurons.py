"""Which neurons of one MLP speak loudest at a position, what does each read, and which tokens does it promote?

A neuron's `size` is the L2 norm of what it adds to the residual stream, |post| · |W_down column| (where what the MLP
gives is normed or scaled before it is added, of what it gives). It reads the tokens
whose embeddings its input row is most similar to (dot product), and promotes and suppresses the tokens whose
unembedding vectors its output column has the largest and smallest dot product with, times the sign of post: what it
says directly, through no later block, with the final norm's gain and without its divisor. Trust `size` and `post`,
which are of this pass; the tokens are weights alone, read as the logit lens reads the stream (Geva et al. 2021, arXiv
2012.14913). This file knows values and weights; it does not know text.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.derived import matrix
from cutaway.ground.errors import BadArgument
from cutaway.model.decoder import Decoder
from cutaway.trace.trace import Trace

Tokens = tuple[tuple[int, float], ...]  # id, dot product


@dataclass(frozen=True)
class Neuron:
    """One neuron at one position. pre_linear: the other branch, where gated. reads, promotes, suppresses: ids with
    their dot products, the strongest first."""

    neuron: int
    pre: float
    pre_linear: float | None
    post: float
    size: float
    reads: Tokens
    promotes: Tokens
    suppresses: Tokens


def sites(layer: int, gated: bool) -> list[str]:
    """What the trace must hold."""
    kinds = ("pre", "pre_linear", "post") if gated else ("pre", "post")
    return [f"blocks.{layer}.mlp.{kind}" for kind in kinds]


def strongest(
    trace: Trace, decoder: Decoder, layer: int, position: int, *, text: int = 0, top: int = 12, tokens: int = 5
) -> list[Neuron]:
    """The `top` neurons of the largest size, the largest first. Raises BadArgument for a position that is not there."""
    config = decoder.config
    values = {site.rpartition(".")[2]: trace[site][text] for site in sites(layer, config.gated)}
    count = len(values["post"])
    if not -count <= position < count:
        raise BadArgument(f"position {position}", f"0 to {count - 1}", "choose a position of the text")
    post_F = values["post"][position].float()
    down_DF = matrix(decoder, f"blocks.{layer}.W_down").float()
    size_F = post_F.abs() * down_DF.norm(dim=0)
    chosen = size_F.topk(min(top, len(size_F))).indices
    rows_ND = matrix(decoder, f"blocks.{layer}.{'W_gate' if config.gated else 'W_up'}")[chosen].float()
    out_ND = down_DF.T[chosen] * post_F[chosen, None].sign()
    read_NV, written_NV = _embedded(decoder, rows_ND), _unembedded(decoder, out_ND)
    few = min(tokens, config.vocab_size)
    return [
        Neuron(
            neuron=neuron, pre=float(values["pre"][position, neuron]),
            pre_linear=float(values["pre_linear"][position, neuron]) if config.gated else None,
            post=float(values["post"][position, neuron]), size=float(size_F[neuron]),
            reads=_best(read_V, few), promotes=_best(written_V, few), suppresses=_best(written_V, few, largest=False),
        )
        for neuron, read_V, written_V in zip(chosen.tolist(), read_NV, written_NV, strict=True)
    ]  # fmt: skip


def _embedded(decoder: Decoder, rows_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
    """The dot product of each row with each token's embedding, project_in folded in."""
    project, table_VE = decoder.embed.project_in, decoder.embed.token.weight.detach()
    rows_NE = rows_ND if project is None else rows_ND @ project.weight.detach().float()
    return rows_NE @ table_VE.to(rows_NE).T


def _unembedded(decoder: Decoder, out_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
    """The dot product of each output with each token's unembedding vector, project_out and the final gain folded in."""
    norm, project = decoder.unembed.ln_final, decoder.unembed.project_out
    if norm is not None:
        out_ND = out_ND - out_ND.mean(-1, keepdim=True) if norm.centered else out_ND
        out_ND = out_ND if norm.gain is None else out_ND * norm.gain.detach().float()
    out_NE = out_ND if project is None else out_ND @ project.weight.detach().float().T
    return out_NE @ matrix(decoder, "W_U").to(out_NE).T


def _best(values_V: Tensor, count: int, *, largest: bool = True) -> Tokens:
    best = values_V.topk(count, largest=largest)
    return tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
