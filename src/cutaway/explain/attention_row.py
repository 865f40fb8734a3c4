"""One row of attention as steps: a query's dot products with every key, scores, weights, and the values they mix.

Each step is recomputed from recorded values by the ops of the pass, so its numbers are those of the pass, bit for bit;
only `dots` and `scaled`, which no pass holds, are computed here. It does not know how the values were recorded.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.ground.sites import multiplied
from cutaway.trace.view import View


@dataclass(frozen=True)
class AttentionRow:
    """What one head does at one position of a text, in the order in which it does it.

    q [K] and k [S, K] as they are multiplied, normed and rotated where the model does so; dots [S]: q · k;
    scaled [S]: dots times `factor`; scores [S]: scaled, capped and with ALiBi's part where the model has them, -inf
    where masked; pattern [S], which sums to 1, or to less beside a sink; v [S, K]; z [K], the sum of v by pattern.
    kv_head: whose k and v the head reads. slope: ALiBi's, which is added once for each position before the key's; None
    without ALiBi. sink: the score of the head's sink, whose share the pattern lacks; None without.
    """

    kv_head: int
    factor: float
    slope: float | None
    sink: float | None
    q: Float[Tensor, "K"]
    k: Float[Tensor, "S K"]
    dots: Float[Tensor, "S"]
    scaled: Float[Tensor, "S"]
    scores: Float[Tensor, "S"]
    pattern: Float[Tensor, "S"]
    v: Float[Tensor, "S K"]
    z: Float[Tensor, "K"]


def attention_row(view: View, layer: int, head: int, position: int, text: int = 0) -> AttentionRow:
    """The row of a head at a column of a text. Raises BadArgument for one that is not there."""
    found, config = view.head(layer, head), view.config
    layer, head = layer % config.n_layers, head % config.n_heads
    q, k = multiplied(config, layer)
    group = head * config.n_kv_heads // config.n_heads
    q_K = view[q][text, position, head]
    k_SK, v_SK = view[k][text, :, group], view["attn.v", layer, group][text]
    dots_S, factor = torch.mv(k_SK, q_K), config.scale_of(layer)
    slope = None if config.alibi is None else config.alibi.slopes[head] * config.alibi.scale
    attn: Any = view.source.decoder.blocks[layer].attn
    sink = None if attn.sinks is None else float(attn.sinks.weight[head])
    return AttentionRow(group, factor, slope, sink, q_K, k_SK, dots_S, dots_S * factor, found.scores[text, position],
                        found.pattern[text, position], v_SK, found.z[text, position])  # fmt: skip
