"""The engine: run_blocks (model/decoder.py) for one new token per sequence, in as few native calls as the tap allows.

It runs the blocks that `_parts` supports, where no tap changes a value and no hook waits, and calls every other block:
what it does not know is slow, never wrong. It does not know how a value is computed.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import lru_cache
from itertools import accumulate, chain, groupby
from operator import is_
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

from cutaway.ground.config import DecoderConfig
from cutaway.model.cache import Cache
from cutaway.model.decoder import MLP, Attention, Block, Decoder, Norm, run_blocks
from cutaway.model.moe import MoE, Router
from cutaway.model.pass_info import PassInfo
from cutaway.model.positions import Rotary
from cutaway.model.sinks import Sinks
from cutaway.model.tap import Tap
from cutaway.quant import native
from cutaway.quant.linear import HOOKS, GroupedLinear, Int8Linear, LLMInt8Linear, called
from cutaway.quant.ops import NativeOps, native_ops
from cutaway.quant.panels import ROWS
from cutaway.quant.versions import CountingTable, version_of

LAYERS = (GroupedLinear, LLMInt8Linear)
# What a native call computes; a subclass may compute something else.
KINDS = (Block, Norm, Attention, MLP, MoE, Router, Sinks, *LAYERS)
FORWARDS = [kind.forward for kind in KINDS]
Names = tuple[str, ...]
Kind = tuple[int | None, int | None]  # what a block reads of PassInfo, by its keys: rotary, mask
Runs = list[tuple[int, int, Kind | None]]
# Facts that the library computes whatever they are, or that lie outside the blocks; of any other fact only its default.
ANY = frozenset(
    """vocab_size n_layers d_model n_heads n_kv_heads d_head d_mlp n_positions d_embed norm norm_eps norm_weights
    gain_plus_one activation gated qkv_bias out_bias mlp_bias rope layer_ropes layer_windows alibi final_norm post_norm
    pre_norm added_norm qk_norm qk_norm_bias parallel shared_norm qkv_clip attn_scale scale_by_layer attn_softcap
    resid_scale position_offset tied_head embed_norm embed_scale logit_scale logit_softcap head_bias
    attn_sinks mlp_limit mlp_alpha n_experts experts_per_token normalized_scores router_bias""".split()
)


def use_native(decoder: Decoder) -> None:
    """Give the decoder the native ops, and the engine for one new token, where the library and the weights allow it."""
    if not native.available or not decoder.embed.token.weight.is_cpu:
        return
    decoder.run_blocks = NativeEngine()
    for module in decoder.modules():
        if isinstance(module, Rotary | Norm | Attention | MLP | Router):
            module.ops = native_ops


def bits_by_text(decoder: Decoder) -> bool:
    """Whether a text's values have the same bits whatever else is in its batch, and no hook watches: the library adds
    all numbers, text by text, and no layer pools the outliers of a call."""
    if not isinstance(getattr(decoder, "run_blocks", None), NativeEngine):
        return False
    modules = list(decoder.modules())
    layers = [module for module in modules if isinstance(module, Int8Linear)]
    alone = all(layer.native and layer.mode != "llm-int8-pooled" for layer in layers)
    alone = alone and decoder.embed.token.weight.dtype is torch.float32
    alone = alone and all(
        each.ops is native_ops for each in modules if isinstance(each, Norm | Attention | MLP | Router)
    )
    full = (each for each in modules if isinstance(each, nn.Linear) and type(each) is not Router)
    return alone and not any(full) and not any(map(called, modules))


class NativeEngine:
    """It prepares the native call for one cache at a time, and again when anything that the call relies on changed."""

    def __init__(self) -> None:
        self.plan: StackPlan | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return NativeEngine, ()  # a copied or pickled decoder prepares its own

    def __call__(
        self, blocks: Iterable[nn.Module], resid_BTD: Tensor, info: PassInfo, cache: Cache | None, tap: Tap
    ) -> Tensor:
        """run_blocks, bit for bit."""
        one = (
            resid_BTD.shape[1] == 1
            and not torch.is_grad_enabled()
            and native.usable(resid_BTD, *chain.from_iterable(info.rotary.values()))
        )
        if not one or type(cache) is not Cache:
            return run_blocks(blocks, resid_BTD, info, cache, tap)
        plan = self.plan  # another thread may replace it: this one goes on with what it took
        if plan is None or not plan.holds(blocks, resid_BTD, cache):
            plan = self.plan = StackPlan(blocks, resid_BTD, cache, self._forget)
        return plan.run(resid_BTD.contiguous(), info, cache, tap)

    def _forget(self, cache: Any) -> None:
        """A cache is gone: so may its keys and values."""
        plan = self.plan
        if plan is not None and plan.cache is cache:
            self.plan = None


class StackPlan:
    """Blocks prepared for a cache, and the fingerprint that says, once per token, whether they are unchanged.

    It looks at few objects: after a token's weights have passed, none of them lies in a cache any more. A part that is
    replaced is seen at the next token: a module, parameter, buffer or hook, keys and values, memory that moves. Facts
    (`eps`, `activation`), methods put on a module, and codes written in place are seen from the next text on.
    """

    def __init__(self, blocks: Iterable[nn.Module], x_B1D: Tensor, cache: Cache, forget: Callable[[Any], None]) -> None:
        self.blocks, self.stack = blocks, tuple(blocks)
        self.cache, self.shape = ref(cache, forget), x_B1D.shape
        modules = [module for block in self.stack for module in block.modules()]
        listed = [blocks] if isinstance(blocks, nn.Module) else []
        self.version = version_of([*listed, *modules])  # before what is looked at: another thread may be changing it
        self.hooks = [vars(module)[name] for module in modules for name in HOOKS if vars(module)[name]]
        kept = (module for module in modules if type(module) in (Norm, Router, Sinks))  # in full precision
        vectors = (part for module in kept for part in (module.weight, getattr(module, "bias", None)))
        # of all weights in one memory one tensor: where it moves, all do
        weights = (getattr(m, m.STORED[0]) for m in modules if isinstance(m, Int8Linear))
        one_each = {part.untyped_storage().data_ptr(): part for part in weights}
        self.moved = [part for part in (*one_each.values(), *vectors) if isinstance(part, Tensor)]
        self.slots = [*cache.keys, *cache.values]
        self.state, stack = self._state(), self.stack
        found = [_parts(block, x_B1D, cache) for block in stack]
        like = next((part.shape for part in found if part is not None), None)
        ready = [part for part in found if part is not None and part.shape == like]
        self.supported = [part is not None and part.shape == like for part in found]
        self.kinds = [_kind(block) if ok else None for block, ok in zip(stack, self.supported, strict=True)]
        # where the tap need not be called, by the windows that hide something
        self.runs_of: dict[tuple[int | None, ...], Runs] = {}
        self.index = [0, *accumulate(self.supported)]  # of each block among those that are ready
        self.native = native.NativeBlocks(ready) if ready else None
        self.names = [tuple(getattr(block, "site", "") + name for name in native.SITES) for block in stack]
        self.names_of: dict[tuple[int, int], Names] = {(0, len(stack)): tuple(chain.from_iterable(self.names))}

    def holds(self, blocks: Iterable[nn.Module], x_B1D: Tensor, cache: Cache) -> bool:
        """Whether the blocks, the cache and the shape still are what was prepared."""
        same = blocks is self.blocks and cache is self.cache() and CountingTable.changes == self.version
        same = same and x_B1D.shape == self.shape and self._state() == self.state
        slots = [*cache.keys, *cache.values] if same else []
        return len(slots) == len(self.slots) and all(map(is_, slots, self.slots))

    def run(self, x_B1D: Tensor, info: PassInfo, cache: Cache, tap: Tap) -> Tensor:
        """One native call for each longest run of blocks that it can compute, and the other blocks called."""
        batch = len(x_B1D)
        rotary = {i: (_rows(cos, batch), _rows(sin, batch)) for i, (cos, sin) in info.rotary.items()}
        masks = {window: mask.visible_BTS for window, mask in info.masks.items()}
        visible = {window: _rows(mask, batch) for window, mask in masks.items() if mask is not None}
        added = None if info.alibi_BH1S is None else _rows(info.alibi_BH1S, batch)
        for first, count, kind in self._runs(tap, visible, cache.length):
            if kind is not None and self.native is not None and x_B1D.shape == self.shape and native.usable(x_B1D):
                names = self._names(first, first + count)
                buffers = tap.buffers(names) if tap.wants(*names) else None
                (rope, window), x_B1D = kind, x_B1D.contiguous()
                x_B1D = self.native(
                    x_B1D,
                    None if rope is None else rotary.get(rope),
                    cache.length,
                    visible.get(window),
                    added,
                    buffers,
                    self.index[first],
                    count,
                )
            else:
                x_B1D = run_blocks(self.stack[first : first + count], x_B1D, info, cache, tap)
        return x_B1D

    def _runs(self, tap: Tap, visible: dict[int | None, Tensor], positions: int) -> Runs:
        """Consecutive blocks alike: the first, how many, and what they read; None where they are called."""
        whole, key = (0, len(self.stack)), tuple(visible)
        if self._native_alone(tap, whole, positions):
            if key not in self.runs_of:
                self.runs_of[key] = _grouped(self._kinds(visible))
            runs = self.runs_of[key]
            if len(runs) == 1:
                return runs
        else:
            kinds = enumerate(self._kinds(visible))
            runs = _grouped([kind if self._native_alone(tap, (i, i + 1), positions) else None for i, kind in kinds])
        if all(self._native_alone(tap, (first, first + count), positions) for first, count, kind in runs if kind):
            return runs
        # taps that watch a block each have no buffers for several
        return [(first + i, 1, kind) for first, count, kind in runs for i in range(count)]

    def _kinds(self, visible: dict[int | None, Tensor]) -> list[Kind | None]:
        """What each block reads in this pass: a window that hides nothing is none."""
        return [kind if kind is None or kind[1] in visible else (kind[0], None) for kind in self.kinds]

    def _native_alone(self, tap: Tap, span: tuple[int, int], positions: int) -> bool:
        """Whether the tap need not be called: it wants no value there, or has buffers for it, of so many positions."""
        names = self._names(*span)
        if tap.changes(*names):
            return False
        buffers = tap.buffers(names) if tap.wants(*names) else None
        return not tap.wants(*names) if buffers is None else not 0 < buffers.width < positions

    def _names(self, first: int, end: int) -> Names:
        """The same tuple each time, so that a tap need not look at every name again."""
        if (first, end) not in self.names_of:
            self.names_of[first, end] = tuple(chain.from_iterable(self.names[first:end]))
        return self.names_of[first, end]

    def _state(self) -> tuple[Any, ...]:
        """What no table shows: methods put on a class; hooks, each of which takes the next number; moved memory."""
        return (
            [kind.forward for kind in KINDS],
            [len(vars(torch_module)["_global" + name]) for name in HOOKS],
            RemovableHandle.next_id,
            list(map(len, self.hooks)),
            list(map(Tensor.data_ptr, self.moved)),
        )


def _grouped(kinds: list[Kind | None]) -> Runs:
    groups = [(kind, list(group)) for kind, group in groupby(range(len(kinds)), kinds.__getitem__)]
    return [(group[0], len(group), kind) for kind, group in groups]


def _kind(block: Any) -> Kind:
    return block.attn.rope, block.attn.window


def _rows(value: Tensor, batch: int) -> Tensor:
    """A row for each text, contiguous."""
    return (value if len(value) == batch else value.expand(batch, *value.shape[1:])).contiguous()


@lru_cache(maxsize=16)
def unknown_facts(config: DecoderConfig) -> tuple[str, ...]:
    """The facts that the library does not compute, by name."""
    others = (fact for fact in fields(config) if fact.name not in ANY)
    return tuple(fact.name for fact in others if getattr(config, fact.name) != fact.default)


def unlike_its_facts(block: Any) -> bool:
    """Whether a part was put in, or taken out, that no config asks for: the readable block alone reads it so."""
    attn = block.attn
    odd = (block.parallel and block.post_norm) or (attn.q_norm is None) != (attn.k_norm is None)
    return odd or attn.clip == 0 or any(mlp.clamp[0] == 0 for mlp in mlps_of(block))


def mlps_of(block: Any) -> list[Any]:
    """Its MLP, or each expert of its mixture."""
    return [*block.mlp.experts] if type(block.mlp) is MoE else [block.mlp]


def _parts(block: nn.Module, x_B1D: Tensor, cache: Cache) -> native.BlockParts | None:
    """A block as the library computes it; None where it does not know a part, or a part must be called by itself."""
    if type(block) is not Block or unknown_facts(block.config) or [kind.forward for kind in KINDS] != FORWARDS:
        return None
    attn, mlps = block.attn, mlps_of(block)
    if type(attn) is not Attention or {*map(type, mlps)} != {MLP} or any(map(called, block.modules())):
        return None
    if unlike_its_facts(block) or len({(mlp.activation, mlp.gated, mlp.clamp) for mlp in mlps}) > 1:
        return None
    matrices = (attn.qkv, attn.out, *(layer for mlp in mlps for layer in (mlp.up, mlp.down)))
    layers = [layer.ready().native for layer in matrices if isinstance(layer, Int8Linear) and type(layer) in LAYERS]
    ready, mlp = [layer for layer in layers if layer is not None], mlps[0]
    known = 0 <= attn.layer < len(cache.keys) and mlp.activation in native.ACTIVATIONS
    known = known and all(type(part.ops) is NativeOps for part in (attn, *mlps))
    keys_BSGK, values_BSGK = (cache.keys[attn.layer], cache.values[attn.layer]) if known else (None, None)
    if len(ready) < len(matrices) or keys_BSGK is None or values_BSGK is None:
        return None
    (batch, _, width), (heads, groups, _), d_head = x_B1D.shape, attn.heads, attn.d_head
    down, gate = ready[3].width, 2 if mlp.gated else 1
    sizes = [(width, (heads + 2 * groups) * d_head), (heads * d_head, width)]
    sizes += [(width, down * gate), (down, width)] * len(mlps)
    cached = keys_BSGK.shape == values_BSGK.shape == (batch, cache.capacity, groups, d_head)
    fits = [(layer.width, layer.rows) for layer in ready] == sizes and cached
    panels = any(isinstance(each.up, GroupedLinear) for each in mlps)
    fits = fits and not (mlp.gated and down % ROWS and panels)  # halves share a panel
    fits = fits and (attn.sinks is None or (type(attn.sinks) is Sinks and _whole(attn.sinks.weight, heads)))
    mixture = _mixture(block.mlp, width) if type(block.mlp) is MoE else None
    if type(block.mlp) is MoE and mixture is None:
        return None
    if not fits or not native.usable(keys_BSGK, values_BSGK):
        return None
    if not all(side.is_contiguous() for side in (keys_BSGK, values_BSGK)):
        return None
    qk_norm = block.config.qk_norm
    ln2 = block.ln1 if block.parallel and block.ln2 is None else block.ln2
    norms = (block.ln1, ln2, block.ln1_post, block.ln2_post, attn.q_norm, attn.k_norm)
    widths = (width, width, width, width, *(d_head * (1 if qk_norm == "head" else count) for count in (heads, groups)))
    if not all(norm is None or _normed(norm, size) for norm, size in zip(norms, widths, strict=True)):
        return None
    return native.BlockParts(
        ready, [None if norm is None else _norm_parts(norm) for norm in norms], heads, keys_BSGK, values_BSGK,
        mlp.activation, mlp.gated, attn.clip, attn.softcap, attn.scale, block.resid_scale, qk_norm, attn.interleaved,
        block.post_norm, block.parallel, None if attn.sinks is None else attn.sinks.weight, mlp.clamp[0], mlp.clamp[1],
        mixture,
    )  # fmt: skip


def _mixture(moe: MoE, width: int) -> native.MixtureParts | None:
    """A mixture as the library computes it; None where it does not."""
    router, count = moe.router, len(moe.experts)
    known = type(router) is Router and type(router.ops) is NativeOps and _whole(router.weight, count, width)
    known = known and (router.bias is None or _whole(router.bias, count)) and 0 < moe.chosen <= count
    known = known and all(expert.gated for expert in moe.experts)  # pyright: ignore[reportAttributeAccessIssue]
    return native.MixtureParts(router.weight, router.bias, moe.chosen, moe.normalized) if known else None


def _whole(part: Tensor, *shape: int) -> bool:
    return part.shape == shape and part.is_contiguous() and native.usable(part)


def _normed(norm: nn.Module, width: int) -> bool:
    """Whether the library computes this norm, of so many gains."""
    known = type(norm) is Norm and type(norm.ops) is NativeOps
    return known and all(_whole(part, width) for part in (norm.weight, norm.bias) if isinstance(part, Tensor))


def _norm_parts(norm: Norm) -> native.NormParts:
    return native.NormParts(norm.weight, norm.bias, norm.eps, norm.centered, float(norm.plus_one))
