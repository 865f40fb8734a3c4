"""Mistral (Jiang et al. 2023, arXiv 2310.06825): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Llama, without biases, and with a window that slides over all layers.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, sliding_window
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("MistralForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Mistral's config.json as a DecoderConfig; defaults are transformers' MistralConfig's."""
    sizes = common(
        config, vocab=32000, width=4096, layers=32, heads=32, kv_heads=8, mlp=14336, positions=131072
    )  # fmt: skip
    window = sliding_window(config, 4096)
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-6),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        layer_windows=() if window is None else (window,) * sizes["n_layers"],
        gated=True,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
    )
