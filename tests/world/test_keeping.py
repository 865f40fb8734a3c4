"""Keeping what a run gave: pickled, copied and saved without the model, small; and a model kept as its name."""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway import Edit
from cutaway.lm import LM, load
from tests.world.facts import TEXTS, WAYS, assert_same, opened

TEXT_OF_A_STEP = 3_000  # bytes: the texts of its likeliest tokens, and its settings


def saved_by_torch(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


BY = {"pickle": lambda value: pickle.loads(pickle.dumps(value)), "deepcopy": copy.deepcopy, "torch": saved_by_torch}


@pytest.fixture(scope="module", params=WAYS)
def lm(request: pytest.FixtureRequest, model: Path) -> LM:
    return opened(model, request.param)


@pytest.mark.parametrize("by", BY.values(), ids=BY)
def test_a_generation_is_kept_without_its_model(lm: LM, by: Callable[[Any], Any]):
    out = lm.generate(
        TEXTS, max_new_tokens=4, do_sample=True, seed=3, repetition_penalty=1.2, sites=["attn.*", "mlp_out"]
    )
    again = by(out)
    assert str(again) == str(out) and again.new_ids == out.new_ids and again.settings == out.settings
    assert [step.table(k=20, row=1) for step in again.steps] == [step.table(k=20, row=1) for step in out.steps]
    assert all(torch.equal(again.trace[name], out.trace[name]) for name in out.trace)
    assert str(again.prompt) == str(out.prompt) and str(by(again)) == str(out)
    arrays = out.trace.nbytes + sum(step.logits.nbytes for step in out.steps)
    assert len(pickle.dumps(out)) < 2 * arrays + TEXT_OF_A_STEP * len(out.steps)


@pytest.mark.parametrize("by", BY.values(), ids=BY)
@pytest.mark.parametrize("options", [{}, {"to": "disk"}, {"grad": True}, {"positions": -1}, {"dtype": "bfloat16"}])
def test_a_trace_holds_its_own_bytes(lm: LM, by: Callable[[Any], Any], options: dict[str, Any]):
    trace = lm.trace(TEXTS, **options)
    again = by(trace)
    assert list(again) == list(trace) and again.plan == trace.plan and again.positions == trace.positions
    assert all(torch.equal(again[name], trace[name]) for name in trace)
    assert str(again) == str(trace) and len(pickle.dumps(trace)) < 1.5 * trace.nbytes + 30_000


def test_a_value_that_is_a_view_is_kept_without_the_rest(lm: LM):
    trace = lm.trace(TEXTS)
    value = trace["attn.pattern", 0]
    view = torch.zeros(1 << 20)[: value.numel()].view(value.shape)
    cut = replace(trace, values_by_site={"blocks.0.attn.pattern": view}, plan=None)
    assert len(pickle.dumps(cut)) < 2 * view.nbytes + 10_000


def test_findings_and_edits_are_kept(lm: LM):
    trace = lm.trace(TEXTS)
    edits = [
        Edit.patch("attn.z", trace, block=1, position=0),
        Edit.mean("mlp_out", trace, block=0),
        Edit.zero("attn_out"),
    ]
    kept = [
        lm.plan(TEXTS), lm.effect(TEXTS, Edit.zero("blocks.0.attn_out")), lm.why(trace, "blocks.1.attn_out", 0, 1, 2),
        lm.check(TEXTS), lm.tokenize(TEXTS),
    ]  # fmt: skip
    for one in kept:
        assert all(str(by(one)) == str(one) for by in BY.values()), type(one)
        assert len(pickle.dumps(one)) < 60_000, type(one)
    for again in (by(edits) for by in BY.values()):
        assert [edit.as_data() for edit in again] == [edit.as_data() for edit in edits]


def test_a_model_is_kept_as_its_name_and_its_arguments(lm: LM, usual: dict[str, dict[str, Tensor]], model: Path):
    written = pickle.dumps(lm)
    assert len(written) < 2_000
    again = pickle.loads(written)
    assert (again.name, again.arguments, again.notes) == (lm.name, lm.arguments, lm.notes)
    assert pickle.dumps(again) == written and again.decoder is not lm.decoder
    assert_same(again, next(usual[way] for way in WAYS if str(opened(model, way)) == str(lm)))


def doubled(module: Any, args: Any, output: Tensor) -> Tensor:
    return 2 * output


CHANGES: dict[str, Callable[[LM], Any]] = {
    "written": lambda lm: lm.decoder.blocks[0].ln1.weight.mul_(2),
    "another": lambda lm: setattr(lm.decoder.unembed.head, "bias", torch.nn.Parameter(torch.ones(300))),
    "hooked": lambda lm: lm.decoder.blocks[1].mlp.register_forward_hook(doubled),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_model_that_was_changed_is_kept_as_its_weights(change: Callable[[LM], Any], model: Path):
    lm, ids = load(model, quantize=None, device="cpu"), torch.tensor([[3, 5]])
    before = lm.logits(ids)
    with torch.no_grad():
        change(lm)
    changed = lm.logits(ids)
    assert not torch.equal(changed, before)
    for again in (pickle.loads(pickle.dumps(lm)), copy.deepcopy(lm), copy.copy(lm)):
        assert torch.equal(again.logits(ids), changed)


def test_a_model_is_kept_with_the_weights_that_it_has_for_a_time(model: Path):
    lm, ids = load(model, quantize="int8", device="cpu"), torch.tensor([[3, 5]])
    with lm.edited({"blocks.0.W_O": torch.zeros(256, 256)}):
        edited = lm.logits(ids)
        again = pickle.loads(pickle.dumps(lm))
    assert torch.equal(again.logits(ids), edited) and not torch.equal(lm.logits(ids), edited)
    assert len(pickle.dumps(lm)) < 2_000, "its own weights are back"
