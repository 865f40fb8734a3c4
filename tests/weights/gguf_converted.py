"""A GGUF of a transformers model, as llama.cpp's converter would write it: the gguf package's writer and its table of
names, and for each architecture the keys and layouts that the converter gives it.

It is written from what the converter does and knows nothing of how cutaway reads it.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.model_types import LINEAR, YARN, longrope, rope
from tests.weights.gguf_files import add_values, finished, permuted

# The names of architectures that are not the model type's
OTHERS = {
    "mistral": "llama", "gpt_bigcode": "starcoder", "gemma3_text": "gemma3", "gpt_neox": "gptneox", "phi": "phi2",
    "olmo3": "olmo2", "cohere": "command-r", "gpt_oss": "gpt-oss",
    "mixtral": "llama", "qwen3_moe": "qwen3moe",
}  # fmt: skip
PERMUTED = {"llama", "mistral", "mixtral", "olmo", "granite", "smollm3", "arcee"}
PLUS_ONE = {"gemma", "gemma2", "gemma3_text", "nemotron"}
NO_ROTATION = {"gpt2", "gpt_bigcode", "bloom", "mpt"}
# Whose converter writes its own keys instead of the common ones: no base, and a head's width only where named.
OWN_KEYS = {"gpt2", "gpt_bigcode", "gpt_neox", "phi", "bloom", "falcon", "mpt", "stablelm"}
WINDOWS = {"gemma2", "gemma3_text", "olmo3", "cohere2", "exaone4", "phi3", "gpt_oss"}
LISTED = {"olmo3", "exaone4"}  # which layers have a window is written

LLAMA3 = rope(rope_theta=500000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)  # fmt: skip
TWO = [{"full_attention": r, "sliding_attention": rope(rope_theta=t)} for r, t in ((LINEAR, 10000.0), (YARN, 10000.0))]
PLAIN = {"rope_parameters": [rope(rope_theta=10000.0)]}  # no base is written


def share(*shares: float, theta: float = 10000.0) -> dict[str, list[Any]]:
    return {"rope_parameters": [rope(rope_theta=theta, partial_rotary_factor=part) for part in shares]}


ROPES = {"rope_parameters": [rope(), LINEAR, YARN]}
ROPES3 = {"rope_parameters": [rope(), LINEAR, YARN, LLAMA3]}
SILU = {"hidden_act": ["silu"]}
TIED = {"tie_word_embeddings": [True]}  # the architecture has no head of its own
EVERY = {"sliding_window": [3, 5], "layer_types": [None]}
# What a GGUF cannot say of a type, or llama.cpp fixes, is drawn from these instead.
SAID: dict[str, dict[str, list[Any]]] = {
    "llama": SILU | ROPES3,
    "mistral": SILU | ROPES | {"sliding_window": [None]},
    "gpt2": {"activation_function": ["gelu_new"], "scale_attn_weights": [True],
             "scale_attn_by_inverse_layer_idx": [False]},
    "gpt_bigcode": {"activation_function": ["gelu_pytorch_tanh"], "scale_attn_weights": [True], "multi_query": [True]},
    "starcoder2": ROPES | {"hidden_act": ["gelu_pytorch_tanh"], "sliding_window": [None]},
    "qwen2": SILU | ROPES | {"use_sliding_window": [False]},
    "qwen3": SILU | ROPES | {"use_sliding_window": [False]},
    "gemma": ROPES | TIED | {"hidden_act": ["gelu_pytorch_tanh"]},
    "gemma2": ROPES | TIED | EVERY | {"attn_logit_softcapping": [2.0, 50.0],
                               "final_logit_softcapping": [3.0, 30.0], "head_dim": [8], "query_pre_attn_scalar": [8]},
    "gemma3_text": EVERY | {"rope_parameters": TWO, "head_dim": [16], "query_pre_attn_scalar": [16],
                            "attn_logit_softcapping": [None], "num_hidden_layers": [7]},
    "gpt_neox": share(0.25, 0.5, 1.0) | {"hidden_act": ["gelu"]},
    "phi": share(0.25, 0.5, 1.0) | {"hidden_act": ["gelu_new"], "qk_layernorm": [False], "intermediate_size": [128],
                                    "num_key_value_heads": [4]},
    "phi3": SILU | {"rope_parameters": [rope(partial_rotary_factor=0.5), longrope(4),
                                        longrope(2, partial_rotary_factor=0.5)]},
    "olmo2": SILU | ROPES, "olmo": SILU | ROPES,
    "olmo3": SILU | {"rope_parameters": [{"full_attention": YARN, "sliding_attention": rope()}]},
    "granite": SILU | ROPES, "smollm3": SILU | ROPES3 | {
        "use_sliding_window": [False], "no_rope_layers": [None], "no_rope_layer_interval": [4],
        "num_hidden_layers": [5],
    },
    "stablelm": SILU | share(0.25, 0.5, 1.0), "bloom": {"n_embed": [None]},
    "falcon": PLAIN | {"activation": ["gelu"], "architecture": [
        {"new_decoder_architecture": True, "num_kv_heads": 2},
        {"new_decoder_architecture": True, "num_kv_heads": 1, "num_ln_in_parallel_attn": 1},
        {"multi_query": True}, {"multi_query": False},
    ]},
    "mpt": {"attn_config": [{}, {"clip_qkv": 0.5}], "layer_norm_epsilon": [1e-5]},
    "cohere": SILU | TIED | {"rope_parameters": [rope()]},
    "cohere2": SILU | TIED | EVERY | {"rope_parameters": [rope()], "attention_bias": [False], "num_hidden_layers": [5]},
    "glm4": SILU | share(0.5, 1.0, theta=500.0), "exaone4": SILU | ROPES3,
    "seed_oss": SILU | ROPES,
    "arcee": ROPES3 | {"hidden_act": ["relu2"]},
    "nemotron": share(0.25, 0.5, 1.0, theta=500.0) | {"hidden_act": ["relu2"], "head_dim": [None]},
    "mixtral": SILU | ROPES | {"sliding_window": [None]},
    "qwen3_moe": SILU | ROPES | {"norm_topk_prob": [True], "use_sliding_window": [False]},
    "olmoe": SILU | ROPES | {"norm_topk_prob": [False]},
    "gpt_oss": {
        "swiglu_alpha": [1.702], "swiglu_limit": [7.0], "layer_types": [None],
        "rope_parameters": [None, rope(), YARN | {"truncate": False}],
    },
}  # fmt: skip


def architecture(model_type: str) -> str:
    return OTHERS.get(model_type, model_type)


def converted(
    model: PreTrainedModel, path: Path, stored: str = "F32", keys: Mapping[str, Any] = MappingProxyType({})
) -> Path:
    """Write the model's GGUF, matrices in blocks of that kind. keys: in place of the converter's; None: left out."""
    config, model_type = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, architecture(model_type))
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    metadata = {key: value for key, value in (dict(keys_of(config)) | dict(keys)).items() if value is not None}
    add_values(writer, {f"{architecture(model_type)}.{key}": value for key, value in metadata.items()})
    layers = config.num_hidden_layers
    number = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[architecture(model_type)]
    names = gguf.get_tensor_name_map(number, layers)
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if tied and name in ("lm_head.weight", "embed_out.weight"):
            continue
        for full, rows in layouts(config, name, tensor.detach().float()):
            theirs = names.get_name(full, try_suffixes=(".weight", ".bias"))
            assert theirs is not None, f"the gguf package has no name for {full} in {architecture(model_type)}"
            matrix = rows.ndim == 3 or (rows.ndim == 2 and "bias" not in theirs)
            kind = gguf.GGMLQuantizationType[stored if matrix and rows.shape[-1] % 32 == 0 else "F32"]
            writer.add_tensor(theirs, gguf.quantize(rows.contiguous().numpy(), kind), raw_dtype=kind)
    for theirs, factors in divisors(config):
        writer.add_tensor(theirs, factors)
    finished(writer)
    return path


def keys_of(config: Any) -> Iterator[tuple[str, Any]]:
    """Metadata without the architecture's prefix; None is not written."""
    kind, width, heads = config.model_type, config.hidden_size, config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or width // heads
    yield "block_count", config.num_hidden_layers
    lengths = ("max_position_embeddings", "max_seq_len", "seq_length")
    yield "context_length", next((getattr(config, name) for name in lengths if hasattr(config, name)), 2048)
    yield "embedding_length", width
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    yield "feed_forward_length", inner or getattr(config, "ffn_hidden_size", None) or 4 * width
    yield "attention.head_count", heads
    yield "attention.head_count_kv", kv_heads(config)
    yield "attention.layer_norm_rms_epsilon", getattr(config, "rms_norm_eps", None)
    yield "attention.layer_norm_epsilon", layer_eps(config)
    if kind not in OWN_KEYS and kind != "granite" and getattr(config, "head_dim", None):
        yield "attention.key_length", d_head
        yield "attention.value_length", d_head
    if kind in ("llama", "mistral", "granite", "smollm3"):
        yield "rope.dimension_count", d_head
        yield "vocab_size", config.vocab_size
    if kind not in NO_ROTATION:
        yield from rope_keys(config, d_head)
    yield from special(config)


def kv_heads(config: Any) -> int | None:
    if config.model_type in ("gpt2", "gpt_neox", "mpt"):
        return None
    if config.model_type == "gpt_bigcode":
        return 1
    if config.model_type == "falcon":
        return config.num_kv_heads if config.new_decoder_architecture or not config.multi_query else 1
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def layer_eps(config: Any) -> float | None:
    if config.model_type in ("olmo", "mpt"):
        return 1e-5
    names = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
    return next((getattr(config, name) for name in names if hasattr(config, name)), None)


def rope_keys(config: Any, d_head: int) -> Iterator[tuple[str, Any]]:
    rope = config.rope_parameters or {}
    rope = rope.get("full_attention", rope)
    share = rope.get("partial_rotary_factor", 1.0)
    if config.model_type in ("gpt_neox", "phi", "phi3", "stablelm", "nemotron", "glm4", "cohere2"):
        yield "rope.dimension_count", int(share * d_head)
    if config.model_type not in OWN_KEYS:
        yield "rope.freq_base", float(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        original = rope["original_max_position_embeddings"]
        yield "rope.scaling.original_context_length", original
        scale = config.max_position_embeddings / original
        yield "rope.scaling.attn_factor", math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    if kind in ("linear", "yarn"):
        yield "rope.scaling.type", kind
        yield "rope.scaling.factor", rope["factor"]
    if kind == "yarn":
        yield "rope.scaling.original_context_length", rope["original_max_position_embeddings"]


def special(config: Any) -> Iterator[tuple[str, Any]]:
    kind = config.model_type
    if kind in ("gpt_neox", "stablelm"):
        yield "use_parallel_residual", config.use_parallel_residual
    if kind == "olmo":
        yield "attention.clamp_kqv", config.clip_qkv
    if kind == "mpt":
        yield "attention.clamp_kqv", config.attn_config.clip_qkv
        yield "attention.max_alibi_bias", float(config.attn_config.alibi_bias_max)
    if kind == "granite":
        yield "attention.scale", config.attention_multiplier
        yield "embedding_scale", config.embedding_multiplier
        yield "residual_scale", config.residual_multiplier
        yield "logit_scale", config.logits_scaling
    if kind in ("cohere", "cohere2"):
        yield "logit_scale", config.logit_scale
    if kind in ("gemma2", "gemma3_text"):
        yield "final_logit_softcapping", config.final_logit_softcapping
    if kind == "gemma2":
        yield "attn_logit_softcapping", config.attn_logit_softcapping
    if getattr(config, "num_experts_per_tok", None):
        yield "expert_count", getattr(config, "num_experts", None) or config.num_local_experts
        yield "expert_used_count", config.num_experts_per_tok
    if kind in ("gpt_oss", "qwen3_moe"):
        yield "expert_feed_forward_length", getattr(config, "moe_intermediate_size", config.intermediate_size)
    if kind in WINDOWS:
        yield "attention.sliding_window", config.sliding_window or 0
    if kind in LISTED:
        yield "attention.sliding_window_pattern", [kind == "sliding_attention" for kind in config.layer_types]


def layouts(config: Any, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensor as the converter stores it, under the name that it looks up."""
    kind, heads = config.model_type, config.num_attention_heads
    if kind == "bloom":
        name = name.removeprefix("transformer.")
    if kind in PLUS_ONE and name.endswith("norm.weight"):
        tensor = tensor + 1
    if kind in PERMUTED and ".q_proj." in name:
        tensor = permuted(tensor, heads)
    if kind in PERMUTED and ".k_proj." in name:
        tensor = permuted(tensor, config.num_key_value_heads)
    if kind == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        tensor = tensor.T
    if kind in ("bloom", "gpt_neox", "falcon") and "query_key_value" in name:
        groups = heads if kind != "falcon" else kv_heads(config) or heads
        of_groups = tensor.reshape(groups, heads // groups + 2, config.hidden_size // heads, *tensor.shape[1:])
        parts = (of_groups[:, :-2], of_groups[:, -2], of_groups[:, -1])
        tensor = torch.cat([part.reshape(-1, *tensor.shape[1:]) for part in parts])
    if kind == "gpt_oss" and name.endswith("sinks"):
        name += ".weight"
    if kind == "gpt_oss" and ".experts." in name:
        leaf = "bias" if name.endswith("_bias") else "weight"
        name, rows = name.removesuffix("_bias"), tensor if leaf == "bias" else tensor.transpose(1, 2)
        halves = {"gate_proj": rows[:, ::2], "up_proj": rows[:, 1::2]} if "gate_up" in name else {"down_proj": rows}
        stem = name.rpartition(".")[0]
        yield from ((f"{stem}.{part}.{leaf}", half) for part, half in halves.items())
        return
    if ".experts.gate_up_proj" in name:
        gate, up = tensor.chunk(2, 1)
        yield from (
            (name.replace("gate_up_proj", f"{part}_proj.weight"), rows) for part, rows in (("gate", gate), ("up", up))
        )
        return
    if name.endswith(".experts.down_proj"):
        name += ".weight"
    if "layernorm.norms." in name:  # StableLM's heads, stacked when the first one is there
        stem, _, head = name.removesuffix(".weight").rpartition(".norms.")
        STACKED.setdefault(stem, []).append(tensor)
        count = heads if ".q_" in name else config.num_key_value_heads
        if int(head) + 1 == count:
            yield f"{stem}.weight", torch.stack(STACKED.pop(stem))
        return
    yield name, tensor


STACKED: dict[str, list[Tensor]] = {}


def divisors(config: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The tensors of rotary divisors, where the kind of scaling has them."""
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if rope.get("rope_type") == "longrope":
        for length in ("long", "short"):
            yield f"rope_factors_{length}.weight", np.array(rope[f"{length}_factor"], np.float32)
    if rope.get("rope_type") == "llama3":
        dims = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        plain = rope["rope_theta"] ** -(torch.arange(0, dims, 2).double() / dims)
        waves, original = 2 * math.pi / plain, rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        blend = ((original / waves - low) / (high - low)).clamp(0, 1)
        yield "rope_freqs.weight", (1 / ((1 - blend) / rope["factor"] + blend)).float().numpy()
