"""Int8Linear: a Linear in 8 bits, by every backend, with gradients, and with no silent failure."""

import copy
import mmap
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from cutaway.ground.errors import BadArgument, NotFinite
from cutaway.quant import native, products
from cutaway.quant.int8 import exact_product, linear, quantize_activation
from cutaway.quant.linear import Int8Linear
from tests.quant.helpers import relative
from tests.tiny import layer, noise

MODES = ["int8", "int8-pooled", "int8-weight"]
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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_engine_is_the_reference(engine: str, mode: str, bias: bool, dtype: torch.dtype) -> None:
    mine = Int8Linear.from_linear(full(50, 77, bias), mode)  # type: ignore[arg-type]
    assert engine in mine.engine or (mode == "int8-weight" and engine != "native")
    x = noise(2, 5, 77, scale=2.5).to(dtype)
    expected = linear(x.float(), mine.codes, mine.scale, mine.bias, mode)  # type: ignore[arg-type]
    out = mine(x)
    assert out.dtype == dtype
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    atol = 3e-5 if mode == "int8-weight" else 1e-5  # sums in another order
    torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=atol)


def test_shapes_are_those_of_linear(engine: str) -> None:
    mine = Int8Linear.from_linear(full(6, 8))
    assert (mine.in_features, mine.out_features) == (8, 6)
    for shape in ((8,), (1, 8), (0, 8), (2, 0, 8), (2, 3, 4, 8)):
        assert mine(torch.ones(shape)).shape == (*shape[:-1], 6)
    x = noise(8, 3).T  # not contiguous
    assert torch.equal(mine(x), mine(x.contiguous()))
    with pytest.raises(BadArgument, match=r"\[2, 9\]"):
        mine(noise(2, 9))


@pytest.mark.parametrize("mode", MODES)
def test_gradients_flow_through_the_dequantized_weight(mode: str) -> None:
    mine = Int8Linear.from_linear(full(20, 30), mode)  # type: ignore[arg-type]
    x = noise(2, 4, 30, scale=3.0).requires_grad_()
    out = mine(x)
    assert torch.equal(out.detach(), mine(x.detach()))
    grad = noise(2, 4, 20, seed=3)
    out.backward(grad)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, grad @ mine.weight, rtol=0, atol=0)
    with torch.no_grad():
        assert not mine(x).requires_grad
    half = noise(3, 30).bfloat16().requires_grad_()
    mine(half).sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


def test_codes_in_a_read_only_mapped_file_run_as_they_lie(tmp_path: Path) -> None:
    codes, scale, bias = layer(40, 100)
    path = tmp_path / "codes"
    path.write_bytes(codes.numpy().tobytes())
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
    with pytest.warns(UserWarning, match="not writable"):
        view = torch.frombuffer(mapped, dtype=torch.int8).view(40, 100)
    mine = Int8Linear.from_parts(view, scale, bias)
    assert mine.codes.data_ptr() == view.data_ptr()
    x = noise(3, 100)
    assert relative(mine(x), linear(x, codes, scale, bias)) < 1e-6


def test_a_copy_a_pickle_and_a_state_dict_are_the_same_layer() -> None:
    mine, x = Int8Linear.from_linear(full(10, 12)), noise(3, 12)
    expected = mine(x)
    assert torch.equal(copy.deepcopy(mine)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(mine))(x), expected)
    other = Int8Linear(torch.zeros(10, 12, dtype=torch.int8), torch.ones(10), torch.zeros(10))
    assert not other(x).any()
    other.load_state_dict(mine.state_dict())
    assert torch.equal(other(x), expected)
    other.codes.zero_()  # written in place, between two calls
    assert torch.equal(other(x), mine.bias.expand(3, 10))  # type: ignore[union-attr]
    other.codes = mine.codes
    assert torch.equal(other(x), expected)


def test_buffers_whose_memory_moves_are_read_where_they_lie() -> None:
    mine, x = Int8Linear.from_linear(full(10, 12)), noise(3, 12)
    expected = mine(x)
    for tensor in mine.state_dict().values():
        tensor.share_memory_()  # the old memory is freed
    assert torch.equal(mine(x), expected)
    mine.scale.data = mine.scale * 2
    assert torch.allclose(mine(x) - mine.bias, (expected - mine.bias) * 2, atol=1e-5)  # type: ignore[operator]


def test_a_move_to_16_bits_keeps_scales_exact() -> None:
    mine, x = Int8Linear.from_linear(full(10, 12)), noise(3, 12)
    expected = mine(x)
    mine.to(torch.bfloat16)
    assert (mine.codes.dtype, mine.scale.dtype) == (torch.int8, torch.float32)
    assert torch.equal(mine(x), expected)
    assert mine.to("meta").scale.is_meta


def test_print_says_who_computes(engine: str) -> None:
    made = repr(Int8Linear.from_linear(full(10, 12)))
    assert made.startswith("Int8Linear(12, 10, bias=True, mode=int8, engine=")
    assert engine in made
    weights_only = repr(Int8Linear.from_linear(full(10, 12), "int8-weight"))
    assert ("native" if engine == "native" else "torch float32") in weights_only


def test_parts_that_do_not_belong_together_are_refused() -> None:
    codes, scale, bias = layer(6, 8)
    for parts in ((codes.float(), scale, bias), (codes, scale[:5], bias), (codes, scale, bias[:5]), (codes[0], scale)):
        with pytest.raises(BadArgument, match="codes"):
            Int8Linear.from_parts(*parts)
    with pytest.raises(BadArgument, match="'int5'"):
        Int8Linear.from_parts(codes, scale, bias, "int5")  # type: ignore[arg-type]
    broken = full(6, 8)
    broken.weight[2, 1] = torch.nan
    with pytest.raises(NotFinite, match="row 2"):
        Int8Linear.from_linear(broken)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 6, 8), (17, 8, 16), (5, 13, 21), (40, 7, 64)])
def test_the_gpus_product_is_padded_to_what_it_needs(m: int, n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def int_mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        assert left.shape[0] > 16
        assert all(size % 8 == 0 for size in (left.shape[1], *right.shape))
        return (left.long() @ right.long()).int()

    monkeypatch.setattr(torch, "_int_mm", int_mm)
    codes_MK = quantize_activation(noise(m, k))[0]
    codes_NK = layer(n, k)[0]
    assert torch.equal(products.cuda_product(codes_MK, codes_NK), exact_product(codes_MK, codes_NK))
