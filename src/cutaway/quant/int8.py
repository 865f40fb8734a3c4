"""LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), to be read: every formula once, in plain torch.

The slow, obvious reference that the kernels are held to. It does not know layers, files, or which product runs.
M tokens, N outputs, K inputs: x_MK @ w_NK.T. A code is an integer from -127 to 127; a value is code x scale / 127.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument, NotFinite

Mode = Literal["int8", "int8-pooled", "int8-weight"]
Product = Callable[[Tensor, Tensor], Tensor]  # codes [M, K], codes [N, K] → their exact products [M, N], as float32
THRESHOLD = 6.0  # from here on |x| is an outlier and is multiplied in float


def check_mode(mode: str) -> None:
    """Raises BadArgument for a mode that does not exist."""
    if mode not in get_args(Mode):
        expected = "int8, int8-pooled or int8-weight"
        raise BadArgument(f"quantize={mode!r}", expected, "pass one of these, or None for full precision")


def quantize_weight(w_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [N, K] and scale float32 [N]: one scale per output, the largest |w| of its row.

    A row of zeros has scale 0. Raises NotFinite where a row holds NaN or infinity.
    """
    wide_NK = w_NK.float()
    scale_N = wide_NK.abs().amax(1)
    broken = (~scale_N.isfinite()).nonzero()
    if len(broken):
        found = f"NaN or infinity in row {int(broken[0])} of a weight {list(w_NK.shape)}"
        raise NotFinite(found, "finite weights", "fetch the checkpoint again, or load it with quantize=None to look")
    return _codes(wide_NK, scale_N), scale_N


def dequantize(codes_NK: Tensor, scale_N: Tensor) -> Tensor:
    """The weight that the codes stand for, float32 [N, K]."""
    return codes_NK.float() * (scale_N / 127)[:, None]


def quantize_activation(
    x_MK: Tensor, threshold: float = THRESHOLD, pooled: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes int8 [M, K], scale float32 [M] and outliers bool [M, K]: one scale per token, outliers left out.

    pooled: as bitsandbytes does it. The row is rounded to float16, and a column with an outlier in any row is one
    in all rows; the scale is still the largest |x| of a row's own values below the threshold.
    A row that holds NaN or infinity has scale NaN, so that all its results are NaN.
    """
    read_MK = x_MK.half().float() if pooled else x_MK.float()
    outlier_MK = read_MK.abs() >= threshold
    inlier_MK = torch.where(outlier_MK, 0.0, read_MK)
    finite_M = x_MK.isfinite().all(1)
    scale_M = torch.where(finite_M, inlier_MK.abs().amax(1), torch.nan)
    if pooled:
        outlier_MK = outlier_MK.any(0, keepdim=True).expand_as(outlier_MK)
    codes_MK = torch.where(outlier_MK | ~finite_M[:, None], 0, _codes(inlier_MK.nan_to_num(), scale_M))
    return codes_MK.to(torch.int8), scale_M, outlier_MK & finite_M[:, None]


def exact_product(codes_MK: Tensor, codes_NK: Tensor) -> Tensor:
    """Integers times integers: exact in float64, and rounded once, to the result's float32."""
    return (codes_MK.double() @ codes_NK.double().T).float()


def linear(
    x: Tensor,
    codes_NK: Tensor,
    scale_N: Tensor,
    bias_N: Tensor | None = None,
    mode: Mode = "int8",
    product: Product = exact_product,
) -> Tensor:
    """The layer: x [..., K] → [..., N] in x's dtype, computed in float32 around exact integer products.

    "int8": outliers per token, so a row's result never depends on the other rows. "int8-pooled": outlier columns
    pooled over the call. "int8-weight": only the weight is quantized. product: what multiplies the codes. In every mode
    a row that holds NaN or infinity gives NaN.
    """
    check_mode(mode)
    x_MK = x.reshape(-1, x.shape[-1])
    if mode == "int8-weight":
        finite_MK = torch.where(x_MK.isfinite().all(1, keepdim=True), x_MK.float(), torch.nan)
        out_MN = finite_MK @ dequantize(codes_NK, scale_N).T
    else:
        codes_MK, scale_M, outlier_MK = quantize_activation(x_MK, pooled=mode == "int8-pooled")
        out_MN = product(codes_MK, codes_NK) * (scale_M[:, None] * (scale_N / 127**2))
        out_MN = out_MN + _outlier_product(x_MK, outlier_MK, codes_NK, scale_N)
    out_MN = out_MN if bias_N is None else out_MN + bias_N.float()
    return out_MN.to(x.dtype).reshape(*x.shape[:-1], len(codes_NK))


def _outlier_product(x_MK: Tensor, outlier_MK: Tensor, codes_NK: Tensor, scale_N: Tensor) -> Tensor:
    """The few outliers in float, against their columns of the dequantized weight."""
    columns = outlier_MK.any(0).nonzero()[:, 0]
    outlier_MC = torch.where(outlier_MK, x_MK.float(), 0.0)[:, columns]
    return outlier_MC @ dequantize(codes_NK[:, columns], scale_N).T


def _codes(x_RK: Tensor, scale_R: Tensor) -> Tensor:
    """round(127 x / scale), half to even, in bitsandbytes' order of operations: 127 / tensor is (1 / tensor) · 127."""
    inverse_R = scale_R.reciprocal() * 127
    inverse_R = torch.where(inverse_R.isfinite(), inverse_R, 0.0)  # scale 0, or too small for its inverse to be a float
    return (x_RK * inverse_R[:, None]).round().to(torch.int8)
