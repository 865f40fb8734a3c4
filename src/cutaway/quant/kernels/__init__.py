"""The native library: the int8 layer and the small steps of a decoder, in C++, for the instructions of this machine."""

from cutaway.quant.kernels.block import BlockRun, BlockStep
from cutaway.quant.kernels.layer import DTYPES, EPILOGUES, MAX_WIDTH, NativeLayer, NormParts
from cutaway.quant.kernels.library import LIBRARY, MISSING, engine, force, path, paths
from cutaway.quant.kernels.room import Room
from cutaway.quant.kernels.steps import (
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
from cutaway.quant.kernels.team import together

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
