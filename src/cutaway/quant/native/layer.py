"""NativeLayer: one quantized layer as the native library wants it, and the call that runs it.

It does not know modules, gradients or other engines, and it checks only what would make the library read wildly.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, get_num_threads

from cutaway.ground.errors import BadArgument
from cutaway.quant.int8 import Mode, check_mode
from cutaway.quant.native.buffers import Room
from cutaway.quant.native.library import LIBRARY

RESULT = 5  # the slot of a room where the result is kept
GROUP = 16  # weight rows that the library finishes together
DIGITS = 3  # bytes of an activation where only the weight is rounded: as many as hold a float32's 24 bits
MAX_WIDTH = 65536  # wider sums would not fit in 32 bits
EPILOGUES = {"none": 0, "relu": 1, "residual": 2, "gated-silu": 3}
DTYPES = {torch.float32: 0, torch.bfloat16: 1}


class _Layer(ctypes.Structure):
    """paths.h holds the same struct: change both together."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("factor", ctypes.c_void_p),
        ("outlier_factor", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("stretch", ctypes.c_void_p),
        ("pooled", ctypes.c_int32),
        ("digits", ctypes.c_int32),
    )


NormParts = tuple[Tensor, Tensor | None, float]


class NativeLayer:
    """codes int8 [N, K] are used where they lie (a mapped file too) and never written; scale float32 [N].

    Sums of the codes are taken once, here: codes that change need a new NativeLayer.
    """

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, mode: Mode = "int8") -> None:
        assert LIBRARY is not None
        self.stretch: int | None = None
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
        self.stretch = LIBRARY.cutaway_stretch(self.codes.data_ptr(), self.codes.nbytes)
        self.struct = _Layer(self.codes.data_ptr(), *pointers, rows, self.width, self.stretch)
        self.struct.pooled = mode == "int8-pooled"
        self.struct.digits = DIGITS if mode == "int8-weight" else 1
        self.address = ctypes.addressof(self.struct)
        self.run = LIBRARY.cutaway_linear

    def __del__(self) -> None:  # before the codes go: another thread may be fetching them
        if LIBRARY is not None and self.stretch is not None:
            LIBRARY.cutaway_forget(self.stretch)

    def __call__(
        self,
        x: Tensor,
        epilogue: str = "none",
        residual: Tensor | None = None,
        norm: NormParts | None = None,
        room: Room | None = None,
    ) -> Tensor:
        """x [..., K] float32 or bfloat16 → [..., N] in its dtype, in float32 inside; [..., N/2] for "gated-silu".

        "relu"; "residual": residual + result; "gated-silu": silu(first half of the outputs) · second half. norm: weight
        and bias [K], float32 (RMSNorm without a bias), and eps of a norm that x passes first. room: for the norm's
        scale, normalized and result; what the epilogue takes, where gated each half; the result.
        Raises BadArgument for a width, dtype or residual that does not fit.
        """
        shape, code = x.shape, EPILOGUES.get(epilogue)  # this runs a hundred times a token: every microsecond counts
        dtype, gated = DTYPES.get(x.dtype), epilogue == "gated-silu"
        if shape[-1] != self.width or dtype is None or not x.is_cpu:
            found = f"an input {list(shape)} of {x.dtype} on {x.device}"
            raise BadArgument(found, f"[..., {self.width}] of float32 or bfloat16 on the CPU", "convert it first")
        if code is None or (gated and self.rows % 2):
            found = f"the epilogue {epilogue!r} for {self.rows} outputs"
            raise BadArgument(found, f"one of {', '.join(EPILOGUES)} (gated-silu for an even number)", "pass one")
        x = x.contiguous()
        tokens, columns = x.numel() // self.width, self.rows // 2 if gated else self.rows
        out = None if room is None or tokens == 1 else room.of(RESULT, (*shape[:-1], columns))
        if out is None:
            out = x.new_empty(*shape[:-1], columns)  # sizes one by one: a tuple of them costs half a microsecond more
        add = None if residual is None and epilogue != "residual" else self._to_add(residual, epilogue, out)
        w, b, eps = (None, None, 0.0) if norm is None else _pointers(norm)
        kept, to_add = None if room is None else room.address, None if add is None else add.data_ptr()
        self.run(
            self.address, x.data_ptr(), out.data_ptr(), tokens, to_add, code, dtype, w, b, eps, kept, get_num_threads()
        )
        return out

    def _to_add(self, residual: Tensor | None, epilogue: str, out: Tensor) -> Tensor:
        given = residual is not None and residual.shape == out.shape and residual.dtype == out.dtype
        if residual is None or epilogue != "residual" or not given:
            found = f"a residual {None if residual is None else list(residual.shape)} with epilogue {epilogue!r}"
            raise BadArgument(found, f"{list(out.shape)} of {out.dtype} with 'residual'", "pass the value to add to")
        return residual.contiguous()


def _pointers(norm: NormParts) -> tuple[int, int | None, float]:
    weight, bias, eps = norm
    return weight.data_ptr(), None if bias is None else bias.data_ptr(), eps
