"""The native layer against the reference, on every instruction set of this machine."""

import ctypes
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutaway.ground.errors import BadArgument
from cutaway.quant import native
from cutaway.quant.formats import Mode, dequantize, linear, quantize_weight
from cutaway.quant.linear import Int8Linear
from cutaway.quant.native.blocks import HEAD_NORMS, _Block, _Pass
from cutaway.quant.native.layer import _Layer
from cutaway.quant.native.library import LIBRARY
from cutaway.quant.native.ops import ACTIVATIONS, NORM_KINDS, NormStruct, _AttentionCall
from tests.quant.helpers import relative, threads, with_isa
from tests.tiny import layer, noise

ISAS = native.isas()
MODES = get_args(Mode)
LLM = tuple(mode for mode in MODES if mode != "int8")
SOURCES = Path(__file__).parents[2] / "src" / "cutaway" / "quant" / "native" / "cpp"  # an installed package has none
pytestmark = pytest.mark.skipif(not native.available, reason=f"no native library ({native.MISSING})")
each_isa = pytest.mark.parametrize("isa", ISAS)


def quantized(codes: Tensor, scale: Tensor, bias: Tensor | None = None, mode: Mode = "int8") -> native.NativeLayer:
    return Int8Linear.from_parts(codes, scale, bias, mode).native_layer()


def assert_equal(mine: Tensor, expected: Tensor) -> None:
    """Every bit but the sign of 0 and the payload of NaN."""
    torch.testing.assert_close(mine, expected, rtol=0, atol=0, equal_nan=True)


@each_isa
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 300),
    rows=st.integers(1, 40),
    outputs=st.integers(1, 70),
    scale=st.sampled_from([0.0, 1e-36, 1e-30, 1e-3, 1.0, 3.0, 50.0, 1e30]),
    weights=st.sampled_from([1e-6, 1.0, 1e5]),  # 1e-6: scales that float16 holds as subnormal numbers
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_int8_is_the_reference_bit_for_bit(
    isa: str, width: int, rows: int, outputs: int, scale: float, weights: float, bias: bool, dtype: torch.dtype,
    seed: int,
) -> None:  # fmt: skip
    """The same float operations in the same order: tolerance zero."""
    codes, scale_NG = quantize_weight(noise(outputs, width, seed=seed, scale=weights))
    codes[seed % outputs, seed % width] = -128  # as a file may have it
    scale_NG[seed % outputs, 0] = 0.0
    bias_N = noise(outputs, seed=seed + 1) if bias else None
    x_MK = noise(rows, width, seed=seed + 2, scale=scale).to(dtype)
    x_MK[seed % rows, seed % width] *= 1e3
    with with_isa(isa):
        assert_equal(quantized(codes, scale_NG, bias_N)(x_MK), linear(x_MK, codes, scale_NG, bias_N))


@each_isa
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 300),
    rows=st.integers(1, 40),
    outputs=st.integers(1, 70),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 3.0, 50.0]),
    bias=st.booleans(),
    mode=st.sampled_from(LLM),
    seed=st.integers(0, 999),
)
def test_llm_int8_is_the_reference(
    isa: str, width: int, rows: int, outputs: int, scale: float, bias: bool, mode: Mode, seed: int
) -> None:
    codes, scale_N, bias_N = layer(outputs, width, seed, mode)
    x_MK = noise(rows, width, seed=seed + 2, scale=scale)
    expected = linear(x_MK, codes, scale_N, bias_N if bias else None, mode)
    with with_isa(isa):
        mine = quantized(codes, scale_N, bias_N if bias else None, mode)(x_MK)
    wide_MK, weight_NK = x_MK.double(), codes.double() * scale_N[:, None] / 127  # float32 has no square of 1e-30
    size = wide_MK.norm(dim=1, keepdim=True) * weight_NK.norm(dim=1) + bias_N.abs() * bias
    assert ((mine - expected).abs() <= 3e-6 * size).all()


@each_isa
@pytest.mark.parametrize("mode", ["int8", "llm-int8"])
def test_every_width_from_1_to_300_is_exact_in_whole_numbers(isa: str, mode: Mode) -> None:
    """Codes for activations, all scales 1: the result is a whole number, and equal while it is below 2^24."""
    largest = 32767 if mode == "int8" else 127
    for width in range(1, 301):
        generator = torch.Generator().manual_seed(width)
        codes = torch.randint(-127, 128, (20, width), generator=generator, dtype=torch.int8)
        x_MK = torch.randint(-127, 128, (10, width), generator=generator).float()
        x_MK[:, :: 32 if mode == "int8" else width] = largest
        expected = x_MK.double() @ codes.double().T
        scale = torch.ones(20, -(-width // 32)) if mode == "int8" else torch.ones(20) * 127
        with with_isa(isa):
            mine = quantized(codes, scale.half() if mode == "int8" else scale, None, mode)(x_MK / largest)
        sums_are_floats = mode == "int8" and width > 32  # of several groups
        most = expected.abs().max() * 2**-21 if sums_are_floats else 0
        assert ((mine * largest).round().double() - expected).abs().max() <= most, width


@each_isa
@pytest.mark.parametrize("rows", [1, 2, 5, 13])
def test_the_largest_sums_of_a_group_do_not_overflow(isa: str, rows: int) -> None:
    codes = torch.full((17, 96), -128, dtype=torch.int8)
    scale = torch.full((17, 3), 65504.0).half()
    x_MK = torch.full((rows, 96), -3e28)
    with with_isa(isa):
        mine = quantized(codes, scale)(x_MK)
    assert_equal(mine, linear(x_MK, codes, scale))
    assert mine.min() > 96 * 128 * 65504 * 2.99e28


@each_isa
@pytest.mark.parametrize("mode", ["int8", "llm-int8"])
@pytest.mark.parametrize("width", [64, 576, 1100, 2500, 6200])
def test_a_row_is_the_same_bits_whatever_its_batch_and_threads(isa: str, width: int, mode: Mode) -> None:
    codes, scale, bias = layer(130, width, mode=mode)
    x_MK = noise(37, width, seed=5, scale=2.5)
    with with_isa(isa):
        run = quantized(codes, scale, bias, mode)
        with threads(1):
            alone = torch.cat([run(row[None]) for row in x_MK])
        for count in (1, 2, 3):
            with threads(count):
                assert torch.equal(run(x_MK), alone)
                for rows in (1, 2, 3, 4, 5, 11, 12, 13, 25):
                    assert torch.equal(run(x_MK[37 - rows :]), alone[37 - rows :])
    expected = linear(x_MK, codes, scale, bias, mode)
    assert torch.equal(alone, expected) if mode == "int8" else relative(alone, expected) < 1e-6


@each_isa
@pytest.mark.parametrize("mode", MODES)
def test_many_tokens_come_in_blocks(isa: str, mode: Mode) -> None:
    codes, scale, bias = layer(33, 70, mode=mode)
    x_MK = noise(600, 70, scale=2.0)
    with with_isa(isa):
        run = quantized(codes, scale, bias, mode)
        assert run(x_MK[:0]).shape == (0, 33)
        assert relative(run(x_MK), linear(x_MK, codes, scale, bias, mode)) < (1e-30 if mode == "int8" else 1e-6)
        if mode != "llm-int8-pooled":
            assert torch.equal(run(x_MK)[299:], run(x_MK[299:]))


@each_isa
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_zeros_and_rows_that_are_not_finite(
    isa: str, rows: int, mode: Mode, bad: float, dtype: torch.dtype
) -> None:
    w_NK = noise(21, 90)
    w_NK[4] = 0.0
    codes, scale = quantize_weight(w_NK, mode)
    x_MK = noise(rows, 90, scale=2.0).to(dtype)
    x_MK[0, 30] = bad
    if rows > 2:
        x_MK[2] = 0.0
    with with_isa(isa):
        mine = quantized(codes, scale, None, mode)(x_MK)
    assert mine[0].isnan().all()
    assert mine[1:].isfinite().all()
    assert not mine[1:, 4].any()
    if rows > 2:
        assert not mine[2].any()
    expected = linear(x_MK, codes, scale, None, mode)
    rtol, atol = (0, 0) if mode == "int8" else (1e-6, 1e-5) if dtype == torch.float32 else (2**-7, 1e-5)
    torch.testing.assert_close(mine, expected, rtol=rtol, atol=atol, equal_nan=True)


@each_isa
def test_a_row_full_of_outliers_is_a_float_product(isa: str) -> None:
    codes, scale, bias = layer(40, 200, mode="llm-int8")
    x_MK = noise(3, 200).sign() * 9
    with with_isa(isa):
        mine = quantized(codes, scale, bias, "llm-int8")(x_MK)
    assert relative(mine, x_MK @ dequantize(codes, scale).T + bias) < 1e-6


@each_isa
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("largest", [4.0, 4e3, 4e30, 4e-33])
def test_one_large_value_costs_the_others_little(isa: str, rows: int, largest: float) -> None:
    """Ten times the others: what 16 bits leave of them is a thousand times nearer than what 8 bits leave."""
    codes, scale, _ = layer(40, 576)
    x_MK = noise(rows, 576, scale=largest / 10)
    x_MK[:, 7] = largest
    exact = x_MK.double() @ dequantize(codes, scale).double().T
    with with_isa(isa):
        mine = quantized(codes, scale)(x_MK)
    assert_equal(mine, linear(x_MK, codes, scale))
    assert relative(mine.double(), exact) < 2e-4
    if largest == 4.0:
        old = layer(40, 576, mode="llm-int8")[:2]
        theirs = x_MK.double() @ dequantize(*old).double().T
        assert relative(linear(x_MK, *old, None, "llm-int8").double(), theirs) > 50 * relative(mine.double(), exact)


@each_isa
@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_in_is_its_float32_rounded_at_the_end(isa: str, mode: Mode) -> None:
    codes, scale, bias = layer(50, 130, mode=mode)
    x = noise(2, 3, 130, scale=2.5).bfloat16()
    with with_isa(isa):
        run = quantized(codes, scale, bias, mode)
        assert torch.equal(run(x), run(x.float()).bfloat16())


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(BadArgument, match=r"'sse9'; expected .*portable"):
        native.use_isa("sse9")
    assert native.isa() == ISAS[0]
    assert ISAS[-1] == "portable"


def test_what_does_not_fit_is_refused() -> None:
    run = quantized(*layer(9, 20))
    for x in (noise(2, 21), noise(2, 20).double(), noise(2, 20).half()):
        with pytest.raises(BadArgument, match="an input"):
            run(x)


def test_the_library_uses_torchs_own_threads() -> None:
    """One OpenMP runtime in the process, and as many of its threads in a call as torch has."""
    assert LIBRARY is not None
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux says which libraries a process has mapped")
    mapped = {Path(line.split()[-1]) for line in maps.read_text().splitlines() if "libgomp" in line}
    runtimes = [str(path) for path in mapped if path.name == "libgomp.so.1"]  # others are wheels' private copies
    assert len(runtimes) == 1, runtimes
    assert "torch" in runtimes.pop()
    LIBRARY.cutaway_team.argtypes, LIBRARY.cutaway_team.restype = [ctypes.c_int32], ctypes.c_int32
    for count in (1, 2, 3):
        with threads(count):
            assert LIBRARY.cutaway_team(torch.get_num_threads()) == count


@pytest.mark.parametrize(
    ("file", "name", "twin"),
    [
        ("isa.h", "Layer", _Layer),
        ("isa.h", "Norm", NormStruct),
        ("calls.h", "AttentionCall", _AttentionCall),
        ("blocks.cpp", "Block", _Block),
        ("blocks.cpp", "Pass", _Pass),
    ],
)
def test_a_struct_has_the_same_fields_here_and_there(file: str, name: str, twin: type[ctypes.Structure]) -> None:
    """ctypes cannot check a struct against C++: the order of its names can be."""
    source = (SOURCES / file).read_text()
    body = re.sub(r"//.*", "", source.split(f"struct {name} {{")[1].split("};")[0])
    fields = [re.findall(r"\w+", part)[-1] for part in re.split("[,;]", body) if part.strip()]
    assert fields == [field for field, *_ in twin._fields_]


def test_values_and_activations_stand_in_the_same_order_here_and_there() -> None:
    blocks, isa = ((SOURCES / name).read_text() for name in ("blocks.cpp", "isa.h"))
    sites = re.findall(r"\w+", blocks.split("enum Site {")[1].split("}")[0])[:-1]
    clash = {"attn.out": "ATTN_GIVES", "mlp.out": "MLP_GIVES"}  # with attn_out and mlp_out
    assert sites == [clash.get(site, site.replace(".", "_").upper()) for site in native.SITES]
    found = re.findall(r"(\w+) = (\d)", isa.split("enum Activation")[1].split("}")[0])
    assert {name.lower(): int(number) for name, number in found} == ACTIVATIONS
    for enum, source, table in (("NormKind", isa, NORM_KINDS), ("HeadNorm", blocks, HEAD_NORMS)):
        numbers = re.findall(r"(\w+) = (\d)", source.split(f"enum {enum}")[1].split("}")[0])
        assert [int(number) for _, number in numbers] == [*table.values()]
        assert all((name or "no").upper() in enumerator for name, (enumerator, _) in zip(table, numbers, strict=True))
