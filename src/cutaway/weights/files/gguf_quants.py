"""ggml's quantized blocks as float32: the common kinds in torch, the others through the gguf package.

It does not know files, shapes nor names. A block encodes 32 (or more) consecutive elements of a row: codes, a scale,
and in some kinds a minimum. Source: ggml-quants.c; every kind equals the gguf package bit for bit.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from cutaway.weights.files import mxfp4

# type → torch's dtype, of the types that are not quantized
PLAIN = {
    0: torch.float32, 1: torch.float16, 30: torch.bfloat16, 28: torch.float64,
    24: torch.int8, 25: torch.int16, 26: torch.int32, 27: torch.int64,
}  # fmt: skip


Q8_0, MXFP4 = 8, 39  # types whose blocks the groups of mode "int8" (quant/formats.py) hold exactly

# Blocks dequantized at a time. torch splits longer work over threads, which cost more than they save here, and wait for
# each other for seconds on a busy machine.
IN_ONE_THREAD = 1024


def type_name(kind: int) -> str:
    """ggml's name of the type, or its number."""
    import gguf  # here and below: it takes 0.1 s to import, and the common types do not need it

    return gguf.GGMLQuantizationType(kind).name if kind in set(gguf.GGMLQuantizationType) else f"type {kind}"


@cache
def block_size(kind: int) -> tuple[int, int] | None:
    """Elements and bytes of a block of this type; None for an unreadable type."""
    if kind in PLAIN:
        return 1, PLAIN[kind].itemsize
    if kind in COMMON:
        return 32, COMMON[kind][0]
    import gguf
    import numpy as np

    if kind not in set(gguf.GGMLQuantizationType):
        return None
    elements, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    try:  # the package has no list of the types that it reads
        gguf.quants.dequantize(np.zeros((1, nbytes), np.uint8), gguf.GGMLQuantizationType(kind))
    except NotImplementedError:
        return None
    return elements, nbytes


def readable_kinds() -> list[str]:
    """The names of all readable types."""
    import gguf

    return [kind.name for kind in gguf.GGMLQuantizationType if block_size(kind) is not None]


def dequantize(raw: Tensor, kind: int, out: Tensor) -> None:
    """Fill out, float32 [elements], from complete blocks, uint8 [bytes], of a readable type."""
    if kind in COMMON:
        nbytes, unpack = COMMON[kind]
        for blocks, part in zip(
            raw.view(-1, nbytes).split(IN_ONE_THREAD), out.view(-1, 32).split(IN_ONE_THREAD), strict=True
        ):
            unpack(blocks, part)
    else:
        import gguf

        out.copy_(torch.from_numpy(gguf.quants.dequantize(raw.numpy(), gguf.GGMLQuantizationType(kind))))


def groups(raw: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """Rows of Q8_0 or MXFP4, uint8 [rows, bytes], in Q8_0: codes int8 [rows, K], scales float16 [rows, K / 32]."""
    if kind == MXFP4:
        blocks = raw.unflatten(1, (-1, 17))
        halves = mxfp4.doubled(blocks[:, :, 1:])  # the low halves are a block's first 16 elements
        return mxfp4.groups(halves.mT.flatten(-2), blocks[:, :, 0])
    blocks = raw.unflatten(1, (-1, COMMON[Q8_0][0]))
    scale = blocks[:, :, :2].contiguous().view(torch.float16).flatten(1)
    return blocks[:, :, 2:].contiguous().view(torch.int8).flatten(1), scale


# Each of these fills out [blocks, 32] from blocks [blocks, bytes], in ggml's order of operations.


def _q4_0(blocks: Tensor, out: Tensor) -> None:
    _nibbles(blocks[:, 2:], out)
    out.sub_(8.0).mul_(_half(blocks, 0))


def _q4_1(blocks: Tensor, out: Tensor) -> None:
    _nibbles(blocks[:, 4:], out)
    out.mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q5_0(blocks: Tensor, out: Tensor) -> None:
    _nibbles(blocks[:, 6:], out)
    out.add_(_fifth_bits(blocks[:, 2:6])).sub_(16.0).mul_(_half(blocks, 0))


def _q5_1(blocks: Tensor, out: Tensor) -> None:
    _nibbles(blocks[:, 8:], out)
    out.add_(_fifth_bits(blocks[:, 4:8])).mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q8_0(blocks: Tensor, out: Tensor) -> None:
    out.copy_(blocks[:, 2:].view(torch.int8)).mul_(_half(blocks, 0))


# type → bytes of a block, its function; each block is 32 elements
COMMON: dict[int, tuple[int, Callable[[Tensor, Tensor], None]]] = {
    2: (18, _q4_0),
    3: (20, _q4_1),
    6: (22, _q5_0),
    7: (24, _q5_1),
    Q8_0: (34, _q8_0),
}


def _half(blocks: Tensor, offset: int) -> Tensor:
    """The float16 at a byte offset of each block, as float32 [blocks, 1]."""
    return blocks[:, offset : offset + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor, out: Tensor) -> None:
    """4-bit codes [blocks, 16]: the low nibbles are a block's first 16 elements, the high ones its last."""
    out[:, :16].copy_(packed.bitwise_and(15))
    out[:, 16:].copy_(packed.bitwise_right_shift(4))


def _fifth_bits(packed: Tensor) -> Tensor:
    """16 where an element's bit is set, else 0: [blocks, 32] from [blocks, 4]."""
    bits = packed.unsqueeze(-1).bitwise_right_shift(torch.arange(8, dtype=torch.uint8, device="cpu")).bitwise_and(1)
    return bits.view(-1, 32).mul(16)
