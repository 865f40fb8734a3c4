"""The native library: the int8 layer and the small steps of a decoder, in C++, for the instructions of this machine."""

from cutaway.quant.native.blocks import BlockRun, BlockStep
from cutaway.quant.native.buffers import Room
from cutaway.quant.native.layer import DTYPES, EPILOGUES, MAX_WIDTH, NativeLayer, NormParts
from cutaway.quant.native.library import LIBRARY, MISSING, engine, force, path, paths
from cutaway.quant.native.steps import (
    StepShape,
    attend_many,
    attend_one,
    attend_open,
    attention_step,
    layer_norm,
    norm_open,
    rms_norm,
    rotate,
    silu_mul,
    step_shape,
    usable,
)
from cutaway.quant.native.team import together

available = LIBRARY is not None

__all__ = [
    "DTYPES",
    "EPILOGUES",
    "MAX_WIDTH",
    "MISSING",
    "BlockRun",
    "BlockStep",
    "NativeLayer",
    "NormParts",
    "Room",
    "StepShape",
    "attend_many",
    "attend_one",
    "attend_open",
    "attention_step",
    "available",
    "engine",
    "force",
    "layer_norm",
    "norm_open",
    "path",
    "paths",
    "rms_norm",
    "rotate",
    "silu_mul",
    "step_shape",
    "together",
    "usable",
]
