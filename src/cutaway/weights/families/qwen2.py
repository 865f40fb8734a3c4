"""Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv 2407.10671): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Llama, with biases of q, k and v, and where use_sliding_window
says so a window in the layers of layer_types: by default those from max_window_layers on.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, layer_types, sliding_window, windows
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("Qwen2ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Qwen2's config.json as a DecoderConfig; defaults are transformers' Qwen2Config's."""
    sizes = common(
        config, vocab=151936, width=4096, layers=32, heads=32, kv_heads=32, mlp=22016, positions=32768
    )  # fmt: skip
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-6),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        layer_windows=upper_windows(config, sizes["n_layers"]),
        gated=True,
        qkv_bias=True,
        out_bias=False,
        mlp_bias=False,
    )


def upper_windows(config: ConfigReader, n_layers: int) -> tuple[int | None, ...]:
    """The window of each layer, () where none has one."""
    window = sliding_window(config, 4096) if config.take("use_sliding_window", False) else None
    config.no_effect("sliding_window")
    first = config.take("max_window_layers", 28)
    return windows(config, layer_types(config, n_layers, lambda i: window is not None and i >= first), window)
