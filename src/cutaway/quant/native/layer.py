"""NativeLayer: one quantized layer as the native library wants it, and the call that runs it.

It does not know modules, gradients or other engines, and it checks only what would make the library read wildly.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, get_num_threads

from cutaway.ground.errors import BadArgument
from cutaway.quant.int8 import Mode, check_mode
from cutaway.quant.native.library import LIBRARY
from cutaway.quant.native.pages import empty

GROUP = 16  # weight rows that the library finishes together
DIGITS = 3  # bytes of an activation where only the weight is rounded: as many as hold a float32's 24 bits
MAX_WIDTH = 65536  # wider sums would not fit in 32 bits
DTYPES = {torch.float32: 0, torch.bfloat16: 1}


class _Layer(ctypes.Structure):
    """isa.h holds the same struct: change both together."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("factor", ctypes.c_void_p),
        ("outlier_factor", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("span", ctypes.c_void_p),
        ("pooled", ctypes.c_int32),
        ("digits", ctypes.c_int32),
    )


class NativeLayer:
    """codes int8 [N, K] are used where they lie (a mapped file too) and never written; scale float32 [N].

    Sums of the codes are taken once, here: codes that change need a new NativeLayer.
    """

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, mode: Mode = "int8") -> None:
        assert LIBRARY is not None
        self.span: int | None = None
        check_mode(mode)
        rows, self.width = codes.shape
        self.rows, self.codes = rows, codes.contiguous().detach()  # its memory stays, even where `codes` gets another
        shift = torch.zeros(rows, dtype=torch.int32, device="cpu")
        LIBRARY.cutaway_shift(self.codes.data_ptr(), rows, self.width, shift.data_ptr(), get_num_threads())
        scale = scale.float()
        arrays = [shift, scale / 127**2, scale / 127, *([] if bias is None else [bias.float()])]
        # A group that starts at any row may be read whole.
        self.arrays = [F.pad(array, (0, GROUP)) for array in arrays]
        pointers = [array.data_ptr() for array in self.arrays] + ([None] if bias is None else [])
        self.span = LIBRARY.cutaway_span(self.codes.data_ptr(), self.codes.nbytes)
        self.struct = _Layer(self.codes.data_ptr(), *pointers, rows, self.width, self.span)
        self.struct.pooled = mode == "int8-pooled"
        self.struct.digits = DIGITS if mode == "int8-weight" else 1
        self.address = ctypes.addressof(self.struct)
        self.run = LIBRARY.cutaway_linear

    def __del__(self) -> None:  # before the codes go: another thread may be fetching them
        if LIBRARY is not None and self.span is not None:
            LIBRARY.cutaway_forget(self.span)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., K] float32 or bfloat16 → [..., N] in its dtype, in float32 inside. Raises BadArgument for another."""
        shape, dtype = x.shape, DTYPES.get(x.dtype)
        if shape[-1] != self.width or dtype is None or not x.is_cpu:
            found = f"an input {list(shape)} of {x.dtype} on {x.device}"
            raise BadArgument(found, f"[..., {self.width}] of float32 or bfloat16 on the CPU", "convert it first")
        x, out = x.contiguous(), empty((*shape[:-1], self.rows), x)
        self.run(self.address, x.data_ptr(), out.data_ptr(), x.numel() // self.width, dtype, get_num_threads())
        return out
