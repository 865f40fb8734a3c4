"""Command R7B and Command A (Cohere 2024): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Command R, with a window and positions in three of four layers, and
neither in the others.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import LAYER_TYPES, common, layer_types, sliding_window, windows
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("Cohere2ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Command R7B's config.json as a DecoderConfig; defaults are transformers' Cohere2Config's."""
    sizes = common(
        config, vocab=256000, width=8192, layers=40, heads=64, mlp=22528, positions=8192, tied=True, head_dim=False
    )  # fmt: skip
    every = config.size("sliding_window_pattern", 4, optional=True)
    types = layer_types(config, sizes["n_layers"], lambda i: (i + 1) % every != 0)
    rope = read_rope(config, sizes["d_head"], sizes["n_positions"], interleaved=True)
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="layer",
        norm_eps=config.take("layer_norm_eps", 1e-5),
        norm_weights="gain",
        parallel=True,
        shared_norm=True,
        layer_ropes=tuple(rope if kind == LAYER_TYPES[1] else None for kind in types),
        layer_windows=windows(config, types, sliding_window(config, 4096)),
        logit_scale=config.take("logit_scale", 0.0625, float),
        gated=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=False,
    )
