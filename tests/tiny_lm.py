"""Tiny whole models for the tests: random weights of any family with a small trained tokenizer of 300 tokens."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from cutaway.lm import LM, load
from tests.parity.tiny import build, gpt2, llama, opt

SENTENCES = ["the cat sat on the mat", "the dog ran to the cat", "naïve café 🙂🙂"] * 3
ALIKE: dict[str, Any] = {"vocab_size": 300, "eos_token_id": 0, "bos_token_id": None, "pad_token_id": 0}
CONFIGS = {
    "opt": opt(**ALIKE),
    "opt-350m-like": opt(**ALIKE, do_layer_norm_before=False, word_embed_proj_dim=16),
    "gpt2": gpt2(**ALIKE),
    "llama": llama(**ALIKE, num_key_value_heads=2),
}


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE with <|end|> as its end, beginning and padding, trained on three sentences."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def tiny_lm(name: str, folder: Path) -> LM:
    """The model of that name, saved to the folder and loaded from it."""
    build(CONFIGS[name]).save_pretrained(folder)
    save_tokenizer(folder)
    return load(folder, quantize=None, dtype="float32", device="cpu")
