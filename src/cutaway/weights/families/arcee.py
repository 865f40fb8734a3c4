"""Arcee's AFM (Arcee AI 2025): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Llama, but its MLP is not gated, with a squared ReLU.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("ArceeForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA | {
    "layers.{i}.mlp.up_proj.weight": "blocks.{i}.mlp.up.weight",
    "layers.{i}.mlp.up_proj.bias": "blocks.{i}.mlp.up.bias",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Arcee's config.json as a DecoderConfig; defaults are transformers' ArceeConfig's."""
    sizes = common(
        config, vocab=32000, width=2560, layers=32, heads=32, mlp=18432, positions=4096,
        activation=("hidden_act", "relu2"),
    )  # fmt: skip
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-5),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=config.take("mlp_bias", False),
    )
