"""Command R (Cohere 2024): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: attention and MLP read the same norm, which has no bias;
neighbouring components are rotated together; the logits are scaled; Command R+ norms each head of q and k.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("CohereForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA | {
    "layers.{i}.self_attn.q_norm.weight": "blocks.{i}.attn.q_norm.weight[heads]",
    "layers.{i}.self_attn.k_norm.weight": "blocks.{i}.attn.k_norm.weight[heads]",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Command R's config.json as a DecoderConfig; defaults are transformers' CohereConfig's."""
    sizes = common(
        config, vocab=256000, width=8192, layers=40, heads=64, mlp=22528, positions=8192, tied=True
    )  # fmt: skip
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="layer",
        norm_eps=config.take("layer_norm_eps", 1e-5),
        norm_weights="gain",
        qk_norm="heads" if config.take("use_qk_norm", False) else None,
        parallel=True,
        shared_norm=True,
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"], theta=5e5, interleaved=True),
        logit_scale=config.take("logit_scale", 0.0625, float),
        gated=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=False,
    )
