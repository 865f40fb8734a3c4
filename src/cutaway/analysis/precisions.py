"""The same tokens in full precision and in 8 bits: what is kept of the first model, and all that compare.py measures.

The two need not be in memory together: a FullRun is what remains of the model in full precision. It does not know text,
nor how a model is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cutaway.analysis.compare import (
    Difference,
    NextTokens,
    OutlierLayer,
    compare_sites,
    compared_sites,
    next_tokens,
    outlier_layers,
)
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.layers import block_weights
from cutaway.ground.select import select
from cutaway.ground.whole import require_whole
from cutaway.model.architecture import nbytes
from cutaway.model.decoder import Decoder
from cutaway.quant.explain import Explained, explain, int8_layers, layer_input, layer_input_sites
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace

LAYERS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
HEAD = "unembed.head"


@dataclass(frozen=True)
class FullRun:
    """Of the model in full precision: its values at the compared sites, the weight of one layer, its size and dtype."""

    trace: Trace
    layer: str
    weight: Tensor
    bytes: int
    dtype: str


@dataclass(frozen=True)
class Precisions:
    """Both runs, compared. explained: the codes of `layer`, whose input is `site`, in 8 bits. bytes: of both models."""

    mode: str
    dtype: str
    config: DecoderConfig
    tokens: Tokens
    sites: dict[str, Difference]
    outliers: list[OutlierLayer]
    layers: int
    next: NextTokens
    layer: str
    site: str
    explained: Explained
    bytes: tuple[int, int]


def layer_name(config: DecoderConfig, block: int, layer: str) -> str:
    """The layer's name in the decoder. Raises BadArgument for one that is not there."""
    if layer == HEAD:
        return HEAD
    known = list(dict.fromkeys(weight.module for weight in block_weights(config) if weight.kind == "linear"))
    if layer not in known:
        raise BadArgument(f"layer={layer!r}", f"{', '.join(known[:4])} or {HEAD}", "choose one of these layers")
    block = require_whole("block", block, 0, "pass for example block=0")
    if block >= config.n_layers:
        raise BadArgument(f"block={block}", f"0 to {config.n_layers - 1}", "choose a block that this model has")
    return f"blocks.{block}.{layer}"


def full_run(
    decoder: Decoder, tokens: Tokens, block: int = 0, layer: str = LAYERS[0], sites: Sequence[str] = ()
) -> FullRun:
    """One pass in full precision. layer: the one whose codes are to be shown. sites: patterns to compare beside
    compare.py's `compared_sites`. Raises BadArgument for a model in 8 bits."""
    if int8_layers(decoder):
        raise BadArgument("a model in 8 bits", "one in full precision", "load it with quantize=None")
    name = layer_name(decoder.config, block, layer)
    chosen = select(decoder.config, [*compared_sites(decoder.config), *sites])
    weight: Any = decoder.get_submodule(name).weight
    dtype = str(weight.dtype).removeprefix("torch.")
    return FullRun(run(decoder, tokens, chosen), name, weight.detach(), nbytes(decoder), dtype)


def compare(int8: Decoder, full: FullRun) -> Precisions:
    """The model in 8 bits on the same tokens and sites. Raises BadArgument where `full.layer` is not in 8 bits."""
    layers = int8_layers(int8)
    if full.layer not in layers:
        raise BadArgument(f"{full.layer} in full precision", "a layer in 8 bits", "choose another layer")
    small = run(int8, full.trace.tokens, list(full.trace))
    site = layer_input_sites(int8.config)[full.layer]
    explained = explain(layers[full.layer], layer_input(int8, full.layer, small[site]), full.weight)
    return Precisions(
        mode=layers[full.layer].mode, dtype=full.dtype, config=int8.config,
        tokens=small.tokens, sites=compare_sites(full.trace, small),
        outliers=outlier_layers(small, int8), layers=len(layers), next=next_tokens(full.trace, small),
        layer=full.layer, site=site, explained=explained, bytes=(full.bytes, nbytes(int8)),
    )  # fmt: skip
