"""The native layer against the reference, on every instruction path of this machine, forced one by one."""

import ctypes
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.ground.errors import BadArgument
from cutaway.model.decoder import Block
from cutaway.quant import native
from cutaway.quant.int8 import Mode, dequantize, linear, quantize_weight
from cutaway.quant.linear import finish
from cutaway.quant.native.blocks import SLOTS, SOFTMAX, _Block
from cutaway.quant.native.layer import _Layer
from cutaway.quant.native.library import LIBRARY
from cutaway.quant.native.steps import _AttendOne, _AttendOpen
from tests.quant.helpers import forced, relative, threads
from tests.rules.vocabulary import LEARNED
from tests.tiny import layer, noise

PATHS = native.paths()
SOURCES = Path(__file__).parents[2] / "src" / "cutaway" / "quant" / "native" / "cpp"  # an installed package has none
pytestmark = pytest.mark.skipif(not native.available, reason=f"no native library ({native.MISSING})")
each_path = pytest.mark.parametrize("path", PATHS)


@each_path
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 300),
    rows=st.integers(1, 40),
    outputs=st.integers(1, 70),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 3.0, 50.0]),
    bias=st.booleans(),
    mode=st.sampled_from(get_args(Mode)),
    seed=st.integers(0, 999),
)
def test_native_is_the_reference(
    path: str, width: int, rows: int, outputs: int, scale: float, bias: bool, mode: Mode, seed: int
) -> None:
    codes, scale_N, bias_N = layer(outputs, width, seed)
    x_MK = noise(rows, width, seed=seed + 2, scale=scale)
    expected = linear(x_MK, codes, scale_N, bias_N if bias else None, mode)
    with forced(path):
        mine = native.NativeLayer(codes, scale_N, bias_N if bias else None, mode)(x_MK)
    wide_MK, weight_NK = x_MK.double(), codes.double() * scale_N[:, None] / 127  # float32 has no square of 1e-30
    size = wide_MK.norm(dim=1, keepdim=True) * weight_NK.norm(dim=1) + bias_N.abs() * bias
    assert ((mine - expected).abs() <= 3e-6 * size).all()


@each_path
def test_every_width_from_1_to_300_is_exact_in_whole_numbers(path: str) -> None:
    """Codes for activations, all scales 1: the result is a whole number below 2^24, and equal."""
    ones = torch.ones(20)
    for width in range(1, 301):
        generator = torch.Generator().manual_seed(width)
        codes = torch.randint(-127, 128, (20, width), generator=generator, dtype=torch.int8)
        x_MK = torch.randint(-127, 128, (10, width), generator=generator).float()
        x_MK[:, 0] = 127.0
        expected = x_MK.double() @ codes.double().T
        with forced(path):
            mine = native.NativeLayer(codes, ones * 127, None)(x_MK / 127)
        assert torch.equal((mine * 127).round().double(), expected), width


@each_path
@pytest.mark.parametrize("mode", ["int8", "int8-weight"])
@pytest.mark.parametrize("width", [64, 576, 1100, 2500, 6200])
def test_a_row_is_the_same_bits_whatever_its_batch_and_threads(path: str, width: int, mode: Mode) -> None:
    codes, scale, bias = layer(130, width)
    x_MK = noise(37, width, seed=5, scale=2.5)
    with forced(path):
        quantized = native.NativeLayer(codes, scale, bias, mode)
        with threads(1):
            alone = torch.cat([quantized(row[None]) for row in x_MK])
        for count in (1, 2, 3):
            with threads(count):
                assert torch.equal(quantized(x_MK), alone)
                for rows in (1, 2, 3, 4, 5):
                    assert torch.equal(quantized(x_MK[37 - rows :]), alone[37 - rows :])
    assert relative(alone, linear(x_MK, codes, scale, bias, mode)) < 1e-6


@each_path
def test_many_tokens_come_in_blocks(path: str) -> None:
    codes, scale, bias = layer(33, 70)
    x_MK = noise(600, 70, scale=2.0)
    with forced(path):
        quantized = native.NativeLayer(codes, scale, bias)
        assert torch.equal(quantized(x_MK)[299:], quantized(x_MK[299:]))
        assert quantized(x_MK[:0]).shape == (0, 33)
        for mode in ("int8-pooled", "int8-weight"):
            quantized = native.NativeLayer(codes, scale, bias, mode)
            assert relative(quantized(x_MK), linear(x_MK, codes, scale, bias, mode)) < 1e-6


@each_path
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("epilogue", ["none", "relu", "residual", "gated-silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outputs", [34, 96])
@pytest.mark.parametrize("mode", ["int8", "int8-weight"])
def test_epilogues(path: str, rows: int, epilogue: str, dtype: torch.dtype, outputs: int, mode: Mode) -> None:
    codes, scale, bias = layer(outputs, 75)
    x = noise(1, rows, 75, seed=3, scale=2.5).to(dtype)
    residual = noise(1, rows, outputs, seed=8).to(dtype) if epilogue == "residual" else None
    wide = None if residual is None else residual.float()
    expected = finish(linear(x.float(), codes, scale, bias, mode), epilogue, wide)
    with forced(path):
        mine = native.NativeLayer(codes, scale, bias, mode)(x, epilogue, residual)
    assert mine.dtype == dtype
    assert mine.shape == expected.shape
    if dtype == torch.bfloat16:  # rounded once, at the very end
        sums = 0.0 if mode == "int8" else 1e-6 * float(expected.abs().max())  # in another order
        torch.testing.assert_close(mine.float(), expected, rtol=2**-8, atol=1e-6 + sums)
    elif mode == "int8-weight":  # sums in another order
        assert relative(mine, expected) < 1e-6
    else:
        torch.testing.assert_close(mine, expected, rtol=2e-6, atol=1e-5)


@each_path
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_of_zeros_and_rows_that_are_not_finite(path: str, rows: int, mode: Mode, bad: float) -> None:
    w_NK = noise(21, 90)
    w_NK[4] = 0.0
    codes, scale = quantize_weight(w_NK)
    x_MK = noise(rows, 90, scale=2.0)
    x_MK[0, 30] = bad
    if rows > 2:
        x_MK[2] = 0.0
    with forced(path):
        quantized = native.NativeLayer(codes, scale, None, mode)
        mine, clipped = quantized(x_MK), quantized(x_MK, "relu")
    assert mine[0].isnan().all()
    assert clipped[0].isnan().all()
    assert mine[1:].isfinite().all()
    assert not mine[1:, 4].any()
    if rows > 2:
        assert not mine[2].any()
    expected = linear(x_MK, codes, scale, None, mode)
    torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-5, equal_nan=True)


@each_path
def test_a_row_full_of_outliers_is_a_float_product(path: str) -> None:
    codes, scale, bias = layer(40, 200)
    x_MK = noise(3, 200).sign() * 9
    with forced(path):
        mine = native.NativeLayer(codes, scale, bias)(x_MK)
    assert relative(mine, linear(x_MK, codes, scale, bias, "int8-weight")) < 1e-6


@each_path
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("largest", [4.0, 4e3, 4e-33])
def test_where_only_the_weight_is_rounded_activations_are_as_good_as_float32(
    path: str, rows: int, largest: float
) -> None:
    """As near to exact numbers as torch's own float32 product, whose sums are rounded, too."""
    codes, scale, _ = layer(40, 576)
    x_MK = noise(rows, 576, scale=min(0.3, largest / 10))
    x_MK[:, 7] = largest
    exact = x_MK.double() @ dequantize(codes, scale).double().T
    with forced(path):
        mine = native.NativeLayer(codes, scale, None, "int8-weight")(x_MK)
    assert relative(mine.double(), exact) < 1e-6
    if largest == 4.0:
        assert relative(linear(x_MK, codes, scale, None).double(), exact) > 1e-3


@each_path
def test_bfloat16_in_is_its_float32_rounded_at_the_end(path: str) -> None:
    codes, scale, bias = layer(50, 130)
    x = noise(2, 3, 130, scale=2.5).bfloat16()
    with forced(path):
        quantized = native.NativeLayer(codes, scale, bias)
        assert torch.equal(quantized(x), quantized(x.float()).bfloat16())


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises(BadArgument, match=r"'sse9'; expected .*portable"):
        native.force("sse9")
    assert native.path() == PATHS[0]
    assert PATHS[-1] == "portable"


def test_what_does_not_fit_is_refused() -> None:
    quantized = native.NativeLayer(*layer(9, 20))
    for x in (noise(2, 21), noise(2, 20).double(), noise(2, 20).half()):
        with pytest.raises(BadArgument, match="an input"):
            quantized(x)
    with pytest.raises(BadArgument, match="gated-silu"):
        quantized(noise(2, 20), "gated-silu")  # nine rows have no halves
    with pytest.raises(BadArgument, match="epilogue 'gelu'"):
        quantized(noise(2, 20), "gelu")
    for residual in (None, noise(2, 8), noise(2, 9).bfloat16()):
        with pytest.raises(BadArgument, match="a residual"):
            quantized(noise(2, 20), "residual", residual)
    with pytest.raises(BadArgument, match="a residual"):
        quantized(noise(2, 20), "none", noise(2, 9))


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
        ("steps.cpp", "AttendOne", _AttendOne),
        ("steps.cpp", "AttendOpen", _AttendOpen),
        ("calls.h", "StepShape", native.StepShape),
        ("blocks.cpp", "Block", _Block),
    ],
)
def test_a_struct_has_the_same_fields_here_and_there(file: str, name: str, twin: type[ctypes.Structure]) -> None:
    """ctypes cannot check a struct against C++: the order of its names can be."""
    source = (SOURCES / file).read_text()
    body = re.sub(r"//.*", "", source.split(f"struct {name} {{")[1].split("};")[0])
    fields = [re.findall(r"\w+", part)[-1] for part in re.split("[,;]", body) if part.strip()]
    assert fields == [field for field, *_ in twin._fields_]


def test_a_block_s_values_stand_in_the_same_order_here_and_there() -> None:
    source = (SOURCES / "blocks.cpp").read_text()
    found = re.search(r"enum Slots \{(.*?)\}", source)
    assert found is not None
    slots = {name: int(at) for name, at in re.findall(r"(\w+) = (\d+)", found[1])}
    inside = Block(LEARNED, 0).inside
    first = {"STREAM": "resid_pre", "READS": "ln1.scale", "ATTENTION": "attn.q", "MLP": "ln2.scale"}
    assert {name: inside[slots[name]] for name in first} == {name: f"blocks.0.{site}" for name, site in first.items()}
    assert [inside[slots[name] + at] for name in ("SUM", "LAST_SUM") for at in (3, 5)] == [
        f"blocks.0.{site}" for site in ("attn_out", "resid_mid", "mlp_out", "resid_post")
    ]
    assert len(inside) == slots["SLOTS"] == SLOTS
    assert [inside[slot] for slot in SOFTMAX] == ["blocks.0.attn.scores", "blocks.0.attn.pattern"]


@each_path
@pytest.mark.parametrize("rows", [1, 5, 70])
@pytest.mark.parametrize("epilogue", ["none", "relu", "residual", "gated-silu"])
def test_a_norm_before_the_layer_and_all_that_is_inside(path: str, rows: int, epilogue: str) -> None:
    """One call gives, bit for bit, what the steps give one after another, and writes each where it is asked for."""
    width, outputs = 100, 40
    codes, scale, bias = layer(outputs, width)
    quantized = native.NativeLayer(codes, scale, bias)
    x, w, b = noise(rows, width, scale=3.0), noise(width, seed=1), noise(width, seed=2)
    residual = noise(rows, outputs, seed=3) if epilogue == "residual" else None
    wide = outputs // 2 if epilogue == "gated-silu" else outputs
    for norm_bias in (None, b):
        inside = [torch.full((3, rows, n), torch.nan) for n in (1, width, width, wide, wide, wide)]
        room = native.Room(inside)
        room.at = 1
        with forced(path):
            opened = native.norm_open(x, w, norm_bias, 1e-5)
            plain = quantized(opened[-1])
            halves = plain.chunk(2, -1) if epilogue == "gated-silu" else (plain, None)
            expected = quantized(opened[-1], epilogue, residual)
            for count in (1, 2, 3):
                with threads(count):
                    assert torch.equal(quantized(x, epilogue, residual, (w, norm_bias, 1e-5)), expected)
                    assert torch.equal(quantized(x, epilogue, residual, (w, norm_bias, 1e-5), room), expected)
        for value, shown in zip(inside, (*opened, *halves, expected), strict=True):
            if shown is not None:
                assert torch.equal(value[1], shown)
            assert value[0].isnan().all() and value[2].isnan().all(), "another pass's row was written"
