"""Rotary positions against transformers, far beyond the context, and what rotation is for: only distances count."""

import pytest
import torch
from transformers.models.falcon.modeling_falcon import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from cutaway.ground.config import AlibiConfig
from cutaway.model.ops import torch_ops
from cutaway.model.positions import Rotary, alibi
from cutaway.weights.alibi import slopes
from tests.tiny import CONFIGS, facts, noise

ROTARY = [name for name in CONFIGS if name.startswith("llama")]


@pytest.mark.parametrize("name", ROTARY)
def test_angles_are_those_of_transformers(name: str):
    positions = torch.tensor([[0, 1, 2, 15, 16, 63, 64, 1000]])
    cos, sin = Rotary(facts(CONFIGS[name]).rope)(positions, torch.float32)
    theirs = LlamaRotaryEmbedding(CONFIGS[name])(torch.empty(0), positions)
    for mine, expected in zip((cos, sin), theirs, strict=True):
        torch.testing.assert_close(torch.cat((mine, mine), -1)[:, :, 0], expected, atol=2e-4, rtol=0)


def test_a_product_depends_on_the_distance_alone():
    rotary = Rotary(facts(CONFIGS["llama"]).rope)
    q, k = noise(1, 1, 1, 8).double(), noise(1, 1, 1, 8, seed=1).double()

    def product(at: int, other: int) -> torch.Tensor:
        ends = (
            torch_ops.rotate(x, rotary(torch.tensor([[position]]), x.dtype)) for x, position in ((q, at), (k, other))
        )
        return torch.mul(*ends).sum()

    torch.testing.assert_close(product(7, 3), product(57, 53))
    assert not torch.allclose(product(7, 3), product(7, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 4, 6, 12, 71, 128])
def test_falcons_alibi_has_the_bits_of_transformers(heads: int, dtype: torch.dtype):
    mask = torch.ones(1, 600, dtype=torch.int64)
    ours = alibi(AlibiConfig(slopes(heads), bfloat16=True), mask.cumsum(-1) - 1, dtype)
    assert torch.equal(ours[0], build_alibi_tensor(mask, heads, dtype))
