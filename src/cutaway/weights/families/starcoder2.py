"""StarCoder2 (Lozhkov et al. 2024, arXiv 2402.19173): its config as our facts, its weight names as ours.

It does not know how the values are computed.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, sliding_window
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("Starcoder2ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA | {
    "layers.{i}.input_layernorm.bias": "blocks.{i}.ln1.bias",
    "layers.{i}.post_attention_layernorm.bias": "blocks.{i}.ln2.bias",
    "layers.{i}.mlp.c_fc.weight": "blocks.{i}.mlp.up.weight",
    "layers.{i}.mlp.c_fc.bias": "blocks.{i}.mlp.up.bias",
    "layers.{i}.mlp.c_proj.weight": "blocks.{i}.mlp.down.weight",
    "layers.{i}.mlp.c_proj.bias": "blocks.{i}.mlp.down.bias",
    "norm.bias": "unembed.ln_final.bias",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """StarCoder2's config.json as a DecoderConfig; defaults are transformers' Starcoder2Config's."""
    sizes = common(
        config, vocab=49152, width=3072, layers=30, heads=24, kv_heads=2, mlp=12288, positions=4096, tied=True,
        activation=("hidden_act", "gelu_pytorch_tanh"),
    )  # fmt: skip
    config.no_effect("residual_dropout", "embedding_dropout")
    window, bias = sliding_window(config, None), config.take("use_bias", True)
    return DecoderConfig(
        **sizes,
        norm="layer",
        norm_eps=config.take("norm_epsilon", 1e-5),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        layer_windows=() if window is None else (window,) * sizes["n_layers"],
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
    )
