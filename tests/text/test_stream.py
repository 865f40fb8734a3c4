"""Streamed text equals decoded text, whatever the ids, and is never half a character."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.text.tokenizer import Tokenizer
from tests.text.conftest import streamed

MANY = settings(max_examples=200, deadline=None)
CHARACTERS = st.text(alphabet="the cat🙂👩‍👩‍👧日本語é\u0301\n", min_size=1, max_size=20)


@given(ids=st.lists(st.integers(0, 340), max_size=30), skip=st.booleans())
@MANY
def test_any_ids_of_a_byte_level_vocabulary(trained: Tokenizer, ids: list[int], skip: bool) -> None:
    assert "".join(streamed(trained, ids, skip)) == trained.decode(ids, skip)


@given(ids=st.lists(st.one_of(st.integers(0, 310), st.integers(200, 260)), max_size=30), skip=st.booleans())
@MANY
def test_any_ids_of_a_sentencepiece_vocabulary(llama_metadata: dict[str, Any], ids: list[int], skip: bool) -> None:
    tokenizer = Tokenizer.from_gguf(llama_metadata)
    assert "".join(streamed(tokenizer, ids, skip)) == tokenizer.decode(ids, skip)


@given(text=CHARACTERS)
@MANY
def test_emoji_and_cjk_never_come_in_halves(trained: Tokenizer, text: str) -> None:
    parts = streamed(trained, trained.tokenize(text).ids[0].tolist())
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


@given(text=CHARACTERS)
@MANY
def test_sentencepiece_text_comes_back_without_its_added_space(llama_metadata: dict[str, Any], text: str) -> None:
    tokenizer = Tokenizer.from_gguf(llama_metadata)
    assert "".join(streamed(tokenizer, tokenizer.tokenize(text).ids[0].tolist())) == text


def test_a_character_appears_with_its_last_byte(opt: Tokenizer) -> None:
    ids = opt.tokenize("a🙂b", add_special_tokens=False).ids[0].tolist()
    assert streamed(opt, ids) == ["a", "", "", "", "🙂", "b", ""]


def test_a_broken_end_is_one_replacement_character(opt: Tokenizer) -> None:
    ids = opt.tokenize("🙂", add_special_tokens=False).ids[0].tolist()
    assert streamed(opt, ids[:2]) == ["", "", "\ufffd"]
