"""Qwen3 (Yang et al. 2025, arXiv 2505.09388): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Qwen2, with a norm of q and k by head instead of their biases.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.families.qwen2 import upper_windows
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("Qwen3ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA | {
    "layers.{i}.self_attn.q_norm.weight": "blocks.{i}.attn.q_norm.weight",
    "layers.{i}.self_attn.k_norm.weight": "blocks.{i}.attn.k_norm.weight",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Qwen3's config.json as a DecoderConfig; defaults are transformers' Qwen3Config's."""
    sizes = common(
        config, vocab=151936, width=4096, layers=32, heads=32, kv_heads=32, mlp=22016, positions=32768, head_dim=128
    )  # fmt: skip
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-6),
        qk_norm="head",
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        layer_windows=upper_windows(config, sizes["n_layers"]),
        gated=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=False,
    )
