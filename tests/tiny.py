"""Every tiny model of the tests: configs, random weights of transformers' models, folders, a tokenizer, decoders.

Vocabulary 11 and three layers where a test gives ids (CONFIGS), vocabulary 300 with a trained tokenizer where it gives
texts (WITH_TOKENIZER). It does not know what is tested.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import GPT2Config, LlamaConfig, OPTConfig, PreTrainedModel

from cutaway.ground.config import DecoderConfig
from cutaway.lm import LM, load
from cutaway.model.decoder import Decoder
from cutaway.quant.formats import Mode, quantize_weight
from cutaway.text.pieces import Tokens
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.families import facts_of
from cutaway.weights.load import load_decoder
from tests.model_types import IDS, VOCAB, drawn

TEXT: dict[str, Any] = {"vocab_size": 300, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
SENTENCES = ["the cat sat on the mat", "the dog ran to the cat", "naïve café 🙂🙂"] * 3


def opt(**over: Any) -> OPTConfig:
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 40}
    return OPTConfig(**{"max_position_embeddings": 32, **IDS, "pad_token_id": 1, **sizes, **over})


def gpt2(**over: Any) -> GPT2Config:
    return GPT2Config(**{"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 32, **IDS, **over})


def llama(**over: Any) -> LlamaConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    return LlamaConfig(**{"max_position_embeddings": 64, **IDS, **sizes, **over})


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}

CONFIGS = {
    "opt": opt(),
    "opt-125m-like": opt(hidden_size=48, num_attention_heads=12, ffn_dim=192),
    "opt-350m-like": opt(do_layer_norm_before=False, word_embed_proj_dim=16),
    "opt-post-norm": opt(do_layer_norm_before=False),
    "opt-projected": opt(word_embed_proj_dim=16),
    "opt-no-bias": opt(enable_bias=False),
    "opt-no-final-norm": opt(_remove_final_layer_norm=True),
    "opt-gelu": opt(activation_function="gelu"),
    "opt-untied": opt(tie_word_embeddings=False),
    "gpt2": gpt2(),
    "gpt2-inner": gpt2(n_inner=40, layer_norm_epsilon=1e-3),
    "gpt2-untied": gpt2(tie_word_embeddings=False),
    "llama": llama(),
    "llama-gqa": llama(num_key_value_heads=2),
    "llama-mqa": llama(num_key_value_heads=1),
    "llama-tied": llama(tie_word_embeddings=True),
    "llama-biases": llama(attention_bias=True, mlp_bias=True),
    "llama-head-width": llama(head_dim=16, num_key_value_heads=2, intermediate_size=40),  # no multiple of 16: not fused
    "llama-theta": llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama-linear": llama(**rope("linear", factor=2.0)),
    "llama-llama3": llama(**rope("llama3", **LLAMA3)),
    "llama-yarn": llama(**rope("yarn", **YARN)),
    "llama-yarn-fine": llama(**rope("yarn", **YARN, truncate=False, beta_fast=8.0, attention_factor=1.3)),
    "llama-gelu": llama(hidden_act="gelu_pytorch_tanh"),
}
# Of the other types those that together have every fact of the decoder; all types: parity/test_model_types.py.
CONFIGS |= {
    f"{model_type}-drawn": drawn(model_type, 0, **over)
    for model_type, over in {
        "gemma2": {}, "olmo2": {}, "bloom": {}, "gptj": {}, "smollm3": {}, "mixtral": {}, "olmoe": {},
        "gpt_oss": {"swiglu_limit": 0.5},
        "stablelm": {"qk_layernorm": True},
        "cohere": {"use_qk_norm": True}, "olmo": {"clip_qkv": 0.5},
        "granite": {"residual_multiplier": 0.3, "embedding_multiplier": 3.0, "attention_multiplier": 0.1},
    }.items()
}  # fmt: skip
WITH_TOKENIZER = {
    "opt": opt(**TEXT),
    "opt-350m-like": opt(**TEXT, do_layer_norm_before=False, word_embed_proj_dim=16),
    "gpt2": gpt2(**TEXT),
    "llama": llama(**TEXT, num_key_value_heads=2),
    "gemma2-drawn": drawn("gemma2", 0, **TEXT),
    "gptj-drawn": drawn("gptj", 0, **TEXT),
}


def build(config: Any, seed: int = 0, scale: float = 0.3, attention: str | None = None) -> PreTrainedModel:
    """A model with random weights, none of them zero or one: a bias or a gain that is lost must show."""
    torch.manual_seed(seed)
    if attention == "eager" and getattr(config, "alibi", False):
        attention = "sdpa"  # Falcon's eager attention adds ALiBi twice
    # a copy: a model writes its dtype into its config, which other tests build from
    model = transformers.AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=attention)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale + (1.0 if parameter.ndim == 1 else 0.0))
    return model.eval()


def saved(name: str, folder: Path, **kwargs: Any) -> tuple[Path, PreTrainedModel]:
    """The model of that name in CONFIGS, and a folder that it was saved to."""
    model = build(CONFIGS[name], scale=0.15 if name.endswith("-drawn") else 0.3)
    model.save_pretrained(folder, **kwargs)
    return folder, model


def set_config(folder: Path, **over: Any) -> dict[str, Any]:
    """Writes config.json with other values, ... for none, and gives it back."""
    config = json.loads((folder / "config.json").read_text()) | over
    config = {name: value for name, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    return config


def decoder(name: str, folder: Path, dtype: torch.dtype = torch.float32, quantize: str | None = None) -> Decoder:
    """The model of that name in CONFIGS, saved to the folder and loaded from it."""
    return load_decoder(open_checkpoint(saved(name, folder)[0]), dtype=dtype, device="cpu", quantize=quantize)


def byte_level(sentences: Sequence[str] = SENTENCES, size: int = 300, special: Sequence[str] = ("<|end|>",)) -> Backend:
    """A byte-level BPE of so many tokens, trained on the sentences; the special ones have the first ids."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(sentences, trainer)
    return backend


def save_tokenizer(folder: Path) -> None:
    """`byte_level`, with <|end|> as its end, beginning and padding."""
    byte_level().save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def tiny_lm(name: str, folder: Path, quantize: str | None = None, dtype: str = "float32") -> LM:
    """The model of that name in WITH_TOKENIZER, saved to the folder and loaded from it."""
    build(WITH_TOKENIZER[name], scale=0.15 if name.endswith("-drawn") else 0.3).save_pretrained(folder)
    save_tokenizer(folder)
    return load(folder, quantize=quantize, dtype=dtype, device="cpu")


@contextmanager
def block_outputs(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collects what each of transformers' own blocks returns, by hooks: the residual stream after it."""
    base = getattr(model.base_model, "decoder", model.base_model)
    blocks = next(getattr(base, name) for name in ("h", "layers", "blocks") if hasattr(base, name))
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def facts(config: Any) -> DecoderConfig:
    return facts_of(config.to_dict(), lambda note: None)[1]


def random_decoder(config: Any) -> Decoder:
    """A decoder of these facts that no file was read for."""
    decoder, generator = Decoder(facts(config)), torch.Generator().manual_seed(5)
    for parameter in decoder.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    return decoder.eval()


class Scripted(Decoder):
    """Logits of the next token are a row of a table, chosen by the last token alone: a bigram model."""

    def __init__(self, table_VV: Tensor, n_positions: int = 64) -> None:
        nn.Module.__init__(self)
        self.config = facts(llama(max_position_embeddings=n_positions, vocab_size=len(table_VV)))
        self.table = table_VV
        self.calls: list[tuple[list[int], Tensor | None, Tensor]] = []

    def forward(self, tokens, cache=None, tap=None, last=None):
        self.calls.append((list(tokens.ids.shape), last, tokens.positions))
        if cache is not None:
            cache.admit(tokens)
        logits_BTV = self.table[tokens.ids]
        if last is None:
            return logits_BTV
        return logits_BTV[torch.arange(len(last)), last][:, None]


def successor(n_positions: int = 64) -> Scripted:
    """After token i always comes token i + 1, and after the last one token 0."""
    return Scripted(torch.eye(VOCAB).roll(1, 1) * 10, n_positions)


def batch(*rows: list[int], side: str = "right", pad: int = 0) -> Tokens:
    """Rows of ids, padded on that side to the longest."""
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill = width - len(row)
        left, right = (fill, 0) if side == "left" else (0, fill)
        ids.append([pad] * left + row + [pad] * right)
        mask.append([0] * left + [1] * len(row) + [0] * right)
    return Tokens.from_ids(ids, torch.tensor(mask))


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def layer(n: int, k: int, seed: int = 0, mode: Mode = "int8") -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale and bias of a linear layer in 8 bits."""
    codes, scale = quantize_weight(noise(n, k, seed=seed), mode)
    return codes, scale, noise(n, seed=seed + 1)
