"""Blocks in one native call for one new place of each text, where every part of them is the library's own.

It knows what a block is made of; it does not know values' names, nor how any part is computed.
"""

from itertools import chain
from operator import is_not
from typing import Any, cast
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cutaway.model.attend import Place
from cutaway.model.cache import Cache
from cutaway.model.counted import Counted
from cutaway.model.decoder import MLP, Attention, Block, Norm
from cutaway.model.steps import Blocks, hooked
from cutaway.quant import kernels
from cutaway.quant.joining import EPILOGUES, fits, joining, parts


class BlockSteps:
    """The blocks of one decoder, made ready for one cache at a time, and again wherever something was replaced."""

    def __init__(self) -> None:
        self.cache: Any = None
        self.step_shape: kernels.StepShape | None = None
        self.ready: dict[tuple[nn.Module, int], tuple[Unchanged, kernels.BlockRun | None]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockSteps, ()  # a copied or pickled decoder makes its own ready

    def shape(self, cache: Cache, keys_BSGK: Tensor, heads: int, place: Place) -> kernels.StepShape:
        """Of a step over this cache."""
        self._take(cache)
        if self.step_shape is None:
            pairs = 0 if place.turn is None else place.turn[0].shape[-1]
            self.step_shape = kernels.step_shape(keys_BSGK, heads, pairs)
        return self.step_shape

    def run(self, blocks: Blocks, resid_B1D: Tensor, place: Place, cache: Cache, room: Any) -> Tensor | None:
        """What the blocks make of the stream; None where a part of one is to be called by itself."""
        if torch.is_grad_enabled() or not kernels.usable(resid_B1D):
            return None
        self._take(cache)
        unchanged, run = self.ready.get((blocks[0], len(blocks)), (None, None))
        if not unchanged:
            run = self._made(blocks, resid_B1D, place, cache)
            self.ready[blocks[0], len(blocks)] = Unchanged(blocks, cache), run
        return run and run(resid_B1D, place.turn, cache.length, place.window.first_mask, room)

    def _take(self, cache: Cache) -> None:
        if self.cache is None or self.cache() is not cache:
            self.cache, self.step_shape, self.ready = ref(cache, self._forget), None, {}

    def _forget(self, cache: Any) -> None:
        """A cache is gone: so may its keys and values."""
        if self.cache is cache:
            self.cache, self.step_shape, self.ready = None, None, {}

    def _made(self, blocks: Blocks, x: Tensor, place: Place, cache: Cache) -> kernels.BlockRun | None:
        steps: list[kernels.BlockStep] = []
        for block in blocks:
            parts = _parts(block, x) if isinstance(block, Block) else None
            if parts is None:
                return None
            attention = cast(Attention, block.attn)
            keys_BSGK, values_BSGK = cache.slots(attention.layer)
            if keys_BSGK is None or values_BSGK is None:
                return None
            shape = self.shape(cache, keys_BSGK, attention.heads[0], place)
            steps.append(kernels.BlockStep(*parts, shape, keys_BSGK, values_BSGK))
        return kernels.BlockRun(steps)


class Unchanged:
    """Whether blocks and a cache are still made of the objects that they were made of, and nobody waits for a module of
    the blocks to be called. What a tensor holds may change."""

    def __init__(self, blocks: Blocks, cache: Cache) -> None:
        self.lists = (blocks._modules.values() if isinstance(blocks, nn.Module) else blocks, cache.keys, cache.values)
        self.values = tuple(chain(*self.lists))
        self.changes = Counted.changes
        self.hooks = RemovableHandle.next_id  # every hook on any module takes the next one

    def __bool__(self) -> bool:
        if Counted.changes != self.changes or RemovableHandle.next_id != self.hooks:
            return False
        return not any(map(is_not, chain(*self.lists), self.values))


def _parts(block: Block, x: Tensor) -> tuple[list[kernels.NativeLayer], list[kernels.NormParts], str] | None:
    """A block's four layers, two norms and epilogue; None where one is not the library's own, or waited for."""
    if type(block) is not Block or block.post_norm or any(map(hooked, block.modules())):
        return None
    attn, mlp, norms = block.attn, block.mlp, (block.ln1, block.ln2)
    if type(attn) is not Attention or type(mlp) is not MLP or any(type(norm) is not Norm for norm in norms):
        return None
    epilogue = EPILOGUES.get((mlp.activation, mlp.gated))
    layers = [joining(layer, x) for layer in (attn.qkv, attn.out, mlp.up, mlp.down)]
    native = [layer for layer in layers if layer is not None]
    if epilogue is None or len(native) < len(layers) or not all(map(fits, norms)):
        return None
    return native, [parts(norm) for norm in norms], epilogue
