"""Whole numbers are what Python counts with, numpy's and torch's too; 1.0, "3" and True are refused in a sentence."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from cutaway.edit.edit import Edit
from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import number
from cutaway.lm import LM
from cutaway.text.pieces import Tokens
from tests.ground.test_whole import KINDS, NONE
from tests.tiny import tiny_lm


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return tiny_lm("llama", tmp_path_factory.mktemp("llama"))


def data(value: Any) -> str:
    return json.dumps(value)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_take_them_and_keep_pythons_own(kind: Any, lm: LM):
    settings = {"max_new_tokens": kind(5), "top_k": kind(3), "seed": kind(7)}
    run = lm.generate("the cat", do_sample=True, **settings)
    again = lm.generate("the cat", do_sample=True, max_new_tokens=5, top_k=3, seed=7)
    assert run.new_ids == again.new_ids
    assert data(run.settings.as_data()) == data(again.settings.as_data())
    assert run.steps[0].table(kind(4), kind(0)) == again.steps[0].table(4)
    assert run.steps[0].interval(kind(0)) == again.steps[0].interval()


@pytest.mark.parametrize("name", ["max_new_tokens", "max_length", "top_k", "seed"])
@pytest.mark.parametrize("value", NONE, ids=repr)
def test_settings_refuse_the_rest(name: str, value: Any, lm: LM):
    with pytest.raises(BadArgument, match=f"found {name}="):
        lm.generate("the cat", **{name: value})


@pytest.mark.parametrize(
    "kind", [np.float64, np.float32, np.float16, lambda x: torch.tensor(x, dtype=torch.float64), torch.tensor]
)
def test_real_numbers_may_be_numpys_and_torchs(kind: Any, lm: LM):
    names = ("temperature", "top_p", "min_p", "repetition_penalty")
    given = {name: kind(0.75) for name in names}  # a number that each dtype holds exactly
    run = lm.generate("the cat", do_sample=True, seed=0, max_new_tokens=3, **given)
    again = lm.generate("the cat", do_sample=True, seed=0, max_new_tokens=3, **dict.fromkeys(names, 0.75))
    assert run.new_ids == again.new_ids
    assert data(run.settings.as_data()) == data(again.settings.as_data())


@pytest.mark.parametrize("value", ["0.5", True, torch.tensor([0.5]), torch.tensor(True), 1j, np.nan], ids=repr)
def test_no_other_value_is_a_real_number(value: Any, lm: LM):
    assert number(value) != number(value), "NaN"
    with pytest.raises(BadArgument, match="found temperature="):
        lm.generate("the cat", do_sample=True, temperature=value)


@pytest.mark.parametrize(
    "several", [[0, -1], range(2), np.array([0, 1]), torch.tensor([0, 2]), (np.int64(0), torch.tensor(1))], ids=repr
)
def test_positions_may_be_any_sequence_of_them(several: Any, lm: LM):
    wanted = [int(each) for each in several]
    found = lm.trace("the cat sat", "logits", positions=several)
    assert torch.equal(found["logits"], lm.trace("the cat sat", "logits", positions=wanted)["logits"])
    assert lm.plan("the cat sat", "logits", positions=several).bytes == found["logits"].nbytes


@pytest.mark.parametrize("kind", KINDS)
def test_one_position_may_be_any_of_them(kind: Any, lm: LM):
    every = lm.trace("the cat sat", "logits")["logits"]
    assert torch.equal(lm.trace("the cat sat", "logits", positions=kind(1))["logits"], every[:, 1:2])
    new = lm.plan("the cat", "logits", max_new_tokens=kind(4))
    assert new.bytes == lm.plan("the cat", "logits", max_new_tokens=4).bytes


def test_a_negative_position_counts_from_the_end_in_numpys_words_too(lm: LM):
    every = lm.trace("the cat sat", "logits")["logits"]
    assert torch.equal(lm.trace("the cat sat", "logits", positions=np.int64(-1))["logits"], every[:, -1:])


@pytest.mark.parametrize("value", NONE, ids=repr)
def test_positions_refuse_the_rest(value: Any, lm: LM):
    for call in (lm.trace, lm.plan):
        with pytest.raises(BadArgument, match="found positions="):
            call("the cat", "logits", positions=value)


@pytest.mark.parametrize("kind", KINDS)
def test_edits_take_them_and_keep_pythons_own(kind: Any):
    where = {"block": 0, "head": 1, "neuron": 2, "position": 0, "step": 1, "text": 0}
    edit = Edit.zero("blocks.*.attn.z", **{name: kind(i) for name, i in where.items()})
    assert data(edit.as_data()) == data(Edit.zero("blocks.*.attn.z", **where).as_data())
    several = Edit.zero("blocks.*.attn.scores", head=np.array([0, 2]), source=torch.tensor([1, 0]))
    assert (several.head, several.source) == ((0, 2), (1, 0))


@pytest.mark.parametrize("value", [*NONE, [0, 0], [], -1], ids=repr)
@pytest.mark.parametrize("name", ["block", "head", "neuron", "source", "step", "text"])
def test_edits_refuse_the_rest(name: str, value: Any):
    with pytest.raises(BadArgument, match=f"found {name}=.*whole numbers from 0"):
        Edit.zero("blocks.0.attn.z", **{name: value})


def test_a_place_of_why_is_made_of_them(lm: LM):
    trace = lm.trace("the cat")
    index = (np.int64(0), torch.tensor(1), np.uint8(2))
    assert str(lm.why(trace, "blocks.0.mlp_out", *index)) == str(lm.why(trace, "blocks.0.mlp_out", 0, 1, 2))
    with pytest.raises(BadArgument, match="an index for each of B T D"):
        lm.why(trace, "blocks.0.mlp_out", 0, True, 2)


@pytest.mark.parametrize(
    "ids",
    [
        [np.int64(3), np.int64(4)],
        [[np.int32(3), np.int32(4)]],
        [torch.tensor(3), torch.tensor(4)],
        np.array([3, 4]),
        np.array([3, 4], dtype=np.uint8),
        np.array([3, 4], dtype=np.uint16),
        torch.tensor([[3, 4]], dtype=torch.int16),
    ],
    ids=repr,
)
def test_ids_may_be_numpys_and_torchs(ids: Any):
    tokens = Tokens.from_ids(ids)
    assert tokens.ids.tolist() == [[3, 4]] and tokens.ids.dtype == torch.int64


@pytest.mark.parametrize("ids", [[3.0, 4.0], ["3"], [True], np.array([3.0]), torch.tensor([1.0])], ids=repr)
def test_other_ids_are_refused(ids: Any):
    with pytest.raises(BadArgument):
        Tokens.from_ids(ids)


def test_a_plan_refuses_what_is_no_number_of_tokens(lm: LM):
    with pytest.raises(BadArgument, match="found max_new_tokens='3'; expected a whole number, 1 or above"):
        lm.plan("the cat", "logits", max_new_tokens="3")  # type: ignore[arg-type]
