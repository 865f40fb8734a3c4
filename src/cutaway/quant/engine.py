"""The engine: run_blocks (model/decoder.py) for one new token per sequence, in as few native calls as the tap allows.

It runs the blocks that `_parts` supports, where no tap changes a value and no hook waits, and calls every other block:
what it does not know is slow, never wrong. It does not know how a value is computed.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain, groupby
from operator import attrgetter, is_
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from cutaway.model.attention_mask import PassInfo
from cutaway.model.cache import Cache
from cutaway.model.decoder import MLP, Attention, Block, Norm, run_blocks
from cutaway.model.tap import Tap
from cutaway.quant import native
from cutaway.quant.linear import Int8Linear

# What a native call computes, and the facts that it is given; a subclass may compute something else.
FACTS = {
    Block: ("post_norm",),
    Norm: ("eps", "centered"),
    Attention: ("heads", "d_head", "layer"),
    MLP: ("gated", "activation"),
    Int8Linear: ("mode",),
}
FORWARDS = [kind.forward for kind in FACTS]
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
END = object()
Names = tuple[str, ...]


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
        if resid_BTD.shape[1] > 1 or cache is None or torch.is_grad_enabled() or not native.usable(resid_BTD):
            return run_blocks(blocks, resid_BTD, info, cache, tap)
        stack, plan = tuple(blocks), self.plan  # another thread may replace it: this one goes on with what it took
        if plan is None or not plan.holds(stack, info, cache):
            plan = self.plan = StackPlan(stack, resid_BTD, info, cache, self._forget)
        return plan.run(resid_BTD.contiguous(), info, cache, tap)

    def _forget(self, cache: Any) -> None:
        """A cache is gone: so may its keys and values."""
        if self.plan is not None and self.plan.cache is cache:
            self.plan = None


class StackPlan:
    """Blocks prepared for a cache, and the fingerprint that says, once per token, whether they are unchanged.

    Modules, parameters, buffers and the cache's tensors are compared by identity, tensors by address and version too.
    """

    def __init__(
        self, stack: tuple[nn.Module, ...], x_B1D: Tensor, info: PassInfo, cache: Cache, forget: Callable[[Any], None]
    ) -> None:
        self.cache, self.pairs = ref(cache, forget), _pairs(info)
        modules = [module for block in stack for module in block.modules()]
        self.tables = [vars(module) for module in modules]
        self.hooks = [table[name] for table in self.tables for name in HOOKS]
        self.facts = [(table, name) for table, m in zip(self.tables, modules, strict=True) for name in _facts(m)]
        # views, which show what the tables hold at any time
        self.views = [table[name].values() for table in self.tables for name in ("_modules", "_parameters", "_buffers")]
        owned = [part for part in chain.from_iterable(self.views) if isinstance(part, Tensor)]
        self.tensors, self.versioned = owned, [tensor for tensor in owned if not tensor.is_inference()]
        self.parts, self.state = list(self._live(stack, cache)), self._state()
        found = [_parts(block, x_B1D, cache) for block in stack]
        like = next((part.shape for part in found if part is not None), None)
        ready = [part for part in found if part is not None and part.shape == like]
        self.stack, self.supported = stack, [part is not None and part.shape == like for part in found]
        self.index = [0, *accumulate(self.supported)]  # of each block among those that are ready
        self.native = native.NativeBlocks(ready, self.pairs) if ready else None
        self.names = [tuple(getattr(block, "site", "") + name for name in native.SITES) for block in stack]
        self.names_of: dict[tuple[int, int], Names] = {(0, len(stack)): tuple(chain.from_iterable(self.names))}

    def holds(self, stack: tuple[nn.Module, ...], info: PassInfo, cache: Cache) -> bool:
        """Whether the blocks and the cache still are what was prepared."""
        same = cache is self.cache() and _pairs(info) == self.pairs
        return same and all(map(is_, self._live(stack, cache), self.parts)) and self._state() == self.state

    def run(self, x_B1D: Tensor, info: PassInfo, cache: Cache, tap: Tap) -> Tensor:
        """One native call for each longest run of blocks that it can compute, and the other blocks called."""
        visible = info.mask.visible_BTS
        for fused, group in groupby(range(len(self.stack)), self._fused(tap).__getitem__):
            numbers = list(group)
            if fused and self.native is not None:
                first, count = numbers[0], len(numbers)
                names = self._names(first, first + count)
                buffers = tap.buffers(names) if tap.wants(*names) else None
                x_B1D = self.native(x_B1D, info.rotary, cache.length, visible, buffers, self.index[first], count)
            else:
                for number in numbers:
                    x_B1D = self.stack[number](x_B1D, info, cache, tap).contiguous()
        return x_B1D

    def _fused(self, tap: Tap) -> list[bool]:
        """Which blocks the native calls compute."""
        if not _needs_each_value(tap, self._names(0, len(self.stack))):
            return self.supported
        pairs = zip(self.supported, self.names, strict=True)
        return [able and not _needs_each_value(tap, names) for able, names in pairs]

    def _names(self, first: int, end: int) -> Names:
        """The same tuple each time, so that a tap need not look at every name again."""
        if (first, end) not in self.names_of:
            self.names_of[first, end] = tuple(chain.from_iterable(self.names[first:end]))
        return self.names_of[first, end]

    def _live(self, stack: tuple[nn.Module, ...], cache: Cache) -> Iterator[Any]:
        return chain(stack, chain.from_iterable(self.views), cache.keys, cache.values, (END,))

    def _state(self) -> tuple[Any, ...]:
        """What identity does not show: facts, hooks, methods put on a module or a class, addresses and versions."""
        return (
            [kind.forward for kind in FACTS],
            [len(vars(torch_module)["_global" + name]) for name in HOOKS],
            list(map(len, self.hooks)),
            list(map(len, self.tables)),
            [table.get(name) for table, name in self.facts],
            list(map(Tensor.data_ptr, self.tensors)),
            list(map(attrgetter("_version"), self.versioned)),
        )


def _facts(module: nn.Module) -> tuple[str, ...]:
    return FACTS.get(type(module), ())


def _needs_each_value(tap: Tap, names: Names) -> bool:
    """Whether it must be called with one of these values."""
    return tap.changes(*names) or (tap.wants(*names) and tap.buffers(names) is None)


def _pairs(info: PassInfo) -> int:
    """How many pairs of a head rotate."""
    return 0 if info.rotary is None else info.rotary[0].shape[-1]


def _called(module: nn.Module) -> bool:
    """Whether a hook, or a method put on the module itself, waits for its call."""
    table = vars(module)
    return bool("forward" in table or any(table[name] or vars(torch_module)["_global" + name] for name in HOOKS))


def _parts(block: nn.Module, x_B1D: Tensor, cache: Cache) -> native.BlockParts | None:
    """A block as the library computes it; None where it does not know a part, or a part must be called by itself."""
    if type(block) is not Block or block.post_norm or [kind.forward for kind in FACTS] != FORWARDS:
        return None
    norms, attn, mlp = (block.ln1, block.ln2), block.attn, block.mlp
    if [*map(type, (*norms, attn, mlp))] != [Norm, Norm, Attention, MLP] or any(map(_called, block.modules())):
        return None
    layers = [layer.ready().native for layer in (attn.qkv, attn.out, mlp.up, mlp.down) if type(layer) is Int8Linear]
    ready = [layer for layer in layers if layer is not None]
    known = 0 <= attn.layer < len(cache.keys) and mlp.activation in native.ACTIVATIONS
    keys_BSGK, values_BSGK = (cache.keys[attn.layer], cache.values[attn.layer]) if known else (None, None)
    if len(ready) < 4 or keys_BSGK is None or values_BSGK is None:
        return None
    (batch, _, width), (heads, groups, _), d_head = x_B1D.shape, attn.heads, attn.d_head
    down, gate = ready[3].width, 2 if mlp.gated else 1
    sizes = [(width, (heads + 2 * groups) * d_head), (heads * d_head, width), (width, down * gate), (down, width)]
    cached = keys_BSGK.shape == values_BSGK.shape == (batch, cache.capacity, groups, d_head)
    vectors = [part for norm in norms for part in (norm.weight, norm.bias) if part is not None]
    fits = [(layer.width, layer.rows) for layer in ready] == sizes and cached
    fits = fits and all(vector.shape == (width,) for vector in vectors)
    fits = fits and all((norm.bias is not None) == norm.centered for norm in norms)
    read = (keys_BSGK, values_BSGK, *vectors)
    if not fits or not native.usable(*read) or not all(tensor.is_contiguous() for tensor in read):
        return None
    parts = [(norm.weight, norm.bias, norm.eps) for norm in norms]
    return native.BlockParts(ready, parts, mlp.activation, mlp.gated, heads, keys_BSGK, values_BSGK)
