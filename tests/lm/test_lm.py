"""The front door: what every kind of argument means, what comes back, and what is refused."""

from pathlib import Path

import pytest
import torch

import cutaway
from cutaway.ground.errors import BadArgument, BadText, CutawayError, NoTokenizer
from cutaway.lm import LM
from cutaway.text.pieces import Tokens
from tests.tiny import WITH_TOKENIZER, tiny_lm


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return tiny_lm("llama", tmp_path_factory.mktemp("llama"))


def test_public_names_are_there_and_no_others():
    assert set(cutaway.__all__) == set(dir(cutaway))
    assert all(getattr(cutaway, name) for name in cutaway.__all__)
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
    assert list(lm.trace("the cat", "blocks.1-2.resid_post")) == ["blocks.1.resid_post", "blocks.2.resid_post"]
    assert list(lm.trace("the cat", lambda name: name.endswith("mlp_out"))) == [f"blocks.{i}.mlp_out" for i in range(3)]
    assert list(lm.trace("the cat")) == lm.sites


def test_no_gradient_is_kept_and_no_value_shares_memory_with_the_pass(lm: LM):
    trace = lm.trace("the cat", ["blocks.0.attn.q", "blocks.0.attn.k"])
    assert not any(value.requires_grad for value in trace.values())
    q, k = trace.values()
    assert q.untyped_storage().data_ptr() != k.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("blocks.0.attn.patern", "blocks.0.attn.pattern"), ("blocks.9.attn_out", "no site"), ("", "no site")],
)
def test_a_wrong_site_names_the_nearest_right_ones(lm: LM, wrong: str, message: str):
    with pytest.raises(BadArgument, match=message):
        lm.trace("the cat", wrong)
    with pytest.raises(BadArgument, match="no site"):
        lm.trace("the cat", "logits")[wrong or "x"]


def test_a_site_that_was_not_recorded_is_not_a_wrong_name(lm: LM):
    with pytest.raises(BadArgument, match="add it to sites"):
        lm.trace("the cat", "logits")["blocks.0.attn_out"]


def test_generate_gives_a_string_for_a_string_and_a_list_for_a_list(lm: LM):
    one = lm.generate("the cat", max_new_tokens=5)
    many = lm.generate(["the cat", "the dog ran to"], max_new_tokens=5)
    assert isinstance(one.text, str) and isinstance(many.text, list)
    assert many.text[0] == one.text
    assert str(one) == "the cat" + one.text
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


@pytest.mark.parametrize("name", WITH_TOKENIZER)
def test_the_architecture_counts_what_transformers_counts(name: str, tmp_path: Path):
    from cutaway.model import architecture
    from tests.tiny import build

    lm = tiny_lm(name, tmp_path)
    assert architecture.parameters(lm.decoder) == sum(p.numel() for p in build(WITH_TOKENIZER[name]).parameters())
    assert architecture.nbytes(lm.decoder) == 4 * architecture.parameters(lm.decoder)
    assert f"{architecture.parameters(lm.decoder):,}" in str(lm)
