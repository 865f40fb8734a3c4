"""Vocabularies of every kind: ids, text and stream equal transformers', by the decoder that each one has."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from cutaway.text.parts import Parts
from cutaway.text.tokenizer import Tokenizer
from tests.text.conftest import as_transformers, streamed

SENTENCES = ["the cat sat on the mat, don't!", "naïve café 🙂 日本語", "Hello world . it 's in the house"] * 5
TEXTS = ["the cat sat", " the  cat, don't ", "Hello 🙂 x", "naïve\n\n日本 it 's", "[PAD]the[UNK] cat"]
SUFFIX = {"end_of_word_suffix": "</w>"}
UNKNOWN = {"unk_token": "[UNK]"}
first = {"prepend_scheme": "first", "split": False}
strip_each = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
without_bytes = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
per_byte = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("▁", " ")])

# name → model, how a text is cut, decoder, trainer, kind of spelling
KINDS: dict[str, tuple[Any, Any, Any, Any, str]] = {
    "WordLevel": (models.WordLevel(**UNKNOWN), pre_tokenizers.Whitespace(), None, trainers.WordLevelTrainer, "words"),
    "WordPiece": (
        models.WordPiece(**UNKNOWN),
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
        trainers.WordPieceTrainer,
        "words",
    ),
    "word ends": (
        models.BPE(**UNKNOWN, **SUFFIX),
        pre_tokenizers.Whitespace(),
        decoders.BPEDecoder(),
        trainers.BpeTrainer,
        "words",
    ),
    "Unigram": (
        models.Unigram(),
        pre_tokenizers.Metaspace(),
        decoders.Metaspace(),
        trainers.UnigramTrainer,
        "words",
    ),
    "Metaspace": (
        models.BPE(**UNKNOWN),
        pre_tokenizers.Metaspace(**first),
        decoders.Metaspace(**first),
        trainers.BpeTrainer,
        "words",
    ),
    "characters": (models.BPE(**UNKNOWN), None, None, trainers.BpeTrainer, "words"),
    "fused": (models.BPE(**UNKNOWN), None, decoders.Fuse(), trainers.BpeTrainer, "words"),
    "stripped": (models.BPE(**UNKNOWN), pre_tokenizers.Metaspace(), strip_each, trainers.BpeTrainer, "words"),
    "pieces": (models.BPE(**UNKNOWN), pre_tokenizers.Metaspace(), without_bytes, trainers.BpeTrainer, "pieces"),
    "other bytes": (models.BPE(**UNKNOWN), pre_tokenizers.Metaspace(), per_byte, trainers.BpeTrainer, "whole"),
    "byte-level": (
        models.BPE(),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
        trainers.BpeTrainer,
        "bytes",
    ),
}


def backend_of(kind: str) -> Backend:
    model, cut, decoder, trainer, _ = KINDS[kind]
    backend = Backend(model)
    if cut is not None:
        backend.pre_tokenizer = cut
    if decoder is not None:
        backend.decoder = decoder
    options: dict[str, Any] = {"special_tokens": ["[UNK]", "[PAD]"], "vocab_size": 330, "show_progress": False}
    options |= UNKNOWN if kind == "Unigram" else {}
    options |= SUFFIX if kind == "word ends" else {}
    options |= {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()} if kind == "byte-level" else {}
    backend.train_from_iterator(SENTENCES, trainer(**options))
    return backend


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, Any]:
    """A tokenizer of ours and transformers' of the same vocabulary."""
    from transformers import PreTrainedTokenizerFast

    backend = backend_of(request.param)
    roles = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    tokenizer = Tokenizer(Parts(backend, roles))
    assert tokenizer.spelling.kind == KINDS[request.param][-1]
    return tokenizer, PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(backend.to_str()), **roles)


def test_ids_and_text_are_those_of_transformers(both: tuple[Tokenizer, Any]) -> None:
    tokenizer, reference = both
    for text in TEXTS:
        ids = reference(text).input_ids
        assert tokenizer.tokenize(text).ids[0].tolist() == ids
        assert "".join(streamed(tokenizer, ids, True)) == reference.decode(ids, skip_special_tokens=True)
    padded = reference(TEXTS, padding=True, padding_side="right")
    assert tokenizer.tokenize(TEXTS).ids.tolist() == padded.input_ids


@given(ids=st.lists(st.integers(0, 340), max_size=12), skip=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_ids_stream_to_the_text_that_transformers_decodes(
    both: tuple[Tokenizer, Any], ids: list[int], skip: bool
) -> None:
    tokenizer, reference = both
    if ids:
        assert tokenizer.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip)
    assert "".join(streamed(tokenizer, ids, skip)) == tokenizer.decode(ids, skip)


def test_every_piece_has_text_and_spans_stay_in_the_text(both: tuple[Tokenizer, Any]) -> None:
    tokenizer, _ = both
    for text in TEXTS:
        pieces = tokenizer.tokenize(text).pieces
        assert pieces is not None
        assert all(piece.bytes or not tokenizer.decode([piece.id], False) for piece in pieces[0])
        assert all(piece.span is None or 0 <= piece.span[0] <= piece.span[1] <= len(text) for piece in pieces[0])


@pytest.mark.parametrize(
    ("kind", "text", "pieces"),
    [
        ("WordLevel", "the cat", [" the", " cat"]),
        ("WordPiece", "the house!", [" the", " house", "!"]),
        ("word ends", "the cat", ["the ", "cat "]),
        ("byte-level", "the cat", ["the", " cat"]),
    ],
)
def test_a_piece_shows_the_spaces_that_its_decoder_writes(kind: str, text: str, pieces: list[str]) -> None:
    tokens = Tokenizer(Parts(backend_of(kind))).tokenize(text)
    assert tokens.pieces is not None
    assert [piece.text for piece in tokens.pieces[0]] == pieces


def test_words_come_as_they_settle_not_at_the_end() -> None:
    tokenizer = Tokenizer(Parts(backend_of("WordPiece")))
    ids = tokenizer.tokenize("the cat sat").ids[0].tolist()
    assert streamed(tokenizer, ids, True) == ["the", " cat", " sat", ""]


@pytest.mark.parametrize("kind", ["WordLevel", "Unigram", "Metaspace"])
def test_a_folder_with_such_a_vocabulary_loads(kind: str, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=backend_of(kind), unk_token="[UNK]").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    as_transformers(tmp_path, TEXTS)
