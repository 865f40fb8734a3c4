"""The options of a trace: the same values by positions, in another dtype, from disk, with until; plans and budgets."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.ground.errors import BadArgument
from cutaway.lm import LM, load
from cutaway.text.pieces import Tokens
from tests.tiny import saved

TEXTS = ["the cat sat on", "the dog"]


def test_chosen_positions_are_those_of_the_whole_trace(lm: LM):
    tokens = lm.tokenize(TEXTS, padding_side="left")
    whole, some = lm.trace(tokens), lm.trace(tokens, positions=[1, -1])
    for name, value in some.items():
        time = 2 if value.shape[1] != 2 else 1
        rows = whole[name].transpose(1, time)
        for row in range(2):
            first, length = int(tokens.mask[row].argmax()), int(tokens.lengths[row])
            for index, position in enumerate((1, length - 1)):
                assert torch.equal(value.transpose(1, time)[row, index], rows[row, first + position]), name
    assert some.positions == (1, -1)
    with pytest.raises(BadArgument, match="position 9 of text"):
        lm.trace(tokens, positions=9)
    with pytest.raises(BadArgument, match=f"position {10**20} of text"):
        lm.trace(tokens, positions=10**20)


def test_another_dtype_rounds_what_is_kept_and_not_the_pass(lm: LM):
    whole, half = lm.trace(TEXTS), lm.trace(TEXTS, dtype="bfloat16")
    assert all(torch.equal(half[name], whole[name].bfloat16()) for name in whole)
    assert 2 * half.nbytes == whole.nbytes


def test_a_trace_on_disk_is_the_same_and_leaves_no_file(lm: LM, tmp_path: Path):
    whole = lm.trace(TEXTS)
    for where in ("disk", tmp_path):
        mapped = lm.trace(TEXTS, to=where)
        assert mapped.plan is not None and mapped.plan.where == "disk"
        assert all(torch.equal(mapped[name], whole[name]) for name in whole)
    assert os.listdir(tmp_path) == []
    mapped.save(tmp_path / "t.safetensors")
    with pytest.raises(BadArgument, match="cannot be written"):
        lm.trace(TEXTS, to=tmp_path / "no such folder")


def test_until_ends_the_pass_there(lm: LM):
    whole, start = lm.trace(TEXTS), lm.trace(TEXTS, until="blocks.1.attn.pattern")
    assert list(start) == list(whole)[: list(whole).index("blocks.1.attn.pattern") + 1]
    assert all(torch.equal(start[name], whole[name]) for name in start)
    assert list(lm.trace(TEXTS, "blocks.0.attn_out", until="blocks.1.attn_out")) == ["blocks.0.attn_out"]


def test_a_value_is_a_copy(lm: LM):
    first = lm.trace(TEXTS)
    before = {name: value.clone() for name, value in first.items()}
    for value in lm.trace(TEXTS).values():
        value.zero_()
    lm.generate(TEXTS, max_new_tokens=3)
    assert all(torch.equal(first[name], before[name]) for name in before)
    pointers = [value.data_ptr() for value in first.values()]
    assert len(set(pointers)) == len(pointers)


def test_gradients_are_off_unless_asked_for_and_right_when_asked(lm: LM):
    assert not any(value.requires_grad for value in lm.trace(TEXTS[0]).values())
    sites = ["blocks.0.resid_pre", "blocks.1.attn.pattern", "blocks.1.mlp.post", "logits"]
    trace = lm.trace(TEXTS[0], sites, grad=True)
    goal = trace["logits"][0, -1, 7]
    direction = torch.randn(trace["blocks.0.resid_pre"].shape, generator=torch.Generator().manual_seed(0))
    slope = (torch.autograd.grad(goal, trace["blocks.0.resid_pre"])[0] * direction).sum()
    from cutaway import Edit

    epsilon = 1e-2
    ends = [
        lm.trace(TEXTS[0], "logits", edits=[Edit.add("blocks.0.resid_pre", sign * epsilon * direction)])["logits"]
        for sign in (1, -1)
    ]
    difference = (ends[0] - ends[1])[0, -1, 7] / (2 * epsilon)
    assert float(slope) == pytest.approx(float(difference), rel=0.05, abs=0.02)
    torch.testing.assert_close(trace["logits"].detach(), lm.trace(TEXTS[0], "logits")["logits"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["mixtral-drawn", "olmoe-drawn", "gpt_oss-drawn"])
def test_the_plan_of_a_mixture_of_experts(name: str, tmp_path: Path):
    planned_as_traced(
        load(saved(name, tmp_path)[0], quantize=None, device="cpu"), Tokens.from_ids([[3, 4, 6], [5, 8, 9]])
    )


def test_the_plan_is_what_the_trace_takes(lm: LM):
    planned_as_traced(lm, TEXTS)


def planned_as_traced(lm: LM, texts: Any):
    for more in ({}, {"positions": [0, 1]}, {"dtype": "float16"}, {"until": "blocks.1.resid_pre"}):
        plan, trace = lm.plan(texts, **more), lm.trace(texts, **more)
        assert plan.bytes == trace.nbytes and plan == trace.plan
        shapes = {row.site: (row.shape, row.dtype) for row in plan.rows}
        assert shapes == {name: (tuple(value.shape), value.dtype) for name, value in trace.items()}
    assert max(map(len, str(plan).splitlines())) <= 80
    assert plan.where == "host"


def test_a_budget_refuses_with_the_largest_sites_and_a_narrower_pattern(lm: LM):
    cost = lm.plan(TEXTS).bytes
    lm.trace(TEXTS, budget=cost)
    with pytest.raises(BadArgument, match=r"a trace of .*blocks.\*.*expected at most .*record less, such as sites="):
        lm.trace(TEXTS, budget=cost - 1)
    with pytest.raises(BadArgument, match="trace a shorter text"):
        lm.trace(TEXTS, budget=1)
    assert len(lm.trace(TEXTS, "embed.token", budget="1 MB")) == 1
    for wrong in ("much", -3, "3 apples", 0):
        with pytest.raises(BadArgument, match="budget="):
            lm.trace(TEXTS, budget=wrong)
    with pytest.raises(BadArgument, match="to='moon'"):
        lm.trace(TEXTS, to="moon")
