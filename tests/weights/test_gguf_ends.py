"""Ends of a text that a GGUF names: by key and by spelling, and what generating does at them."""

from pathlib import Path
from typing import Any

import pytest
import torch

import cutaway
from cutaway.weights.checkpoint import open_checkpoint
from tests.weights.gguf_files import llama_file

CONTROL, NORMAL, USER = 3, 1, 4
BYTES = ["a", "b", "c", "d", "e", "f", "g"]


def file(path: Path, tokens: list[str], types: list[int], **keys: int) -> Path:
    """The tiny llama of 11 tokens with a byte-level vocabulary: these tokens, then letters."""
    spelled = [*tokens, *BYTES][:11]
    whole: dict[str, Any] = {
        "tokenizer__ggml__model": "gpt2", "tokenizer__ggml__pre": "llama-bpe", "tokenizer__ggml__tokens": spelled,
        "tokenizer__ggml__token_type": [*types, *[NORMAL] * 11][: len(spelled)], "tokenizer__ggml__merges": ["a b"],
    }  # fmt: skip
    whole["tokenizer__ggml__tokens"][-1] = "ab"
    return llama_file(path / "m.gguf", **whole, **{f"tokenizer__ggml__{key}": id_ for key, id_ in keys.items()})


def test_f10_a_text_ends_at_eos_eot_and_eom(tmp_path: Path) -> None:
    tokens = ["<end>", "<turn>", "<message>", "<other>"]
    path = file(tmp_path, tokens, [CONTROL] * 4, eos_token_id=0, eot_token_id=1, eom_token_id=2)
    checkpoint = open_checkpoint(path)
    assert checkpoint.eos_ids == {0, 1, 2}
    assert checkpoint.notes == []
    lm = cutaway.load(path, quantize=None)
    assert lm.eos_ids == {0, 1, 2}
    for end in (1, 2):  # the head made to say this token next
        with torch.no_grad():
            lm.decoder.unembed.head.weight.zero_()
            last = lm.trace("ab", "ln_final.out", positions=-1)["ln_final.out"][0, 0]
            lm.decoder.unembed.head.weight[end] = last
        assert lm.generate("ab", max_new_tokens=4).new_ids == ((end,),)


def test_ends_that_only_their_spelling_tells_are_taken_and_shown(tmp_path: Path) -> None:
    tokens = ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>"]
    path = file(tmp_path, tokens, [CONTROL, CONTROL, USER, NORMAL], eos_token_id=0)
    checkpoint = open_checkpoint(path)
    assert checkpoint.eos_ids == {0, 1, 2}  # <|im_end|> is a word of the text here
    lm = cutaway.load(path, quantize=None)
    assert lm.notes == [] and lm.tokenizer.special_ids >= {0, 1, 2}
    assert "a text ends at ⟨<|end_of_text|>⟩ (id 0), ⟨<|eot_id|>⟩ (id 1), ⟨<|" in str(lm)


def test_one_end_is_one_id(tmp_path: Path) -> None:
    path = file(tmp_path, ["<end>", "x", "y", "z"], [CONTROL, NORMAL, NORMAL, NORMAL], eos_token_id=0)
    assert open_checkpoint(path).config["eos_token_id"] == 0


@pytest.mark.parametrize("pad", [11, 4_294_967_295])
def test_an_id_that_no_token_has_is_passed_over_and_said(tmp_path: Path, pad: int) -> None:
    path = file(tmp_path, ["<end>", "x", "y", "z"], [CONTROL], eos_token_id=0, padding_token_id=pad)
    lm = cutaway.load(path, quantize=None)
    assert "pad_token_id" not in lm.checkpoint.config and lm.tokenizer.pad_id is None
    assert lm.eos_ids == {0}


def test_ids_run_without_a_tokenizer(tmp_path: Path) -> None:
    path = llama_file(tmp_path / "m.gguf", tokenizer__ggml__model="no_vocab", tokenizer__ggml__eos_token_id=5)
    lm = cutaway.load(path, quantize=None)
    assert lm.eos_ids == {5}
    assert lm.logits(torch.tensor([[1, 2]])).shape == (1, 2, 11)
