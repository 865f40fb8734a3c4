"""The reference arithmetic against its definition, element by element, and against bitsandbytes' own layer."""

import importlib.util
import logging
from fractions import Fraction

import pytest
import torch

from cutaway.ground.errors import BadArgument, NotFinite
from cutaway.quant import native
from cutaway.quant.int8 import dequantize, linear, quantize_activation, quantize_weight
from tests.quant.helpers import relative
from tests.tiny import layer, noise

THEIR_CONSTANT = 6.200124e-05  # bitsandbytes 0.50 on the CPU, where 1/127² is 6.2000124e-05


def test_a_weights_codes_are_the_nearest_whole_numbers() -> None:
    w_NK = noise(7, 33)
    codes_NK, scale_N = quantize_weight(w_NK)
    assert codes_NK.dtype == torch.int8
    assert scale_N.dtype == torch.float32
    for n in range(7):
        assert scale_N[n] == w_NK[n].abs().max()
        for k in range(33):
            exact = Fraction(w_NK[n, k].item()) * 127 / Fraction(scale_N[n].item())
            assert abs(exact - codes_NK[n, k].item()) <= Fraction(1, 2) + Fraction(1, 10**4)
    half_step = (scale_N / 127 / 2)[:, None]
    assert ((dequantize(codes_NK, scale_N) - w_NK).abs() <= half_step * 1.001).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_of_any_dtype_is_quantized_as_its_float32(dtype: torch.dtype) -> None:
    w_NK = noise(5, 20).to(dtype)
    for mine, theirs in zip(quantize_weight(w_NK), quantize_weight(w_NK.float()), strict=True):
        assert torch.equal(mine, theirs)


def test_rows_of_zeros_and_of_next_to_nothing_give_zeros() -> None:
    w_NK = torch.zeros(3, 8)
    w_NK[1] = 1e-40  # 127 / 1e-40 is not a float
    w_NK[2, 0] = 1.0
    codes_NK, scale_N = quantize_weight(w_NK)
    assert scale_N[0] == 0
    assert codes_NK.abs().sum(1).tolist() == [0, 0, 127]
    assert linear(noise(4, 8), codes_NK, scale_N)[:, :2].abs().max() == 0
    x_MK = torch.zeros(2, 8)
    x_MK[1, 0] = 7.0  # nothing is left once the outlier is taken out
    codes_MK, scale_M, outlier_MK = quantize_activation(x_MK)
    assert not codes_MK.any()
    assert scale_M.tolist() == [0, 0]
    assert outlier_MK.nonzero().tolist() == [[1, 0]]
    assert linear(x_MK, codes_NK, scale_N).tolist() == [[0, 0, 0], [0, 0, 7.0]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_not_finite_is_refused_with_its_row(bad: float) -> None:
    w_NK = noise(5, 6)
    w_NK[3, 2] = bad
    with pytest.raises(NotFinite, match=r"row 3 of a weight \[5, 6\]"):
        quantize_weight(w_NK)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("mode", ["int8", "int8-pooled"])
def test_an_activation_that_is_not_finite_gives_nan_in_its_row_alone(bad: float, mode: str) -> None:
    codes, scale, bias = layer(9, 40)
    x_MK = noise(3, 40)
    good = linear(x_MK, codes, scale, bias, "int8")
    x_MK[1, 5] = bad
    out = linear(x_MK, codes, scale, bias, mode)  # type: ignore[arg-type]
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()
    if mode == "int8":
        assert torch.equal(out[[0, 2]], good[[0, 2]])


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


def test_the_layer_is_its_formula_in_float64() -> None:
    codes, scale, bias = layer(12, 50)
    x_MK = noise(6, 50, seed=4, scale=3.0)
    codes_MK, scale_M, outlier_MK = quantize_activation(x_MK)
    whole = codes_MK.double() @ codes.double().T
    expected = whole * scale_M.double()[:, None] * scale.double() / 127**2 + bias.double()
    expected = expected + (x_MK * outlier_MK).double() @ (codes.double() * scale.double()[:, None] / 127).T
    assert outlier_MK.any()
    assert relative(linear(x_MK, codes, scale, bias), expected) < 3e-7
    assert relative(linear(x_MK, codes, scale, bias, "int8-weight"), x_MK @ dequantize(codes, scale).T + bias) < 1e-6


def test_the_layer_is_close_to_full_precision() -> None:
    w_NK, x_MK = noise(64, 256), noise(8, 256, seed=9)
    x_MK[:, 17] = 40.0  # one outlier feature would ruin a plain absmax
    codes, scale = quantize_weight(w_NK)
    assert relative(linear(x_MK, codes, scale), x_MK @ w_NK.T) < 0.02


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(BadArgument, match="'int4'"):
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
    codes, scale_N = quantize_weight(w_NK.half())  # it rounds weights to float16 first
    corrected = scale_N * (THEIR_CONSTANT * 127**2)  # its constant, in the whole-number part only
    mine = linear(x_MK, codes, scale_N, bias_N, "int8-pooled")
    whole = linear(x_MK, codes, corrected, None, "int8-pooled") - linear(x_MK, codes, scale_N, None, "int8-pooled")
    outliers = quantize_activation(x_MK, pooled=True)[2]
    apart = torch.where(outliers, x_MK, 0.0) @ dequantize(codes, corrected - scale_N).T
    assert outliers.any() == (scale == 3.0)
    assert relative(mine + whole - apart, expected) < 1e-6
    assert relative(mine, expected) < 1e-5 + THEIR_CONSTANT * 127**2 - 1
    if native.available:
        assert relative(native.NativeLayer(codes, scale_N, bias_N, "int8-pooled")(x_MK), mine) < 1e-6
