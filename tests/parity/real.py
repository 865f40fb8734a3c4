"""The real model of the tests: SmolLM2-135M-Instruct's GGUF, fetched once, opened by cutaway and by transformers."""

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from cutaway.ground.errors import DownloadFailed
from cutaway.lm import LM, load
from cutaway.weights.hub import resolve

PROMPTS = [
    "The capital of France is",
    "Once upon a time, a small robot",
    "def fibonacci(n):\n",
    "I love",
    "Water boils at a temperature of",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
    "1, 1, 2, 3, 5, 8, 13,",
    "Il était une fois une petite fille",
    "# Shopping list\n\n- milk\n- ",
    "SELECT name, age FROM people WHERE",
    "東京は日本の",
    'The chemist looked at the flask, sighed, and said: "',
]


@lru_cache(1)
def file() -> Path:
    try:
        return resolve(None)
    except DownloadFailed as error:
        pytest.skip(f"the default model cannot be fetched here: {error}")


@lru_cache(1)
def ours() -> LM:
    file()  # skips where there is none
    return load(quantize=None, dtype="float32", device="cpu")


@lru_cache(1)
def theirs() -> PreTrainedModel:
    """Their reading of the same file takes 20 s: once a session, so its tests share an xdist group."""
    path = file()
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
