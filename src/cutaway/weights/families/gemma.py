"""Gemma (Gemma Team 2024, arXiv 2403.08295): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: the embedding is multiplied by the root of the width, norms
multiply by 1 + w, and "gelu" means its tanh form.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("GemmaForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Gemma's config.json as a DecoderConfig; defaults are transformers' GemmaConfig's."""
    sizes = common(
        config, vocab=256000, width=3072, layers=28, heads=16, kv_heads=16, mlp=24576, positions=8192, head_dim=256,
        activation=("hidden_act", "gelu_pytorch_tanh"), tied=True,
    )  # fmt: skip
    if sizes["activation"] == "gelu":
        sizes["activation"] = "gelu_tanh"
    config.no_effect("hidden_activation")  # transformers reads hidden_act
    config.require("use_bidirectional_attention", False, "lets a token attend to later ones")
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-6),
        gain_plus_one=True,
        embed_scale=sizes["d_model"] ** 0.5,
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        gated=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=False,
    )
