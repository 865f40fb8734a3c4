"""Texts that have ended leave the pass: the others keep their bits, and nothing that watches misses a row."""

from typing import Any

import pytest
import torch
from torch import nn

from cutaway.lm import LM
from cutaway.model.tap import Untapped
from cutaway.quant import native
from cutaway.quant.engine import NativeEngine, bits_by_text
from cutaway.sample.loop import generate
from cutaway.sample.settings import Sampling
from cutaway.sample.step import Step
from cutaway.text.pieces import Tokens

needs_library = pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")
ROWS = [[5], [9, 8, 7, 6], [30, 31], [12, 13, 14], [40, 41, 42, 43, 44]]


class Counting(NativeEngine):
    """The engine, and how many texts each pass has."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def __call__(self, blocks: Any, resid_BTD: torch.Tensor, *given: Any) -> torch.Tensor:
        self.batches.append(len(resid_BTD))
        return super().__call__(blocks, resid_BTD, *given)


def padded(side: str) -> Tokens:
    longest = max(map(len, ROWS))
    ids, mask = [], []
    for row in ROWS:
        rest = [0] * (longest - len(row))
        ids.append([*row, *rest] if side == "right" else [*rest, *row])
        mask.append([1] * len(row) + rest if side == "right" else rest + [1] * len(row))
    return Tokens.from_ids(ids, mask)


def run(lm: LM, tokens: Tokens, tap: Any = None, **asked: Any) -> tuple[list[Step], list[int]]:
    before, lm.decoder.run_blocks = lm.decoder.run_blocks, Counting()
    try:
        given = {} if tap is None else {"tap": tap}
        steps = list(generate(lm.decoder, tokens, Sampling(**asked), pad_id=1, **given))
        return steps, lm.decoder.run_blocks.batches
    finally:
        lm.decoder.run_blocks = before


def has_float_product(lm: LM) -> bool:
    """opt-350m's projections stay in full precision."""
    return lm.config.d_embed != lm.config.d_model


@needs_library
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("asked", [{"repetition_penalty": 1.2}, {"do_sample": True, "seed": 3, "top_p": 0.9}])
def test_the_others_keep_their_bits(int8: LM, side: str, asked: dict[str, Any]):
    asked, tokens = {"max_length": 14, **asked}, padded(side)  # each text ends at its own step
    short, batches = run(int8, tokens, **asked)
    full, everything = run(int8, tokens, tap=Untapped(), **asked)  # a tap, which may watch: all rows stay
    leaves = bits_by_text(int8.decoder)
    assert leaves != has_float_product(int8)
    assert batches[0] == 5 and batches == sorted(batches, reverse=True) and (min(batches) < 5) == leaves
    assert set(everything) == {5} and len(short) == len(full)
    for one, other in zip(short, full, strict=True):
        live = ~one.was_over
        assert (
            torch.equal(one.ids, other.ids) and one.ended == other.ended and torch.equal(one.was_over, other.was_over)
        )
        assert torch.equal(one.logits[live], other.logits[live]) and not one.logits[live].isnan().any()
        assert one.table(row=1) == other.table(row=1) and one.as_data() == other.as_data()


@needs_library
def test_nothing_leaves_where_it_could_move_a_bit_or_be_missed(int8: LM, lm: LM):
    assert not bits_by_text(lm.decoder)  # torch's own products depend on the batch
    if has_float_product(int8):
        return
    assert bits_by_text(int8.decoder)
    hook = int8.decoder.blocks[0].mlp.register_forward_hook(lambda *given: None)
    assert not bits_by_text(int8.decoder)
    hook.remove()
    head, int8.decoder.unembed.head = int8.decoder.unembed.head, nn.Linear(2, 2)
    assert not bits_by_text(int8.decoder)
    int8.decoder.unembed.head = head
    head.mode, before = "llm-int8-pooled", head.mode
    assert not bits_by_text(int8.decoder)
    head.mode = before
    assert bits_by_text(int8.decoder)


@needs_library
def test_a_recorded_batch_has_every_text(int8: LM):
    tokens = padded("left")
    out = int8.generate(tokens, sites="blocks.*.resid_post", max_length=14)
    alone = int8.generate(tokens, max_length=14)
    assert (
        out.new_ids == alone.new_ids and out.ended == alone.ended and set(map(len, out.new_ids)) == {9, 10, 11, 12, 13}
    )
    assert out.trace["blocks.0.resid_post"].shape[:2] == (5, 13)
