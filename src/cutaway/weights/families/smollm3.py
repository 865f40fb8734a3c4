"""SmolLM3 (Hugging Face 2025): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Llama, with every fourth layer without positions.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, layer_types, sliding_window, windows
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("SmolLM3ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = LLAMA
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """SmolLM3's config.json as a DecoderConfig; defaults are transformers' SmolLM3Config's."""
    sizes = common(
        config, vocab=128256, width=2048, layers=36, heads=16, kv_heads=4, mlp=11008, positions=32768, tied=True
    )  # fmt: skip
    n_layers, every = sizes["n_layers"], config.size("no_rope_layer_interval", 4)
    rotated = config.take("no_rope_layers", [int((i + 1) % every != 0) for i in range(n_layers)], list)  # 1: rotated
    if len(rotated) < n_layers or any(flag not in (0, 1) for flag in rotated):
        raise config.wrong(f"no_rope_layers={rotated} of {len(rotated)} layers", f"0 or 1 for each of {n_layers}")
    window = sliding_window(config, None) if config.take("use_sliding_window", False) else None
    config.no_effect("sliding_window")
    types = layer_types(config, n_layers, lambda i: window is not None and not rotated[i])
    rope = read_rope(config, sizes["d_head"], sizes["n_positions"], theta=2e6)
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-6),
        layer_ropes=tuple(rope if rotated[i] else None for i in range(n_layers)),
        layer_windows=windows(config, types, window),
        gated=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=config.take("mlp_bias", False),
    )
