"""OLMo (Groeneveld et al. 2024, arXiv 2402.00838): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: its LayerNorm has no parameters, and q, k and v may be clipped.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("OlmoForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """OLMo's config.json as a DecoderConfig; defaults are transformers' OlmoConfig's."""
    sizes = common(config, vocab=50304, width=4096, layers=32, heads=32, mlp=11008, positions=2048)
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="layer",
        norm_eps=1e-5,
        norm_weights="none",
        qkv_clip=config.optional("clip_qkv", None),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        gated=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=False,
    )
