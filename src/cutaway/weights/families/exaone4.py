"""EXAONE 4.0 (LG AI Research 2025, arXiv 2507.11407): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: norms are on what attention and MLP add, q and k are normed by
head, and layers without a window have no positions.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import LAYER_TYPES, common, layer_types, sliding_window, windows
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.olmo2 import WEIGHTS as OLMO2
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("Exaone4ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = OLMO2
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """EXAONE 4.0's config.json as a DecoderConfig; defaults are transformers' Exaone4Config's."""
    sizes = common(
        config, vocab=102400, width=4096, layers=32, heads=32, kv_heads=32, mlp=16384, positions=2048
    )  # fmt: skip
    window, turn = sliding_window(config, 4096), _turn(config)
    types = layer_types(config, sizes["n_layers"], lambda i: window is not None and turn[i % len(turn)] == "L")
    rope = read_rope(config, sizes["d_head"], sizes["n_positions"])
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-5),
        pre_norm=False,
        added_norm=True,
        qk_norm="head",
        # a model without windows has positions in every layer
        layer_ropes=tuple(rope if window is None or kind == LAYER_TYPES[1] else None for kind in types),
        layer_windows=windows(config, types, window),
        gated=True,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
    )


def _turn(config: ConfigReader) -> str:
    """Layers in turn, L with a window (local), G without (global): as published files have it, or from a number."""
    pattern = config.take("sliding_window_pattern", 4, (int, str))
    turn = pattern if isinstance(pattern, str) else "L" * (pattern - 1) + "G"
    if not turn or set(turn) - set("LG"):
        raise config.wrong(f"sliding_window_pattern={pattern!r}", 'a number, or L and G such as "LLLG"')
    return turn
