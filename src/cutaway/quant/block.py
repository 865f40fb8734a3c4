"""Blocks in one native call for one new place of each text, where every part of them is the library's own.

It knows what a block is made of; it does not know values' names, nor how any part is computed.
"""

from collections.abc import Sequence
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
from cutaway.model.steps import hooked
from cutaway.quant import native
from cutaway.quant.joining import EPILOGUES, fits, joining, parts

Blocks = tuple[nn.Module, ...]


class BlockSteps:
    """The blocks of one decoder, made ready for one cache at a time, and again wherever something was replaced."""

    def __init__(self) -> None:
        self.ready: Ready | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockSteps, ()  # a copied or pickled decoder makes its own ready

    def shape(self, cache: Cache, keys_BSGK: Tensor, heads: int, place: Place) -> native.StepShape:
        """Of a step over this cache."""
        return self._for(cache).shape(keys_BSGK, heads, _pairs(place))

    def run(self, blocks: Blocks, resid_B1D: Tensor, place: Place, cache: Cache, room: Any) -> Tensor | None:
        """What the blocks make of the stream; None where a part of one is to be called by itself."""
        if torch.is_grad_enabled() or not blocks or not native.usable(resid_B1D):
            return None
        ready, key = self._for(cache), (blocks[0], len(blocks))
        made = ready.runs.get(key)
        if made is None or not made.unchanged(blocks, cache, place):
            made = ready.runs[key] = Made(ready, blocks, resid_B1D, place, cache)
        if made.run is None or not (room is None or made.run.fills(room)):
            return None
        return made.run(resid_B1D, place.turn, cache.length, place.window.first_mask, room)

    def _for(self, cache: Cache) -> "Ready":
        ready = self.ready  # another thread may use the decoder with another cache: each goes on with what it took
        if ready is None or ready.cache() is not cache:
            ready = self.ready = Ready(cache, self._forget)
        return ready

    def _forget(self, cache: Any) -> None:
        """A cache is gone: so may its keys and values."""
        if self.ready is not None and self.ready.cache is cache:
            self.ready = None


class Ready:
    """What was made ready for one cache."""

    def __init__(self, cache: Cache, forget: Any) -> None:
        self.cache = ref(cache, forget)
        self.shapes: dict[tuple[Any, ...], native.StepShape] = {}
        self.runs: dict[tuple[nn.Module, int], Made] = {}

    def shape(self, keys_BSGK: Tensor, heads: int, pairs: int) -> native.StepShape:
        key = keys_BSGK.shape, keys_BSGK.stride(), heads, pairs
        if key not in self.shapes:
            self.shapes[key] = native.step_shape(keys_BSGK, heads, pairs)
        return self.shapes[key]


class Made:
    """Blocks made ready for a cache: their run, None if there is none; and whether they are still what they were.

    Objects are compared, those of modules by counting their changes, and of the norms' weights where their values lie,
    which `.data =` moves. What the values are may change. A hook on a class, or one that was put past torch's own
    functions, is not seen.
    """

    def __init__(self, ready: Ready, blocks: Blocks, x_B1D: Tensor, place: Place, cache: Cache) -> None:
        self.changes = Counted.changes  # before what is looked at: another thread may be changing it
        self.hooks = RemovableHandle.next_id  # every hook on any module takes the next one
        self.parts = (*blocks, *cache.keys, *cache.values)
        self.pairs = _pairs(place)
        self.run, self.weights = None, []
        self.waited = [module for block in blocks for module in block.modules() if hooked(module)]
        steps = [self._step(ready, block, x_B1D, cache) for block in blocks]
        steps_ = [step for step in steps if step is not None]
        if len(steps_) == len(blocks):
            self.run = native.BlockRun(steps_)
            self.weights = [weight for step in steps_ for weight in step.weights]
        self.places = [weight.data_ptr() for weight in self.weights]

    def unchanged(self, blocks: Blocks, cache: Cache, place: Place) -> bool:
        if Counted.changes != self.changes or RemovableHandle.next_id != self.hooks or _pairs(place) != self.pairs:
            return False
        if self.waited and not any(map(hooked, self.waited)):  # a hook that goes leaves no trace but this
            return False
        if len(blocks) + len(cache.keys) + len(cache.values) != len(self.parts):
            return False
        if any(map(is_not, chain(blocks, cache.keys, cache.values), self.parts)):
            return False
        return [weight.data_ptr() for weight in self.weights] == self.places

    def _step(self, ready: Ready, block: nn.Module, x_B1D: Tensor, cache: Cache) -> native.BlockStep | None:
        found = _parts(block, x_B1D) if isinstance(block, Block) else None
        if found is None:
            return None
        attention = cast(Attention, block.attn)
        keys_BSGK, values_BSGK = cache.slots(attention.layer)
        if keys_BSGK is None or values_BSGK is None or not native.usable(keys_BSGK, values_BSGK):
            return None
        heads, groups, _ = attention.heads
        if not _fit(found[0], x_B1D, keys_BSGK, values_BSGK, heads, groups, gated=found[2] == "gated-silu"):
            return None
        return native.BlockStep(*found, ready.shape(keys_BSGK, heads, self.pairs), keys_BSGK, values_BSGK)


def _pairs(place: Place) -> int:
    """How many pairs of a head turn."""
    return 0 if place.turn is None else place.turn[0].shape[-1]


def _parts(block: Block, x: Tensor) -> tuple[list[native.NativeLayer], list[native.NormParts], str] | None:
    """A block's four layers, two norms and epilogue; None where one is not the library's own, or waited for."""
    if type(block) is not Block or block.post_norm or any(map(hooked, block.modules())):
        return None
    attn, mlp, norms = block.attn, block.mlp, (block.ln1, block.ln2)
    if type(attn) is not Attention or type(mlp) is not MLP or any(type(norm) is not Norm for norm in norms):
        return None
    epilogue = EPILOGUES.get((mlp.activation, mlp.gated))
    layers = [joining(layer, x) for layer in (attn.qkv, attn.out, mlp.up, mlp.down)]
    found = [layer for layer in layers if layer is not None]
    if epilogue is None or len(found) < len(layers) or not all(fits(norm, x.shape[-1]) for norm in norms):
        return None
    return found, [parts(norm) for norm in norms], epilogue


def _fit(
    layers: Sequence[native.NativeLayer], x_B1D: Tensor, keys_BSGK: Tensor, values_BSGK: Tensor, heads: int,
    groups: int, *, gated: bool,
) -> bool:  # fmt: skip
    """Whether each part takes what the one before gives: the one call looks at no shape any more."""
    batch, _, width = x_B1D.shape
    d_head, down = keys_BSGK.shape[-1], layers[3]
    sizes = [(layer.width, layer.rows) for layer in layers]
    wide = ((heads + 2 * groups) * d_head, heads * d_head, down.width * 2 if gated else down.width)
    return (
        sizes == [(width, wide[0]), (wide[1], width), (width, wide[2]), (down.width, width)]
        and keys_BSGK.shape == values_BSGK.shape
        and keys_BSGK.stride() == values_BSGK.stride()
        and (keys_BSGK.shape[0], keys_BSGK.shape[2]) == (batch, groups)
    )
