"""A stop string that is, or holds, a special token ends the text at the very token where transformers ends it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from transformers.generation.stopping_criteria import StopStringCriteria

from cutaway.sample.stopping import holds_stop_string
from cutaway.text.parts import Parts
from cutaway.text.tokenizer import Tokenizer
from tests.tiny import byte_level

SPECIAL = ["<|end|>", "<|im_end|>", "<|im_start|>"]


@pytest.fixture(scope="module")
def both() -> tuple[Tokenizer, Any]:
    backend = byte_level(["the cat sat on the mat"] * 3, 280, SPECIAL)
    return Tokenizer(Parts(backend, {"eos_token": "<|end|>"})), PreTrainedTokenizerFast(tokenizer_object=backend)


def first_stop(ids: list[int], stop: str, tokenizer: Tokenizer) -> int | None:
    return next((n for n in range(1, len(ids) + 1) if holds_stop_string(ids[:n], (stop,), tokenizer.spelled)), None)


@given(texts=st.lists(st.sampled_from([*SPECIAL, "the cat", " sat", "t", "\n", " on the mat", "<|im"]), max_size=8))
@pytest.mark.parametrize("stop", ["<|im_end|>", "t<|im_end|>", "<|im_end|>\n", " sat", "the mat"])
@settings(max_examples=60, deadline=None)
def test_the_stop_is_where_transformers_stops(both: tuple[Tokenizer, Any], texts: list[str], stop: str) -> None:
    tokenizer, reference = both
    ids = [i for text in texts for i in reference(text).input_ids]
    criteria = StopStringCriteria(reference, stop)
    fired = [n for n in range(1, len(ids) + 1) if bool(criteria(torch.tensor([ids[:n]]), torch.empty(0))[0])]
    assert first_stop(ids, stop, tokenizer) == (fired[0] if fired else None)


def test_the_text_before_a_special_token_does_not_join_the_text_after_it(both: tuple[Tokenizer, Any]) -> None:
    tokenizer, reference = both
    ids = reference("the<|im_end|> cat").input_ids
    assert first_stop(ids, "the cat", tokenizer) is None
    assert tokenizer.decode(ids) == "the cat"
    assert tokenizer.spelled(ids) == "the<|im_end|> cat"
