"""Products where the native kernel does not run, by torch's own matrix products: of codes, each exact, or rounded.

This file does not know outliers, files or modules.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.quant.formats import Product, exact_product, per_column, round_activation


def product_for(codes_NK: Tensor) -> tuple[str, Product]:
    """The fastest exact product that torch has on the codes' device, and its name."""
    if codes_NK.is_cuda:
        return "torch _int_mm", cuda_product
    if codes_NK.is_cpu and onednn_is_exact():
        return "torch onednn", onednn_product(codes_NK)
    return "torch float64", exact_product


def rounded_product(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """The layer of mode "int8", its activation rounded to 16 bits, its sums in float32: not in the kernels' order, so
    equal to them up to float32's rounding. x [..., K] → [..., N] in x's dtype."""
    x_MK = x.reshape(-1, x.shape[-1]).contiguous()  # the product's order follows strides
    codes_MK, scale_MG = round_activation(x_MK)
    out_MN = (codes_MK.float() * per_column(scale_MG, x_MK.shape[1])) @ weight_NK.T
    out_MN = out_MN if bias_N is None else out_MN + bias_N
    return out_MN.to(x.dtype).view(*x.shape[:-1], len(weight_NK))


def onednn_is_exact() -> bool:
    """Whether torch was built with oneDNN and the processor has VNNI: without it, sums of two products saturate."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


def onednn_product(codes_NK: Tensor) -> Product:
    """oneDNN's product for one weight, copied into its own layout."""
    n = len(codes_NK)
    packed = torch.ops.onednn.qlinear_prepack(codes_NK.contiguous(), None)
    ones = torch.ones(n, dtype=torch.float32, device="cpu")
    zeros = torch.zeros(n, dtype=torch.long, device="cpu")

    def product(codes_MK: Tensor, codes_NK: Tensor) -> Tensor:
        unsigned_MK = (codes_MK.short() + 128).to(torch.uint8)
        # scale 1 and zero point 128 for the activation, no bias, no output scale, float32 out, no fused op
        return torch.ops.onednn.qlinear_pointwise(
            unsigned_MK, 1.0, 128, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return product


def cuda_product(codes_MK: Tensor, codes_NK: Tensor) -> Tensor:
    """torch._int_mm, which needs more than 16 rows and multiples of 8: zero-padded, and the result sliced."""
    (m, k), n = codes_MK.shape, len(codes_NK)
    rows, width, columns = max(24, _eights(m)), _eights(k), _eights(n)
    left = F.pad(codes_MK, (0, width - k, 0, rows - m))
    right = F.pad(codes_NK, (0, width - k, 0, columns - n))
    return torch._int_mm(left, right.T)[:m, :n].float()  # pyright: ignore[reportPrivateImportUsage]


def _eights(count: int) -> int:
    return -(-count // 8) * 8
