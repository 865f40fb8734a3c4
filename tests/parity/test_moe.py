"""Mixtures of experts: routing is transformers', only the chosen experts are called, and edits of the router do what
they say."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway.analysis.neurons import strongest
from cutaway.analysis.transformers_parity import against_transformers
from cutaway.edit.edit import Edit
from cutaway.ground.errors import BadArgument, BadCheckpoint, UnsupportedModel
from cutaway.lm import LM, load
from cutaway.model import architecture
from cutaway.model.cache import Cache
from cutaway.model.tap import untapped
from cutaway.text.pieces import Tokens
from cutaway.weights.families import facts_of
from cutaway.weights.load import empty_decoder
from tests.model_types import drawn
from tests.parity.test_published import SHARED
from tests.tiny import batch, build

TYPES = ["mixtral", "qwen3_moe", "olmoe", "gpt_oss"]
TOKENS = batch([3, 5, 7, 2, 9, 4, 10, 1, 6], [8, 3, 3, 6, 4])


def pair(model_type: str, folder: Path, seed: int = 0, **over: Any) -> tuple[Any, LM]:
    theirs = build(drawn(model_type, seed, **over), seed, 0.3, "eager")
    theirs.save_pretrained(folder)
    return theirs, load(folder, quantize=None, dtype="float32", device="cpu")


def routed(model: Any, tokens: Tokens) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What transformers' router of each layer gives: logits, weights and indexes of the chosen."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, args, out: seen.append(out))
        for module in model.modules()
        if type(module).__name__.endswith("Router")
    ]
    with torch.no_grad():
        model(input_ids=tokens.ids, attention_mask=tokens.mask)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("model_type", TYPES)
def test_routing_is_that_of_transformers(model_type: str, seed: int, tmp_path: Path):
    theirs, lm = pair(model_type, tmp_path, seed)
    trace, real = lm.trace(TOKENS), TOKENS.mask.bool()
    expected = routed(theirs, TOKENS)
    assert len(expected) == lm.config.n_layers
    for layer, (logits, weights, chosen) in enumerate(expected):
        scores = torch.zeros_like(logits).scatter(-1, chosen, weights).view(*TOKENS.ids.shape, -1)
        ours = trace[f"blocks.{layer}.mlp.router_scores"]
        assert torch.equal((ours != 0)[real], (scores != 0)[real])
        torch.testing.assert_close(ours[real], scores[real], atol=1e-5, rtol=1e-5)
        logits = logits.view(scores.shape)
        torch.testing.assert_close(trace[f"blocks.{layer}.mlp.router_logits"][real], logits[real], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_model_in_memory_is_the_model_of_its_files(model_type: str, tmp_path: Path):
    theirs, _ = pair(model_type, tmp_path)
    for mode in (None, "int8"):
        of_files = load(tmp_path, quantize=mode, dtype="float32", device="cpu")
        assert torch.equal(load(theirs, quantize=mode, device="cpu").logits(TOKENS), of_files.logits(TOKENS))


@pytest.mark.parametrize("mode", [None, "int8"])
def test_a_new_token_calls_the_experts_that_it_chose_and_no_other(mode: str | None, tmp_path: Path):
    pair("mixtral", tmp_path)
    lm = load(tmp_path, quantize=mode, dtype="float32", device="cpu")
    one = Tokens.from_ids([[3, 5, 7, 2]])
    trace, cache, called = lm.trace(one), Cache(lm.config.n_layers, 1, 4), set()
    prompt, new = (
        Tokens(*(getattr(one, name)[:, at] for name in ("ids", "mask", "positions"))) for at in (slice(3), slice(3, 4))
    )
    with torch.inference_mode():
        lm.decoder(prompt, cache)
        for layer, block in enumerate(lm.decoder.blocks):
            for expert, module in enumerate(block.mlp.experts):  # pyright: ignore
                for part in (module.up, module.down):
                    part.register_forward_pre_hook(lambda *_, at=(layer, expert): called.add(at))
        lm.decoder(new, cache)
    chosen = {
        (layer, expert)
        for layer in range(lm.config.n_layers)
        for expert in trace[f"blocks.{layer}.mlp.router_scores"][0, 3].nonzero()[:, 0].tolist()
    }
    assert called == chosen and len(chosen) == lm.config.n_layers * lm.config.experts_per_token


def without(theirs: Any, layer: int, expert: int) -> None:
    """Takes an expert out of a layer of transformers' model, and its row out of the router."""
    moe = theirs.model.layers[layer].mlp
    router = getattr(moe, "gate", None) or moe.router
    kept = [i for i in range(router.num_experts) if i != expert]
    for owner in (router, moe.experts):
        for name, parameter in list(owner.named_parameters()):
            setattr(owner, name, nn.Parameter(parameter.detach()[kept]))
        owner.num_experts = len(kept)


@pytest.mark.parametrize("model_type", TYPES)
def test_an_edit_that_forbids_an_expert_is_the_model_without_it(model_type: str, tmp_path: Path):
    theirs, lm = pair(model_type, tmp_path)
    often = int((lm.trace(TOKENS)["blocks.1.mlp.router_scores"] != 0).sum((0, 1)).argmax())
    edit = Edit.set("blocks.1.mlp.router_logits", -math.inf, expert=often)
    plain = lm.logits(TOKENS)
    forbidden = lm.trace(TOKENS, edits=edit)["logits"]
    without(theirs, 1, often)
    with torch.no_grad():
        expected = theirs(input_ids=TOKENS.ids, attention_mask=TOKENS.mask).logits
    real = TOKENS.mask.bool()
    assert (forbidden - expected)[real].abs().max() < 1e-4 < (plain - expected)[real].abs().max()


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_scores_force_and_reweigh_an_expert(model_type: str, tmp_path: Path):
    _, lm = pair(model_type, tmp_path)
    site = "blocks.0.mlp.router_scores"
    rare = int((lm.trace(TOKENS)[site] != 0).sum((0, 1)).argmin())
    forced = lm.trace(TOKENS, edits=[Edit.set(site, 0.0), Edit.set(site, 2.0, expert=rare)])
    block, read = lm.decoder.blocks[0], forced["blocks.0.ln2.out"]
    with torch.no_grad():
        alone = 2.0 * block.mlp.experts[rare](read, untapped)  # pyright: ignore
    real = TOKENS.mask.bool()
    torch.testing.assert_close(forced["blocks.0.mlp_out"][real], alone[real], atol=1e-5, rtol=1e-5)
    assert (forced["blocks.0.mlp.post"][real].abs().sum(-1) != 0).nonzero()[:, 1].unique().tolist() == [rare]


@pytest.mark.parametrize("model_type", TYPES)
def test_without_a_score_no_expert_adds_anything(model_type: str, tmp_path: Path):
    _, lm = pair(model_type, tmp_path)
    tokens = batch([3, 5, 7, 2, 9])  # padding keeps its scores
    trace = lm.trace(tokens, edits=[Edit.zero("blocks.0.mlp.router_scores")])
    assert not trace["blocks.0.mlp_out"].any() and not trace["blocks.0.mlp.post"].any()
    assert trace["blocks.0.mlp.pre"].shape == lm.trace(tokens)["blocks.0.mlp.pre"].shape


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("mode", [None, "int8"])
def test_why_decomposes_routing_hidden_values_and_sums(mode: str | None, model_type: str, tmp_path: Path):
    pair(model_type, tmp_path)
    lm = load(tmp_path, quantize=mode, dtype="float32", device="cpu")
    trace = lm.trace(TOKENS)
    scores_X = trace["blocks.1.mlp.router_scores"][0, 4]
    chosen, other = int(scores_X.argmax()), int(scores_X.argmin())
    for name, index in (("mlp.router_logits", (chosen,)), ("mlp.router_scores", (chosen,)), ("mlp.pre", (chosen, 3)),
                        ("mlp.post", (chosen, 3)), ("mlp_out", (5,))):  # fmt: skip
        found = lm.why(trace, f"blocks.1.{name}", 0, 4, *index)
        assert abs(found.difference) < 1e-4 and found.terms
        if name in ("mlp.pre", "mlp_out", "mlp.router_logits"):
            scores = [float(note.split()[3].rstrip(",")) for note in found.notes if note.startswith("expert ")]
            biases = [float(note.split()[1]) for note in found.notes if note.startswith("bias ")]
            total = sum(score * bias for score, bias in zip(scores or [1.0], biases, strict=False))
            total += sum(term.contribution for term in found.terms)
            assert total == pytest.approx(found.value, abs=1e-3)
    silent = lm.why(trace, "blocks.1.mlp.pre", 0, 4, other, 3)
    assert silent.value == silent.recomputed == 0 and f"expert {other} is not chosen" in silent.notes[0]


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_questions_of_one_mlp_are_refused_and_checks_against_transformers_pass(model_type: str, tmp_path: Path):
    theirs, lm = pair(model_type, tmp_path)
    lines = list(against_transformers(lm.decoder, tmp_path, TOKENS))
    assert len(lines) == 4 and all(line.passed for line in lines)
    sentence = "found blocks.1.W_down of a model whose MLPs are 4 experts.*read an expert's, as blocks.1.mlp.experts.0"
    with pytest.raises(BadArgument, match=sentence):
        strongest(lm.trace(TOKENS), lm.decoder, 1, 2)
    assert "4 experts" in str(lm) and "mlp.experts.*.down" in str(lm)
    assert all(len(line) <= 80 for line in str(lm).splitlines())
    counted = sum(parameter.numel() for parameter in theirs.parameters())
    assert architecture.parameters(lm.decoder) == counted


@pytest.mark.parametrize(("model_type", "name", "value", "does"), [
    ("qwen3_moe", "decoder_sparse_step", 2, "has layers without experts"),
    ("qwen3_moe", "mlp_only_layers", [1], "has layers without experts"),
    ("olmoe", "clip_qkv", 8.0, "clips q and k behind their norms"),
    ("olmoe", "sliding_window", 4, "hides earlier positions in some implementations of attention only"),
])  # fmt: skip
def test_what_is_not_computed_is_refused_by_name(model_type: str, name: str, value: Any, does: str):
    with pytest.raises(UnsupportedModel) as error:
        facts_of({"model_type": model_type, name: value}, lambda line: None)
    assert f"{name}={value!r} in config.json, which {does}" in str(error.value)


def test_more_experts_a_token_than_there_are_is_no_model():
    with pytest.raises(BadCheckpoint, match="num_experts_per_tok=9 of 8 experts"):
        facts_of({"model_type": "mixtral", "num_experts_per_tok": 9}, lambda line: None)


@pytest.mark.parametrize(("name", "count"), [
    ("mistral/mixtral-8x7b-v0.1", 46_702_792_704), ("qwen/qwen3-30b-a3b-variant", 30_532_122_624),
    ("gpt_oss/gpt-oss-20b", 20_914_757_184),
])  # fmt: skip
def test_a_published_config_has_the_published_parameters(name: str, count: int):
    file = SHARED / f"{name}.json"
    if not file.is_file():
        pytest.skip("no ../shared/published")
    facts = facts_of(json.loads(file.read_text(encoding="utf-8")), lambda line: None)[1]
    assert architecture.parameters(empty_decoder(facts)) == count
