"""The reference arithmetics against their definitions, element by element, and against ggml's and bitsandbytes' own."""

import importlib.util
import logging
from fractions import Fraction
from typing import Any, get_args

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutaway.ground.errors import BadArgument, NotFinite
from cutaway.quant import native
from cutaway.quant.formats import (
    GROUP,
    RENAMED,
    Mode,
    dequantize,
    linear,
    per_column,
    quantize_activation,
    quantize_weight,
    round_activation,
)
from cutaway.quant.linear import Int8Linear
from tests.quant.helpers import relative
from tests.tiny import layer, noise

MODES = get_args(Mode)
LLM = tuple(mode for mode in MODES if mode != "int8")
THEIR_CONSTANT = 6.200124e-05  # bitsandbytes 0.50 on the CPU, where 1/127² is 6.2000124e-05
often = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("mode", MODES)
def test_a_weights_codes_are_the_nearest_whole_numbers(mode: Mode) -> None:
    w_NK = noise(7, 73)
    codes_NK, scale = quantize_weight(w_NK, mode)
    assert codes_NK.dtype == torch.int8
    assert (scale.dtype, scale.shape) == ((torch.float16, (7, 3)) if mode == "int8" else (torch.float32, (7,)))
    for n in range(7):
        for start in range(0, 73, GROUP if mode == "int8" else 73):
            group_I = w_NK[n, start : start + GROUP] if mode == "int8" else w_NK[n]
            largest = group_I.abs().max()
            found = scale[n, start // GROUP] if mode == "int8" else scale[n]
            assert found == ((largest / 127).half() if mode == "int8" else largest)
            for w, code in zip(group_I.tolist(), codes_NK[n, start : start + len(group_I)].tolist(), strict=True):
                assert abs(Fraction(w) * 127 / Fraction(largest.item()) - code) <= Fraction(1, 2) + Fraction(1, 10**4)
    step = 2 * per_column(scale, 73) if mode == "int8" else (2 * scale / 127)[:, None]
    allowed = step / 4 * 1.001 + (w_NK.abs() * 2**-11 if mode == "int8" else 0.0)
    assert ((dequantize(codes_NK, scale) - w_NK).abs() <= allowed).all()


@often
@given(
    rows=st.integers(1, 9), groups=st.integers(1, 5), seed=st.integers(0, 999),
    scale=st.sampled_from([1e-44, 1e-38, 1e-9, 1e-6, 1e-3, 1.0, 50.0, 1e6]), zeros=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_the_weights_of_int8_are_those_of_ggmls_q8_0(
    rows: int, groups: int, seed: int, scale: float, zeros: bool, dtype: torch.dtype
) -> None:
    """Bit for bit, subnormal scales and halves between two codes too; but a scale whose inverse is no float gives 0."""
    w_NK = (noise(rows, groups * GROUP, seed=seed) * scale).to(dtype).float()
    w_NK[:, 5] = w_NK[:, :GROUP].abs().amax(1) / 254 * (1 + 2 * (seed % 100))  # a half, or next to it
    w_NK[0, :GROUP] *= not zeros
    codes_NK, scale_NG = quantize_weight(w_NK)
    with np.errstate(all="ignore"):
        raw = gguf.quants.quantize(w_NK.numpy(), gguf.GGMLQuantizationType.Q8_0)
    blocks = torch.from_numpy(raw).view(rows, groups, 2 + GROUP)
    assert torch.equal(scale_NG, blocks[:, :, :2].contiguous().view(torch.float16)[:, :, 0])
    largest_NG = w_NK.unflatten(1, (-1, GROUP)).abs().amax(2)
    invertible = (largest_NG / 127).reciprocal().isfinite() | (largest_NG == 0)
    theirs, ours = blocks[:, :, 2:].contiguous().view(torch.int8), codes_NK.unflatten(1, (-1, GROUP))
    assert torch.equal(theirs[invertible], ours[invertible]) and not ours[~invertible].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_of_any_dtype_is_quantized_as_its_float32(dtype: torch.dtype, mode: Mode) -> None:
    w_NK = noise(5, 40).to(dtype)
    for mine, theirs in zip(quantize_weight(w_NK, mode), quantize_weight(w_NK.float(), mode), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_zeros_and_of_next_to_nothing_give_zeros(mode: Mode) -> None:
    w_NK = torch.zeros(3, 40)
    w_NK[1] = 1e-40  # its inverse is not a float
    w_NK[2, 0] = 1.0
    codes_NK, scale = quantize_weight(w_NK, mode)
    assert not scale[0].any()
    assert codes_NK.abs().sum(1).tolist() == [0, 0, 127]
    assert linear(noise(4, 40), codes_NK, scale, None, mode)[:, :2].abs().max() == 0
    x_MK = torch.zeros(3, 40)
    x_MK[1, 0] = 7.0  # in LLM.int8() nothing is left once the outlier is taken out
    x_MK[2] = 1e-36
    out = linear(x_MK, codes_NK, scale, None, mode)
    assert out[0].tolist() == [0, 0, 0] and out[1, :2].tolist() == [0, 0]
    assert out[1, 2].item() == pytest.approx(7.0, rel=2**-11)
    if mode == "int8":
        assert not out[2].any()
        return
    codes_MK, scale_M, outlier_MK = quantize_activation(x_MK[:2])
    assert not codes_MK.any()
    assert scale_M.tolist() == [0, 0]
    assert outlier_MK.nonzero().tolist() == [[1, 0]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("mode", MODES)
def test_a_weight_that_is_not_finite_is_refused_with_its_row(bad: float, mode: Mode) -> None:
    w_NK = noise(5, 6)
    w_NK[3, 2] = bad
    with pytest.raises(NotFinite, match=r"row 3 of a weight \[5, 6\]"):
        quantize_weight(w_NK, mode)


def test_a_weight_too_large_for_a_float16_scale_is_refused_with_its_row() -> None:
    w_NK = noise(5, 70)
    w_NK[3, 66] = -65504.0 * 127
    assert quantize_weight(w_NK)[1][3, 2] == 65504
    w_NK[3, 66] = -65520.0 * 127
    with pytest.raises(NotFinite, match=r"8.321e\+06 in row 3 of a weight \[5, 70\]; expected .*'llm-int8'"):
        quantize_weight(w_NK)
    assert quantize_weight(w_NK, "llm-int8")[1][3] == 65520.0 * 127


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("mode", MODES)
def test_an_activation_that_is_not_finite_gives_nan_in_its_row_alone(bad: float, mode: Mode) -> None:
    codes, scale, bias = layer(9, 40, mode=mode)
    x_MK = noise(3, 40)
    good = linear(x_MK, codes, scale, bias, mode)
    x_MK[1, 5] = bad
    out = linear(x_MK, codes, scale, bias, mode)
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()
    if mode != "llm-int8-pooled":
        assert torch.equal(out[[0, 2]], good[[0, 2]])


def test_an_activation_in_16_bits() -> None:
    x_MK = torch.zeros(2, 34)
    x_MK[0, :4], x_MK[0, 33] = torch.tensor([1.0, -4.0, 3e-5, 2.5]), 1e-3
    codes_MK, scale_MG = round_activation(x_MK)
    assert codes_MK.dtype == torch.int16 and codes_MK[0, :4].tolist() == [8192, -32767, 0, 20479]
    assert codes_MK[0, 32:].tolist() == [0, 32767] and not codes_MK[1].any()
    assert torch.equal(scale_MG, torch.tensor([[4.0, 1e-3], [0.0, 0.0]]) / 32767)


def largest_error(w_NK: Tensor, x_MK: Tensor, bias_N: Tensor) -> tuple[Tensor, Tensor]:
    """The exact result [M, N] and the bound of `linear`'s docstring for mode "int8", both in float64."""
    x_MK, w_NK = x_MK.double(), w_NK.double()
    n_groups = -(-w_NK.shape[1] // GROUP)
    off_x_MK = torch.cat([part.abs().amax(1, keepdim=True).expand_as(part) for part in x_MK.split(GROUP, 1)], 1) / 65534
    groups = torch.nn.functional.pad(w_NK, (0, -w_NK.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    off_w_NK = groups.abs().amax(2).repeat_interleave(GROUP, 1)[:, : w_NK.shape[1]] / 254 + w_NK.abs() * 2**-11
    exact_MN = x_MK @ w_NK.T + bias_N
    off_MN = off_x_MK @ (w_NK.abs() + off_w_NK).T + x_MK.abs() @ off_w_NK.T
    size_MN = (x_MK.abs() + off_x_MK) @ (w_NK.abs() + off_w_NK).T + bias_N.abs()
    return exact_MN, off_MN + (n_groups + 4) * 2**-24 * size_MN


@often
@given(
    width=st.integers(1, 300), rows=st.integers(1, 6), outputs=st.integers(1, 20), seed=st.integers(0, 999),
    scale=st.sampled_from([1e-9, 1.0, 1e9]), outlier=st.sampled_from([1.0, 40.0, 1e4]),
)  # fmt: skip
def test_the_largest_error_is_as_stated(
    width: int, rows: int, outputs: int, seed: int, scale: float, outlier: float
) -> None:
    w_NK, bias_N = noise(outputs, width, seed=seed), noise(outputs, seed=seed + 1, scale=scale)
    x_MK = noise(rows, width, seed=seed + 2, scale=scale)
    x_MK[:, seed % width] *= outlier
    exact_MN, allowed_MN = largest_error(w_NK, x_MK, bias_N.double())
    off_MN = linear(x_MK, *quantize_weight(w_NK), bias_N).double() - exact_MN
    assert (off_MN.abs() <= allowed_MN * (1 + 1e-4)).all()


def test_outliers_are_per_token_or_pooled() -> None:
    x_MK = torch.tensor([[1.0, -6.0, 3.0], [2.0, 5.0, -1.0]])
    codes_MK, scale_M, outlier_MK = quantize_activation(x_MK)
    assert outlier_MK.tolist() == [[False, True, False], [False, False, False]]
    assert scale_M.tolist() == [3.0, 5.0]
    assert codes_MK.tolist() == [[42, 0, 127], [51, 127, -25]]
    codes_MK, scale_M, outlier_MK = quantize_activation(x_MK, pooled=True)
    assert outlier_MK.tolist() == [[False, True, False], [False, True, False]]
    assert scale_M.tolist() == [3.0, 5.0]  # as bitsandbytes: 5.0 still sets its row's scale
    assert codes_MK.tolist() == [[42, 0, 127], [51, 0, -25]]


@pytest.mark.parametrize("width", [1, 31, 32, 33, 150])
def test_int8_is_its_formula_in_float64(width: int) -> None:
    codes, scale, bias = layer(12, width)
    x_MK = noise(6, width, seed=4, scale=3.0)
    codes_MK, scale_MG = round_activation(x_MK)
    weight_NK = codes.double() * scale.double().repeat_interleave(GROUP, 1)[:, :width]
    rounded_MK = codes_MK.double() * scale_MG.double().repeat_interleave(GROUP, 1)[:, :width]
    expected = rounded_MK @ weight_NK.T + bias.double()
    assert torch.equal(dequantize(codes, scale).double(), weight_NK)
    assert relative(linear(x_MK, codes, scale, bias), expected) < 4e-7
    assert relative(linear(x_MK, codes, scale, bias), x_MK.double() @ weight_NK.T + bias) < 1e-4


def test_llm_int8_is_its_formula_in_float64() -> None:
    codes, scale, bias = layer(12, 50, mode="llm-int8")
    x_MK = noise(6, 50, seed=4, scale=3.0)
    codes_MK, scale_M, outlier_MK = quantize_activation(x_MK)
    whole = codes_MK.double() @ codes.double().T
    expected = whole * scale_M.double()[:, None] * scale.double() / 127**2 + bias.double()
    expected = expected + (x_MK * outlier_MK).double() @ (codes.double() * scale.double()[:, None] / 127).T
    assert outlier_MK.any()
    assert relative(linear(x_MK, codes, scale, bias, "llm-int8"), expected) < 3e-7


@pytest.mark.parametrize(("mode", "error"), [("int8", 0.008), *((mode, 0.02) for mode in LLM)])
def test_the_layer_is_close_to_full_precision(mode: Mode, error: float) -> None:
    w_NK, x_MK = noise(64, 256), noise(8, 256, seed=9)
    x_MK[:, 17] = 40.0  # one outlier feature would ruin a plain absmax in 8 bits
    codes, scale = quantize_weight(w_NK, mode)
    assert relative(linear(x_MK, codes, scale, None, mode), x_MK @ w_NK.T) < error
    assert relative(linear(x_MK, codes, scale, None, mode), x_MK @ dequantize(codes, scale).T) < (
        3e-4 if mode == "int8" else error
    )


@pytest.mark.parametrize(("mode", "new"), RENAMED.items())
def test_an_earlier_versions_mode_is_refused_with_its_new_name(mode: Any, new: str) -> None:
    with pytest.raises(BadArgument, match=rf"'{mode}', the name of an earlier version; .* pass quantize='{new}'"):
        linear(noise(1, 4), *layer(2, 4), mode)
    assert new in MODES and mode not in MODES


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(BadArgument, match="'int4'; expected int8, llm-int8 or llm-int8-pooled"):
        linear(noise(1, 4), *layer(2, 4)[:2], None, "int4")  # type: ignore[arg-type]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [1.0, 3.0])  # without and with outliers
@pytest.mark.parametrize("rows", [1, 9])
def test_pooled_is_bitsandbytes_own_layer(seed: int, scale: float, rows: int) -> None:
    import bitsandbytes

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    n, k = 60 + seed, 200 + 19 * seed
    w_NK, bias_N = noise(n, k, seed=seed), noise(n, seed=seed + 1) if seed % 2 else None
    theirs = bitsandbytes.nn.Linear8bitLt(k, n, bias=bias_N is not None, has_fp16_weights=False, threshold=6.0)
    theirs.weight = bitsandbytes.nn.Int8Params(w_NK.clone(), requires_grad=False)
    if bias_N is not None:
        theirs.bias.data = bias_N.clone()
    theirs = theirs.to("cpu").eval()
    x_MK = noise(rows, k, seed=seed + 2, scale=scale).clamp(-5.9 if scale == 1.0 else -99, 99)
    with torch.no_grad():
        expected = theirs(x_MK.clone())
    codes, scale_N = quantize_weight(w_NK.half(), "llm-int8")  # it rounds weights to float16 first
    corrected = scale_N * (THEIR_CONSTANT * 127**2)  # its constant, in the whole-number part only
    mine = linear(x_MK, codes, scale_N, bias_N, "llm-int8-pooled")
    whole = linear(x_MK, codes, corrected, None, "llm-int8-pooled") - linear(
        x_MK, codes, scale_N, None, "llm-int8-pooled"
    )
    outliers = quantize_activation(x_MK, pooled=True)[2]
    apart = torch.where(outliers, x_MK, 0.0) @ dequantize(codes, corrected - scale_N).T
    assert outliers.any() == (scale == 3.0)
    assert relative(mine + whole - apart, expected) < 1e-6
    assert relative(mine, expected) < 1e-5 + THEIR_CONSTANT * 127**2 - 1
    if native.available:
        assert relative(Int8Linear.from_parts(codes, scale_N, bias_N, "llm-int8-pooled")(x_MK), mine) < 1e-6
