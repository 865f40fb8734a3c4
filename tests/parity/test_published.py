"""config.json files as they stand on the hub, shrunk and filled with random weights: logits equal transformers'."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from cutaway.lm import load
from cutaway.model.cache import Cache
from cutaway.text.pieces import Tokens
from cutaway.weights.families import supported
from cutaway.weights.text_part import TYPES
from tests.parity.test_model_types import inputs, near
from tests.tiny import build

HERE = Path(__file__).parents[1] / "published"
SHARED = Path(__file__).parents[2].parent / "shared" / "published"
CLASSIFIER = "skywork-reward-llama-3.1-8b-v0.2"
APART = ("gguf", "generation", "tokenizer", "lora")
REFUSED = (CLASSIFIER, "gpt2-gptq", "llama-2-7b-awq")
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def is_ours(file: Path) -> bool:
    config = json.loads(file.read_text(encoding="utf-8"))
    return config.get("model_type", "gpt2") in (*supported(), *TYPES) and file.stem not in REFUSED


FILES = {f"{file.parent.name}/{file.stem}": file for root in (SHARED, HERE) for file in sorted(root.glob("*/*.json"))
         if file.parent.name not in APART and is_ours(file)}  # fmt: skip
VOCAB, HEADS, WIDTH, LAYERS = 300, 4, 64, 6


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """The same with few layers, four heads and small widths; every other key and value verbatim."""
    heads = config.get("num_attention_heads", config.get("n_head", HEADS))
    kv_heads = config.get("num_key_value_heads") or config.get("num_kv_heads") or heads
    groups = max(1, HEADS * kv_heads // heads)
    narrow = config.get("word_embed_proj_dim") != config.get("hidden_size")
    small = {
        "vocab_size": VOCAB, "intermediate_size": 96, "ffn_dim": 96, "moe_intermediate_size": 48,
        "head_dim": WIDTH // HEADS, "rotary_dim": 8,
        "word_embed_proj_dim": 32 if narrow else WIDTH, "num_key_value_heads": groups, "num_kv_heads": groups,
        "attention_types": [[["global", "local"], LAYERS // 2]],
        **dict.fromkeys(("hidden_size", "n_embd", "n_embed", "d_model"), WIDTH),
        **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), HEADS),
        **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    }  # fmt: skip
    config = {name: small[name] if name in small and value else value for name, value in config.items()}
    config |= {name: config[name][:LAYERS] for name in ("layer_types", "attention_layers") if config.get(name)}
    scaling = config.get("rope_scaling") or {}
    if "long_factor" in scaling:  # one for each pair
        pairs = int(WIDTH // HEADS * config.get("partial_rotary_factor", 1.0)) // 2
        config["rope_scaling"] = scaling | {name: scaling[name][:pairs] for name in ("short_factor", "long_factor")}
    return config


@pytest.mark.parametrize("name", FILES)
def test_a_published_config_equals_transformers_padded_and_cached(name: str, tmp_path: Path):
    whole = json.loads(FILES[name].read_text(encoding="utf-8"))
    inside = whole.get("model_type") in TYPES  # it leaves out sizes that are the defaults
    config = shrunk(dict.fromkeys(SIZES, 1) | whole["text_config"] if inside else whole)
    given = {key: value for key, value in config.items() if key not in ("architectures", "model_type", "torch_dtype")}
    given |= {
        "dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }  # the published ones lie outside
    kind = config.get("model_type", "gpt2")
    theirs = build(transformers.AutoConfig.for_model(kind, **given), scale=0.15, attention="eager")
    (tmp_path / "config.json").write_text(json.dumps(whole | {"text_config": config} if inside else config))
    state = {k: v.contiguous() for k, v in theirs.state_dict().items()}
    if getattr(theirs.config, "tie_word_embeddings", True):
        state.pop("lm_head.weight")
    if inside:
        state = {f"language_model.{k}": v for k, v in state.items()}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    lm = load(tmp_path, quantize=None, device="cpu")

    rows = [[5, 9, 250, 17, 8], [7, 3, 33, 64, 128, 299, 12, 6]]
    ids = torch.tensor([[1, 1, 1, *rows[0]], rows[1]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])
    with torch.no_grad():
        tokens = Tokens.from_ids(ids, mask)
        expected = theirs(**inputs(theirs, tokens)).logits
    logits, real = lm.logits(tokens), mask.bool()
    assert near(logits[real], expected[real]) and expected.std() > 0.1 * lm.config.logit_scale
    cache = Cache(lm.config.n_layers, 2, 8)
    with torch.inference_mode():
        parts = [lm.decoder(Tokens(ids[:, p], mask[:, p], tokens.positions[:, p]), cache)
                 for p in (slice(0, 5), slice(5, 6), slice(6, 7), slice(7, 8))]  # fmt: skip
    assert near(torch.cat(parts, 1)[real], expected[real])
