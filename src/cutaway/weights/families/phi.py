"""Phi-1, Phi-1.5 and Phi-2 (Li et al. 2023, arXiv 2309.05463): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: attention and MLP read the same norm, half of each head is
rotated, and the head has a bias.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("PhiForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = {
    "embed_tokens.weight": "embed.token.weight",
    "layers.{i}.input_layernorm.weight": "blocks.{i}.ln1.weight",
    "layers.{i}.input_layernorm.bias": "blocks.{i}.ln1.bias",
    "layers.{i}.self_attn.q_proj.weight": "blocks.{i}.attn.qkv.weight[q]",
    "layers.{i}.self_attn.k_proj.weight": "blocks.{i}.attn.qkv.weight[k]",
    "layers.{i}.self_attn.v_proj.weight": "blocks.{i}.attn.qkv.weight[v]",
    "layers.{i}.self_attn.q_proj.bias": "blocks.{i}.attn.qkv.bias[q]",
    "layers.{i}.self_attn.k_proj.bias": "blocks.{i}.attn.qkv.bias[k]",
    "layers.{i}.self_attn.v_proj.bias": "blocks.{i}.attn.qkv.bias[v]",
    "layers.{i}.self_attn.q_layernorm.weight": "blocks.{i}.attn.q_norm.weight",
    "layers.{i}.self_attn.q_layernorm.bias": "blocks.{i}.attn.q_norm.bias",
    "layers.{i}.self_attn.k_layernorm.weight": "blocks.{i}.attn.k_norm.weight",
    "layers.{i}.self_attn.k_layernorm.bias": "blocks.{i}.attn.k_norm.bias",
    "layers.{i}.self_attn.dense.weight": "blocks.{i}.attn.out.weight",
    "layers.{i}.self_attn.dense.bias": "blocks.{i}.attn.out.bias",
    "layers.{i}.mlp.fc1.weight": "blocks.{i}.mlp.up.weight",
    "layers.{i}.mlp.fc1.bias": "blocks.{i}.mlp.up.bias",
    "layers.{i}.mlp.fc2.weight": "blocks.{i}.mlp.down.weight",
    "layers.{i}.mlp.fc2.bias": "blocks.{i}.mlp.down.bias",
    "final_layernorm.weight": "unembed.ln_final.weight",
    "final_layernorm.bias": "unembed.ln_final.bias",
    "lm_head.weight": "unembed.head.weight",
    "lm_head.bias": "unembed.head.bias",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Phi's config.json as a DecoderConfig; defaults are transformers' PhiConfig's."""
    sizes = common(
        config, vocab=51200, width=2048, layers=24, heads=32, mlp=8192, positions=2048,
        activation=("hidden_act", "gelu_new"),
    )  # fmt: skip
    config.no_effect("resid_pdrop", "embd_pdrop")
    norm_heads = config.take("qk_layernorm", False)
    return DecoderConfig(
        **sizes,
        norm="layer",
        norm_eps=config.take("layer_norm_eps", 1e-5),
        qk_norm="head" if norm_heads else None,
        qk_norm_bias=norm_heads,
        parallel=True,
        shared_norm=True,
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"], partial=0.5),
        head_bias=True,
    )
