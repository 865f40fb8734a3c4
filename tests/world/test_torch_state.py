"""What the caller has set in torch: its default dtype and device, gradients, determinism, the number of threads."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cutaway
from cutaway.ground.errors import BadArgument
from cutaway.quant import native
from tests.quant.helpers import threads
from tests.world.facts import TEXTS, WAYS, assert_same, opened

Usual = dict[str, dict[str, Tensor]]
HALVES_AND_DOUBLE = (torch.bfloat16, torch.float16, torch.float64)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def state(name: str) -> AbstractContextManager[object]:
    """A state of torch by its name, anew."""
    kinds = {
        "meta as the default device": lambda: default_device("meta"),
        "inside torch.device('meta')": lambda: torch.device("meta"),
        "inference_mode": torch.inference_mode,
        "no_grad": torch.no_grad,
        "grad mode": torch.enable_grad,
        "deterministic algorithms": deterministic,
        **{f"{dtype} as the default": lambda dtype=dtype: default_dtype(dtype) for dtype in HALVES_AND_DOUBLE},
    }
    return kinds[name]() if name else nullcontext()


NAMES = (
    *(f"{dtype} as the default" for dtype in HALVES_AND_DOUBLE),
    *("meta as the default device", "inside torch.device('meta')", "inference_mode", "no_grad", "grad mode"),
    "deterministic algorithms",
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_loaded_and_run_in_another_state_of_torch_is_the_same(name: str, way: str, model: Path, usual: Usual):
    with state(name):
        lm = opened(model, way)
        assert_same(lm, usual[way])
    assert_same(lm, usual[way])


@pytest.mark.parametrize("name", NAMES)
def test_a_model_quantized_in_another_state_of_torch_is_the_same_file(name: str, model: Path, tmp_path: Path):
    with state(name):
        cutaway.quantize(model, tmp_path / "q")
    assert (tmp_path / "q" / "cutaway.safetensors").read_bytes() == (model / "q" / "cutaway.safetensors").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_of_the_certificate_holds_in_another_state_of_torch(name: str, model: Path):
    with state(name):
        certificate = opened(model, "int8").check()
    assert all(line.passed for line in certificate.lines), str(certificate)


@pytest.mark.parametrize("dtype", HALVES_AND_DOUBLE)
def test_native_ops_read_and_write_float32_whatever_the_default_dtype(dtype: torch.dtype):
    """They write through pointers: a result of two bytes an element would be written past its end."""
    q, k, v = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 2, 8), torch.randn(2, 5, 2, 8)
    ops = (
        lambda: native.mean(q),
        lambda: native.root_mean_square(q, 1e-5),
        lambda: native.activate("silu", q),
        lambda: native.softmax(native.scores(q, k, True)),
        lambda: native.attend(q, k, v, True),
    )
    with default_dtype(dtype):
        found = [op() for op in ops]
    for value, op in zip(found, ops, strict=True):
        assert torch.equal(value, op()) and value.dtype == torch.float32


@pytest.mark.parametrize("way", ["int8", "saved in int8"])
@pytest.mark.parametrize("count", [1, 2, 3, 8])  # 8: more than this machine may have
def test_the_number_of_threads_changes_no_bit_in_8_bits(count: int, way: str, model: Path, usual: Usual):
    before = opened(model, way)
    with threads(count):
        assert_same(before, usual[way])
        assert_same(opened(model, way), usual[way])
    assert_same(before, usual[way])


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_number_of_threads_changes_full_precision_by_rounding_alone(count: int, model: Path, usual: Usual):
    """torch's own float products depend on it: transformers' do, too."""
    with threads(count):
        found = opened(model, "full precision").logits(TEXTS)
    torch.testing.assert_close(found, usual["full precision"]["logits of the pass"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_flow_through_a_model_loaded_inside_inference_mode_and_under_no_grad(way: str, model: Path):
    with torch.inference_mode():
        lm = opened(model, way)
    with torch.no_grad():
        trace = lm.trace(TEXTS, ["blocks.0.resid_post", "logits"], grad=True)
    grads = torch.autograd.grad(trace["logits"].sum(), trace["blocks.0.resid_post"])
    assert grads[0].abs().max() > 0


def test_gradients_inside_inference_mode_are_refused_in_one_sentence(model: Path):
    lm = opened(model, "int8")
    with torch.inference_mode(), pytest.raises(BadArgument, match=r"grad=True inside torch\.inference_mode"):
        lm.trace(TEXTS, "logits", grad=True)
    assert lm.trace(TEXTS, "logits", grad=True)["logits"].requires_grad
