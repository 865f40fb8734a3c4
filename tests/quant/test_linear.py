"""Int8Linear: a Linear in 8 bits, by every backend, with gradients, and with no silent failure."""

import copy
import gc
import mmap
import pickle
import warnings
import weakref
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cutaway.ground.errors import BadArgument, NotFinite
from cutaway.quant import native, products
from cutaway.quant.formats import Mode, exact_product, linear, quantize_activation
from cutaway.quant.linear import Int8Linear, as_stored
from cutaway.quant.panels import panels_of
from tests.quant.helpers import relative
from tests.tiny import layer, noise

MODES = get_args(Mode)
ENGINES = ["native", "onednn", "float64"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "native" and not native.available:
        pytest.skip(f"no native library ({native.MISSING})")
    if request.param == "onednn" and not products.onednn_is_exact():
        pytest.skip("oneDNN would saturate on this processor")
    if request.param != "native":
        monkeypatch.setattr(native, "available", False)
    if request.param == "float64":
        monkeypatch.setattr(products, "onednn_is_exact", lambda: False)
    return request.param


def full(n: int, k: int, bias: bool = True) -> nn.Linear:
    made = nn.Linear(k, n, bias=bias)
    made.weight.data = noise(n, k)
    if bias:
        made.bias.data = noise(n, seed=1)
    return made.requires_grad_(False)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param


def runs_on(layer: Int8Linear, engine: str) -> bool:
    """In "int8" torch has one way, in float32."""
    return (engine if engine == "native" or layer.mode != "int8" else "torch float32") in layer.engine


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_engine_is_the_reference(engine: str, mode: Mode, bias: bool, dtype: torch.dtype) -> None:
    mine = Int8Linear.from_linear(full(50, 77, bias), mode)
    assert runs_on(mine, engine)
    x = noise(2, 5, 77, scale=2.5).to(dtype)
    expected = linear(x.float(), mine.codes, mine.scale, mine.bias, mode)
    out = mine(x)
    assert out.dtype == dtype
    if mode == "int8" and engine == "native":
        assert torch.equal(out, expected.to(dtype))
    rounded = {torch.float32: 0, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    assert relative(out, expected) < 1e-6 + rounded


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 300), rows=st.integers(1, 40), outputs=st.integers(1, 70), seed=st.integers(0, 999),
    scale=st.sampled_from([0.0, 1e-36, 4e-33, 1.0, 4e30]), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_torch_alone_is_the_reference_up_to_float32s_rounding(
    width: int, rows: int, outputs: int, seed: int, scale: float, dtype: torch.dtype
) -> None:
    codes, scale_NG, bias = layer(outputs, width, seed)
    x = noise(rows, width, seed=seed + 2, scale=scale).to(dtype)
    x[0, 0] = torch.nan if seed % 3 == 0 else x[0, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "available", False)
        mine = Int8Linear.from_parts(codes, scale_NG, bias)
        assert mine.engine == "torch float32"
        out = mine(x)
    expected = linear(x.float(), codes, scale_NG, bias)
    size = x.double().norm(dim=1, keepdim=True) * mine.weight.double().norm(dim=1) + bias.abs()
    off, finite = (out.double() - expected).abs(), expected.isfinite()
    assert torch.equal(out.isfinite(), finite)
    assert (off <= (1e-6 + (2**-8 if dtype == torch.bfloat16 else 0)) * size)[finite].all()


def test_shapes_are_those_of_linear(engine: str, mode: Mode) -> None:
    mine = Int8Linear.from_linear(full(6, 8), mode)
    assert (mine.in_features, mine.out_features) == (8, 6)
    for shape in ((8,), (1, 8), (0, 8), (2, 0, 8), (2, 3, 4, 8)):
        assert mine(torch.ones(shape)).shape == (*shape[:-1], 6)
    x = noise(8, 3).T  # not contiguous
    assert torch.equal(mine(x), mine(x.contiguous()))
    with pytest.raises(BadArgument, match=r"\[2, 9\]"):
        mine(noise(2, 9))


def test_gradients_flow_through_the_dequantized_weight(engine: str, mode: Mode) -> None:
    """Straight through: rounding counts as the identity."""
    mine = Int8Linear.from_linear(full(20, 70), mode)
    x = noise(2, 4, 70, scale=3.0).requires_grad_()
    out = mine(x)
    assert torch.equal(out.detach(), mine(x.detach()))
    grad = noise(2, 4, 20, seed=3)
    out.backward(grad)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, grad @ mine.weight, rtol=0, atol=0)
    with torch.no_grad():
        assert not mine(x).requires_grad
    half = noise(3, 70).bfloat16().requires_grad_()
    mine(half).sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


def test_a_weight_in_a_read_only_mapped_file_runs_as_it_lies(tmp_path: Path, mode: Mode) -> None:
    codes, scale, bias = layer(40, 100, mode=mode)
    stored = panels_of(codes, scale) if mode == "int8" else codes
    path = tmp_path / "codes"
    path.write_bytes(stored.numpy().tobytes())
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        view = torch.frombuffer(mapped, dtype=torch.int8).view(stored.shape)
    mine = as_stored((view,) if mode == "int8" else (view, scale), (40, 100), bias, mode)
    first = mine._buffers[mine.STORED[0]]
    assert first is not None and first.data_ptr() == view.data_ptr()
    x = noise(3, 100)
    assert relative(mine(x), linear(x, codes, scale, bias, mode)) < 1e-6


def test_a_copy_a_pickle_and_a_state_dict_are_the_same_layer(mode: Mode) -> None:
    mine, x = Int8Linear.from_linear(full(10, 70), mode), noise(3, 70)
    expected = mine(x)
    assert torch.equal(copy.deepcopy(mine)(x), expected)
    again = pickle.loads(pickle.dumps(mine))
    assert type(again) is type(mine) and again.mode == mode and torch.equal(again(x), expected)
    other = Int8Linear.from_linear(nn.Linear(70, 10).requires_grad_(False), mode)
    before = other(x)
    assert set(other.state_dict()) == {*other.STORED, "bias"}
    other.load_state_dict(mine.state_dict())
    assert torch.equal(other(x), expected) and not torch.equal(before, expected)
    first = other.STORED[0]
    getattr(other, first).zero_()  # written in place, between two calls
    assert torch.equal(other(x), mine.bias.expand(3, 10))  # type: ignore[union-attr]
    setattr(other, first, getattr(mine, first))
    assert torch.equal(other(x), expected)


def test_buffers_whose_memory_moves_are_read_where_they_lie(mode: Mode) -> None:
    mine, x = Int8Linear.from_linear(full(10, 70), mode), noise(3, 70)
    expected = mine(x)
    for tensor in mine.state_dict().values():
        tensor.share_memory_()  # the old memory is freed
    assert torch.equal(mine(x), expected)
    if mode == "int8":
        mine.panels.data = panels_of(mine.codes, mine.scale * 2)  # type: ignore[union-attr]
    else:
        mine.scale.data = mine.scale * 2
    assert torch.allclose(mine(x) - mine.bias, (expected - mine.bias) * 2, atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_move_to_another_dtype_moves_no_bit(dtype: torch.dtype, mode: Mode) -> None:
    mine, x = Int8Linear.from_linear(full(10, 70), mode), noise(3, 70)
    expected, scale = mine(x), mine.scale
    mine.to(dtype)
    assert (mine.codes.dtype, mine.scale.dtype) == (torch.int8, scale.dtype)
    assert mine.bias is not None and mine.bias.dtype == torch.float32
    assert torch.equal(mine(x), expected) and torch.equal(mine.scale, scale)
    moved = mine.to("meta")
    assert all(part.is_meta for part in moved.state_dict().values()) and moved.scale.is_meta


def test_print_says_who_computes(engine: str, mode: Mode) -> None:
    mine = Int8Linear.from_linear(full(10, 12), mode)
    name = "GroupedLinear" if mode == "int8" else "LLMInt8Linear"
    assert repr(mine) == f"{name}(12, 10, bias=True, mode={mode}, engine={mine.engine})"
    assert runs_on(mine, engine)


def test_a_layer_that_is_deleted_is_gone_at_once(engine: str, mode: Mode) -> None:
    """Without a garbage collection: its weights are most of the memory."""
    mine = Int8Linear.from_linear(full(10, 12), mode)
    mine(noise(1, 12))
    weights = weakref.ref(getattr(mine, mine.STORED[0]))
    gc.disable()
    try:
        del mine
        assert weights() is None
    finally:
        gc.enable()


def test_parts_that_do_not_belong_together_are_refused(mode: Mode) -> None:
    codes, scale, bias = layer(6, 70, mode=mode)
    other = layer(6, 70, mode="llm-int8" if mode == "int8" else "int8")[1]
    for parts in (
        (codes.float(), scale, bias), (codes, scale[:5], bias), (codes, scale, bias[:5]), (codes[0], scale),
        (codes, other, bias), (codes, scale[..., :2] if mode == "int8" else scale[:, None], bias),
        (codes[:, :40] if mode == "int8" else codes[:4], scale, bias),
    ):  # fmt: skip
        with pytest.raises(BadArgument, match=r"codes .*; expected codes int8 \[N, K\], scale .*; pass the parts"):
            Int8Linear.from_parts(*parts, mode=mode)
    for wrong in ("int5", "int8-weight", "int8-pooled"):
        with pytest.raises(BadArgument, match=f"'{wrong}'"):
            Int8Linear.from_parts(codes, scale, bias, wrong)  # type: ignore[arg-type]
        with pytest.raises(BadArgument, match=f"'{wrong}'"):
            Int8Linear.from_linear(full(6, 8), wrong)  # type: ignore[arg-type]
    broken = full(6, 8)
    broken.weight[2, 1] = torch.nan
    with pytest.raises(NotFinite, match="row 2"):
        Int8Linear.from_linear(broken, mode)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 6, 8), (17, 8, 16), (5, 13, 21), (40, 7, 64)])
def test_the_gpus_product_is_padded_to_what_it_needs(m: int, n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def int_mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        assert left.shape[0] > 16
        assert all(size % 8 == 0 for size in (left.shape[1], *right.shape))
        return (left.long() @ right.long()).int()

    monkeypatch.setattr(torch, "_int_mm", int_mm)
    codes_MK = quantize_activation(noise(m, k))[0]
    codes_NK = layer(n, k, mode="llm-int8")[0]
    assert torch.equal(products.cuda_product(codes_MK, codes_NK), exact_product(codes_MK, codes_NK))
