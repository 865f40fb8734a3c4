"""Tiny GGUF files for the tests: written by the gguf package, as llama.cpp's converter would, of random models."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from transformers import PreTrainedModel

from tests.tiny import build, llama

# The tensors of two architectures and transformers' names.
LLAMA_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "blk.{i}.attn_norm.weight": "model.layers.{i}.input_layernorm.weight",
    "blk.{i}.attn_q.weight": "model.layers.{i}.self_attn.q_proj.weight",
    "blk.{i}.attn_q.bias": "model.layers.{i}.self_attn.q_proj.bias",
    "blk.{i}.attn_k.weight": "model.layers.{i}.self_attn.k_proj.weight",
    "blk.{i}.attn_k.bias": "model.layers.{i}.self_attn.k_proj.bias",
    "blk.{i}.attn_v.weight": "model.layers.{i}.self_attn.v_proj.weight",
    "blk.{i}.attn_v.bias": "model.layers.{i}.self_attn.v_proj.bias",
    "blk.{i}.attn_output.weight": "model.layers.{i}.self_attn.o_proj.weight",
    "blk.{i}.attn_output.bias": "model.layers.{i}.self_attn.o_proj.bias",
    "blk.{i}.ffn_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blk.{i}.ffn_gate.weight": "model.layers.{i}.mlp.gate_proj.weight",
    "blk.{i}.ffn_gate.bias": "model.layers.{i}.mlp.gate_proj.bias",
    "blk.{i}.ffn_up.weight": "model.layers.{i}.mlp.up_proj.weight",
    "blk.{i}.ffn_up.bias": "model.layers.{i}.mlp.up_proj.bias",
    "blk.{i}.ffn_down.weight": "model.layers.{i}.mlp.down_proj.weight",
    "blk.{i}.ffn_down.bias": "model.layers.{i}.mlp.down_proj.bias",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
GPT2_NAMES = {
    "token_embd.weight": "transformer.wte.weight",
    "position_embd.weight": "transformer.wpe.weight",
    "blk.{i}.attn_norm.weight": "transformer.h.{i}.ln_1.weight",
    "blk.{i}.attn_norm.bias": "transformer.h.{i}.ln_1.bias",
    "blk.{i}.attn_qkv.weight": "transformer.h.{i}.attn.c_attn.weight",
    "blk.{i}.attn_qkv.bias": "transformer.h.{i}.attn.c_attn.bias",
    "blk.{i}.attn_output.weight": "transformer.h.{i}.attn.c_proj.weight",
    "blk.{i}.attn_output.bias": "transformer.h.{i}.attn.c_proj.bias",
    "blk.{i}.ffn_norm.weight": "transformer.h.{i}.ln_2.weight",
    "blk.{i}.ffn_norm.bias": "transformer.h.{i}.ln_2.bias",
    "blk.{i}.ffn_up.weight": "transformer.h.{i}.mlp.c_fc.weight",
    "blk.{i}.ffn_up.bias": "transformer.h.{i}.mlp.c_fc.bias",
    "blk.{i}.ffn_down.weight": "transformer.h.{i}.mlp.c_proj.weight",
    "blk.{i}.ffn_down.bias": "transformer.h.{i}.mlp.c_proj.bias",
    "output_norm.weight": "transformer.ln_f.weight",
    "output_norm.bias": "transformer.ln_f.bias",
    "output.weight": "lm_head.weight",
}
Tensors = dict[str, np.ndarray[Any, Any]]
LLAMA: dict[str, Any] = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 48,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10000.0,
    "rope.dimension_count": 8,
}
GPT2: dict[str, Any] = {
    "block_count": 2,
    "context_length": 16,
    "embedding_length": 32,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.layer_norm_epsilon": 1e-5,
}


def add_values(writer: GGUFWriter, values: dict[str, Any]) -> None:
    """Metadata, each value with the type that converters give its kind."""
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
        list: writer.add_array,
    }  # fmt: skip
    for key, value in values.items():
        adders[type(value)](key, value)


def finished(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(path: Path, architecture: str, values: dict[str, Any], tensors: Tensors, **whole: Any) -> Path:
    """A GGUF file; values are the architecture's, `whole` (with __ for .) are keys as they are."""
    writer = GGUFWriter(path, architecture)
    add_values(writer, {f"{architecture}.{key}": value for key, value in values.items()})
    add_values(writer, {key.replace("__", "."): value for key, value in whole.items()})
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    finished(writer)
    return path


def permuted(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """What llama.cpp does to q and k (convert_hf_to_gguf.py): halves of a head become neighbours."""
    shape = (heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return rows.reshape(shape).transpose(1, 2).reshape(rows.shape)


def as_gguf(
    state: dict[str, torch.Tensor], names: dict[str, str], to_ggml: Callable[[str, torch.Tensor], Any]
) -> Tensors:
    back = {re.escape(ours).replace(r"\{i\}", r"(\d+)"): theirs for theirs, ours in names.items()}
    tensors: Tensors = {}
    for name, tensor in state.items():
        for pattern, theirs in back.items():
            if match := re.fullmatch(pattern, name):
                layer = match[1] if match.re.groups else ""
                tensors[theirs.replace("{i}", layer)] = to_ggml(name, tensor.detach()).contiguous().numpy()
    return tensors


def tiny_llama(**changes: Any) -> PreTrainedModel:
    return build(llama(intermediate_size=48, num_hidden_layers=2, num_key_value_heads=2, rms_norm_eps=1e-5, **changes))


def llama_tensors(model: PreTrainedModel, tied: bool = False) -> Tensors:
    def to_ggml(name: str, tensor: torch.Tensor) -> torch.Tensor:
        heads = 4 if ".q_proj." in name else 2 if ".k_proj." in name else 0
        return permuted(tensor, heads) if heads else tensor

    state = {name: tensor for name, tensor in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    return as_gguf(state, LLAMA_NAMES, to_ggml)


def llama_file(path: Path, values: dict[str, Any] | None = None, extra: Tensors | None = None, **whole: Any) -> Path:
    return write(path, "llama", LLAMA | (values or {}), llama_tensors(tiny_llama()) | (extra or {}), **whole)
