"""OLMo 2 (OLMo Team 2025, arXiv 2501.00656): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: attention and MLP read the residual stream itself, and norms are
on what they add to it; q and k are normed over all heads together.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("Olmo2ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA | {
    "layers.{i}.self_attn.q_norm.weight": "blocks.{i}.attn.q_norm.weight",
    "layers.{i}.self_attn.k_norm.weight": "blocks.{i}.attn.k_norm.weight",
    "layers.{i}.post_attention_layernorm.weight": "blocks.{i}.ln1_post.weight",
    "layers.{i}.post_feedforward_layernorm.weight": "blocks.{i}.ln2_post.weight",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """OLMo 2's config.json as a DecoderConfig; defaults are transformers' Olmo2Config's."""
    sizes = common(config, vocab=50304, width=4096, layers=32, heads=32, mlp=11008, positions=2048)
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-5),
        pre_norm=False,
        added_norm=True,
        qk_norm="all",
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        gated=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=False,
    )
