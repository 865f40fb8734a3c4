"""What is recorded and changed while a text is written: the same as one uncached pass over the final text."""

import pytest
import torch
from torch import Tensor

from cutaway import Edit
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM, load
from cutaway.trace.trace import Trace

TEXTS = ["the cat sat on", "the dog"]


def real(trace: Trace, name: str) -> Tensor:
    """The values at real positions, [P, ...]; scores and patterns only where a token sees."""
    value, mask_BT = trace[name], trace.tokens.mask.bool()
    if not name.endswith(("attn.scores", "attn.pattern")):
        return value[mask_BT]
    earlier = torch.ones(value.shape[-2:], dtype=torch.bool).tril() & mask_BT[:, :, None] & mask_BT[:, None]
    return value.transpose(0, 1)[:, earlier].nan_to_num(neginf=0.0)  # beyond a window


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


@pytest.mark.parametrize("padding", ["left", "right"])
def test_in_8_bits_too(int8: LM, padding: str):
    # a value at the border between two codes may fall on either side; codes differ by 1/32767 of a row's largest
    check_against_one_pass(int8, 1e-4, padding)


@pytest.mark.parametrize("mode", ["llm-int8"])
def test_in_llm_int8_within_a_few_codes(lm: LM, mode: str):
    # codes differ by 1/127 of a row's largest, and what follows carries it on
    check_against_one_pass(load(lm.checkpoint.path, quantize=mode, device="cpu"), 0.05)


def test_recording_changes_no_token(lm: LM):
    watched = lm.generate(TEXTS, sites="*", max_new_tokens=8)
    assert watched.new_ids == lm.generate(TEXTS, max_new_tokens=8).new_ids
    some = lm.generate(TEXTS, sites="blocks.1.resid_post", max_new_tokens=8)
    assert list(some.trace) == ["blocks.1.resid_post"] and some.new_ids == watched.new_ids
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
