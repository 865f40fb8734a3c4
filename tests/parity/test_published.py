"""config.json files as they stand on the hub, shrunk and filled with random weights: logits equal transformers'."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, LlamaConfig, OPTConfig

from cutaway.lm import load
from cutaway.model.cache import Cache
from cutaway.text.pieces import Tokens
from tests.tiny import build

HERE = Path(__file__).parents[1] / "published"
SHARED = Path(__file__).parents[2].parent / "shared" / "published"
CLASSES = {"opt": OPTConfig, "gpt2": GPT2Config, "llama": LlamaConfig}
OTHERS = {"openai-gpt", "llama-4-scout-17b-16e", "llava-1.5-7b-hf", "skywork-reward-llama-3.1-8b-v0.2"}
FILES = {f"{family}/{file.stem}": file for family in CLASSES for root in (SHARED, HERE)
         for file in sorted((root / family).glob("*.json")) if file.stem not in OTHERS}  # fmt: skip
VOCAB, HEADS, WIDTH = 300, 4, 64


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """The same with two layers, four heads and small widths; every other key and value verbatim."""
    heads = config.get("num_attention_heads", config.get("n_head", HEADS))
    sharing = heads // (config.get("num_key_value_heads") or heads)
    narrow = config.get("word_embed_proj_dim") != config.get("hidden_size")
    small = {
        "vocab_size": VOCAB, "hidden_size": WIDTH, "n_embd": WIDTH, "num_hidden_layers": 2, "n_layer": 2,
        "num_attention_heads": HEADS, "n_head": HEADS, "num_key_value_heads": max(1, HEADS // sharing),
        "intermediate_size": 96, "ffn_dim": 96, "head_dim": WIDTH // HEADS,
        "word_embed_proj_dim": 32 if narrow else WIDTH,
    }  # fmt: skip
    return {name: small[name] if name in small and value else value for name, value in config.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_published_config_equals_transformers_padded_and_cached(name: str, tmp_path: Path):
    config = shrunk(json.loads(FILES[name].read_text(encoding="utf-8")))
    given = {key: value for key, value in config.items() if key != "architectures"}
    theirs = build(CLASSES[name.split("/")[0]](**given), scale=0.2)
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = {k: v.contiguous() for k, v in theirs.state_dict().items()}
    if getattr(theirs.config, "tie_word_embeddings", True):
        state.pop("lm_head.weight")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    lm = load(tmp_path, quantize=None, device="cpu")

    rows = [[5, 9, 250, 17, 8], [7, 3, 33, 64, 128, 299, 12, 6]]
    ids = torch.tensor([[1, 1, 1, *rows[0]], rows[1]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
    tokens = Tokens.from_ids(ids, mask)
    logits, real = lm.logits(tokens), mask.bool()
    assert (logits[real] - expected[real]).abs().max() < 1e-4 and expected.std() > 0.1
    cache = Cache(lm.config.n_layers, 2, 8)
    with torch.inference_mode():
        parts = [lm.decoder(Tokens(ids[:, p], mask[:, p], tokens.positions[:, p]), cache)
                 for p in (slice(0, 5), slice(5, 6), slice(6, 7), slice(7, 8))]  # fmt: skip
    assert (torch.cat(parts, 1)[real] - expected[real]).abs().max() < 1e-4
