"""The product of mode "int8" on a GPU, as Triton kernels that read the panels as they lie: one for any number of rows.

The same sums in the same order as the C++ kernels (quant/native/cpp), so a layer gives the same bits. An activation's
code of 16 bits is two digits, 256 · high + low, each an integer of at most 8 bits: tensor cores multiply these exactly
in float16, and add 32 products exactly in float32. Triton comes with torch's builds for GPUs: import this where it is
there. It does not know modules or files.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from cutaway.quant.formats import GROUP, LARGEST
from cutaway.quant.panels import LINES, ROWS

PAIRS = GROUP // 2


def grouped_linear(x: Tensor, panels: Tensor, rows: int, bias_N: Tensor | None) -> Tensor:
    """x [..., K] → [..., N] in x's dtype. panels: quant/panels.py. A row that holds NaN or infinity gives NaN."""
    width, groups = x.shape[-1], panels.shape[1]
    x_MK = x.reshape(-1, width).contiguous()
    count = len(x_MK)
    digits = torch.empty((4, count, groups, PAIRS), dtype=torch.float16, device=x.device)
    scale_MG = torch.empty((count, groups), dtype=torch.float32, device=x.device)
    out_MN = torch.empty((count, rows), dtype=torch.float32, device=x.device)
    if count:
        with torch.cuda.device(x.device):
            _round[count, triton.cdiv(groups, 8)](
                x_MK, digits, scale_MG, width, groups, count * groups * PAIRS,
                GROUP=GROUP, LARGEST=LARGEST, AT_ONCE=8, num_warps=1, enable_fp_fusion=False,
            )  # fmt: skip
            few = count <= 32
            tokens, outputs, warps = (16 if count <= 16 else 32, 16, 1) if few else (64, 64, 4)
            _product[triton.cdiv(rows, outputs), triton.cdiv(count, tokens)](
                digits, scale_MG, panels.view(torch.int16), out_MN, count, rows, groups, count * groups * PAIRS,
                LINES=LINES, ROWS=ROWS, PAIRS=PAIRS, TOKENS=tokens, OUTPUTS=outputs,
                num_warps=warps, num_stages=4, enable_fp_fusion=False,
            )  # fmt: skip
    out_MN = out_MN if bias_N is None else out_MN + bias_N
    return out_MN.to(x.dtype).view(*x.shape[:-1], rows)


@triton.jit
def _round(
    x_MK, digits_4MGP, scale_MG, width, groups, plane,
    GROUP: tl.constexpr, LARGEST: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """round_activation (quant/formats.py) of one row's next groups, its codes written as digits."""
    row = tl.program_id(0)
    group_A = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    pair_P = tl.arange(0, GROUP // 2)
    column_AP = group_A[:, None] * GROUP + 2 * pair_P[None, :]
    at = x_MK + row.to(tl.int64) * width
    even_AP = tl.load(at + column_AP, mask=column_AP < width, other=0.0).to(tl.float32)
    odd_AP = tl.load(at + column_AP + 1, mask=column_AP + 1 < width, other=0.0).to(tl.float32)
    size_AP = tl.maximum(tl.abs(even_AP), tl.abs(odd_AP))
    largest_A = tl.max(size_AP, 1)
    finite_A = tl.sum((~(tl.abs(even_AP) < float("inf")) | ~(tl.abs(odd_AP) < float("inf"))).to(tl.int32), 1) == 0
    inverse_A = tl.math.div_rn(LARGEST * 1.0, largest_A)
    inverse_A = tl.where(finite_A & (inverse_A < float("inf")), inverse_A, 0.0)
    scale_A = tl.where(finite_A, tl.math.div_rn(largest_A, LARGEST * 1.0), float("nan"))
    inside_A = group_A < groups
    tl.store(scale_MG + row.to(tl.int64) * groups + group_A, scale_A, mask=inside_A)
    to = digits_4MGP + (row.to(tl.int64) * groups + group_A[:, None]) * (GROUP // 2) + pair_P[None, :]
    for odd in tl.static_range(2):
        value_AP = odd_AP if odd else even_AP
        value_AP = tl.where(finite_A[:, None], value_AP, 0.0) * inverse_A[:, None]
        code_AP = (value_AP + 12582912.0) - 12582912.0  # 1.5 · 2^23: rounds half to even
        high_AP = (code_AP * 0.00390625 + 12582912.0) - 12582912.0
        tl.store(to + odd * plane, high_AP.to(tl.float16), mask=inside_A[:, None])
        tl.store(to + (2 + odd) * plane, (code_AP - high_AP * 256.0).to(tl.float16), mask=inside_A[:, None])


@triton.jit
def _product(
    digits_4MGP, scale_MG, panels, out_MN, count, rows, groups, plane,
    LINES: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """grouped_product (quant/formats.py) for TOKENS rows of x and OUTPUTS rows of the weight."""
    row_M = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    output_N = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    pair_P = tl.arange(0, PAIRS)
    real_M, real_N = row_M < count, output_N < rows
    x_MP = digits_4MGP + row_M[:, None].to(tl.int64) * groups * PAIRS + pair_P[None, :]
    scale_M = scale_MG + row_M.to(tl.int64) * groups
    weight_N = panels + (output_N // ROWS).to(tl.int64) * groups * (LINES * ROWS) + output_N % ROWS
    weight_PN = weight_N[None, :] + (1 + pair_P[:, None]) * ROWS
    total_MN = tl.zeros((TOKENS, OUTPUTS), dtype=tl.float32)
    for group in range(groups):
        words_PN = tl.load(weight_PN + group * (LINES * ROWS), mask=real_N[None, :], other=0).to(tl.int32)
        weight_scale_N = tl.load(weight_N + group * (LINES * ROWS), mask=real_N, other=0)
        weight_scale_N = weight_scale_N.to(tl.float16, bitcast=True).to(tl.float32)
        even_PN = ((words_PN << 24) >> 24).to(tl.float32).to(tl.float16)
        odd_PN = (words_PN >> 8).to(tl.float32).to(tl.float16)
        at_MP, real_MP = x_MP + group * PAIRS, real_M[:, None]
        high_MN = tl.dot(tl.load(at_MP, mask=real_MP, other=0.0), even_PN)
        high_MN = tl.dot(tl.load(at_MP + plane, mask=real_MP, other=0.0), odd_PN, high_MN)
        low_MN = tl.dot(tl.load(at_MP + 2 * plane, mask=real_MP, other=0.0), even_PN)
        low_MN = tl.dot(tl.load(at_MP + 3 * plane, mask=real_MP, other=0.0), odd_PN, low_MN)
        sums_MN = (high_MN.to(tl.int32) * 256 + low_MN.to(tl.int32)).to(tl.float32)
        x_scale_M = tl.load(scale_M + group, mask=real_M, other=0.0)
        total_MN += (sums_MN * weight_scale_N[None, :]) * x_scale_M[:, None]
    at_MN = out_MN + row_M[:, None].to(tl.int64) * rows + output_N[None, :]
    tl.store(at_MN, total_MN, mask=real_M[:, None] & real_N[None, :])
