"""What print(lm) says of a new token's blocks, against what the engine does with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cutaway.model.cache import Cache
from cutaway.model.decoder import Attention, Decoder
from cutaway.quant.engine import NativeEngine
from cutaway.quant.natively import sentence
from tests.tiny import CONFIGS, batch
from tests.tiny import decoder as tiny


def supported(decoder: Decoder) -> list[bool]:
    """Which blocks the engine computes natively for one new token after two."""
    cache, engine = Cache(decoder.config.n_layers, 1, 3), decoder.run_blocks
    with torch.inference_mode():
        decoder(batch([3, 5]), cache)
        decoder(batch([7]), cache)
    assert isinstance(engine, NativeEngine) and engine.plan is not None
    return engine.plan.supported


class Own(Attention):
    """Another class, which may compute anything."""


def another(block: Any) -> None:
    block.attn.__class__ = Own


def in_full(block: Any) -> None:
    block.mlp.down = nn.Linear(48, 32, bias=False, dtype=torch.float32, device="cpu")


def hooked(block: Any) -> None:
    block.attn.register_forward_hook(lambda *_: None)


CHANGES: dict[str, Callable[[Any], None]] = {
    "1 (a hook on attn)": hooked,
    "1 (Own in place of Attention)": another,
    "1 (matrices in full precision)": in_full,
}


@pytest.mark.parametrize("says", CHANGES)
def test_a_block_that_is_called_is_named_with_its_reason(says: str, tmp_path: Path) -> None:
    decoder = tiny("llama", tmp_path, quantize="int8")
    count = len(decoder.blocks)
    assert sentence(decoder) == "a new token's blocks are computed natively, as many in one call as are alike"
    assert supported(decoder) == [True] * count
    CHANGES[says](decoder.blocks[1])
    expected = f"of a new token's {count} blocks {count - 1} are computed natively, the others called: {says}"
    assert sentence(decoder) == expected
    assert supported(decoder) == [i != 1 for i in range(count)]


@pytest.mark.parametrize("mode", ["int8", "llm-int8", "llm-int8-pooled", None])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_says_native_where_the_engine_is(name: str, mode: str | None, tmp_path: Path) -> None:
    decoder = tiny(name, tmp_path, quantize=mode)
    all_native = sentence(decoder) == "a new token's blocks are computed natively, as many in one call as are alike"
    assert supported(decoder) == [all_native] * len(decoder.blocks), sentence(decoder)


def test_values_in_bfloat16_are_no_native_calls(tmp_path: Path) -> None:
    decoder = tiny("llama", tmp_path, torch.bfloat16, "int8")
    assert sentence(decoder).endswith("none natively: values in bfloat16, where native calls take float32")
