"""The merges of a text's pieces: each leads from characters to the piece by the lowest rank, as the backend merges."""

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from cutaway.lm import load
from cutaway.text.parts import Parts
from cutaway.text.tokenizer import Tokenizer
from tests.tiny import byte_level


def test_the_merges_lead_from_characters_to_the_pieces():
    tokenizer = Tokenizer(Parts(byte_level(), {"eos_token": "<|end|>"}))
    pieces = tokenizer.tokenize("the cat<|end|> naïve 🙂").pieces[0]
    made, whole = tokenizer.merges(pieces)
    assert whole == 0 and made
    for number, piece in enumerate(pieces):
        token, own = tokenizer.token(piece.id), [merge for merge in made if merge.piece == number]
        assert len(own) == (0 if piece.special else len(token) - 1)
        assert not own or own[-1].result == token
    vocabulary = tokenizer.backend.get_vocab()
    assert all(merge.result in vocabulary for merge in made)


def test_by_hand_and_where_the_vocabulary_merges_nothing():
    vocab = {piece: i for i, piece in enumerate(["a", "b", "c", "ab", "bc", "abc", "whole"])}
    backend = Backend(models.BPE(vocab=vocab, merges=[("b", "c"), ("a", "b"), ("a", "bc")]))
    tokenizer = Tokenizer(Parts(backend, {}))
    made, whole = tokenizer.merges([*tokenizer.pieces([5]), *tokenizer.pieces([6, 0])])
    assert [(merge.left, merge.right, merge.rank) for merge in made] == [("b", "c", 0), ("a", "bc", 2)]
    assert whole == 1  # "whole", which no merges make
    other = Tokenizer(Parts(Backend(models.WordLevel({"the": 0}, "the")), {}))
    assert other.merges(other.pieces([0])) is None


@pytest.mark.real
def test_every_piece_of_the_default_model_was_merged():
    tokenizer = load().tokenizer
    pieces = tokenizer.tokenize("The capital of France is antidisestablishmentarianism,\n\n  naïve 日本.").pieces[0]
    made, whole = tokenizer.merges(pieces)
    last = {merge.piece: merge.result for merge in made}
    assert whole == 0 and all(
        last[i] == tokenizer.token(p.id) for i, p in enumerate(pieces) if len(tokenizer.token(p.id)) > 1
    )
