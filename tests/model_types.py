"""The model types and the options of each: what a random configuration of a type is drawn from, seed by seed.

Sizes are small; every option that changes the pass has its values here. It does not know what is tested.
"""

import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import transformers
from transformers import PretrainedConfig

VOCAB = 11
SEEDS = range(12)
IDS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
HF = {
    "vocab_size": [VOCAB], "hidden_size": [32], "num_hidden_layers": [3], "num_attention_heads": [4],
    "intermediate_size": [40, 48], "max_position_embeddings": [64], "tie_word_embeddings": [False, True],
}  # fmt: skip
GPT = {
    "n_embd": [32], "n_layer": [3], "n_head": [4], "n_positions": [64], "n_inner": [None, 40],
    "layer_norm_epsilon": [1e-5, 1e-3], "activation_function": ["gelu_new", "relu", "gelu"],
    "tie_word_embeddings": [True, False],
}  # fmt: skip
GROUPS, RMS, BIAS = (
    {"num_key_value_heads": [4, 2, 1]},
    {"rms_norm_eps": [1e-6, 1e-3]},
    {"attention_bias": [False, True]},
)
SILU = {"hidden_act": ["silu", "silu", "gelu_pytorch_tanh", "relu"]}
EXPERTS = {"num_experts_per_tok": [2, 1, 3], "num_hidden_layers": [3]}
HEAD = {"head_dim": [None, 8, 16]}
KINDS = {"layer_types": [None, ["sliding_attention", "full_attention", "sliding_attention"],
                         ["full_attention", "full_attention", "sliding_attention"]]}  # fmt: skip


def rope(**more: Any) -> dict[str, Any]:
    return {"rope_theta": 500.0, "rope_type": "default", **more}


YARN = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
LLAMA3 = rope(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
LINEAR, DYNAMIC = rope(rope_type="linear", factor=2.0), rope(rope_type="dynamic", factor=2.0)
PROPORTIONAL = rope(rope_type="proportional", factor=2.0, partial_rotary_factor=0.5)
ROPES = {"rope_parameters": [None, rope(), LINEAR, DYNAMIC, YARN, LLAMA3, PROPORTIONAL]}


def longrope(pairs: int, **more: Any) -> dict[str, Any]:
    factors = {"short_factor": [1.0 + i / 8 for i in range(pairs)], "long_factor": [2.0 + i for i in range(pairs)]}
    return rope(rope_type="longrope", **{**factors, **more})


def partial(*shares: float, more: Sequence[Any] = ()) -> dict[str, list[Any]]:
    scaled = [kind | {"partial_rotary_factor": 0.5} for kind in (LINEAR, DYNAMIC, YARN, LLAMA3)]
    return {"rope_parameters": [rope(partial_rotary_factor=share) for share in shares] + scaled + list(more)}


TWO_ROPES = {"rope_parameters": [
    None,
    {"full_attention": LINEAR, "sliding_attention": rope(rope_theta=70.0)},
    {"full_attention": YARN, "sliding_attention": rope()},
    {"full_attention": PROPORTIONAL, "sliding_attention": rope()},
]}  # fmt: skip
OPTIONS: dict[str, dict[str, list[Any]]] = {
    "opt": {
        "vocab_size": [VOCAB], "hidden_size": [32], "num_hidden_layers": [3], "num_attention_heads": [4, 8],
        "ffn_dim": [40], "max_position_embeddings": [64], "do_layer_norm_before": [True, True, False],
        "word_embed_proj_dim": [32, 32, 16], "enable_bias": [True, False], "tie_word_embeddings": [True, False],
        "layer_norm_elementwise_affine": [True, False], "activation_function": ["relu", "gelu"],
        "_remove_final_layer_norm": [False, True],
    },
    "gpt2": GPT | {"scale_attn_weights": [True, False], "scale_attn_by_inverse_layer_idx": [False, True]},
    "llama": HF | GROUPS | RMS | BIAS | SILU | HEAD | ROPES | {"mlp_bias": [False, True]},
    "mistral": HF | GROUPS | RMS | SILU | HEAD | ROPES | {"sliding_window": [None, 3, 4, 100]},
    "qwen2": HF | GROUPS | RMS | SILU | ROPES
    | {"use_sliding_window": [False, True], "sliding_window": [4, 2], "max_window_layers": [0, 1, 2]},
    "qwen3": HF | GROUPS | RMS | SILU | ROPES | BIAS | {"head_dim": [8, 16]}
    | {"use_sliding_window": [False, True], "sliding_window": [4, 2], "max_window_layers": [0, 1, 2]},
    "gpt_neox": HF | BIAS | {"hidden_act": ["gelu", "gelu_fast", "relu"], "layer_norm_eps": [1e-5, 1e-3]}
    | {"use_parallel_residual": [True, False]} | partial(0.25, 0.5, 1.0),
    "gemma": HF | GROUPS | RMS | BIAS | ROPES | {"head_dim": [8, 16], "hidden_act": ["gelu_pytorch_tanh", "gelu"]},
    "gemma2": HF | GROUPS | RMS | BIAS | ROPES | KINDS | {
        "head_dim": [8, 16], "query_pre_attn_scalar": [8, 24], "sliding_window": [3, 5],
        "attn_logit_softcapping": [None, 2.0, 50.0], "final_logit_softcapping": [None, 3.0, 30.0],
    },
    "gemma3_text": HF | GROUPS | RMS | BIAS | KINDS | TWO_ROPES | {
        "head_dim": [8, 16], "query_pre_attn_scalar": [8, 24], "sliding_window": [3, 5],
        "attn_logit_softcapping": [None, 2.0], "final_logit_softcapping": [None, 3.0],
    },
    "phi": HF | GROUPS | {"hidden_act": ["gelu_new", "relu"], "layer_norm_eps": [1e-5, 1e-3]}
    | {"qk_layernorm": [False, True]} | partial(0.25, 0.5, 1.0),
    "phi3": HF | GROUPS | RMS | SILU | {
        "sliding_window": [None, 4], "original_max_position_embeddings": [16, 3],
        "rope_parameters": [None, rope(partial_rotary_factor=0.5), longrope(4), longrope(2, partial_rotary_factor=0.5)],
    },
    "olmo2": HF | GROUPS | RMS | BIAS | SILU | ROPES,
    "olmo": HF | GROUPS | BIAS | SILU | ROPES | {"clip_qkv": [None, 0.5, 2.0]},
    "olmo3": HF | GROUPS | RMS | BIAS | SILU | KINDS | TWO_ROPES | {"sliding_window": [3, 5]},
    "granite": HF | GROUPS | RMS | BIAS | SILU | ROPES | {
        "mlp_bias": [False, True], "embedding_multiplier": [1.0, 3.0], "logits_scaling": [1.0, 4.0],
        "residual_multiplier": [1.0, 0.3], "attention_multiplier": [1.0, 0.1],
    },
    "smollm3": HF | GROUPS | RMS | BIAS | SILU | ROPES | {
        "mlp_bias": [False, True], "no_rope_layers": [None, [1, 0, 1], [0, 0, 0]], "no_rope_layer_interval": [2, 4],
        "use_sliding_window": [False, True], "sliding_window": [3, 5],
    },
    "stablelm": HF | GROUPS | SILU | {"layer_norm_eps": [1e-5, 1e-3], "use_qkv_bias": [False, True]}
    | {"qk_layernorm": [False, True], "use_parallel_residual": [False, True]} | partial(0.25, 0.5, 1.0),
    "starcoder2": HF | GROUPS | ROPES | {
        "hidden_act": ["gelu_pytorch_tanh", "relu"], "norm_epsilon": [1e-5, 1e-3], "use_bias": [True, False],
        "sliding_window": [None, 4],
    },
    "bloom": {
        "vocab_size": [VOCAB], "hidden_size": [32], "n_layer": [3], "n_head": [4, 8, 2],
        "layer_norm_epsilon": [1e-5, 1e-3], "tie_word_embeddings": [True, False],
    } | {"n_embed": [None, 48]},
    "falcon": {
        "vocab_size": [VOCAB], "hidden_size": [32], "num_hidden_layers": [3], "num_attention_heads": [4],
        "max_position_embeddings": [64], "layer_norm_epsilon": [1e-5, 1e-3], "bias": [False, True],
        "ffn_hidden_size": [None, 40], "activation": ["gelu", "relu"], "tie_word_embeddings": [True, False],
        "architecture": [
            {"new_decoder_architecture": True, "num_kv_heads": 2},
            {"new_decoder_architecture": True, "num_kv_heads": 1, "num_ln_in_parallel_attn": 1},
            {"multi_query": True}, {"multi_query": False}, {"multi_query": True, "parallel_attn": False},
            {"multi_query": False, "parallel_attn": False, "alibi": True}, {"multi_query": True, "alibi": True},
            {"multi_query": False, "alibi": True, "hidden_size": 48, "num_attention_heads": 6},
        ],
    } | ROPES,
    "mpt": {
        "vocab_size": [VOCAB], "n_layers": [3], "max_seq_len": [64], "tie_word_embeddings": [True, False],
        "layer_norm_epsilon": [1e-5, 1e-3], "shape": [{"d_model": 32, "n_heads": 4}, {"d_model": 48, "n_heads": 6}],
        "attn_config": [{}, {"clip_qkv": 0.5}, {"softmax_scale": 0.7}],
    },
    "gptj": GPT | {"rotary_dim": [4, 8]},
    "codegen": GPT | {"rotary_dim": [4, 8], "n_head": [4, 8], "n_embd": [64]},
    "gpt_neo": {
        "vocab_size": [VOCAB], "hidden_size": [32], "num_heads": [4], "max_position_embeddings": [64],
        "intermediate_size": [None, 40], "window_size": [3, 5], "activation_function": ["gelu_new", "relu"],
        "layer_norm_epsilon": [1e-5, 1e-3], "tie_word_embeddings": [True, False], "num_layers": [3],
        "attention_types": [[[["global", "local", "global"], 1]], [[["local"], 2], [["global"], 1]]],
    },
    "gpt_bigcode": GPT | {"multi_query": [True, False], "scale_attn_weights": [True, False]},
    "cohere": HF | GROUPS | BIAS | SILU | ROPES | {
        "layer_norm_eps": [1e-5, 1e-3], "logit_scale": [1.0, 0.0625], "use_qk_norm": [False, True],
    },
    "cohere2": HF | GROUPS | BIAS | SILU | ROPES | KINDS | {
        "layer_norm_eps": [1e-5, 1e-3], "logit_scale": [1.0, 0.0625], "sliding_window": [3, 5],
    },
    "glm4": HF | GROUPS | RMS | BIAS | SILU | {"head_dim": [8, 16]} | partial(0.5, 1.0, more=[PROPORTIONAL]),
    "exaone4": HF | GROUPS | RMS | SILU | ROPES | KINDS | {"sliding_window": [3, 5], "head_dim": [8, 16]},
    "nemotron": HF | GROUPS | BIAS | {
        "hidden_act": ["relu2", "silu"], "norm_eps": [1e-5, 1e-3], "mlp_bias": [False, True], "head_dim": [None, 16],
    } | partial(0.25, 0.5, 1.0),
    "seed_oss": HF | GROUPS | RMS | BIAS | SILU | HEAD | ROPES
    | {"attention_out_bias": [False, True], "mlp_bias": [False, True]},
    "arcee": HF | GROUPS | RMS | BIAS | HEAD | ROPES | {"hidden_act": ["relu2", "silu"], "mlp_bias": [False, True]},
    "mixtral": HF | GROUPS | RMS | SILU | ROPES | EXPERTS
    | {"num_local_experts": [4, 7], "head_dim": [8, 16], "sliding_window": [None, 3, 100]},
    "qwen3_moe": HF | GROUPS | RMS | SILU | ROPES | BIAS | EXPERTS | {"head_dim": [8, 16], "num_experts": [4, 7]}
    | {"moe_intermediate_size": [24, 48], "norm_topk_prob": [True, False]}
    | {"use_sliding_window": [False, True], "sliding_window": [4, 2]},
    "olmoe": HF | GROUPS | RMS | SILU | ROPES | BIAS | EXPERTS
    | {"num_experts": [4, 7], "norm_topk_prob": [False, True]},
    "gpt_oss": HF | GROUPS | RMS | EXPERTS | KINDS | {
        "rope_parameters": [None, rope(), LINEAR, YARN | {"truncate": False}, LLAMA3], "attention_bias": [True, False],
        "head_dim": [8, 16], "num_local_experts": [4, 7], "sliding_window": [3, 5], "swiglu_limit": [7.0, 0.5],
        "swiglu_alpha": [1.702, 1.0],
    },
}  # fmt: skip


def drawn(model_type: str, seed: int, **over: Any) -> PretrainedConfig:
    """The configuration of this type with that seed; the first has each option's first value."""
    choose = random.Random(f"{model_type} {seed}")
    options = OPTIONS[model_type] | {name: [value] for name, value in over.items()}
    chosen = {name: values[0] if seed == 0 else choose.choice(values) for name, values in options.items()}
    for name in ("architecture", "shape"):
        chosen |= chosen.pop(name, {})
    given = {name: deepcopy(value) for name, value in chosen.items() if value is not None or name in NULL}
    return transformers.AutoConfig.for_model(model_type, **{**IDS, **given})


NULL = {"sliding_window", "bos_token_id", "attn_logit_softcapping", "final_logit_softcapping", "head_dim", "n_inner"}
