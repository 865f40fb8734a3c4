"""llama.cpp's architectures as tables: which model type each is, what its metadata is called in a config.json, and
which weight each tensor is.

It reads no file. Keys and tensors are those that llama.cpp's converter writes and its graphs read; where both imply a
fact without writing it (an activation, a multiplier), it stands here.
"""

from dataclasses import dataclass, field
from typing import Any

from cutaway.weights.files.gguf_metadata import WINDOW

# The parts of a tensor's name → the parameters that it can be, the first that the family has; * is weight or bias.
TENSORS: dict[str, tuple[str, ...]] = {
    "token_embd": ("embed.token.*",),
    "token_embd_norm": ("embed.ln.*",),
    "position_embd": ("embed.position.*",),
    "blk.{i}.attn_norm": ("blocks.{i}.ln1.*",),
    "blk.{i}.attn_q": ("blocks.{i}.attn.qkv.*[q]",),
    "blk.{i}.attn_k": ("blocks.{i}.attn.qkv.*[k]",),
    "blk.{i}.attn_v": ("blocks.{i}.attn.qkv.*[v]",),
    "blk.{i}.attn_qkv": ("blocks.{i}.attn.qkv.*", "blocks.{i}.attn.qkv.*[q k v by group]"),
    "blk.{i}.attn_q_norm": tuple(f"blocks.{{i}}.attn.q_norm.*{part}" for part in ("", "[heads]", "[head {j}]")),
    "blk.{i}.attn_k_norm": tuple(f"blocks.{{i}}.attn.k_norm.*{part}" for part in ("", "[heads]", "[head {j}]")),
    "blk.{i}.attn_output": ("blocks.{i}.attn.out.*",),
    "blk.{i}.attn_sinks": ("blocks.{i}.attn.sinks.*",),
    "blk.{i}.post_attention_norm": ("blocks.{i}.ln1_post.*", "blocks.{i}.ln2.*"),
    "blk.{i}.ffn_norm": ("blocks.{i}.ln2.*",),
    "blk.{i}.ffn_gate": ("blocks.{i}.mlp.up.*[gate]",),
    "blk.{i}.ffn_up": ("blocks.{i}.mlp.up.*", "blocks.{i}.mlp.up.*[up]"),  # both branches, where they are one matrix
    "blk.{i}.ffn_down": ("blocks.{i}.mlp.down.*",),
    "blk.{i}.ffn_gate_inp": ("blocks.{i}.mlp.router.*",),
    "blk.{i}.ffn_gate_exps": ("blocks.{i}.mlp.experts.{j}.up.*[gate]",),
    "blk.{i}.ffn_up_exps": ("blocks.{i}.mlp.experts.{j}.up.*[up]",),
    "blk.{i}.ffn_down_exps": ("blocks.{i}.mlp.experts.{j}.down.*",),
    "blk.{i}.post_ffw_norm": ("blocks.{i}.ln2_post.*",),
    "output_norm": ("unembed.ln_final.*",),
    "output": ("unembed.head.*",),
}
# Falcon 40B's: the second norm is the attention's.
TWO_NORMS = {"blk.{i}.attn_norm": ("blocks.{i}.ln2.*",), "blk.{i}.attn_norm_2": ("blocks.{i}.ln1.*",)}
# Tensors of rotary divisors (gguf_rope.py).
UNUSED = (
    "rope_freqs.weight", "blk.{i}.attn_rot_embd.weight", "blk.{i}.attn_rot_embd", "rope_factors_long.weight",
    "rope_factors_short.weight",
)  # fmt: skip

RMS = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")
LAYER = "attention.layer_norm_epsilon"
QKV_BIAS = r"attn_(q|k|v|qkv|output)\.bias"
BIAS, MLP_BIAS = {"attention_bias": QKV_BIAS}, {"mlp_bias": r"ffn_(up|down|gate)\.bias"}
SIZES = {
    "embedding_length": "hidden_size", "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
}  # fmt: skip
ONE_FOR_EACH: dict[str, str | None] = {"attention.head_count_kv": None}


@dataclass(frozen=True)
class Architecture:
    """How a config.json of one model type follows from the metadata and tensors of one architecture.

    epsilon: key and attribute of the norms'. sizes: attributes that are not named as in SIZES; None: there is none.
    keys: further ones, each with its attribute and default; without a default it must be there, None is null. present:
    attributes that say whether layers have a tensor of this pattern; absent: whether they have none. given: attributes
    that no key says. rotary: the attributes of base and rotated share, (); no rotation, one: all of a head. local:
    layers with a window have rotary positions of their own, unscaled, of this base (0: the others'). window: whether
    a window is written; its default otherwise. permuted: rows of q and k in llama.cpp's order. plus_one: norms are
    stored with 1 added. truncate: whether YaRN's ramp begins and ends at whole pairs, which no key says. wide: with so
    many layers, the scores' scale follows from the width instead of the heads' own. layer_types: whether an attribute
    says which layers have the window; all have it otherwise. two_norms: attribute and tensors of a parallel block whose
    MLP may have a norm of its own.
    """

    model_type: str
    epsilon: tuple[str, str] | None = RMS
    sizes: dict[str, str | None] = field(default_factory=dict)
    keys: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    present: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    rotary: tuple[str, ...] = ("rope_theta",)
    local: float | None = None
    window: bool = False
    window_default: int | None = 0
    head_dim: bool = True
    permuted: bool = False
    plus_one: bool = False
    truncate: bool = True
    wide: int | None = None
    layer_types: bool = True
    two_norms: str | None = None


PARTIAL = ("rope_theta", "partial_rotary_factor")
CAP = {"final_logit_softcapping": ("final_logit_softcapping", None)}
GPT2_SIZES = {"feed_forward_length": "n_inner", **ONE_FOR_EACH}
EXPERTS: dict[str, str | None] = {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
ARCHITECTURES = {
    "llama": Architecture("llama", present=BIAS | MLP_BIAS, given={"hidden_act": "silu"}, permuted=True),
    "gpt2": Architecture(
        "gpt2", (LAYER, "layer_norm_epsilon"), GPT2_SIZES, given={"activation_function": "gelu_new"}, rotary=(),
        head_dim=False,
    ),
    "starcoder": Architecture(
        "gpt_bigcode", (LAYER, "layer_norm_epsilon"), {"feed_forward_length": "n_inner", **ONE_FOR_EACH},
        given={"activation_function": "gelu_pytorch_tanh", "multi_query": True}, rotary=(), head_dim=False,
    ),
    "starcoder2": Architecture(
        "starcoder2", (LAYER, "norm_epsilon"), present={"use_bias": QKV_BIAS},
        given={"hidden_act": "gelu_pytorch_tanh"},
    ),
    "qwen2": Architecture("qwen2", given={"hidden_act": "silu"}),
    "qwen3": Architecture("qwen3", present=BIAS, given={"hidden_act": "silu"}),
    "gemma": Architecture("gemma", present=BIAS, given={"hidden_act": "gelu_pytorch_tanh"}, plus_one=True),
    "gemma2": Architecture(
        "gemma2", present=BIAS, given={"hidden_activation": "gelu_pytorch_tanh"},
        keys={"attn_logit_softcapping": ("attn_logit_softcapping", 50.0),
              "final_logit_softcapping": ("final_logit_softcapping", 30.0)},
        window=True, window_default=4096, plus_one=True, wide=46,
    ),
    "gemma3": Architecture(
        "gemma3_text", present=BIAS, given={"hidden_activation": "gelu_pytorch_tanh"}, keys=CAP, local=10000.0,
        window=True, plus_one=True, wide=62,
    ),
    "gptneox": Architecture(
        "gpt_neox", (LAYER, "layer_norm_eps"), ONE_FOR_EACH, {"use_parallel_residual": ("use_parallel_residual", True)},
        BIAS, given={"hidden_act": "gelu"}, rotary=("rotary_emb_base", "rotary_pct"),
    ),
    "phi2": Architecture("phi", (LAYER, "layer_norm_eps"), given={"hidden_act": "gelu_new"}, rotary=PARTIAL),
    "phi3": Architecture(
        "phi3", given={"hidden_act": "silu"}, rotary=PARTIAL, window=True, window_default=None, layer_types=False,
    ),
    "olmo": Architecture(
        "olmo", None, keys={"attention.clamp_kqv": ("clip_qkv", None)}, present=BIAS, given={"hidden_act": "silu"},
        permuted=True,
    ),
    "olmo2": Architecture("olmo2", present=BIAS, given={"hidden_act": "silu"}),
    "granite": Architecture(
        "granite", present=BIAS | MLP_BIAS, given={"hidden_act": "silu"}, permuted=True,
        keys={"attention.scale": ("attention_multiplier",), "embedding_scale": ("embedding_multiplier", 1.0),
              "residual_scale": ("residual_multiplier", 1.0), "logit_scale": ("logits_scaling", 1.0)},
    ),
    "smollm3": Architecture("smollm3", present=BIAS | MLP_BIAS, given={"hidden_act": "silu"}, permuted=True),
    "stablelm": Architecture(
        "stablelm", (LAYER, "layer_norm_eps"), keys={"use_parallel_residual": ("", None)},  # the tensors decide
        present={"use_qkv_bias": r"attn_q\.bias", "qk_layernorm": r"attn_q_norm\.weight"},
        absent={"use_parallel_residual": r"ffn_norm\.weight"}, given={"hidden_act": "silu"}, rotary=PARTIAL,
    ),
    "bloom": Architecture(
        "bloom", (LAYER, "layer_norm_epsilon"),
        {"feed_forward_length": None, "context_length": "seq_length", **ONE_FOR_EACH}, rotary=(), head_dim=False,
    ),
    "falcon": Architecture(
        "falcon", (LAYER, "layer_norm_epsilon"),
        {"feed_forward_length": "ffn_hidden_size", "attention.head_count_kv": "num_kv_heads"},
        present={"bias": r"attn_qkv\.bias"}, given={"activation": "gelu", "new_decoder_architecture": True},
        head_dim=False, two_norms="num_ln_in_parallel_attn",
    ),
    "mpt": Architecture(
        "mpt", (LAYER, "layer_norm_epsilon"),
        {"feed_forward_length": None, "context_length": "max_seq_len", **ONE_FOR_EACH},
        keys={"attention.clamp_kqv": ("attn_config.clip_qkv", None),
              "attention.max_alibi_bias": ("attn_config.alibi_bias_max", 8.0)},
        rotary=(), head_dim=False,
    ),
    "command-r": Architecture(
        "cohere", (LAYER, "layer_norm_eps"), keys={"logit_scale": ("logit_scale",)},
        present=BIAS | {"use_qk_norm": r"attn_q_norm\.weight"}, given={"hidden_act": "silu"},
    ),
    "cohere2": Architecture(
        "cohere2", (LAYER, "layer_norm_eps"), keys={"logit_scale": ("logit_scale",)}, present=BIAS,
        given={"hidden_act": "silu"}, window=True, window_default=None,
    ),
    "glm4": Architecture("glm4", present=BIAS, given={"hidden_act": "silu"}, rotary=PARTIAL),
    "exaone4": Architecture("exaone4", given={"hidden_act": "silu"}, window=True),
    "seed_oss": Architecture(
        "seed_oss", given={"hidden_act": "silu"},
        present=MLP_BIAS | {"attention_bias": r"attn_q\.bias", "attention_out_bias": r"attn_output\.bias"},
    ),
    "arcee": Architecture("arcee", present=BIAS | MLP_BIAS, given={"hidden_act": "relu2"}, permuted=True),
    "nemotron": Architecture(
        "nemotron", (LAYER, "norm_eps"), present=BIAS | MLP_BIAS, given={"hidden_act": "relu2"}, rotary=PARTIAL,
        plus_one=True,
    ),
    "qwen3moe": Architecture(
        "qwen3_moe", sizes=EXPERTS | {"expert_feed_forward_length": "moe_intermediate_size"}, present=BIAS,
        given={"hidden_act": "silu", "norm_topk_prob": True},
    ),
    "olmoe": Architecture(
        "olmoe", sizes=EXPERTS, present=BIAS, given={"hidden_act": "silu", "norm_topk_prob": False}, head_dim=False,
    ),
    "gpt-oss": Architecture(
        "gpt_oss", sizes=EXPERTS | {"expert_feed_forward_length": "intermediate_size"},
        present=BIAS, given={"swiglu_alpha": 1.702, "swiglu_limit": 7.0}, window=True, truncate=False,
    ),
}  # fmt: skip
# Those that another model type has with a key that is not 0: Mixtral is written as Llama, OLMo 3 as OLMo 2.
VARIANTS = {
    "llama": ("expert_count", Architecture("mixtral", sizes=EXPERTS, given={"hidden_act": "silu"}, permuted=True)),
    "olmo2": (WINDOW, Architecture("olmo3", present=BIAS, given={"hidden_act": "silu"}, local=0.0, window=True)),
}
