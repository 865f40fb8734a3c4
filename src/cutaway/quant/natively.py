"""Whether a new token's blocks are computed by the native library or called one by one, and why: a sentence for people.

It reads what the engine (quant/engine.py) decides by: classes, facts, layers, hooks. It needs no weights, and computes
nothing.
"""

from itertools import chain
from typing import Any

import torch
from torch import nn

from cutaway.ground.config import DecoderConfig
from cutaway.model.decoder import MLP, Attention, Block, Decoder, Norm
from cutaway.model.moe import MoE, Router
from cutaway.model.sinks import Sinks
from cutaway.quant import native
from cutaway.quant.engine import FORWARDS, KINDS, LAYERS, NativeEngine, mlps_of, unknown_facts, unlike_its_facts
from cutaway.quant.linear import GroupedLinear, called
from cutaway.quant.ops import NativeOps
from cutaway.quant.panels import ROWS


def sentence(decoder: Decoder) -> str:
    """Which blocks of a new token are native calls, and why the others are none. On the meta device (shapes without
    weights), as they would be on this machine's CPU."""
    blocks = list(decoder.blocks)
    everywhere = _of_all(decoder)
    reasons = [everywhere or _of_block(block) for block in blocks]
    by_reason = {reason: [i for i, own in enumerate(reasons) if own == reason] for reason in dict.fromkeys(reasons)}
    native_ones = by_reason.pop(None, [])
    if not by_reason:
        return "a new token's blocks are computed natively, as many in one call as are alike"
    if not native_ones and len(by_reason) == 1:
        return f"a new token's blocks are called one by one, none natively: {reasons[0]}"
    listed = "; ".join(f"{', '.join(map(str, some))} ({reason})" for reason, some in by_reason.items())
    return (
        f"of a new token's {len(blocks)} blocks {len(native_ones)} are computed natively, the others called: {listed}"
    )


def not_computed(config: DecoderConfig) -> list[str]:
    """The facts that the library does not compute, in words; [] where a block of these facts is a native call."""
    words = [f"{name}={getattr(config, name)!r}" for name in unknown_facts(config)]
    return words + ([] if config.activation in native.ACTIVATIONS else [f"the activation {config.activation}"])


def _of_all(decoder: Decoder) -> str | None:
    """Why no block is computed natively, whatever it is."""
    table = decoder.embed.token.weight
    if not native.available:
        return f"the native library is {native.MISSING}"
    if table.device.type not in ("cpu", "meta"):
        return f"the weights are on {table.device}, and native calls are the CPU's"
    dtypes = [getattr(decoder.embed.token, "dtype", None), *(part.dtype for part in decoder.blocks.parameters())]
    dtype = next((dtype for dtype in dtypes if dtype is not None), torch.float32)  # a table may be stored in another
    if dtype is not torch.float32:
        return f"values in {str(dtype).removeprefix('torch.')}, where native calls take float32"
    replaced = not table.is_meta and not isinstance(getattr(decoder, "run_blocks", None), NativeEngine)
    return "run_blocks is another function" if replaced else None


def _of_block(block: nn.Module) -> str | None:
    """Why this block is called; None where it is a native call."""
    if type(block) is not Block:
        return f"{type(block).__name__} in place of Block"
    if facts := not_computed(block.config):
        return ", ".join(facts)
    attn, mlps = block.attn, mlps_of(block)
    shapes_alone = any(tensor.is_meta for tensor in chain(block.parameters(), block.buffers()))
    norms = (block.ln1, block.ln2, block.ln1_post, block.ln2_post, attn.q_norm, attn.k_norm)
    routers = [block.mlp.router] if isinstance(block.mlp, MoE) else []
    parts = {Attention: [attn], MLP: mlps, Router: routers, Norm: norms, Sinks: [attn.sinks]}
    for part, known in ((part, known) for known, some in parts.items() for part in some):
        if part is not None and type(part) is not known:
            return f"{type(part).__name__} in place of {known.__name__}"
        if part is not None and known is not Sinks and not shapes_alone and type(part.ops) is not NativeOps:
            return f"other ops of {known.__name__}"
    if [kind.forward for kind in KINDS] != FORWARDS:
        return "another forward of a class"
    if unlike_its_facts(block):
        return "parts that its config does not ask for"
    if hooked := [name for name, module in block.named_modules() if called(module)]:
        return f"a hook on {hooked[0] or 'the block'}"
    matrices: tuple[Any, ...] = (attn.qkv, attn.out, *(layer for mlp in mlps for layer in (mlp.up, mlp.down)))
    for layer in matrices:
        if type(layer) not in LAYERS:
            kept = type(layer) is nn.Linear
            return "matrices in full precision" if kept else f"matrices of the class {type(layer).__name__}"
        if layer.in_features > native.MAX_WIDTH:
            return f"matrices wider than {native.MAX_WIDTH}"
    rows = block.config.d_mlp if isinstance(mlps[0].up, GroupedLinear) and mlps[0].gated else 0
    return f"an MLP of {rows} rows, no multiple of {ROWS}" if rows % ROWS else None
