"""Gemma 2 (Gemma Team 2024, arXiv 2408.00118): its config as our facts, its weight names as ours.

It does not know how the values are computed. Beyond Gemma: norms before and after attention and MLP, every other layer
with a window, scores and logits that a tanh holds below a cap, and a scale of the scores of its own.
"""

from typing import Any

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, layer_types, sliding_window, windows
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("Gemma2ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA | {
    "layers.{i}.post_attention_layernorm.weight": "blocks.{i}.ln1_post.weight",
    "layers.{i}.pre_feedforward_layernorm.weight": "blocks.{i}.ln2.weight",
    "layers.{i}.post_feedforward_layernorm.weight": "blocks.{i}.ln2_post.weight",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Gemma 2's config.json as a DecoderConfig; defaults are transformers' Gemma2Config's."""
    sizes = common(
        config, vocab=256000, width=2304, layers=26, heads=8, kv_heads=4, mlp=9216, positions=8192, head_dim=256,
        activation=("hidden_activation", "gelu_pytorch_tanh"), tied=True,
    )  # fmt: skip
    n_layers = sizes["n_layers"]
    local = layer_types(config, n_layers, lambda i: i % 2 == 0)
    return DecoderConfig(
        **sizes,
        **shared(config, sizes, logit_softcap=30.0),
        attn_softcap=config.optional("attn_logit_softcapping", 50.0),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        layer_windows=windows(config, local, sliding_window(config, 4096)),
    )


def shared(config: ConfigReader, sizes: dict[str, Any], logit_softcap: float | None) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common; logit_softcap is the default."""
    config.require("use_bidirectional_attention", False, "lets a token attend to later ones")
    bias = config.take("attention_bias", False)
    return {
        "norm": "rms",
        "norm_eps": config.take("rms_norm_eps", 1e-6),
        "gain_plus_one": True,
        "added_norm": True,
        "embed_scale": sizes["d_model"] ** 0.5,
        "attn_scale": config.positive("query_pre_attn_scalar", 256) ** -0.5,
        "logit_softcap": config.optional("final_logit_softcapping", logit_softcap),
        "gated": True,
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": False,
    }
