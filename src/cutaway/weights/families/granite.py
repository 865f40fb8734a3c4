"""Granite 3 (IBM Granite Team 2024): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Llama, with multipliers of the embedding, the scores, what attention
and MLP add, and the logits.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("GraniteForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Granite's config.json as a DecoderConfig; defaults are transformers' GraniteConfig's."""
    sizes = common(config, vocab=32000, width=4096, layers=32, heads=32, mlp=11008, positions=2048)
    attention_bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-6),
        embed_scale=config.take("embedding_multiplier", 1.0, float),
        attn_scale=config.take("attention_multiplier", 1.0, float),
        resid_scale=config.take("residual_multiplier", 1.0, float),
        logit_scale=1 / config.positive("logits_scaling", 1.0),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        gated=True,
        qkv_bias=attention_bias,
        out_bias=attention_bias,
        mlp_bias=config.take("mlp_bias", False),
    )
