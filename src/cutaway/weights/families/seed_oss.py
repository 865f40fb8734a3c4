"""Seed-OSS (ByteDance Seed 2025): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Llama, with heads of a given width; biases of q, k and v and that of
attention's output are switched apart.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("SeedOssForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Seed-OSS's config.json as a DecoderConfig; defaults are transformers' SeedOssConfig's."""
    sizes = common(
        config, vocab=155136, width=4096, layers=64, heads=80, kv_heads=8, mlp=27648, positions=524288,
        head_dim=True if "head_dim" in config.config else 128,
    )  # fmt: skip
    config.no_effect("residual_dropout")
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-6),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        gated=True,
        qkv_bias=config.take("attention_bias", True),
        out_bias=config.take("attention_out_bias", False),
        mlp_bias=config.take("mlp_bias", False),
    )
