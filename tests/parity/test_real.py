"""SmolLM2-135M, the real one: greedy text and logits equal transformers', with and without the cache, in batches."""

import pytest
import torch

from cutaway.sample.generation import new_ids_of
from cutaway.sample.loop import generate
from cutaway.sample.settings import Sampling
from tests.parity.real import PROMPTS, ours, theirs

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]
NEW = Sampling(max_new_tokens=64)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_equal_transformers(prompt: str):
    lm = ours()
    tokens = lm.tokenize(prompt)
    with torch.inference_mode():
        expected = theirs()(tokens.ids).logits
    assert (lm.logits(tokens) - expected).abs().max() < 2e-4 * expected.abs().max()
    assert torch.equal(lm.logits(tokens).argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_64_greedy_tokens_equal_transformers_with_and_without_cache(prompt: str):
    lm = ours()
    tokens = lm.tokenize(prompt)
    expected = (
        theirs()
        .generate(tokens.ids, attention_mask=tokens.mask, max_new_tokens=64, do_sample=False, pad_token_id=2)[
            0, tokens.ids.shape[1] :
        ]
        .tolist()
    )
    cached = new_ids_of(list(generate(lm.decoder, tokens, NEW, eos_ids=lm.eos_ids)), 1)[0]
    assert list(cached) == expected
    whole = new_ids_of(list(generate(lm.decoder, tokens, NEW, eos_ids=lm.eos_ids, use_cache=False)), 1)[0]
    assert list(whole) == expected


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_unequal_texts_generates_what_each_does_alone(side: str):
    lm = ours()
    batch = lm.generate(lm.tokenize(PROMPTS, padding_side=side), max_new_tokens=24)
    for text, prompt in zip(batch.text, PROMPTS, strict=True):
        assert text == lm.generate(prompt, max_new_tokens=24).text
