"""Weights changed for a while: what changes with them, what does not, and that they are back afterwards."""

from pathlib import Path

import pytest
import torch

from cutaway.edit.weights import changed
from cutaway.ground.errors import BadArgument
from cutaway.ground.layers import all_weights
from cutaway.lm import LM
from tests.tiny import WITH_TOKENIZER, tiny_lm

TEXTS = ["the cat sat on", "the dog"]


def test_a_weight_changed_for_a_while(lm: LM):
    out_of = torch.randn(lm.config.d_model, lm.config.n_heads * lm.config.d_head)
    before = lm.logits(TEXTS)
    with lm.edited({"blocks.1.W_O": torch.zeros_like(out_of)}) as changed:
        trace = changed.trace(TEXTS, "blocks.1.attn_out")["blocks.1.attn_out"]
        assert torch.equal(trace, trace[:1, :1].expand_as(trace))  # nothing but the bias
    assert torch.equal(lm.logits(TEXTS), before)
    a, b = torch.randn(lm.config.n_heads * lm.config.d_head, 2), torch.randn(2, lm.config.d_model)
    with lm.edited({"blocks.0.W_Q": (a, b)}):
        low_rank = lm.trace(TEXTS)
        read = low_rank["blocks.0.resid_pre" if lm.config.post_norm else "blocks.0.ln1.out"]
    plain = lm.trace(TEXTS)
    moved = (low_rank["blocks.0.attn.q"] - plain["blocks.0.attn.q"]).flatten(2)
    torch.testing.assert_close(moved, read @ (a @ b).T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(low_rank["blocks.0.attn.k"], plain["blocks.0.attn.k"])
    assert torch.equal(lm.logits(TEXTS), before)


def test_an_8_bit_layer_stays_one_and_its_other_rows_keep_their_codes(int8: LM):
    before = int8.decoder.get_submodule("blocks.0.attn.qkv")
    width = int8.config.n_heads * int8.config.d_head
    with int8.edited({"blocks.0.W_Q": torch.randn(width, int8.config.d_model)}):
        inside = int8.decoder.get_submodule("blocks.0.attn.qkv")
        assert torch.equal(inside.codes[width:], before.codes[width:])  # type: ignore[union-attr,index]
        assert not torch.equal(inside.codes[:width], before.codes[:width])  # type: ignore[union-attr,index]
        int8.generate(TEXTS, max_new_tokens=4)
    assert int8.decoder.get_submodule("blocks.0.attn.qkv") is before


@pytest.mark.parametrize(
    "weights, words",
    [
        ({"blocks.0.W_X": torch.zeros(2, 2)}, "no matrix 'blocks.0.W_X'"),
        ({"blocks.0.W_O": torch.zeros(2, 2)}, r"\[2, 2\] for blocks.0.W_O"),
        ({"blocks.0.W_O": (torch.zeros(2, 2), torch.zeros(3, 2))}, "for blocks.0.W_O"),
    ],
)
def test_a_weight_that_does_not_fit_is_refused_and_nothing_is_changed(lm: LM, weights: dict, words: str):
    before = lm.logits(TEXTS)
    with pytest.raises(BadArgument, match=words), lm.edited(weights):
        pass
    assert torch.equal(lm.logits(TEXTS), before)


@pytest.mark.parametrize("name", WITH_TOKENIZER)
def test_every_matrix_changes_its_own_rows_and_comes_back(name: str, tmp_path: Path):
    model = tiny_lm(name, tmp_path).decoder
    for weight in all_weights(model.config).values():
        if weight.kind in ("linear", "projection"):
            before = model.get_submodule(weight.module)
            expected = before.weight.detach().clone()  # type: ignore[union-attr,operator]
            expected[weight.rows] *= 2
            with changed(model, {weight.name: expected[weight.rows]}):
                assert torch.equal(model.get_submodule(weight.module).weight, expected)  # type: ignore[arg-type]
            assert model.get_submodule(weight.module) is before
