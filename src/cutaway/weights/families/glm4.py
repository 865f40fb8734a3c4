"""GLM-4-0414 (GLM Team 2024, arXiv 2406.12793): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Llama, with norms before and after attention and MLP, half of each
head rotated, neighbouring components together, and the gate beside the MLP's other branch.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("Glm4ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA | {
    "layers.{i}.post_self_attn_layernorm.weight": "blocks.{i}.ln1_post.weight",
    "layers.{i}.post_mlp_layernorm.weight": "blocks.{i}.ln2_post.weight",
    "layers.{i}.mlp.gate_up_proj.weight": "blocks.{i}.mlp.up.weight",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """GLM-4's config.json as a DecoderConfig; defaults are transformers' Glm4Config's."""
    sizes = common(
        config, vocab=151552, width=4096, layers=40, heads=32, kv_heads=2, mlp=13696, positions=131072, head_dim=128
    )  # fmt: skip
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1.5625e-7),
        added_norm=True,
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"], partial=0.5, interleaved=True),
        gated=True,
        qkv_bias=config.take("attention_bias", True),
        out_bias=False,
        mlp_bias=False,
    )
