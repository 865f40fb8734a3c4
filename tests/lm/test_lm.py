"""The public interface: what every kind of argument means, what comes back, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

import cutaway
from cutaway.ground.errors import BadArgument, BadText, CutawayError, NoTokenizer
from cutaway.lm import LM
from cutaway.text.pieces import Tokens
from tests.tiny import tiny_lm


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return tiny_lm("llama", tmp_path_factory.mktemp("llama"))


def test_public_names_are_there_and_no_others():
    public: dict[str, Any] = {}
    exec("from cutaway import *", public)
    expected = {"LM", "Edit", "Generation", "Step", "Tokens", "Trace", "load", "quantize"}
    assert public.keys() - {"__builtins__"} == expected == set(dir(cutaway))
    assert all(public[name].__module__ == home for name, home in cutaway._MODULES.items())
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cutaway.nonsense  # type: ignore[attr-defined]


def test_a_text_its_ids_and_its_tokens_are_the_same_input(lm: LM):
    text = "the cat sat"
    tokens = lm.tokenize(text)
    expected = lm.logits(text)
    for same in ([text], tokens.ids, tokens.ids[0], tokens, Tokens.from_ids(tokens.ids.tolist())):
        assert torch.equal(lm.logits(same), expected)


def test_a_trace_holds_what_was_asked_for_in_the_order_of_the_pass(lm: LM):
    trace = lm.trace(["the cat", "the dog ran"], sites=["logits", "blocks.*.attn.pattern"])
    assert list(trace) == [*(f"blocks.{i}.attn.pattern" for i in range(3)), "logits"]
    assert trace["blocks.0.attn.pattern"].sum(-1).allclose(torch.tensor(1.0))
    assert trace["blocks.0.attn.hook_pattern"] is trace["blocks.0.attn.pattern"]  # as TransformerLens spells it
    assert trace.attention == "explicit" and lm.trace("the cat", "logits").attention == "fused"
    assert "blocks.2.attn.pattern" in str(trace) and f"{trace.nbytes:,}" in str(trace)
    assert list(lm.trace("the cat")) == lm.sites


def test_no_gradient_is_kept_and_no_value_shares_memory_with_the_pass(lm: LM):
    trace = lm.trace("the cat", ["blocks.0.attn.q", "blocks.0.attn.k"])
    assert not any(value.requires_grad for value in trace.values())
    q, k = trace.values()
    assert q.untyped_storage().data_ptr() != k.untyped_storage().data_ptr()


def test_a_wrong_site_names_the_nearest_and_one_not_recorded_is_no_wrong_name(lm: LM):
    for look in (lambda site: lm.trace("the cat", site), lambda site: lm.trace("the cat", "logits")[site]):
        with pytest.raises(BadArgument, match=r"no site.*blocks.0.attn.pattern"):
            look("blocks.0.attn.patern")
    with pytest.raises(BadArgument, match="add it to sites"):
        lm.trace("the cat", "logits")["blocks.0.attn_out"]


def test_generate_gives_a_string_for_a_string_and_a_list_for_a_list(lm: LM):
    one = lm.generate("the cat", max_new_tokens=5)
    many = lm.generate(["the cat", "the dog ran to"], max_new_tokens=5)
    assert isinstance(one.text, str) and isinstance(many.text, list)
    assert many.text[0] == one.text
    assert str(one) == f"the cat{one.text}\n(ended: length, 5 tokens)"
    assert str(many).startswith(f"text 1 of 2: 'the cat'\n{one}\n\ntext 2 of 2: 'the dog ran to'\nthe dog ran to")
    assert len(repr(many)) < 600
    assert len(one.steps) == 5 and one.ended == ("length",)


def test_the_streamed_text_is_the_generated_text(lm: LM):
    settings = {"max_new_tokens": 30, "do_sample": True, "seed": 3, "temperature": 2.0}
    streamed = "".join(step.text[0] for step in lm.stream("naïve", **settings))
    assert streamed == lm.generate("naïve", **settings).text


def test_a_model_without_tokenizer_runs_on_ids_and_says_what_is_missing(lm: LM):
    from shutil import copytree, ignore_patterns
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as parent:
        bare = copytree(lm.checkpoint.path, Path(parent) / "bare", ignore=ignore_patterns("tokenizer*"))
        model = cutaway.load(bare)
        assert [len(step.ids) for step in model.stream(torch.tensor([[1, 2, 3]]), max_new_tokens=2)] == [1, 1]
        with pytest.raises(NoTokenizer):
            model.generate("the cat")


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda lm: lm.logits(""), BadText, "empty"),
        (lambda lm: lm.logits("the " * 65), BadText, "at most 64"),
        (lambda lm: lm.logits(torch.tensor([[300]])), BadArgument, "the id 300"),
        (lambda lm: lm.logits(torch.ones(1, 65, dtype=torch.long)), BadText, "65 tokens"),
        (lambda lm: lm.generate("the cat", colour="red"), BadArgument, "colour='red'"),
        (lambda lm: cutaway.load(lm.checkpoint.path, quantize="int3"), BadArgument, "quantize='int3'"),
        (lambda lm: cutaway.load(lm.checkpoint.path, dtype="int8"), BadArgument, "dtype='int8'"),
        (lambda lm: cutaway.load(lm.checkpoint.path, device="abacus"), BadArgument, "abacus"),
    ],
)
def test_bad_input_is_one_sentence(lm: LM, call, kind: type[CutawayError], message: str):
    with pytest.raises(kind, match=message) as caught:
        call(lm)
    assert str(caught.value).startswith("found ") and "; expected " in str(caught.value)
    assert "\n" not in str(caught.value)
