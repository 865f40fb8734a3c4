"""What is recorded and changed while a text is written: the same as one uncached pass over the final text."""

import warnings

import pytest
import torch
from torch import Tensor

from cutaway import Edit
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM
from cutaway.trace.trace import Trace
from tests.tiny import WITH_TOKENIZER, tiny_lm

TEXTS = ["the cat sat on", "the dog"]


@pytest.fixture(scope="module", params=WITH_TOKENIZER)
def int8(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LM:
    return tiny_lm(request.param, tmp_path_factory.mktemp("model"), quantize="int8")


def real(trace: Trace, name: str) -> Tensor:
    """The values at real positions, [P, ...]; scores and patterns only where a token sees."""
    value, mask_BT = trace[name], trace.tokens.mask.bool()
    if not name.endswith(("attn.scores", "attn.pattern")):
        return value[mask_BT]
    earlier = torch.ones(value.shape[-2:], dtype=torch.bool).tril() & mask_BT[:, :, None] & mask_BT[:, None]
    return value.transpose(0, 1)[:, earlier]


def assert_same(one: Trace, other: Trace, tolerance: float) -> None:
    assert list(one) == list(other)
    for name in one:
        largest = real(other, name).abs().max()
        apart = (real(one, name) - real(other, name)).abs().max()
        assert apart <= tolerance * largest.clamp(min=1), name


def check_against_one_pass(lm: LM, tolerance: float, padding: str = "right", **settings: object) -> None:
    tokens = lm.tokenize(TEXTS, padding_side=padding)  # type: ignore[arg-type]
    out = lm.generate(tokens, sites="*", max_new_tokens=7, **settings)
    for row, new in enumerate(out.new_ids):  # column t is the text's own position t
        prompt = tokens.ids[row][tokens.mask[row].bool()].tolist()
        length = int(out.trace.tokens.lengths[row])
        assert out.trace.tokens.ids[row, :length].tolist() == [*prompt, *new[:-1]]
    assert_same(out.trace, lm.trace(out.trace.tokens), tolerance)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "seed": 3, "temperature": 1.5}], ids=["greedy", "drawn"])
def test_the_recorded_values_are_those_of_one_uncached_pass(lm: LM, padding: str, settings: dict):
    check_against_one_pass(lm, 2e-5, padding, **settings)


def test_in_8_bits_too(int8: LM):
    # a value at the border between two codes may fall on either side; a step of a code is 1/127 of a row's largest
    check_against_one_pass(int8, 0.05)


def test_recording_changes_no_token(lm: LM):
    watched = lm.generate(TEXTS, sites="*", max_new_tokens=8)
    assert watched.new_ids == lm.generate(TEXTS, max_new_tokens=8).new_ids
    some = lm.generate(TEXTS, sites="blocks.1.resid_mid", max_new_tokens=8)
    assert list(some.trace) == ["blocks.1.resid_mid"] and some.new_ids == watched.new_ids
    assert lm.generate("the cat", max_new_tokens=2).trace is None


def test_an_edit_acts_in_every_step_and_equals_one_pass_with_it(lm: LM):
    edits = [Edit.scale("blocks.1.attn.z", -2.0, head=1), Edit.add("blocks.0.resid_pre", 0.5, position=(2, 6), text=1)]
    out = lm.generate(TEXTS, sites="*", edits=edits, max_new_tokens=7)
    again = lm.trace(out.trace.tokens, edits=edits)
    assert_same(out.trace, again, 2e-5)
    assert (real(out.trace, "logits") - real(lm.trace(out.trace.tokens), "logits")).abs().max() > 0.01


def test_an_edit_at_a_step_acts_in_that_pass_alone(lm: LM):
    site, length = "blocks.0.mlp_out", int(lm.tokens(TEXTS[0]).lengths[0])
    out = lm.generate(TEXTS[0], sites=site, edits=[Edit.set(site, 7.0, step=2)], max_new_tokens=5)
    sevens = (out.trace[site][0] == 7.0).all(-1)
    assert sevens.nonzero()[:, 0].tolist() == [length + 1]  # the pass of step 2 reads new token 1


def test_an_edit_of_the_logits_decides_the_token(lm: LM):
    out = lm.generate(TEXTS, edits=[Edit.set("logits", 1e4, neuron=42)], max_new_tokens=3)
    assert all(set(ids) == {42} for ids in out.new_ids)


def test_an_edit_beyond_the_longest_text_is_refused_at_once_and_one_never_reached_at_the_end(lm: LM):
    length = int(lm.tokens(TEXTS[0]).lengths[0])
    with pytest.raises(BadArgument, match="position"):
        lm.stream(TEXTS[0], edits=[Edit.zero("blocks.0.attn_out", position=length + 3)], max_new_tokens=4)
    first = lm.generate(TEXTS[0], max_new_tokens=1).text
    edit = Edit.zero("blocks.0.attn_out", position=length + 2)
    with pytest.raises(BadArgument, match="never reached"):
        lm.generate(TEXTS[0], edits=[edit], max_new_tokens=4, stop_strings=[first] if first else ["x"])


def test_a_budget_is_for_the_longest_that_the_text_may_get(lm: LM):
    needed = lm.plan(TEXTS, "blocks.*.resid_post", max_new_tokens=6).bytes
    out = lm.generate(TEXTS, sites="blocks.*.resid_post", max_new_tokens=6, budget=needed)
    assert out.trace.plan.bytes == needed >= out.trace.nbytes
    with pytest.raises(BadArgument, match="budget"):
        lm.generate(TEXTS, sites="blocks.*.resid_post", max_new_tokens=6, budget=needed - 1)


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


def test_the_effect_is_that_of_two_passes(lm: LM):
    edits = [Edit.zero("blocks.0.mlp_out")]
    found = lm.effect(TEXTS, edits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sides = [lm.trace(text, "logits", edits=each)["logits"][0, -1] for text in TEXTS for each in ((), edits)]
    for row in range(2):
        log_p, log_q = (side.double().log_softmax(-1) for side in sides[2 * row : 2 * row + 2])
        assert found.kl[row] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), abs=1e-5)
        assert found.after[row][0][0] == int(log_q.argmax())
        assert found.before[row][0][1] == pytest.approx(float(log_p.exp().max()), abs=1e-5)
