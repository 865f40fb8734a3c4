"""The 8-bit arithmetics, to be read: every formula once, in plain torch.

"int8": GGUF's Q8_0 weights, in groups of 32 along a row with one float16 scale each, and activations in 16 bits, in the
same groups with one float32 scale each.
"llm-int8": LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), one scale a weight row, activations in 8 bits a token.
"llm-int8-pooled": the same, with the outlier columns of a call shared by its tokens, as bitsandbytes does it.

The slow, obvious reference that the kernels are held to. It does not know layers, files, or which product runs.
M tokens, N outputs, K inputs, G = ceil(K / 32) groups: x_MK @ w_NK.T.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.ground.errors import BadArgument, NotFinite

Mode = Literal["int8", "llm-int8", "llm-int8-pooled"]
Product = Callable[[Tensor, Tensor], Tensor]  # codes [M, K], codes [N, K] → their exact products [M, N], as float32
RENAMED = {"int8-pooled": "llm-int8-pooled", "int8-weight": "int8"}  # modes of earlier versions
GROUP = 32  # columns of a weight row that share a scale; the last group of a row may be shorter
LARGEST = 32767  # code of an activation in 16 bits
THRESHOLD = 6.0  # LLM.int8(): from here on |x| is an outlier and is multiplied in float


def check_mode(mode: str) -> None:
    """Raises BadArgument for a mode that does not exist."""
    if isinstance(mode, str) and mode in RENAMED:
        found = f"quantize={mode!r}, the name of an earlier version"
        raise BadArgument(found, f"{RENAMED[mode]!r}", f"pass quantize={RENAMED[mode]!r}")
    if mode not in get_args(Mode):
        expected = "int8, llm-int8 or llm-int8-pooled"
        raise BadArgument(f"quantize={mode!r}", expected, "pass one of these, or None for full precision")


# ---- weights ----------------------------------------------------------------------------------------------------


def quantize_weight(w_NK: Tensor, mode: Mode = "int8") -> tuple[Tensor, Tensor]:
    """Codes int8 [N, K], and their scales: float16 [N, G] in "int8", float32 [N] in the others.

    A group or row of zeros has scale 0. Raises NotFinite where a row holds NaN or infinity, or a value whose scale
    float16 cannot hold.
    """
    wide_NK = w_NK.float()
    broken = (~wide_NK.isfinite().all(1)).nonzero()
    if len(broken):
        found = f"NaN or infinity in row {int(broken[0])} of a weight {list(w_NK.shape)}"
        raise NotFinite(found, "finite weights", "fetch the checkpoint again, or load it with quantize=None to look")
    if mode == "int8":
        return _q8_0(wide_NK)
    scale_N = wide_NK.abs().amax(1)
    return _llm_codes(wide_NK, scale_N), scale_N


def _q8_0(w_NK: Tensor) -> tuple[Tensor, Tensor]:
    """As ggml's quantize_row_q8_0: scale = max|w| / 127, rounded to float16 after the codes were made from it."""
    groups_NGI = F.pad(w_NK, (0, -w_NK.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    scale_NG = groups_NGI.abs().amax(2) / 127
    half_NG = scale_NG.half()
    if half_NG.isinf().any():
        row, group = (int(i) for i in half_NG.isinf().nonzero()[0])
        found = f"|w| up to {float(scale_NG[row, group]) * 127:.4g} in row {row} of a weight {list(w_NK.shape)}"
        raise NotFinite(found, f"at most {65504 * 127:,}: a scale is a float16", "load it with quantize='llm-int8'")
    inverse_NG = torch.where(scale_NG == 0, 0.0, scale_NG.reciprocal())
    inverse_NG = torch.where(inverse_NG.isfinite(), inverse_NG, 0.0)  # too small for its inverse to be a float
    exact_NGI = groups_NGI * inverse_NG[:, :, None]
    down_NGI = exact_NGI.abs().floor()
    rounded_NGI = down_NGI + (2 * (exact_NGI.abs() - down_NGI)).floor()  # half away from zero, as C's roundf
    codes_NK = rounded_NGI.copysign(exact_NGI).to(torch.int8).flatten(1)[:, : w_NK.shape[1]]
    return codes_NK.contiguous(), half_NG


def dequantize(codes_NK: Tensor, scale: Tensor) -> Tensor:
    """The weight that the codes stand for, float32 [N, K]. scale [N, G]: code · scale; [N]: code · scale / 127."""
    if scale.ndim == 1:
        return codes_NK.float() * (scale / 127)[:, None]
    return codes_NK.float() * per_column(scale, codes_NK.shape[1])


def per_column(scale_NG: Tensor, width: int) -> Tensor:
    """Each column's scale, float32 [N, K]."""
    return scale_NG.float().repeat_interleave(GROUP, 1)[:, :width]


# ---- activations ------------------------------------------------------------------------------------------------


def round_activation(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Of "int8": codes int16 [M, K] and scales float32 [M, G]. A group's largest |x| is 32767; a value is code · scale.

    A row that holds NaN or infinity has scales NaN; a group whose largest |x| is under 1e-34 counts as zeros.
    """
    width, finite_M1 = x_MK.shape[1], x_MK.isfinite().all(1, keepdim=True)
    groups_MGI = F.pad(x_MK.float().nan_to_num(), (0, -width % GROUP)).unflatten(1, (-1, GROUP))
    largest_MG = groups_MGI.abs().amax(2)
    inverse_MG = torch.full_like(largest_MG, LARGEST) / largest_MG  # number / tensor would round twice
    inverse_MG = torch.where(inverse_MG.isfinite() & finite_M1, inverse_MG, 0.0)
    codes_MGI = (groups_MGI * inverse_MG[:, :, None]).round().to(torch.int16)  # half to even
    scale_MG = torch.where(finite_M1, largest_MG / LARGEST, torch.nan)
    return codes_MGI.flatten(1)[:, :width].contiguous(), scale_MG


def quantize_activation(
    x_MK: Tensor, threshold: float = THRESHOLD, pooled: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Of LLM.int8(): codes int8 [M, K], scale float32 [M] and outliers bool [M, K], which are left out of the codes.

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
    codes_MK = torch.where(outlier_MK | ~finite_M[:, None], 0, _llm_codes(inlier_MK.nan_to_num(), scale_M))
    return codes_MK.to(torch.int8), scale_M, outlier_MK & finite_M[:, None]


# ---- the layer --------------------------------------------------------------------------------------------------


def exact_product(codes_MK: Tensor, codes_NK: Tensor) -> Tensor:
    """Integers times integers: exact in float64, and rounded once, to the result's float32."""
    return (codes_MK.double() @ codes_NK.double().T).float()


def grouped_product(codes_MK: Tensor, scale_MG: Tensor, codes_NK: Tensor, scale_NG: Tensor) -> Tensor:
    """Σ over groups of (exact sum of code · code) · both scales, group after group in float32, [M, N]."""
    total_MN = torch.zeros(len(codes_MK), len(codes_NK), dtype=torch.float32, device=codes_MK.device)
    for group, (x_MI, w_NI) in enumerate(zip(codes_MK.split(GROUP, 1), codes_NK.split(GROUP, 1), strict=True)):
        sums_MN = exact_product(x_MI, w_NI) * scale_NG[:, group].float()
        total_MN = total_MN + sums_MN * scale_MG[:, group, None]
    return total_MN


def linear(
    x: Tensor,
    codes_NK: Tensor,
    scale: Tensor,
    bias_N: Tensor | None = None,
    mode: Mode = "int8",
    product: Product = exact_product,
) -> Tensor:
    """The layer: x [..., K] → [..., N] in x's dtype. A row that holds NaN or infinity gives NaN.

    "int8": an activation is off by at most max|x| / 65534 of its group, a weight by max|w| / 254 of its group and
    2^-11 of itself, and the sum of G groups by (G + 4) · 2^-24 of the sum of their sizes; codes multiply exactly.
    "llm-int8": outliers per token, so a row's result never depends on the other rows. "llm-int8-pooled": outlier
    columns pooled over the call. product: what multiplies the codes in these two.
    """
    check_mode(mode)
    x_MK = x.reshape(-1, x.shape[-1])
    if mode == "int8":
        out_MN = grouped_product(*round_activation(x_MK), codes_NK, scale)
    else:
        codes_MK, scale_M, outlier_MK = quantize_activation(x_MK, pooled=mode == "llm-int8-pooled")
        out_MN = product(codes_MK, codes_NK) * (scale_M[:, None] * (scale / 127**2))
        out_MN = out_MN + _outlier_product(x_MK, outlier_MK, codes_NK, scale)
    out_MN = out_MN if bias_N is None else out_MN + bias_N.float()
    return out_MN.to(x.dtype).reshape(*x.shape[:-1], len(codes_NK))


def _outlier_product(x_MK: Tensor, outlier_MK: Tensor, codes_NK: Tensor, scale_N: Tensor) -> Tensor:
    """The few outliers in float, against their columns of the dequantized weight."""
    columns = outlier_MK.any(0).nonzero()[:, 0]
    outlier_MC = torch.where(outlier_MK, x_MK.float(), 0.0)[:, columns]
    return outlier_MC @ dequantize(codes_NK[:, columns], scale_N).T


def _llm_codes(x_RK: Tensor, scale_R: Tensor) -> Tensor:
    """round(127 x / scale), half to even, in bitsandbytes' order of operations: 127 / tensor is (1 / tensor) · 127."""
    inverse_R = scale_R.reciprocal() * 127
    inverse_R = torch.where(inverse_R.isfinite(), inverse_R, 0.0)  # scale 0, or too small for its inverse to be a float
    return (x_RK * inverse_R[:, None]).round().to(torch.int8)
