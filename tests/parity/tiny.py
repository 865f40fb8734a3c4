"""Tiny random models of every family and option, made by transformers from a config: vocabulary 11, three layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GPT2Config, LlamaConfig, OPTConfig, PreTrainedModel

EOS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def opt(**over: Any) -> OPTConfig:
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 40}
    return OPTConfig(**{"vocab_size": 11, "max_position_embeddings": 32, **EOS, "pad_token_id": 1, **sizes, **over})


def gpt2(**over: Any) -> GPT2Config:
    sizes = {"n_embd": 24, "n_layer": 3, "n_head": 4}
    return GPT2Config(**{"vocab_size": 11, "n_positions": 32, **EOS, **sizes, **over})


def llama(**over: Any) -> LlamaConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    return LlamaConfig(**{"vocab_size": 11, "max_position_embeddings": 64, **EOS, **sizes, **over})


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
    "llama-head-width": llama(head_dim=16, num_key_value_heads=2),
    "llama-theta": llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama-linear": llama(**rope("linear", factor=2.0)),
    "llama-llama3": llama(**rope("llama3", **LLAMA3)),
    "llama-yarn": llama(**rope("yarn", **YARN)),
    "llama-yarn-fine": llama(**rope("yarn", **YARN, truncate=False, beta_fast=8.0, attention_factor=1.3)),
    "llama-gelu": llama(hidden_act="gelu_pytorch_tanh"),
}


def build(config: Any, seed: int = 0, scale: float = 0.3) -> PreTrainedModel:
    """A model with random weights, none of them zero or one: a bias or a gain that is lost must show."""
    torch.manual_seed(seed)
    model = getattr(transformers, type(config).__name__.replace("Config", "") + _HEADS[config.model_type])(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale + (1.0 if parameter.ndim == 1 else 0.0))
    return model.eval()


_HEADS = {"opt": "ForCausalLM", "gpt2": "LMHeadModel", "llama": "ForCausalLM"}


def saved(name: str, folder: Path, **kwargs: Any) -> tuple[Path, PreTrainedModel]:
    """The tiny model of that name, and a folder that it was saved to."""
    model = build(CONFIGS[name])
    model.save_pretrained(folder, **kwargs)
    return folder, model


@contextmanager
def block_outputs(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collects what each of transformers' own blocks returns, by hooks: the residual stream after it."""
    base = getattr(model.base_model, "decoder", model.base_model)
    blocks = base.h if hasattr(base, "h") else base.layers
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
