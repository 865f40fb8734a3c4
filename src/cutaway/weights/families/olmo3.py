"""OLMo 3 (OLMo Team 2025): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like OLMo 2, with a window in three of four layers, whose rotary positions
stay as they are where those of the others are stretched.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, layer_types, sliding_window, windows
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.olmo2 import WEIGHTS as OLMO2
from cutaway.weights.rope import layer_ropes

ARCHITECTURES = ("Olmo3ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = OLMO2
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """OLMo 3's config.json as a DecoderConfig; defaults are transformers' Olmo3Config's."""
    sizes = common(config, vocab=50304, width=4096, layers=32, heads=32, mlp=11008, positions=2048)
    bias = config.take("attention_bias", False)
    types = layer_types(config, sizes["n_layers"], lambda i: (i + 1) % 4 != 0)
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-5),
        pre_norm=False,
        added_norm=True,
        qk_norm="all",
        layer_ropes=layer_ropes(config, types, sizes["d_head"], sizes["n_positions"], theta=5e5, local=5e5),
        layer_windows=windows(config, types, sliding_window(config, 4096)),
        gated=True,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=False,
    )
