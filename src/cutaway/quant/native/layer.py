"""NativeLayer: one quantized layer as the native library wants it, and the call that runs it.

It does not know modules, gradients or other engines, and it checks only what would make the library read wildly.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, get_num_threads

from cutaway.ground.errors import BadArgument
from cutaway.quant.native.library import LIBRARY
from cutaway.quant.native.pages import empty, recorded
from cutaway.quant.panels import ROWS

MAX_WIDTH = 65536  # wider sums of LLM.int8() would not fit in 32 bits
DTYPES = {torch.float32: 0, torch.bfloat16: 1}


class _Layer(ctypes.Structure):
    """isa.h holds the same struct: change both together."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("panels", "codes", "shift", "factor", "outlier_factor", "bias")),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("span", ctypes.c_void_p),
        ("pooled", ctypes.c_int32),
    )


class NativeLayer:
    """weights are used where they lie (a mapped file too) and never written: weights that change need a new layer.

    Panels of `rows` rows and `width` columns; or, with a scale, codes int8 [rows, width] of LLM.int8(), whose sums are
    taken here, and scale float32 [rows]. pooled: outlier columns are shared by the tokens of a call.
    """

    def __init__(
        self,
        weights: Tensor,
        rows: int,
        width: int,
        bias: Tensor | None,
        *,
        scale: Tensor | None = None,
        pooled: bool = False,
    ) -> None:
        assert LIBRARY is not None
        self.span: int | None = None
        self.rows, self.width = rows, width
        self.weights = weights.contiguous().detach()  # its memory stays, even where `weights` gets another
        arrays: dict[str, Tensor] = {} if bias is None else {"bias": bias.float()}
        if scale is not None:
            scale, shift = scale.float(), torch.zeros(rows, dtype=torch.int32, device="cpu")
            LIBRARY.cutaway_shift(self.weights.data_ptr(), rows, width, shift.data_ptr(), get_num_threads())
            arrays |= {"shift": shift, "factor": scale / 127**2, "outlier_factor": scale / 127}
        self.arrays = {name: F.pad(array, (0, ROWS)) for name, array in arrays.items()}  # read 16 rows at a time
        pointers = {name: array.data_ptr() for name, array in self.arrays.items()}
        pointers["panels" if scale is None else "codes"] = self.weights.data_ptr()
        self.span = LIBRARY.cutaway_span(self.weights.data_ptr(), self.weights.nbytes)
        self.struct = _Layer(**pointers, rows=rows, width=width, span=self.span, pooled=pooled)
        self.address = ctypes.addressof(self.struct)
        self.run = LIBRARY.cutaway_linear

    def __del__(self) -> None:  # before the weights go: another thread may be fetching them
        if LIBRARY is not None and self.span is not None:
            LIBRARY.cutaway_forget(self.span)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., K] float32 or bfloat16 → [..., N] in its dtype, in float32 inside. Raises BadArgument for another."""
        return self.activated(x)[0]

    def activated(
        self,
        x: Tensor,
        activation: int = 0,
        gated: bool = False,
        limit: float | None = None,
        alpha: float = 1.0,
        inside: bool = False,
    ) -> tuple[Tensor, ...]:
        """(out,) with an activation, of native/ops.py: ACTIVATIONS, applied to it.

        gated: to its first half, which the second then multiplies: [..., N / 2]. Whole panels lie in each half. limit,
        alpha: of Ops.gate_within. inside: with the product, where gated each half of it, in float32: (pre, out) or
        (pre, pre_linear, out).
        """
        shape, dtype = x.shape, DTYPES.get(x.dtype)
        if shape[-1] != self.width or dtype is None or not x.is_cpu:
            found = f"an input {list(shape)} of {x.dtype} on {x.device}"
            raise BadArgument(found, f"[..., {self.width}] of float32 or bfloat16 on the CPU", "convert it first")
        take = recorded if inside else empty
        x, out = x.contiguous(), take((*shape[:-1], self.rows // 2 if gated else self.rows), x)
        tokens = x.numel() // self.width
        within = [recorded(out.shape, x) for _ in range(1 + gated)] if inside else []
        self.run(
            self.address, x.data_ptr(), out.data_ptr(), *([part.data_ptr() for part in within] + [None, None])[:2],
            tokens, dtype, activation, gated, limit or 0, alpha, get_num_threads(),
        )  # fmt: skip
        return *within, out
