"""OLMoE (Muennighoff et al. 2024, arXiv 2409.02060): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: q and k are normed over all heads together; 64 experts,
of which each token chooses eight.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, experts
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.qwen3_moe import WEIGHTS as QWEN3_MOE
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("OlmoeForCausalLM",)
ALIASES = {"num_local_experts": "num_experts"}
PREFIXES = ("model.", "")
WEIGHTS = QWEN3_MOE
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """OLMoE's config.json as a DecoderConfig; defaults are transformers' OlmoeConfig's."""
    sizes = common(
        config, vocab=50304, width=2048, layers=16, heads=16, mlp=2048, positions=4096, head_dim=False
    )  # fmt: skip
    config.require("clip_qkv", None, "clips q and k behind their norms")
    config.require("sliding_window", None, "hides earlier positions in some implementations of attention only")
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        **experts(config, "num_experts", 64, 8),
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-5),
        qk_norm="all",
        normalized_scores=config.take("norm_topk_prob", False),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        qkv_bias=bias,
        out_bias=bias,
    )
