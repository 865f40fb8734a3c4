"""Weights by name, against the layers and the formulas; and parts fed by hand, against the values of the pass."""

import re
from typing import Any

import pytest
import torch

from cutaway.ground.errors import BadArgument
from cutaway.ground.layers import site_weights
from cutaway.ground.sites import all_sites, block_exit
from cutaway.lm import LM
from tests.tiny import WITH_TOKENIZER, tiny_lm

TEXTS = ["the cat sat on the mat", "the dog"]


@pytest.fixture(scope="module", params=[(name, mode) for name in WITH_TOKENIZER for mode in (None, "int8")], ids=str)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LM:
    name, mode = request.param
    return tiny_lm(name, tmp_path_factory.mktemp(name), quantize=mode)


def test_every_name_of_every_formula_is_a_key(model: LM):
    for name, site in all_sites(model.config).items():
        block = name[: name.index(".", 7) + 1] if name.startswith("blocks.") else ""
        for symbol in set(re.findall(r"\b[Wb]_[A-Za-z]+\b|\b[wb]\b", site.formula)):
            of_norm = [weight.name.rpartition(".")[0] for weight in site_weights(model.config, name)]
            key = f"{of_norm[0]}.{symbol}" if symbol in "wb" else block + symbol
            value = model.weights[key]
            assert value.dtype == torch.float32 and tuple(value.shape) == model.weights.shape(key)
    assert next(iter(model.weights)) == "W_E" and list(model.weights)[-1] == (
        "b_U" if model.config.head_bias else "W_U"
    )


def test_a_weight_is_the_layers_rows_dequantized_and_a_copy(model: LM):
    config, qkv = model.config, model.decoder.blocks[1].attn.qkv
    q, k = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    parts = [model.weights[f"blocks.1.W_{letter}"] for letter in "QKV"]
    assert [part.shape[0] for part in parts] == [q, k, k]
    assert torch.equal(torch.cat(parts), qkv.weight) and torch.equal(
        model.weights["W_K", -2 % config.n_layers], parts[1]
    )
    trace = model.trace(TEXTS[0])
    by_hand = trace["attn.z", 1].flatten(-2) @ model.weights["blocks.1.W_O"].T
    bias = model.weights.get(("b_O", 1), 0)
    given = trace["attn.out" if config.scales_added else "attn_out", 1]
    torch.testing.assert_close(by_hand + bias, given, atol=2e-3, rtol=2e-3)
    before = model.logits(TEXTS)
    for name in model.weights:
        model.weights[name].zero_()
    assert torch.equal(model.logits(TEXTS), before)


def test_weights_are_listed_shortly(model: LM):
    assert len(repr(model.weights)) < 120
    lines = str(model.weights).splitlines()
    assert all(len(line) <= 80 for line in lines) and any(line.startswith("blocks.*.W_O ") for line in lines)
    assert len(lines) < 40


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("W_O", "'W_O', which every block has"),
        (("W_O", 9), "'W_O' of block 9"),
        ("blocks.0.W_Z", r"no weight 'blocks.0.W_Z'; .* blocks.0.W_"),
        (3, "the weight 3"),
    ],
)
def test_what_is_no_weight_is_said(key: Any, words: str, lm: LM):
    with pytest.raises(BadArgument, match=words):
        lm.weights[key]
    with pytest.raises(BadArgument, match=r"read only; write: with lm.edited"):
        lm.weights["W_U"] = torch.ones(2)


@pytest.mark.parametrize("side", ["right", "left"])
def test_parts_fed_by_hand_are_the_pass(side: Any, model: LM):
    """As the notebook that began this walked through its model, on padded texts."""
    tokens = model.tokenize(TEXTS, padding_side=side)
    trace, post = model.trace(tokens), model.config.post_norm
    names = {name.removeprefix("blocks.0.") for name in trace}
    resid = model.run_part("embed", tokens)
    assert torch.equal(model.run_part("embed.token", tokens), trace["embed.token"])
    if "embed.position" in trace:
        assert torch.equal(model.run_part("embed.position", tokens), trace["embed.position"])
    for layer in range(model.config.n_layers):
        block = f"blocks.{layer}"
        assert torch.equal(resid, trace["resid_pre", layer])
        read = resid if post else model.run_part(f"{block}.ln1", resid)
        attn_out, mlp_out = ("attn.out", "mlp.out") if model.config.scales_added else ("attn_out", "mlp_out")
        assert torch.equal(model.run_part(f"{block}.attn", read, tokens), trace[attn_out, layer])
        if "ln2.out" in names:
            stream = trace["resid_post" if post else "resid_mid", layer]
            assert torch.equal(model.run_part(f"{block}.ln2", stream), trace["ln2.out", layer])
        read = trace["ln1.out" if post or model.config.shared_norm else "ln2.out", layer]
        assert torch.equal(model.run_part(f"{block}.mlp", read), trace[mlp_out, layer])
        assert torch.equal(model.run_part(f"{block}.mlp.down", trace["mlp.post", layer]), trace[mlp_out, layer])
        resid = model.run_block(layer, resid, tokens)
        assert torch.equal(resid, trace[block_exit(model.config, layer)])
    assert torch.equal(model.run_part("unembed", resid), trace["logits"])


def test_without_tokens_there_is_no_padding_and_gradients_flow(model: LM):
    trace = model.trace(TEXTS[0])
    resid = trace["resid_pre", 1].clone().requires_grad_()
    after = model.run_block(1, resid)
    torch.testing.assert_close(after, trace[block_exit(model.config, 1)], atol=2e-3, rtol=2e-3)  # by torch's own ops
    (grad,) = torch.autograd.grad(after[0, -1].sum(), resid)
    assert grad.any()
    double = model.run_block(1, trace["resid_pre", 1].double())
    assert torch.equal(double, trace[block_exit(model.config, 1)])  # in the model's dtype


def test_what_a_part_does_not_read_is_said(lm: LM):
    wide, resid = lm.config.d_model, torch.zeros(1, 2, lm.config.d_model)
    for name, x, words in [
        ("blocks.0.atn", resid, r"no part 'blocks.0.atn'; .*blocks.0.attn"),
        ("rotary", resid, "no part 'rotary'"),
        ("blocks", resid, "no part 'blocks'"),
        (3, resid, "no part '3'"),
        (
            "blocks.0.attn",
            torch.zeros(2, wide),
            rf"\[2, {wide}\] of torch.float32 for 'blocks.0.attn'; .*\[B, T, {wide}\]",
        ),
        ("blocks.0.mlp", torch.zeros(1, 2, wide + 1), "for 'blocks.0.mlp'"),
        ("blocks.0.mlp", torch.zeros(1, 2, wide, dtype=torch.long), "int64 for 'blocks.0.mlp'"),
        ("unembed", "the cat", "a str for 'unembed'"),
        ("blocks.0.attn.qkv", torch.zeros(1, wide + 1), r"\[..., "),
    ]:
        with pytest.raises(BadArgument, match=words):
            lm.run_part(name, x)  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match=r"for tokens \[2, \d+\]; expected a vector for each token"):
        lm.run_block(0, resid, TEXTS)
    for wrong in (-9, 99, "0", None):
        with pytest.raises(BadArgument, match=f"layer={wrong!r}"):
            lm.run_block(wrong, resid)  # type: ignore[arg-type]
