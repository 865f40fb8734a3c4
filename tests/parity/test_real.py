"""SmolLM2-135M, the real one: weights, logits and greedy text equal transformers' reading of the same GGUF."""

import pytest
import torch
from transformers import AutoTokenizer

from cutaway.sample.generation import new_ids_of
from cutaway.sample.loop import generate
from cutaway.sample.settings import Sampling
from cutaway.text.pieces import Tokens
from tests.parity.real import PROMPTS, file, ours, theirs

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]
NEW = Sampling(max_new_tokens=64)


def test_every_weight_is_transformers_to_the_bit():
    lm, state = ours(), dict(theirs().state_dict())
    heads, kv = lm.config.n_heads * lm.config.d_head, lm.config.n_kv_heads * lm.config.d_head
    assert torch.equal(lm.decoder.embed.token.weight, state.pop("model.embed_tokens.weight"))
    assert torch.equal(lm.decoder.unembed.head.weight, state.pop("lm_head.weight"))
    assert torch.equal(lm.decoder.unembed.ln_final.weight, state.pop("model.norm.weight"))
    for layer, block in enumerate(lm.decoder.blocks):
        q, k, v = block.attn.qkv.weight.split((heads, kv, kv))
        gate, up = block.mlp.up.weight.chunk(2)
        parts = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v, "mlp.gate_proj": gate,
                 "mlp.up_proj": up, "self_attn.o_proj": block.attn.out.weight, "mlp.down_proj": block.mlp.down.weight,
                 "input_layernorm": block.ln1.weight, "post_attention_layernorm": block.ln2.weight}  # fmt: skip
        for name, ours_NK in parts.items():
            name = f"model.layers.{layer}.{name}.weight"
            assert ours_NK.dtype == torch.float32 and torch.equal(ours_NK, state.pop(name)), name
    assert not state


@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_equal_transformers(prompt: str):
    lm = ours()
    tokens = lm.tokenize(prompt)
    with torch.inference_mode():
        expected = theirs()(tokens.ids).logits
    assert (lm.logits(tokens) - expected).abs().max() < 1e-4
    assert torch.equal(lm.logits(tokens).argmax(-1), expected.argmax(-1))


def greedy_of_transformers(tokens: Tokens) -> list[list[int]]:
    """Its 64 likeliest tokens after each text, one by one, up to and with the end."""
    texts, start = tokens.ids, tokens.ids.shape[1]
    done = theirs().generate(texts, attention_mask=tokens.mask, max_new_tokens=64, do_sample=False, pad_token_id=2)
    rows = [row[start:].tolist() for row in done]
    return [row[: row.index(2) + 1] if 2 in row else row for row in rows]


def test_64_greedy_tokens_of_twelve_prompts_equal_transformers():
    """All twelve in one pass, for time; the next test has them alone."""
    assert len(PROMPTS) == 12
    lm = ours()
    tokens = lm.tokenize(PROMPTS, padding_side="left")
    found = new_ids_of(list(generate(lm.decoder, tokens, NEW, eos_ids=lm.eos_ids)), 12)
    assert [list(ids) for ids in found] == greedy_of_transformers(tokens)


@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_64_greedy_tokens_equal_transformers_with_and_without_cache(prompt: str):
    lm = ours()
    tokens = lm.tokenize(prompt)
    (expected,) = greedy_of_transformers(tokens)
    cached = new_ids_of(list(generate(lm.decoder, tokens, NEW, eos_ids=lm.eos_ids)), 1)[0]
    assert list(cached) == expected
    whole = new_ids_of(list(generate(lm.decoder, tokens, NEW, eos_ids=lm.eos_ids, use_cache=False)), 1)[0]
    assert list(whole) == expected


def test_ids_are_those_of_transformers():
    theirs = AutoTokenizer.from_pretrained(file().parent, gguf_file=file().name)
    for prompt in PROMPTS:
        assert ours().tokenize(prompt).ids[0].tolist() == theirs(prompt).input_ids, prompt


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_unequal_texts_generates_what_each_does_alone(side: str):
    lm = ours()
    batch = lm.generate(lm.tokenize(PROMPTS[:5], padding_side=side), max_new_tokens=24)
    for text, prompt in zip(batch.text, PROMPTS[:5], strict=True):
        assert text == lm.generate(prompt, max_new_tokens=24).text
