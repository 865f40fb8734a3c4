"""BlockStep and BlockRun: blocks as the native library wants them, for one new place of each text, and their call.

It does not know modules or names of values; nothing is checked but by whoever makes one.
"""

import ctypes
from collections.abc import Sequence

from torch import Tensor, get_num_threads

from cutaway.quant.native.buffers import Room
from cutaway.quant.native.layer import EPILOGUES, NativeLayer, NormParts
from cutaway.quant.native.library import LIBRARY
from cutaway.quant.native.steps import StepShape, mask_of

SLOTS = 33  # values of a block: block.cpp: Slots
SOFTMAX = (13, 14)  # which of them are the scores and the pattern


class _Block(ctypes.Structure):
    """block.cpp holds the same struct: change both together."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "out", "up", "down", "w1", "b1", "w2", "b2")),
        *((name, ctypes.c_void_p) for name in ("shape", "keys", "values")),
        *((name, ctypes.c_float) for name in ("eps1", "eps2")),
        ("nonlinearity", ctypes.c_int32),
    )


class BlockStep:
    """layers: those of q, k and v; after attention; into the MLP; and out of it. norms: before the first and the third.

    keys and values: the cache's [B, capacity, G, K]. All of it is kept alive, and never copied. weights: of the norms.
    """

    def __init__(
        self,
        layers: Sequence[NativeLayer],
        norms: Sequence[NormParts],
        epilogue: str,
        shape: StepShape,
        keys: Tensor,
        values: Tensor,
    ) -> None:
        assert LIBRARY is not None
        (w1, b1, eps1), (w2, b2, eps2) = norms
        self.weights = [part for part in (w1, b1, w2, b2) if part is not None]
        # aliases: what they point to stays, even where a tensor is given other memory
        self.made_of = (layers, [tensor.detach() for tensor in (*self.weights, keys, values)])
        self.shape = shape
        pointers = [None if part is None else part.data_ptr() for part in (w1, b1, w2, b2)]
        self.struct = _Block(
            *(layer.address for layer in layers), *pointers, ctypes.addressof(shape), keys.data_ptr(),
            values.data_ptr(), eps1, eps2, EPILOGUES[epilogue],
        )  # fmt: skip
        self.address = ctypes.addressof(self.struct)


class BlockRun:
    """Blocks one after another, over one cache."""

    def __init__(self, blocks: Sequence[BlockStep]) -> None:
        assert LIBRARY is not None
        self.blocks, self.run = blocks, LIBRARY.cutaway_blocks
        self.shapes = list({id(block.shape): block.shape for block in blocks}.values())
        self.addresses = (ctypes.c_void_p * len(blocks))(*(block.address for block in blocks))

    def fills(self, room: Room) -> bool:
        """Whether it writes all that is asked for: scores and patterns it has not."""
        asked = room.values
        return len(asked) == SLOTS * len(self.blocks) and not any(
            value is not None for slot in SOFTMAX for value in asked[slot::SLOTS]
        )

    def __call__(
        self,
        x_B1D: Tensor,
        turn: tuple[Tensor, Tensor] | None,
        places: int,
        mask_BS: Tensor | None,
        room: Room | None = None,
    ) -> Tensor:
        """What they make of x; their keys and values go to place `places - 1`. mask: bool [B, places] or None.

        room: for what is inside each block, block by block, in the order of decoder.py: Block.inside.
        Float32 on the CPU; nothing is checked.
        """
        x = x_B1D.contiguous()
        out = x.new_empty(x.shape)
        cos, sin = (None, None) if turn is None else (turn[0].data_ptr(), turn[1].data_ptr())
        mask = None
        for shape in self.shapes:
            mask = mask_of(shape, mask_BS)
        kept = None if room is None else room.address
        self.run(
            self.addresses, len(self.blocks), x.data_ptr(), cos, sin, mask, places, kept, out.data_ptr(),
            get_num_threads(),
        )  # fmt: skip
        return out
