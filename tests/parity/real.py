"""The real model of the tests: SmolLM2-135M-Instruct, fetched once, opened by cutaway and by transformers."""

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
]


@lru_cache(1)
def folder() -> Path:
    try:
        return resolve(None)
    except DownloadFailed as error:
        pytest.skip(f"the default model cannot be fetched here: {error}")


@lru_cache(1)
def ours() -> LM:
    return load(folder(), quantize=None, dtype="float32", device="cpu")


@lru_cache(1)
def theirs() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder(), dtype=torch.float32, attn_implementation="eager").eval()
