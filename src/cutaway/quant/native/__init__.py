"""The native library: the int8 layer and the decoder's ops, in C++, for the instructions of this machine."""

from cutaway.quant.native.blocks import SITES, BlockParts, MixtureParts, NativeBlocks
from cutaway.quant.native.buffers import OutputBuffers
from cutaway.quant.native.layer import DTYPES, MAX_WIDTH, NativeLayer
from cutaway.quant.native.library import LIBRARY, MISSING, engine, isa, isas, use_isa
from cutaway.quant.native.ops import (
    ACTIVATIONS,
    NormParts,
    activate,
    attend,
    attend_recorded,
    copy,
    cos_sin,
    float_product,
    mean,
    mix,
    norm,
    root_mean_square,
    rotate,
    route,
    scores,
    softcap,
    softmax,
    usable,
)

available = LIBRARY is not None

__all__ = [
    "ACTIVATIONS",
    "DTYPES",
    "MAX_WIDTH",
    "MISSING",
    "SITES",
    "BlockParts",
    "MixtureParts",
    "NativeBlocks",
    "NativeLayer",
    "NormParts",
    "OutputBuffers",
    "activate",
    "attend",
    "attend_recorded",
    "available",
    "copy",
    "cos_sin",
    "engine",
    "float_product",
    "isa",
    "isas",
    "mean",
    "mix",
    "norm",
    "root_mean_square",
    "rotate",
    "route",
    "scores",
    "softcap",
    "softmax",
    "usable",
    "use_isa",
]
