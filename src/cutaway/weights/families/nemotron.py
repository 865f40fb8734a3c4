"""Nemotron-4 and Minitron (Parmar et al. 2024, arXiv 2402.16819): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: LayerNorm multiplies by 1 + w, the MLP's nonlinearity is a squared
ReLU, and half of each head is rotated.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("NemotronForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA | {
    "layers.{i}.input_layernorm.bias": "blocks.{i}.ln1.bias",
    "layers.{i}.post_attention_layernorm.bias": "blocks.{i}.ln2.bias",
    "layers.{i}.mlp.up_proj.weight": "blocks.{i}.mlp.up.weight",
    "layers.{i}.mlp.up_proj.bias": "blocks.{i}.mlp.up.bias",
    "norm.bias": "unembed.ln_final.bias",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Nemotron's config.json as a DecoderConfig; defaults are transformers' NemotronConfig's."""
    sizes = common(
        config, vocab=256000, width=6144, layers=32, heads=48, mlp=24576, positions=4096,
        activation=("hidden_act", "relu2"),
    )  # fmt: skip
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="layer",
        norm_eps=config.take("norm_eps", 1e-5),
        gain_plus_one=True,
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"], partial=0.5),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=config.take("mlp_bias", False),
    )
