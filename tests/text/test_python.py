"""Tokenizers that transformers has as Python code only: ids, text and stream are its own, spans are found."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import cutaway
from cutaway.text.from_python import PythonBackend, aligned
from cutaway.text.tokenizer import Tokenizer
from tests.text.test_kinds import PAGE, compared, covers
from tests.tiny import build, gpt2

MERGES = "#version: 0.2\nt h\nth e</w>\nb r\no w\now n</w>\nu i\nc k</w>\n"
TOKENS = ["<unk>", "the", "quick", "t@@", "he@@", "br@@", "own", "f@@", "o@@", "x@@", ",", "q@@", "ui@@", "ck", "o"]


def ctrl(folder: Path) -> Path:
    """CTRL's tokenizer: words, spaces lost."""
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text(MERGES)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer", "unk_token": "<unk>"}')
    return folder


def without_files(name: str, folder: Path) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    return folder


FOLDERS = {
    "ByT5": lambda folder: without_files("ByT5Tokenizer", folder),
    "Canine": lambda folder: without_files("CanineTokenizer", folder),
    "CTRL": ctrl,
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_ids_text_and_stream_are_those_of_transformers_and_the_spans_cover_the_page(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    tokenizer = Tokenizer.from_folder(FOLDERS[kind](tmp_path))
    reference = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert isinstance(tokenizer.backend, PythonBackend)
    for text, spans in compared(tokenizer, reference):
        assert covers(text, sorted(spans)), text
    for role in ("bos", "eos", "pad"):
        assert getattr(tokenizer, f"{role}_id") == getattr(reference, f"{role}_token_id")
    padded = reference(PAGE[:2], padding=True) if reference.pad_token else None
    assert padded is None or tokenizer.tokenize(PAGE[:2]).ids.tolist() == padded.input_ids


def test_added_ids_are_shown_and_an_unknown_id_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    tokenizer = Tokenizer.from_folder(FOLDERS["ByT5"](tmp_path))
    tokens = tokenizer.tokenize("aé")
    assert tokens.pieces is not None
    assert [(p.span, p.special) for p in tokens.pieces[0]] == [
        ((0, 1), False),
        ((1, 2), False),
        ((1, 2), False),
        (None, True),
    ]
    assert tokenizer.decode([100, 9_999_999]) == tokenizer.decode([100]) == "a"


@pytest.mark.parametrize(
    ("text", "parts", "expected"),
    [
        ("the Cat", ["the", "cat"], [(0, 3), (4, 7)]),
        ("a 日 b", ["a", "<unk>", "b"], [(0, 1), (1, 4), (4, 5)]),  # between its neighbours
        ("日本", ["<unk>", "<unk>"], [(0, 2), (0, 2)]),
        ("x e", ["<unk>", "", "e"], [(0, 2), (0, 2), (2, 3)]),
    ],
)
def test_parts_are_found_in_order(text: str, parts: list[str], expected: list[Any]) -> None:
    assert aligned(text, parts) == expected


def test_a_model_with_one_generates_and_is_saved_with_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = build(gpt2(vocab_size=390, eos_token_id=1))
    model.save_pretrained(FOLDERS["ByT5"](tmp_path))
    lm = cutaway.load(tmp_path, device="cpu")
    out = lm.generate("naïve", max_new_tokens=5, add_special_tokens=False)
    assert out.new_ids[0] and out.text == lm.tokenizer.decode(out.new_ids[0])
    cutaway.quantize(tmp_path, tmp_path / "out")
    again = cutaway.load(tmp_path / "out", device="cpu")
    assert torch.equal(again.logits("naïve"), lm.logits("naïve"))
    in_memory = cutaway.load(model, tokenizer=AutoTokenizer.from_pretrained(tmp_path), device="cpu")
    assert torch.equal(in_memory.logits("naïve"), lm.logits("naïve"))
